"""What the outputs of a chapter, and the book, depend on: one hash each.

A chapter depends on its code cells, the modules of kexue_lib that they import (directly or not), the
lock, Python, torch, and the tool that executes it; not on its prose. Where code does not plainly say
what it imports, it depends on all of kexue_lib.
"""

import ast
import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("_config.yml", "_toc.yml", "requirements.lock", "tools")
ABOUT = ("CITATION.cff", "CHANGELOG.md")
MATTERS = {"parameters", "skip-execution", "raises-exception"}  # tags that change an execution


def digest(*parts):
    """Return one hash of texts and of files (given as paths), with their names."""
    total = hashlib.sha256()
    for part in parts:
        text = str(part.relative_to(ROOT) if isinstance(part, Path) else part).encode()
        data = part.read_bytes() if isinstance(part, Path) else b""
        total.update(hashlib.sha256(text).digest() + hashlib.sha256(data).digest())
    return total.hexdigest()


def files(*names):
    """Return the files that are, or lie below, what is named; no caches, no editor's copies."""
    found = [path for name in names for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    hidden = re.compile(r"__pycache__|/\.")
    return sorted(p for p in found if p.is_file() and not hidden.search(f"/{p.relative_to(ROOT)}"))


@cache
def versions():
    """Return the versions that may change a result and that the lock does not fix."""
    torch = "none"
    with contextlib.suppress(metadata.PackageNotFoundError):
        torch = metadata.version("torch")
    return f"Python {platform.python_version()}, torch {torch}"


@cache
def modules():
    """Return the files of the library by the names they are imported under."""
    named = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files("kexue_lib")}
    return {name.removesuffix(".__init__"): p for name, p in named.items() if p.suffix == ".py"}


def imported(code, package="kexue_lib"):
    """Return the library's modules that code (of a cell, or within `package`) imports."""
    known, found = modules(), set()
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a line for IPython, perhaps one that runs something
        return set(known)
    for node in ast.walk(tree):
        names = set()
        if isinstance(node, ast.Name) and node.id in ("__import__", "exec", "eval"):
            return set(known)
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            names = inner if base == "kexue_lib" else {base} | (inner & known.keys())
        roots = {name.split(".")[0] for name in names}
        ours = {name for name in names if name.split(".")[0] == "kexue_lib"}
        if "importlib" in roots or "kexue_lib" in ours or ours - known.keys():
            return set(known)
        found |= ours
    return found


@cache
def used_by(name):
    """Return what a module of the library needs next: its imports, and the package it lies in."""
    if name == "kexue_lib":  # it has only the sweeps to offer, which no chapter runs
        return set()
    path, parent = modules()[name], name.rpartition(".")[0]
    package = name if path.stem == "__init__" else parent
    return imported(path.read_text(encoding="utf-8"), package) | ({parent} & modules().keys())


def chapter(notebook):
    """Return the hash of all that the outputs of a chapter depend on."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found, todo = set(), set().union(*(imported(cell.source) for cell in cells))
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= used_by(name) - found
    code = [[cell.source, sorted(MATTERS & {*cell.metadata.get("tags", ())})] for cell in cells]
    data = [path for path in files("kexue_lib") if path.suffix != ".py"]
    if any("recorded" in cell.source for cell in cells):  # it may read the record of a full profile
        data += [path for path in files("results") if path.name.startswith("full_")]
    sources = [modules()[name] for name in sorted(found)]
    how = [ROOT / "requirements.lock", ROOT / "tools" / "book.py"]
    return digest(versions(), json.dumps(code), *how, *sources, *data)


def commit():
    """Return the commit that the book is cited with: none without git, or if a source was changed since."""
    git, sources = ["git", "-c", "safe.directory=*"], ("book", "kexue_lib", "results", *SETTINGS, *ABOUT)
    asked = ["rev-parse", "HEAD"], ["status", "--porcelain", "--", *sources]
    try:
        head, changed = (
            subprocess.run([*git, *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changed else head


def everything():
    """Return the hash of all that the book is made from."""
    return digest(versions(), address(), commit(), *files("book", "kexue_lib", "results", *SETTINGS, *ABOUT))


def address():
    """Return where the book and its sources will be, if it is not _config.yml that says so."""
    return os.environ.get("KEXUE_BASEURL", "") + " " + os.environ.get("KEXUE_REPOSITORY", "")


def skeleton():
    """Return the hash of what can change every page."""
    below = ("_ext", "_static", "_templates", "references.bib")
    return digest(versions(), address(), *files("results", *SETTINGS, *(f"book/{name}" for name in below)))
