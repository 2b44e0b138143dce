"""Run chapters with the full profile and keep what they find in results/.  `make full` runs it.

    python tools/full.py lion sde      these chapters, one after the other
    -p NAME=VALUE                      other parameters, as `kexue run` takes them

The notebooks go to out/full. A chapter that fails keeps its old results and its notebook up to there.
"""

import argparse
import sys
from pathlib import Path

from kexue_lib import notebooks, recorded


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="+", metavar="CHAPTER")
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    values = {"profile": "full"} | dict(text.split("=", 1) for text in options.parameters)
    folder, failed = Path("out/full"), False
    folder.mkdir(parents=True, exist_ok=True)
    for slug in options.chapters:
        try:
            done = notebooks.run(slug, folder / f"{slug}.ipynb", values, force=True, progress=True)
            print(f"{slug}: {recorded.save(slug, done).about()}")
        except (ValueError, notebooks.RunFailed) as problem:
            failed = True
            print(f"full: {problem}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
