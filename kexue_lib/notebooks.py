"""Chapters as notebooks: found, made from their one source, validated, run."""

import ast
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kexue_lib import record, verify
from kexue_lib.arguments import refuse
from kexue_lib.parameters import Table


def book_root() -> Path:
    """Return the folder that holds ``_toc.yml`` and ``book/`` (``KEXUE_BOOK`` overrides it).

    Raises
    ------
    ValueError
        If there is no book: the library was installed without its checkout.
    """
    given = os.environ.get("KEXUE_BOOK")
    root = Path(given) if given else Path(__file__).resolve().parent.parent
    if not (root / "_toc.yml").is_file():
        raise ValueError(f"no book in {root}: set KEXUE_BOOK to the folder that holds _toc.yml")
    return root


def chapters() -> list[str]:
    """Return the slugs of the pages that are notebooks, in the order of the table of contents."""
    import yaml

    root = book_root()
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    entries = [e["file"] for part in toc.get("parts", [toc]) for e in part.get("chapters", [])]
    return [
        Path(e).name
        for e in entries
        if (f := root / f"{e}.md").is_file() and "\nkernelspec:" in f.read_text("utf-8")[:600]
    ]


def _require(slug: str) -> Path:
    if slug not in chapters():
        raise refuse("chapter", slug, "one of " + ", ".join(chapters()))
    return book_root() / "book" / f"{slug}.md"


def read_chapter(slug: str) -> Any:
    """Return the chapter as a notebook without outputs; the same source gives the same bytes."""
    import jupytext

    notebook = jupytext.read(_require(slug))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:04d}"
    return notebook


def title(slug: str) -> str:
    """Return the chapter's first heading."""
    lines = _require(slug).read_text("utf-8").splitlines()
    return next(line[2:].strip() for line in lines if line.startswith("# "))


def record_of(notebook: Any) -> dict[str, dict[str, Any]]:
    """Return the record that an executed notebook stored (empty if it did not get that far)."""
    found: dict[str, dict[str, Any]] = {}
    for data in _outputs(notebook):
        found.update(data.get(record.MIME, {}))
    return found


def verdicts_of(notebook: Any) -> list[dict[str, Any]]:
    """Return the verdicts of an executed notebook, in order."""
    return [data[verify.MIME] for data in _outputs(notebook) if verify.MIME in data]


def _outputs(notebook: Any) -> list[dict[str, Any]]:
    return [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]


def _cell(slug: str, tag: str) -> str:
    for cell in read_chapter(slug).cells:
        if tag in cell.metadata.get("tags", []):
            return str(cell.source)
    raise ValueError(f"chapter {slug} has no cell tagged {tag}")


def check_parameters(slug: str, given: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Table]:
    """Check parameters before anything runs, by the very cells that check them in the chapter.

    Parameters
    ----------
    slug : str
        The chapter.
    given : mapping of str to str or value
        Values by name; text is converted to the declared type, never truncated.

    Returns
    -------
    (dict, Table)
        The converted values that were given, and the table of all parameters with those values.

    Raises
    ------
    ValueError
        If the chapter or a name is unknown, or values are ill-typed or out of range (all are named).
    """
    names = _declared(slug)
    unknown = [n for n in given or {} if n not in names]
    if unknown:
        raise refuse("parameter", unknown[0], f"one of {', '.join(names)} (chapter {slug})")
    spec = _evaluate(slug, {}).parameters
    values = {
        name: spec[name].parse(value) if isinstance(value, str) else value
        for name, value in (given or {}).items()
    }
    return values, _evaluate(slug, values)


def _declared(slug: str) -> list[str]:
    space: dict[str, Any] = {}
    exec(_cell(slug, "parameters"), space)
    return [name for name in space if not name.startswith("__")]


def _evaluate(slug: str, values: Mapping[str, Any]) -> Table:
    space: dict[str, Any] = {}
    exec(_cell(slug, "parameters"), space)
    space.update(values)
    *body, last = ast.parse(_cell(slug, "validate")).body
    if not isinstance(last, ast.Expr):
        raise ValueError(f"chapter {slug}: the cell tagged validate must end with validate(...)")
    exec(compile(ast.Module(body, []), slug, "exec"), space)
    table = eval(compile(ast.Expression(last.value), slug, "eval"), space)
    assert isinstance(table, Table)
    return table


def run(slug: str, output: Path, parameters: Mapping[str, Any] | None = None, *, force: bool = False) -> Any:
    """Run a chapter with papermill and return the executed notebook.

    ``output`` appears only when the run has finished. When a cell fails, the notebook up to there is kept
    beside it as ``NAME.failed.ipynb`` and papermill's error is raised.

    Raises
    ------
    ValueError
        If parameters are refused, or the output exists (without ``force``), is no ``.ipynb`` or its
        folder is missing or not writable. Nothing is written then.
    """
    import nbformat
    import papermill

    values, _ = check_parameters(slug, parameters)
    check_output(output, force=force)
    with tempfile.TemporaryDirectory(prefix=".kexue-", dir=output.parent) as folder:
        source, target = Path(folder, "source.ipynb"), Path(folder, "run.ipynb")
        nbformat.write(read_chapter(slug), source)
        failed = output.with_suffix(".failed.ipynb")
        try:
            papermill.execute_notebook(source, target, values, progress_bar=False, cwd=folder)
        except papermill.PapermillExecutionError:
            os.replace(target, failed)
            raise
        failed.unlink(missing_ok=True)
        os.replace(target, output)
    return nbformat.read(output, 4)


def check_output(output: Path, *, force: bool = False) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something."""
    if output.suffix != ".ipynb":
        raise refuse("output", str(output), "a file name ending in .ipynb")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise refuse("output", str(output), "a file in an existing, writable folder")
    if output.exists() and not force:
        raise refuse("output", str(output), "a file that does not exist yet (or --force)")
