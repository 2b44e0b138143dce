"""The command ``kexue``: list, show and run the chapters. A refusal is one sentence, exit code 2."""

import json
import sys
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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _slugs() -> list[str]:
    return notebooks.chapters()


Slug = Annotated[str, typer.Argument(help="Chapter, as in `kexue list`.", autocompletion=_slugs)]


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else []))
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@app.command("list")
def list_chapters(as_json: AsJson = False) -> None:
    """List the chapters."""
    rows = [
        {
            "chapter": slug,
            "title": notebooks.title(slug),
            "parameters": len(notebooks.check_parameters(slug)[1].parameters),
        }
        for slug in _slugs()
    ]
    _print(rows, as_json)


@app.command()
def show(slug: Slug, as_json: AsJson = False) -> None:
    """Show a chapter's parameters: value, type, allowed range, meaning."""
    _print(notebooks.check_parameters(slug)[1].rows(), as_json)


@app.command()
def run(
    slug: Slug,
    output: Annotated[Path, typer.Option("--output", "-o", help="Notebook to write.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a chapter with these parameters and print its record."""
    given = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"parameter {text!r}: expected NAME=VALUE")
        given[name] = value
    notebooks.check_parameters(slug, given)
    notebooks.check_output(output, force=force)
    typer.echo(f"running {slug} …", err=True)
    record = notebooks.record_of(notebooks.run(slug, output, given, force=force))
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, indent=1))
    else:
        _print([{"name": name, **entry} for name, entry in record.items()], False)
    typer.echo(f"wrote {output}", err=True)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made if missing.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite notebooks.")] = False,
) -> None:
    """Write every chapter as a notebook without outputs."""
    import nbformat

    folder.mkdir(parents=True, exist_ok=True)
    for slug in _slugs():
        notebooks.check_output(folder / f"{slug}.ipynb", force=force)
    for slug in _slugs():
        nbformat.write(notebooks.read_chapter(slug), folder / f"{slug}.ipynb")
        typer.echo(folder / f"{slug}.ipynb")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this environment, line by line, with a remedy for each problem."""
    import importlib.metadata
    import re
    import shutil

    rows = [
        _line(
            "python",
            sys.version.split()[0],
            sys.version_info >= (3, 11),
            "use Python 3.11 or newer",
        )
    ]
    try:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows.append(_line("torch", f"{torch.__version__}, {device}", True, ""))
    except ImportError:
        rows.append(_line("torch", "missing", False, "run make env"))
    lock = notebooks.book_root() / "requirements.lock"
    pins = re.findall(
        r"^([\w.-]+)(?:\[.*?\])?==([\w.]+)", lock.read_text("utf-8") if lock.is_file() else "", re.M
    )
    installed = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    other = [f"{n} {installed[n]}" for n, v in pins if n in installed and installed[n] != v]
    rows.append(_line("packages", ", ".join(other) or "as locked", not other, "run make env"))
    free = shutil.disk_usage(notebooks.book_root()).free / 1e9
    rows.append(_line("disk", f"{free:.0f} GB free", free > 1, "free at least 1 GB"))
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    rows.append(_line("browser", browser or "none", True, "only the browser tests need one"))
    _print(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _line(what: str, found: str, ok: bool, remedy: str) -> dict[str, Any]:
    return {"check": what, "found": found, "ok": ok, "remedy": "" if ok else remedy}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; turn refusals into one sentence with exit code 2, failed runs into exit code 1."""
    try:
        app()
    except ValueError as refusal:
        typer.echo(f"kexue: {refusal}", err=True)
        raise SystemExit(2) from None
    except OSError as problem:
        typer.echo(f"kexue: {problem}", err=True)
        raise SystemExit(2) from None
    except Exception as failure:
        if type(failure).__name__ != "PapermillExecutionError":
            raise
        cell, what = getattr(failure, "cell_index", "?"), getattr(failure, "evalue", "")
        typer.echo(f"kexue: cell {cell} failed: {getattr(failure, 'ename', '')}: {what}", err=True)
        raise SystemExit(1) from None
