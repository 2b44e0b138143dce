"""Make what a release consists of: pages, notebooks, PDF, EPUB, claims, and their checksums.

    python tools/release.py          from what `make test`, `make pdf` and `make epub` have built, into dist/
    python tools/release.py --tag    and tag this commit with the version

The same sources give the same archives, byte for byte: entries are sorted and dated with the commit.
Nothing is sent anywhere; .github/workflows/release.yml attaches the files to a release of the tag.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HTML, DIST = ROOT / "_build" / "html", ROOT / "dist"
PDF, EPUB = ROOT / "_build" / "kexue.pdf", ROOT / "_build" / "kexue.epub"


class Refused(Exception):
    """What is missing, and the remedy, in one sentence."""


def git(*words):
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def version():
    """Return the version, if all places that state it agree."""
    texts = {
        "pyproject.toml": r'^version = "(.+)"',
        "CITATION.cff": r"^version: (.+)",
        "CHANGELOG.md": r"^## \[(.+?)\]",
    }
    found = {}
    for name, pattern in texts.items():
        match = re.search(pattern, (ROOT / name).read_text("utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name} has {one}" for name, one in found.items())
        raise Refused(f"the version is not the same everywhere: {said}")
    return found["pyproject.toml"]


def built():
    """Refuse a release of pages, of a PDF or of an EPUB that were not made from these sources."""
    if git("status", "--porcelain"):
        raise Refused("the tree is not clean: commit first, so that the tag names what was built")
    sys.path.insert(0, str(ROOT / "tools"))
    import fingerprint

    import book

    mark = HTML / ".inputs"
    if not mark.is_file() or mark.read_text() != book.inputs(fingerprint.everything()):
        raise Refused("the pages were not made from these sources: run make test")
    for file, kind in (PDF, "PDF"), (EPUB, "EPUB"):
        if not file.is_file() or file.stat().st_mtime < mark.stat().st_mtime:
            raise Refused(f"the {kind} is missing or older than the pages: run make {kind.lower()}")


def archive(target, folder, files, when):
    """Write files below a folder into an archive, under the name of the archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(files):
            entry = zipfile.ZipInfo(f"{target.stem}/{path.relative_to(folder).as_posix()}", when)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            made.writestr(entry, path.read_bytes())


def make():
    """Write the files of the release and return their folder's content."""
    name = f"scientific-spaces-executable-{version()}"
    when = time.gmtime(int(git("log", "-1", "--format=%ct")))[:6]
    new = DIST.with_name("dist.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    pages = [path for path in HTML.rglob("*") if path.is_file() and not path.name.startswith(".")]
    notebooks = HTML / "_sources" / "book"
    archive(new / f"{name}-html.zip", HTML, pages, when)
    archive(new / f"{name}-notebooks.zip", notebooks, notebooks.glob("*.ipynb"), when)
    shutil.copyfile(PDF, new / f"{name}.pdf")
    shutil.copyfile(EPUB, new / f"{name}.epub")
    shutil.copyfile(HTML / "book" / "claims.json", new / "claims.json")
    shutil.copyfile(HTML / "book" / "claims.schema.json", new / "claims.schema.json")
    files = sorted(new.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (new / "SHA256SUMS").write_text("".join(sums))
    shutil.rmtree(DIST, ignore_errors=True)
    os.replace(new, DIST)
    return sorted(DIST.iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tag", action="store_true", help="tag this commit, if all is well")
    options = parser.parse_args()
    try:
        built()
        tag = f"v{version()}"
        if options.tag and git("tag", "--list", tag):
            raise Refused(f"there is a tag {tag}: raise the version first")
        for path in make():
            print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(ROOT)}")
        if options.tag:
            git("tag", "--annotate", tag, "--message", f"Scientific Spaces, Executable {version()}")
            print(f"tagged {tag}: git push origin {tag}")
    except Refused as problem:
        print(f"release: {problem}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
