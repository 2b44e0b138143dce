"""Run the sweeps that chapters recommend, and keep what they find in results/.  `make sweeps` runs it.

    python tools/sweeps.py              all chapters
    python tools/sweeps.py sde lion     these

The commands are those of the directive kexue-sweep in the chapters' text. Runs that have finished are not
repeated; their notebooks are below out/sweeps.
"""

import argparse
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

from kexue_lib import notebooks, recorded, sweeps

DIRECTIVE = re.compile(r"^[:`]{3,}\{kexue-sweep\} *(kexue sweep (\w+)( .*)?)$", re.MULTILINE)


def recommended(slug):
    """Return the command that a chapter recommends, and its parameters; None if it recommends none."""
    found = DIRECTIVE.search((notebooks.book_root() / "book" / f"{slug}.md").read_text("utf-8"))
    if found is None:
        return None
    command = " ".join(found[1].split())
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", dest="parameters", action="append", default=[])
    parser.add_argument("-o", dest="output")
    asked, _ = parser.parse_known_args(shlex.split(command)[3:])
    return command, dict(text.split("=", 1) for text in asked.parameters)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER")
    parser.add_argument("--workers", type=int, help="runs at once; by default as many as processors")
    options = parser.parse_args()
    status = 0
    for slug in options.chapters or notebooks.chapters():
        if (asked := recommended(slug)) is None:
            print(f"{slug}: recommends no sweep")
            continue
        command, parameters = asked
        folder, begun = Path("out/sweeps", slug), time.monotonic()
        try:
            plan = sweeps.plan(slug, parameters)
            old = (folder / "manifest.json").exists() and sweeps.manifest(folder)["swept"] == plan.swept
            if not old:  # nothing, or the sweep that the chapter recommended before
                shutil.rmtree(folder, ignore_errors=True)
            found = sweeps.run(plan, folder, resume=old, workers=options.workers, progress=say)
            kept = recorded.save_sweep(slug, command, found, time.monotonic() - begun)
            print(f"{slug}: {len(found)} runs, {kept.about()}")
        except ValueError as problem:
            status = 1
            print(f"sweeps: {problem}", file=sys.stderr)
    return status


def say(ready, total, run):
    print(f"{ready}/{total} {run['name']} {run['seconds']:.1f} s {run['error'] or ''}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
