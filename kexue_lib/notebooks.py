"""Chapters as notebooks: found, made from their one source, validated, run."""

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from kexue_lib import record
from kexue_lib.arguments import one_of, refuse
from kexue_lib.parameters import ParameterError, Table, resolve_device


class RunFailed(RuntimeError):
    """A chapter did not run to its end; the message names chapter, cell, equation and error."""


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


def _contents() -> dict[str, int | None]:
    """Return the pages of the table of contents, in order, with the number of those that are numbered."""
    import yaml

    toc = book_root() / "_toc.yml"
    found: dict[str, int | None] = {}
    try:
        whole = yaml.safe_load(toc.read_text("utf-8"))
        for part in whole.get("parts", [whole]):
            for entry in part.get("chapters", []):
                if "file" in entry:
                    numbers = [number for number in found.values() if number]
                    found[entry["file"]] = len(numbers) + 1 if part.get("numbered") else None
        return found
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError):
        raise ValueError(f"{toc} is no table of contents of a Jupyter Book") from None


def _pages() -> dict[str, Path]:
    """Return slug → source of the pages that are notebooks, in the order of the table of contents."""
    pages = [book_root() / f"{file}.md" for file in _contents()]
    return {p.stem: p for p in pages if p.is_file() and "\nkernelspec:" in p.read_text("utf-8")[:600]}


def chapters() -> list[str]:
    """Return the slugs of the pages that are notebooks, in the order of the table of contents."""
    return list(_pages())


def _require(slug: str) -> Path:
    pages = _pages()
    if slug not in pages:
        raise refuse("chapter", slug, one_of(slug, pages))
    return pages[slug]


def read_chapter(slug: str) -> Any:
    """Return the chapter as a notebook without outputs; the same source gives the same bytes."""
    import jupytext

    notebook = jupytext.read(_require(slug))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:04d}"
    return notebook


def make_plain(slug: str, notebook: Any, numbers: Mapping[str, Any] | None = None) -> None:
    """Make the text of a chapter's notebook plain Markdown, in place, with what the chapter's page shows.

    Parameters
    ----------
    slug : str
        The chapter.
    notebook : notebook
        The chapter, executed or not.
    numbers : mapping
        The record for the text; an ellipsis stands for a number that is not in it.
    """
    import jupytext

    from kexue_lib import plain

    root, contents = book_root(), _contents()

    def read(name: str) -> plain.Page:
        source = root / f"{name}.md"
        cells = jupytext.read(source, fmt="md:myst").cells if source.is_file() else []
        return plain.page(cells, contents.get(name))

    here = _require(slug).relative_to(root).with_suffix("").as_posix()
    works = root / "book" / "references.bib"
    bibliography = works.read_text("utf-8") if works.is_file() else ""
    plain.rewrite(notebook, plain.References(here, list(contents), read, bibliography, numbers))


def title(slug: str) -> str:
    """Return the chapter's first heading."""
    body = _require(slug).read_text("utf-8").split("\n---\n", 1)[-1]
    heading = re.search(r"^# (.+)", body, re.M)
    if heading is None:
        raise ValueError(f"chapter {slug} has no heading")
    return heading[1].strip()


def last_seconds(slug: str) -> float | None:
    """Return how long the chapter took when the book was made; None if that is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        path = book_root() / "out" / "executed" / f"{slug}.ipynb"
        return float(json.loads(path.read_text("utf-8"))["metadata"]["kexue"]["seconds"])
    return None


def code_cells(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield tags and source of each code cell of a MyST notebook, the ones that jupytext finds.

    This is jupytext's way with its parser; but jupytext itself takes seconds to import, and a shell that
    completes a name does not wait.
    """
    import yaml
    from markdown_it import MarkdownIt
    from mdit_py_plugins.front_matter import front_matter_plugin

    for block in MarkdownIt("commonmark").use(front_matter_plugin).disable("inline", True).parse(text):
        if block.type != "fence" or block.level or not block.info.startswith("{code-cell}"):
            continue
        body = block.content.splitlines()
        if body and body[0].startswith("---"):
            options = list(takewhile(lambda inner: not inner.startswith("---"), body[1:]))
            body = body[len(options) + 2 :]
        else:
            options = [o.lstrip()[1:] for o in takewhile(lambda inner: inner.lstrip().startswith(":"), body)]
            body = body[len(options) :]
        if body and not body[0].strip():
            body = body[1:]
        yield (yaml.safe_load("\n".join(options)) or {}).get("tags", []), "\n".join(body)


def record_of(notebook: Any) -> dict[str, dict[str, Any]]:
    """Return the record that an executed notebook stored (empty if it did not get that far)."""
    return {name: entry for part in _published(notebook, record.MIME) for name, entry in part.items()}


def verdicts_of(notebook: Any) -> list[dict[str, Any]]:
    """Return the verdicts of an executed notebook, in order."""
    from kexue_lib import verify  # brings SymPy, which takes half a second

    return _published(notebook, verify.MIME)


def _published(notebook: Any, mime: str) -> list[dict[str, Any]]:
    """Return what the outputs carry of this type; streams, errors and damaged outputs carry nothing."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs") or []]
    found = [(output.get("data") or {}).get(mime) for output in outputs]
    return [item for item in found if isinstance(item, dict)]


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
        If the chapter or a name is unknown, or values are ill-typed or out of range (all are named),
        or the chapter's own cells or values are wrong.
    """
    given, source = given or {}, _require(slug)
    try:
        table = _evaluate(source, {})
    except ParameterError as error:
        raise ValueError(f"chapter {slug} refuses its own values: {error}") from error
    spec = table.parameters
    unknown = [str(refuse("parameter", name, one_of(name, spec))) for name in given if name not in spec]
    if unknown:
        raise ValueError("; ".join(unknown))
    values = {n: spec[n].parse(value) if isinstance(value, str) else value for n, value in given.items()}
    return values, _evaluate(source, values) if values else table


def checker(slug: str) -> Callable[[Mapping[str, Any]], Table]:
    """Return a function that checks values of a chapter's parameters, read once for many."""
    source = _require(slug)
    cells = _cells(source)
    return lambda values: _evaluate(source, values, cells)


def _cells(source: Path) -> dict[str, str]:
    """Return the first cell tagged ``parameters`` and the first tagged ``validate``."""
    found: dict[str, str] = {}
    for tags, cell in code_cells(source.read_text("utf-8")):
        found = {tag: cell for tag in ("parameters", "validate") if tag in tags} | found
    return found


def _declared(slug: str) -> list[str]:
    space: dict[str, Any] = {}
    exec(_cells(_require(slug))["parameters"], space)
    return [name for name in space if not name.startswith("__")]


def _evaluate(source: Path, values: Mapping[str, Any], cells: Mapping[str, str] | None = None) -> Table:
    """Run the two cells of a chapter with these values; whatever an author did wrong is a ValueError."""
    space: dict[str, Any] = {}
    try:
        cells = cells or _cells(source)
        exec(cells["parameters"], space)
        space.update(values)
        own = {name: value for name, value in space.items() if not name.startswith("__")}
        *body, last = ast.parse(cells["validate"]).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(body, []), source.name, "exec"), space)
        table = eval(compile(ast.Expression(last.value), source.name, "eval"), space)
        assert isinstance(table, Table)
        checked = {name: parameter.value for name, parameter in table.parameters.items()}
    except ParameterError:
        raise
    except Exception as error:
        raise ValueError(
            f"chapter {source.stem}: the cell tagged parameters and the one tagged validate, which ends with "
            f"validate(...), do not work ({type(error).__name__}: {error})"
        ) from error
    wrong = [n for n in {**own, **checked} if n not in own or n not in checked or own[n] != checked[n]]
    if wrong:
        raise ValueError(f"chapter {source.stem}: validate(...) does not check {wrong[0]} by its own value")
    return table


def run(
    slug: str,
    output: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    progress: bool = False,
) -> Any:
    """Run a chapter with papermill and return the executed notebook.

    ``output`` appears, in one step, when the run has finished. If it fails, the notebook up to there is
    kept beside it as ``NAME.failed.ipynb``, until a run to the same output gets through. The chapter
    works in the system's temporary folder, so that a killed run leaves nothing beside the output. Numbers
    in the text of the notebook are those of its own record, and references are what the book shows, in plain
    Markdown.

    Raises
    ------
    ValueError
        If parameters are refused, ``device`` is ``cuda`` and torch sees none, or the output is refused by
        `check_output`. Nothing is written then.
    RunFailed
        If a cell raises, the kernel dies, or there is none.
    """
    values, table = check_parameters(slug, parameters)
    check_output(output, force=force)
    if any(name == "device" and p.value == "cuda" for name, p in table.parameters.items()):
        resolve_device("cuda")
    if progress:
        print(f"running {slug} …", file=sys.stderr, flush=True)
    import nbformat
    import papermill

    failed = output.with_suffix(".failed.ipynb")
    bar = {"desc": slug, "disable": None, "leave": False} if progress else False  # only on a terminal
    with tempfile.TemporaryDirectory(prefix="kexue-", ignore_cleanup_errors=True) as folder:
        source, target = Path(folder, "source.ipynb"), Path(folder, "run.ipynb")
        nbformat.write(read_chapter(slug), source)
        try:
            papermill.execute_notebook(
                source,
                target,
                values,
                progress_bar=bar,
                cwd=folder,
                kernel_manager_class=_quiet_kernels(),
                iopub_timeout=60,  # s; on a busy machine outputs come later than the 4 of the default
                autosave_cell_every=0,  # it is saved after each cell
                extra_arguments=["--log-level=CRITICAL"],
            )
        except Exception as error:
            notebook = nbformat.read(target if target.exists() else source, 4)
            sentence = _explain(slug, notebook, error)
            make_plain(slug, notebook)
            _write(notebook, failed)
            raise RunFailed(f"{sentence} (see {failed})") from error
        notebook = nbformat.read(target, 4)
    seconds = notebook.metadata.get("papermill", {}).get("duration")
    numbers = {"runtime": {"value": seconds or 0.0, "error": None}} | record_of(notebook)
    make_plain(slug, notebook, numbers)  # the text tells of this run, not of the book's
    _write(notebook, output)
    failed.unlink(missing_ok=True)
    return notebook


def _quiet_kernels() -> Any:
    """Return how kernels are started: what one says while it starts or is stopped is not for the reader."""
    from jupyter_client.manager import AsyncKernelManager

    class Quiet(AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd: list[str], **more: Any) -> None:
            await super()._async_launch_kernel(kernel_cmd, **more | {"stderr": subprocess.DEVNULL})

    return Quiet


def _explain(slug: str, notebook: Any, error: Exception) -> str:
    """Say in one sentence where a run stopped: chapter, code cell, equation, error."""
    from nbclient.exceptions import DeadKernelError

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = [cell.source for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
    if isinstance(error, DeadKernelError):
        what = "the kernel died, killed or out of memory"
    if not begun:
        return f"chapter {slug} did not start: {what}"
    label = re.compile(r"\beq-[\w-]*\w")
    labels = {} if label.search(what) else dict.fromkeys(label.findall(begun[-1]))
    equations = f" ({', '.join(labels)})" if labels else ""
    return f"chapter {slug} failed in code cell {len(begun)}{equations}: {' '.join(what.split())[:300]}"


def _write(notebook: Any, path: Path) -> None:
    import nbformat

    write(path, nbformat.writes(notebook) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file in one step: whoever looks sees the old one or the whole new one."""
    part = path.with_name(f".kexue-{os.getpid()}")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_output(output: Path, *, force: bool = False) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something.

    Raises
    ------
    ValueError
        If the output is no ``.ipynb`` (or a ``.failed.ipynb``, where `run` keeps failed runs), its folder
        is missing or not writable, it is a folder, or it exists (without ``force``).
    """
    if output.suffix != ".ipynb" or output.name.endswith(".failed.ipynb"):
        raise refuse("output", str(output), "a file name ending in .ipynb, but not in .failed.ipynb")
    failed = output.with_suffix(".failed.ipynb")
    try:
        tempfile.TemporaryFile(dir=output.parent).close()  # a read-only disk is noticed only by trying
        with contextlib.suppress(FileNotFoundError):
            failed.lstat()  # a name that is too long
    except OSError:
        raise refuse("output", str(output), "a file in an existing, writable folder") from None
    if output.is_dir() or failed.is_dir():
        raise refuse("output", str(output), "a file, not a folder")
    if os.path.lexists(output) and not force:
        raise refuse("output", str(output), "a file that does not exist yet (or --force)")


def export(folder: Path, *, force: bool = False) -> list[Path]:
    """Write every chapter as a notebook without outputs; all is checked before anything is written.

    The text is plain Markdown, with an ellipsis in place of each number that only a run brings.

    Raises
    ------
    ValueError
        If ``folder`` is a file or cannot be made, or one of the notebooks is refused by `check_output`.
    """
    base = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=base).close()
    except OSError:
        raise refuse(
            "folder", str(folder), "a folder, or a name for a new one, where you may write"
        ) from None
    paths = [folder / f"{slug}.ipynb" for slug in chapters()]
    if folder == base:
        for path in paths:
            check_output(path, force=force)
    notebooks = [read_chapter(path.stem) for path in paths]
    for path, notebook in zip(paths, notebooks, strict=True):
        make_plain(path.stem, notebook)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook, path in zip(notebooks, paths, strict=True):
        _write(notebook, path)
    return paths
