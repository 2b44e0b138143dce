"""The command ``kexue``: list, show and run the chapters, sweep their parameters.

A refusal is one sentence with exit code 2, and nothing is written; a chapter that fails, or a problem that
`doctor` finds, has exit code 1; Ctrl-C has 130, as everywhere.
"""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from kexue_lib import __version__, notebooks

app = typer.Typer(
    help="Scientific Spaces, Executable: list, show and run the chapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _assignments(ctx: typer.Context) -> list[tuple[str, str]]:
    """Offer NAME=VALUE for every parameter not yet given: all options of a choice, the value of a number."""
    given = {text.partition("=")[0] for text in ctx.params.get("parameter") or []}
    slug = ctx.params["slug"] or next(iter(ctx.args), "")  # typer has not sorted them yet after a bare -p
    left = {n: p for n, p in notebooks.check_parameters(slug)[1].parameters.items() if n not in given}
    return [(f"{n}={v}", p.meaning) for n, p in left.items() for v in getattr(p, "options", [p.value])]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Slug = Annotated[
    str, typer.Argument(metavar="CHAPTER", help="As in `kexue list`.", autocompletion=notebooks.chapters)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter, as in `kexue show`; may be repeated. Integers are written 256 or 10_000.",
        autocompletion=_assignments,
    ),
]


def _json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=1))


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else []))
    for row in rows:
        shown = ("" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*shown)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


@app.command("list")
def list_chapters(as_json: AsJson = False) -> None:
    """List the chapters, with the time that each took when the book was made."""
    rows = []
    for slug in notebooks.chapters():
        _, table = notebooks.check_parameters(slug)
        about = {"title": notebooks.title(slug), "parameters": len(table.rows())}
        rows.append({"chapter": slug, **about, "seconds": notebooks.last_seconds(slug)})
    _print(rows, as_json)


@app.command()
def show(slug: Slug, as_json: AsJson = False) -> None:
    """Show a chapter's parameters: value, type, allowed range, meaning."""
    _print(notebooks.check_parameters(slug)[1].rows(), as_json)


@app.command()
def run(
    slug: Slug,
    output: Annotated[Path, typer.Option("--output", "-o", help="Notebook to write.")],
    parameter: Assignments = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a chapter with these parameters and print its record.

    The notebook is readable in any Jupyter: numbers, references and citations are as in the book.
    """
    given = _given(parameter)
    start = time.monotonic()
    record = notebooks.record_of(notebooks.run(slug, output, given, force=force, progress=True))
    typer.echo(f"wrote {output} after {time.monotonic() - start:.1f} s", err=True)
    if as_json:
        _json(record)
    else:
        columns = ("value", "error", "meaning")
        _print([{"name": n} | {c: entry.get(c) for c in columns} for n, entry in record.items()], False)


def _given(parameter: list[str] | None) -> dict[str, str]:
    """Return NAME=VALUE as a dictionary, or refuse what is none or is given twice."""
    given: dict[str, str] = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"parameter {text!r}: expected NAME=VALUE")
        if name in given:
            raise ValueError(f"parameter {name} is given twice: {given[name]!r} and {value!r}")
        given[name] = value
    return given


@app.command()
def sweep(
    slug: Slug,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the sweep.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUES",
            help="Values of a parameter: 16,64,256 or, for whole numbers, 0..4; may be repeated.",
        ),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--zip", help="First values together, then the second: no combinations.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, instead of this machine.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the runs that have finished.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run all anew in a folder that has a sweep.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, more than 10 000 points.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a chapter for many parameters; DIR gets a notebook and a record for each."""
    from kexue_lib import sweeps

    plan = sweeps.plan(slug, _given(parameter), pairs=pairs, many=yes)
    seconds = sweeps.expected_seconds(slug, output)
    several = workers or sweeps.default_workers()
    done = sweeps.finished(output) if resume else {}
    left = sum(done.get(point.name) != point.key for point in plan.points)
    about = "" if seconds is None else f", about {seconds * left / several / 60:.1f} minutes"
    where = scheduler or f"{several} at a time"
    typer.echo(f"{slug}: {left} runs, {where}{about if scheduler is None else ''}", err=True)
    if dry_run:
        rows = [{"run": point.name} | point.values for point in plan.points]
        _print(rows, as_json)
        return
    try:
        with _progress(len(plan.points)) as say:
            found = sweeps.run(
                plan,
                output,
                workers=workers,
                scheduler=scheduler,
                resume=resume,
                force=force,
                progress=say,
            )
    except SystemExit as end:
        if end.code in (130, 143) and (output / "manifest.json").exists():
            end.args = (f"interrupted; --resume goes on with what is left in {output}",)
        raise
    failed = found[found["status"] == "failed"]
    counts = {state: int((found["status"] == state).sum()) for state in ("done", "failed", "open")}
    if as_json:
        _json({"folder": str(output), **counts})
    else:
        typer.echo(f"{counts['done']} done, {counts['failed']} failed: kexue report {output}")
    if len(failed):
        raise notebooks.RunFailed(f"{len(failed)} of {len(found)} runs failed: {failed['failure'].iloc[0]}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sweep, finished or not.")],
    as_json: AsJson = False,
) -> None:
    """Write tables, a summary over seeds and a page with figures into DIR/report."""
    from kexue_lib import report as reports

    files = reports.report(folder)
    if as_json:
        _json({name: str(path) for name, path in files.items()})
    else:
        typer.echo("\n".join(map(str, files.values())))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int, dict[str, Any]], None]]:
    """Yield what shows a sweep's progress: a bar on a terminal, a line for each run elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("runs", total=total)
            yield lambda ready, total, run: bar.update(task, completed=ready)
        return

    def line(ready: int, total: int, run: dict[str, Any]) -> None:
        state = f"{run['seconds']:.1f} s" if run["error"] is None else f"failed: {run['error']}"
        typer.echo(f"{ready}/{total} {run['name']} {state}", err=True)

    yield line


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to; made if missing.")],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write every chapter as a notebook without outputs, for Jupyter or papermill.

    The text is plain Markdown; … stands for a number that only `kexue run` brings.
    """
    paths = [str(path) for path in notebooks.export(folder, force=force)]
    if as_json:
        _json(paths)
    else:
        typer.echo("\n".join(paths))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this environment, line by line, with a remedy for each problem."""
    from importlib.metadata import requires

    rows: list[dict[str, Any]] = []

    def line(what: str, found: str, ok: bool, remedy: str) -> None:
        rows.append({"check": what, "found": found, "ok": ok, "remedy": "" if ok else remedy})

    line("python", sys.version.split()[0], sys.version_info >= (3, 11), "use Python 3.11 or newer")
    try:
        import torch

        line("torch", f"{torch.__version__}, {'cuda' if torch.cuda.is_available() else 'cpu'}", True, "")
    except Exception as problem:  # missing, or one of its libraries is
        line("torch", str(problem), False, "run make env")
    root, needed = Path.cwd(), []
    try:
        root = notebooks.book_root()
        line("book", f"{root}: {', '.join(notebooks.chapters())}", True, "")
        lock = root / "requirements.lock"
        needed = re.findall(r"^\w[^\\\n]*", lock.read_text("utf-8") if lock.is_file() else "", re.M)
    except ValueError as problem:
        line("book", str(problem), False, "run kexue in a checkout, or set KEXUE_BOOK")
    try:
        wrong = _unmet([*(requires("kexue_lib") or []), *needed])
    except ImportError as problem:  # this library or `packaging` is missing
        wrong = [str(problem)]
    line("packages", ", ".join(wrong) or "as required", not wrong, "run make env")
    free = shutil.disk_usage(root).free / 1e9
    line("disk", f"{free:.0f} GB free", free > 1, "free at least 1 GB")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    line("browser", browser or "none", True, "only the browser tests need one")
    _print(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _unmet(requirements: Iterable[str]) -> list[str]:
    """Return what is wrong with the packages of this environment, where a requirement applies to it."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wrong = []
    for text in requirements:
        try:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                found = version(canonicalize_name(needed.name))
                if not needed.specifier.contains(found, prereleases=True):
                    wrong.append(f"{needed.name} {found} is not {needed.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
        except ValueError:
            wrong.append(f"{text!r} cannot be read")
    return list(dict.fromkeys(wrong))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _complete_in_bash() -> None:
    """Answer bash, which cuts words at "=": join NAME=VALUE for typer, give back what follows the "="."""
    position = int(os.environ["COMP_CWORD"])
    words = os.environ["COMP_WORDS"].split("\n")[: position + 1]
    cut, joined = "\n".join(words), re.sub(r"\n=(\n|$)", "=", "\n".join(words))
    os.environ |= {"COMP_WORDS": joined, "COMP_CWORD": str(position - cut.count("\n") + joined.count("\n"))}
    with contextlib.redirect_stdout(io.StringIO()) as offered, contextlib.suppress(SystemExit):
        app(prog_name="kexue")
    whole = offered.getvalue().splitlines()
    typer.echo("\n".join(word.partition("=")[2] if "=" in words[-2:] else word for word in whole))


def main() -> None:
    """Run the command; turn whatever goes wrong into one sentence and an exit code."""
    completing = os.environ.get("_KEXUE_COMPLETE", "")
    code = 1
    # Leave no folder and no kernel behind. Not KeyboardInterrupt, which code on the way may catch.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    logging.disable()  # what fails is said once, in one sentence
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no …
    try:
        if completing == "complete_bash":
            _complete_in_bash()
        else:
            app(prog_name="kexue")
        return
    except SystemExit as end:
        if end.code not in (130, 143):
            raise
        said = end.args and isinstance(end.args[0], str)  # by `sweep`, which keeps what has finished
        code, sentence = end.code, end.args[0] if said else "interrupted, nothing was written"
    except ValueError as refusal:
        code, sentence = 2, str(refusal)
    except (notebooks.RunFailed, OSError) as problem:
        sentence = str(problem)
    except Exception as mistake:
        if os.environ.get("KEXUE_TRACEBACK"):
            raise
        sentence = f"{type(mistake).__name__}: {mistake} (a mistake in kexue; KEXUE_TRACEBACK=1 shows where)"
    if not completing:  # a shell that completes wants no words
        typer.echo(f"kexue: {' '.join(sentence.split())[:600]}", err=True)
    raise SystemExit(code)
