"""Execute the chapters that changed and build the pages in _build/html.  `make book` runs it.

    python tools/book.py            execute what changed, build, publish
    python tools/book.py execute    only execute

A chapter is executed once, by nbmake; the pages, the ledger and the downloads show those very
outputs. What an execution depends on (code cells, the modules of kexue_lib they import, the lock,
Python, torch) is hashed into the executed notebook, so a notebook and its stamp are one file.

Any moment may be the last: a file is written beside its place and then renamed, the pages are
built in _build/work and then renamed to _build/html, and what an interrupted run left is not used.
What goes wrong is said in a few lines that name the remedy, and then _build/html is what it was.

    out/executed/<chapter>.ipynb    the outputs          out/failed/    where a chapter stopped
    out/cache                       networks that chapters train and share
    _build/work                     Sphinx at work       _build/html    the last good book
"""

import argparse
import ast
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from io import StringIO
from pathlib import Path

import fingerprint
from fingerprint import ROOT

BUILD, OUT = ROOT / "_build", ROOT / "out"
EXECUTED, FAILED, HTML, WORK = OUT / "executed", OUT / "failed", BUILD / "html", BUILD / "work"
AT_ONCE, CELL_SECONDS = 2, 600
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMBA")
DISK = "the disk is full: free some space and run the same command again."
FULL = re.compile(r"No space left on device|Errno 28\b|Disk quota exceeded")


class Failure(Exception):
    """Something that the reader of the terminal can act on; shown without a traceback."""


# -- files that are whole or not there --------------------------------------------------------


def write(path, text):
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def publish(sources):
    """Put a copy of the finished pages in the place of the last ones."""
    new, old = BUILD / "html.new", BUILD / "html.old"
    shutil.copytree(WORK / "html", new)
    (new / ".inputs").write_text(inputs(sources))
    if HTML.exists():
        os.replace(HTML, old)
    os.replace(new, HTML)


def tidy():
    """Remove what a build leaves, also one that was killed."""
    old = BUILD / "html.old"
    if old.exists() and not HTML.exists():  # killed between the two renames of `publish`
        os.replace(old, HTML)
    for folder in (old, BUILD / "html.new", *OUT.glob("run-*")):
        shutil.rmtree(folder, ignore_errors=True)


def inputs(sources):
    """Return what the pages were made from: the sources and the outputs of the chapters."""
    return f"{sources}\n{fingerprint.digest(*fingerprint.files('out/executed'))}\n"


@contextlib.contextmanager
def alone():
    """Refuse to run beside another build; the system frees the lock even of a killed one."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Failure(f"another build is running (process {lock.read()}): wait for its end.") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        tidy()
        try:
            yield
        finally:
            tidy()


# -- chapters ---------------------------------------------------------------------------------


def stamp(slug):
    """Return what the last good execution of a chapter noted about itself."""
    try:
        return json.loads((EXECUTED / f"{slug}.ipynb").read_text())["metadata"]["kexue"]
    except (OSError, ValueError, KeyError):
        return {}


def start(path):
    """Start nbmake on a notebook, which it overwrites with the outputs."""
    # One thread and no GPU: the book has the same numbers on every machine with the same pins.
    fixed = dict.fromkeys([f"{name}_NUM_THREADS" for name in THREADS], "1")
    fixed |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    fixed |= {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(path.parent / ".ipython")}
    fixed |= {"KEXUE_BOOK": str(ROOT), "KEXUE_CACHE": str(OUT / "cache")}  # trained once for all chapters
    fixed |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    fixed |= {"TMPDIR": str(path.parent)}  # what is left there after a kill is tidied up
    command = [sys.executable, "-m", "pytest", "-q", "-p", "nbmake.pytest_plugin", "--nbmake"]
    command += ["--overwrite", f"--nbmake-timeout={CELL_SECONDS}", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, "--rootdir", str(path.parent), "--color=no", str(path)]
    # If this process is killed, pytest goes too, and then its kernel (Linux; elsewhere they end).
    die = partial(ctypes.CDLL(None).prctl, 1, signal.SIGTERM) if sys.platform == "linux" else None
    with open(path.with_suffix(".log"), "w") as log:
        return subprocess.Popen(
            command,
            cwd=path.parent,
            env=os.environ | fixed,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die,
        )


def keep(path, mark):
    """Move a finished notebook to out/executed with its stamp; return its seconds."""
    notebook = json.loads(path.read_text())
    times = []
    for number, cell in enumerate(cells_of(notebook), 1):
        times += cell["metadata"].pop("execution", {}).values()
        tags = cell["metadata"].get("tags", ())
        idle = not "".join(cell["source"]).strip() or "skip-execution" in tags
        wrong = "error" in (out["output_type"] for out in cell["outputs"])
        if (cell["execution_count"] is None and not idle) or (wrong and "raises-exception" not in tags):
            raise Failure(f"{path.stem} did not get through code cell {number}.")
    moments = sorted(datetime.fromisoformat(t.replace("Z", "+00:00")) for t in times)
    seconds = round((moments[-1] - moments[0]).total_seconds(), 1) if moments else 0.0
    finished = moments[-1].date().isoformat() if moments else None
    notebook["metadata"]["kexue"] = {"fingerprint": mark, "seconds": seconds, "finished": finished}
    write(EXECUTED / path.name, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return seconds


def cells_of(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def explain(path):
    """Say where a chapter failed: cell, line, equation, error."""
    log = path.with_suffix(".log").read_text(errors="replace").strip()
    if FULL.search(log):
        return f"{path.stem} stopped, {DISK}"
    text = path.read_text(errors="replace")
    write(FAILED / path.name, text)
    try:
        cells = cells_of(json.loads(text))
    except ValueError:  # killed while it was writing
        cells = []
    for number, cell in enumerate(cells, 1):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                error = f"{output['ename']}: {output['evalue']}"
                trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))
                lines = re.findall(r"Cell In\[\d+\], line (\d+)", trace)
                return where(path, number, "".join(cell["source"]), error, int((lines or [1])[0]))
    for number, cell in enumerate(cells, 1):  # no error and no end: out of time, or killed
        if "shell.execute_reply" not in cell["metadata"].get("execution", {}):
            if any("execution" in cell["metadata"] for cell in cells):
                reason = f"no end after {CELL_SECONDS} s, or the kernel died"
                return where(path, number, "".join(cell["source"]), reason, 1)
            break
    return f"{path.stem} failed:\n" + "\n".join(f"    {line}" for line in log.splitlines()[-15:])


def where(path, number, source, error, line):
    """Return the block about a failure in a cell."""
    statement = source
    with contextlib.suppress(SyntaxError):
        spans = [node for node in ast.parse(source).body if node.lineno <= line <= node.end_lineno]
        statement = "".join(ast.get_source_segment(source, node) for node in spans) or source
    label = re.search(r"eq-[\w-]*\w", error) or re.search(r"eq-[\w-]*\w", statement)
    lines = source.splitlines()
    return "\n".join(
        [f"{path.stem} failed in code cell {number}, line {line}"]
        + ([f"    equation  {label[0]}"] if label else [])
        + [f"    error     {error.strip()}".replace("\n", "\n              ")]
        + ([f"    code      {lines[line - 1].strip()}"] if line <= len(lines) else [])
        + [f"    notebook  {(FAILED / path.name).relative_to(ROOT)}"]
    )


def execute():
    """Execute the chapters whose outputs are not those of the sources; raise if one fails."""
    import nbformat

    from kexue_lib.notebooks import chapters, read_chapter

    shutil.rmtree(FAILED, ignore_errors=True)  # what still fails has no stamp and fails again
    notebooks = {slug: read_chapter(slug) for slug in chapters()}
    marks = {slug: fingerprint.chapter(notebook) for slug, notebook in notebooks.items()}
    for path in EXECUTED.glob("*.ipynb"):
        if path.stem not in marks:  # no longer a chapter
            path.unlink()
    waiting = [slug for slug in marks if stamp(slug).get("fingerprint") != marks[slug]]
    print(f"== chapters: {len(waiting)} of {len(marks)} to execute", flush=True)
    if not waiting:
        return
    # This makes matplotlib's cache of fonts where there is none; a chapter that had to do it would
    # print a warning into its page. Nor do a reader's own settings of matplotlib belong there.
    os.environ["MPLCONFIGDIR"] = str(BUILD / "matplotlib")
    import matplotlib.font_manager  # noqa: F401

    OUT.mkdir(exist_ok=True)
    scratch, running, failures = Path(tempfile.mkdtemp(prefix="run-", dir=OUT)), {}, []
    begun = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                path = scratch / f"{waiting.pop(0)}.ipynb"
                nbformat.write(notebooks[path.stem], path)
                running[path] = start(path)
            for path in [path for path, process in running.items() if process.poll() is not None]:
                try:
                    if running.pop(path).returncode:
                        raise Failure(explain(path))
                    say(f"   {path.stem:<24} {keep(path, marks[path.stem]):.1f} s")
                except Failure as failure:
                    failures.append(str(failure))
                    say(f"   {path.stem:<24} failed")
            if running and sys.stdout.isatty():
                names = ", ".join(path.stem for path in running)
                print(f"\r\x1b[K   {names} … {time.monotonic() - begun:.0f} s", end="", flush=True)
            time.sleep(0.05)
    finally:
        for process in running.values():  # their kernels notice within a second, and end
            process.terminate()
            process.wait()
    if failures:
        raise Failure("\n\n".join(failures))


def say(text):
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + text, flush=True)


# -- pages ------------------------------------------------------------------------------------


def pages():
    """Bring the pages in _build/work up to date; raise if Sphinx has anything to say."""
    from jupyter_book.config import get_final_config
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.console import nocolor
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    print("== pages", flush=True)
    begun = time.monotonic()
    # Sphinx would not repeat the warnings of a build that failed, cannot go on after one that was
    # killed, and does not know all that its pages depend on: without this mark it starts anew.
    mark, about = WORK / "complete", fingerprint.skeleton()
    whole = mark.exists() and mark.read_text() == about
    mark.unlink(missing_ok=True)
    if not whole:
        shutil.rmtree(WORK, ignore_errors=True)
    options = {"external_toc_path": str(ROOT / "_toc.yml"), "latex_individualpages": False}
    settings, _ = get_final_config(user_yaml=ROOT / "_config.yml", cli_config=options, raise_on_invalid=True)
    settings.pop("comments_config")  # belongs to an extension that loads scripts from elsewhere
    warnings = StringIO()
    nocolor()
    try:
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                srcdir=ROOT,
                confdir=None,
                outdir=WORK / "html",
                doctreedir=WORK / "doctrees",
                buildername="html",
                confoverrides=settings,
                status=None,
                warning=warnings,
                warningiserror=True,
                keep_going=True,
            )
            app.build()
    except SphinxError as error:
        print(f"{error.category}: {error}", file=warnings)
    if text := warnings.getvalue().replace(f"{ROOT}/", "").strip():
        raise Failure(DISK if FULL.search(text) else f"the pages have faults:\n{text}")
    write(mark, about)
    print(f"   {len(app.env.found_docs)} pages, {time.monotonic() - begun:.1f} s", flush=True)


def build():
    """Bring the book up to date."""
    begun, sources, published = time.monotonic(), fingerprint.everything(), HTML / ".inputs"
    fits = published.exists() and published.read_text() == inputs(sources)
    if fits and not FAILED.exists():
        print("== nothing changed")
    else:
        with alone():
            execute()
            try:
                pages()
            except Exception:
                if fingerprint.everything() == sources:
                    raise
                raise Failure("a source was changed during the build: run the same command again.") from None
            publish(sources)
    print(f"{HTML / 'index.html'}\n   {time.monotonic() - begun:.1f} s in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", nargs="?", choices=("build", "execute"), default="build")
    command = parser.parse_args().command
    sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_ext")]
    os.environ["KEXUE_BOOK"] = str(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if command == "build":
            build()
        else:
            with alone():
                execute()
    except Failure as failure:
        print(f"\nbook: {failure}", file=sys.stderr)
        if command == "build" and HTML.exists():
            print("\nThe pages in _build/html are those of the last good build.", file=sys.stderr)
        return 1
    except OSError as error:
        remedy = "_build and out must be folders that you can write to, and both may be removed"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        print(f"\nbook: {DISK if full else f'{error}: put that right ({remedy}).'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbook: interrupted; the next build goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
