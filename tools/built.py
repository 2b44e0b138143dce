"""The built book as what `make pdf` and `make epub` start from: pages, outline, title, a browser for them.

What they make is written beside and renamed: a file below _build is always a whole, good one.
"""

import argparse
import errno
import html
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PROGRAMS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"]
FLAGS += ["--disable-background-networking", "--disable-sync", "--font-render-hinting=none"]
SITE = "http://book.invalid/"  # answered from files; the name cannot exist
SUBTITLE = "The mathematics of Su Jianlin’s blog, derived, machine-checked, implemented and measured"
LICENCES = "Text and figures: CC BY-NC-SA 4.0. Code: MIT."
TAG = re.compile(r"<[a-zA-Z][^<>]*>")


class Refused(Exception):
    """What is wrong, and the remedy, in one sentence."""


# -- pages ------------------------------------------------------------------------------------


def article(page, root=HTML):
    """Return the text of a built page (book/hubness) as HTML."""
    path = root / f"{page}.html"
    if not path.is_file():
        raise Refused(f"the page {page} has not been built: run make book")
    text = path.read_text("utf-8")
    start, end = text.find("<article"), text.rfind("</article>")
    if start < 0 or end < 0:
        raise Refused(f"the page {page} has no article: run make clean and then make book")
    return text[text.index(">", start) + 1 : end]


def bare(text):
    """Return the HTML of a page without scripts and without the links that only a site has."""
    text = re.sub(r"<script\b.*?</script>", "", text, flags=re.S)
    text = re.sub(r'<a class="(?:headerlink|viewcode-back)".*?</a>', "", text, flags=re.S)
    return re.sub(
        r'<a class="[^"]*" href="[^"]*_modules/[^"]*"><span class="viewcode-link">.*?</a>',
        "",
        text,
        flags=re.S,
    )


def headings(text):
    """Return level, name and HTML of the headings of a page, from its built HTML."""
    found = []
    for level, inner in re.findall(r"<h([12])>(.*?)</h\1>", text, re.S):
        link = re.search(r'<a class="headerlink" href="#([^"]*)"', inner)
        inner = re.sub(r'<a class="headerlink".*?</a>', "", inner, flags=re.S)
        inner = re.sub(r"<a [^>]*>|</a>", "", inner)
        found.append((int(level), link[1] if link else "", inner))
    return found


def toc():
    """Return captions and pages of the book: [(caption, [page, …]), …]."""
    import yaml

    outline = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))

    def below(entries):
        for entry in entries:
            yield entry["file"]
            yield from below(entry.get("sections", ()))

    parts = outline.get("parts") or [{"caption": "", "chapters": outline.get("chapters", ())}]
    return [("", [outline["root"]]), *((p.get("caption", ""), list(below(p["chapters"]))) for p in parts)]


def plain(words):
    """Return HTML as text, fit for a string of CSS."""
    text = html.unescape(re.sub(r"<[^>]*>", "", words))
    return re.sub(r"\s+", " ", text).strip().replace("\\", "").replace('"', "”")


# -- what the book is -------------------------------------------------------------------------


def git(*words):
    """Return what git says, or nothing where the sources came without it."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def about(root=HTML, pages=("book/intro",)):
    """Return what the title page and the file say about the book."""
    import yaml

    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[1]
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct")
    moment = datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime(1970, 1, 1, tzinfo=UTC)
    commit, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain")
    edition = f"Version {version}"
    if commit:
        edition += f", {moment.day} {moment:%B %Y}, commit {commit}{' with changes' if changed else ''}"
    page = (root / f"{pages[0]}.html").read_text("utf-8")
    language = re.search(r'<html lang="([\w-]+)"', page)
    return {
        "title": config["title"],
        "author": config["author"],
        "subtitle": SUBTITLE,
        "edition": edition,
        "licences": LICENCES,
        "language": language[1] if language else "en",
        "head": page.partition("</head>")[0],
        "creator": f"kexue_lib {version}",
        "moment": moment,
    }


# -- the browser ------------------------------------------------------------------------------


def browser():
    """Return the program that reads the pages."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise Refused(
            "there is no browser to read the pages with: install chromium (apt-get install chromium)"
        )
    return found


class Browser:
    """A browser with the files of the built book at hand, and nothing else."""

    def __init__(self, root=HTML):
        self.root = root

    def __enter__(self):
        from playwright.sync_api import sync_playwright

        self.playwright = sync_playwright().start()
        try:
            self.browser = self.playwright.chromium.launch(executable_path=browser(), args=FLAGS)
        except BaseException:
            self.playwright.stop()
            raise
        return self

    def __exit__(self, *_):
        self.browser.close()
        self.playwright.stop()

    def answer(self, route):
        """Give the browser the document and files of the book, and nothing else."""
        place = unquote(route.request.url.partition("?")[0])
        if place == f"{SITE}whole.html":
            return route.fulfill(body=self.text, content_type="text/html; charset=utf-8")
        path = self.root / posixpath.normpath(place.removeprefix(SITE))
        if place.startswith(SITE) and path.is_file():
            return route.fulfill(path=path)
        return route.abort()

    def show(self, text, media, *, width, height, scale=1):
        """Return a tab with a document."""
        self.text = text
        size = {"width": width, "height": height}
        tab = self.browser.new_page(viewport=size, device_scale_factor=scale)
        tab.set_default_timeout(0)
        tab.emulate_media(media=media, color_scheme="light")
        tab.route("**/*", self.answer)
        tab.goto(f"{SITE}whole.html")
        return tab


# -- the file ---------------------------------------------------------------------------------


def write(data, target):
    """Put the file in its place, as a whole or not at all."""
    beside = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def run(about_it, kind, target, make, told):
    """Be a command without options that makes a file; return the exit status.

    `make(said)` returns its bytes and `told(data)` what is worth knowing of them; `kind` is PDF or EPUB.
    """
    argparse.ArgumentParser(description=about_it.partition("\n")[0]).parse_args()
    from playwright.sync_api import Error

    begun, tool = time.monotonic(), kind.lower()

    def said(text):
        print(f"   {time.monotonic() - begun:6.1f} s  {text}", flush=True)

    print(f"== {kind}", flush=True)
    try:
        data = make(said)
        write(data, target)
    except Refused as problem:
        print(f"\n{tool}: {problem}", file=sys.stderr)
    except Error as problem:
        first = str(problem).strip().splitlines()[0]
        print(f"\n{tool}: the browser failed ({first}): close other programs and try again.", file=sys.stderr)
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"the disk is full: free some space and run make {tool} again" if full else f"{problem}"
        print(f"\n{tool}: {what}.", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{tool}: interrupted.", file=sys.stderr)
        return 130
    else:
        print(f"{target}\n   {told(data)}, {len(data) / 1e6:.1f} MB, {time.monotonic() - begun:.1f} s")
        return 0
    if target.exists():
        print(f"\n{target.relative_to(ROOT)} is that of the last good run.", file=sys.stderr)
    return 1
