"""What a release consists of, and what is refused: in a small repository of its own."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The tool, in a repository whose pages, PDF and EPUB are as its sources."""
    for name, text in {
        "pyproject.toml": 'version = "1.2"\n',
        "CITATION.cff": "version: 1.2\n",
        "CHANGELOG.md": "## [1.2]\n",
        ".gitignore": "_build\ndist*\n",
    }.items():
        (tmp_path / name).write_text(text)
    html = tmp_path / "_build" / "html"
    for name in ("index.html", "book/one.html", "book/claims.json", "book/claims.schema.json"):
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(name)
    (html / "_sources" / "book").mkdir(parents=True)
    (html / "_sources" / "book" / "one.ipynb").write_text("{}")
    (html / ".inputs").write_text("as the sources")
    (tmp_path / "_build" / "kexue.pdf").write_text("%PDF")
    (tmp_path / "_build" / "kexue.epub").write_text("PK")
    who = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-01-02T03:04:06Z"}
    for role in ("AUTHOR", "COMMITTER"):
        for key, value in who.items():
            monkeypatch.setenv(f"GIT_{role}_{key}", value)
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    places = {"ROOT": tmp_path, "HTML": html, "DIST": tmp_path / "dist"}
    places |= {kind: tmp_path / f"_build/kexue.{kind.lower()}" for kind in ("PDF", "EPUB")}
    for name, value in places.items():
        monkeypatch.setattr(tool, name, value)

    class Book:
        inputs = staticmethod(lambda sources: sources)

    class Fingerprint:
        everything = staticmethod(lambda: "as the sources")

    monkeypatch.setitem(sys.modules, "book", Book)
    monkeypatch.setitem(sys.modules, "fingerprint", Fingerprint)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["release.py"])
    return tool


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_release_has_pages_notebooks_pdf_epub_claims_and_their_checksums(release, capsys):
    assert release.main() == 0, capsys.readouterr().err
    found = contents(release.DIST)
    name = "scientific-spaces-executable-1.2"
    sums = dict(line.split()[::-1] for line in found.pop("SHA256SUMS").decode().splitlines())
    assert sums == {one: hashlib.sha256(data).hexdigest() for one, data in found.items()}
    others = {f"{name}-html.zip", f"{name}-notebooks.zip", f"{name}.pdf", f"{name}.epub"}
    assert found.keys() == others | {"claims.json", "claims.schema.json"}
    with zipfile.ZipFile(release.DIST / f"{name}-html.zip") as pages:
        assert f"{name}-html/book/one.html" in pages.namelist()
        assert not [one for one in pages.namelist() if ".inputs" in one]
        assert {entry.date_time for entry in pages.infolist()} == {(2026, 1, 2, 3, 4, 6)}
    with zipfile.ZipFile(release.DIST / f"{name}-notebooks.zip") as notebooks:
        assert notebooks.namelist() == [f"{name}-notebooks/one.ipynb"]


def test_the_same_sources_give_the_same_bytes(release):
    assert release.main() == 0
    first = contents(release.DIST)
    for path in release.HTML.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (release.HTML / ".inputs").touch()
    release.PDF.touch()
    release.EPUB.touch()
    assert release.main() == 0
    assert contents(release.DIST) == first


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "new.txt").write_text("?"), "the tree is not clean"),
        (lambda root: (root / "_build/html/.inputs").write_text("older"), "run make test"),
        (lambda root: (root / "_build/html/.inputs").unlink(), "run make test"),
        (lambda root: (root / "_build/kexue.pdf").unlink(), "run make pdf"),
        (lambda root: os.utime(root / "_build/kexue.pdf", (0, 0)), "older than the pages: run make pdf"),
        (lambda root: (root / "_build/kexue.epub").unlink(), "run make epub"),
        (lambda root: os.utime(root / "_build/kexue.epub", (0, 0)), "older than the pages: run make epub"),
    ],
)
def test_what_does_not_fit_is_no_release(release, capsys, spoil, words):
    spoil(release.ROOT)
    assert release.main() == 1
    assert words in capsys.readouterr().err
    assert not release.DIST.exists()


def test_versions_that_differ_are_named(release, capsys):
    (release.ROOT / "CITATION.cff").write_text("version: 1.3\n")
    subprocess.run(["git", "commit", "-qam", "new"], cwd=release.ROOT, check=True)
    assert release.main() == 1
    assert "CITATION.cff has 1.3" in capsys.readouterr().err


def test_a_tag_is_made_once(release, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release.py", "--tag"])
    assert release.main() == 0
    assert release.git("tag", "--list") == "v1.2"
    assert release.main() == 1
    assert "there is a tag v1.2" in capsys.readouterr().err
