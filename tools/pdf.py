"""Print the whole book into one file, _build/kexue.pdf.  `make pdf` runs it, after `make book`.

The pages of _build/html, one after the other in the order of the book, become one document: links
between them lead within it. Chromium sets it (it runs no script of the pages but MathJax and reaches
nothing outside _build/html), and prints it twice: the first time tells the page of every heading.

What cannot be read on paper is not published: a formula, a table or code wider than the text, a formula
in error, a character without a glyph, a link within the book that leads nowhere, a font that is not
embedded. The file is written beside and renamed, so _build/kexue.pdf is always a whole, good one.
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
import zlib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urljoin

ROOT = Path(__file__).resolve().parents[1]
HTML, PDF = ROOT / "_build" / "html", ROOT / "_build" / "kexue.pdf"
PROGRAMS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"]
FLAGS += ["--disable-background-networking", "--disable-sync", "--font-render-hinting=none"]
SITE = "http://book.invalid/"  # answered from files; the name cannot exist
WIDTH = 643  # of the text, 170 mm, in CSS pixels
SUBTITLE = "The mathematics of Su Jianlin’s blog, derived, machine-checked, implemented and measured"
LICENCES = "Text and figures: CC BY-NC-SA 4.0. Code: MIT."
TAG = re.compile(r"<[a-zA-Z][^<>]*>")
ATTRIBUTE = re.compile(r'(?<=\s)(id|href|for|aria-labelledby|aria-describedby|src|clip-path|style|fill)="([^"]*)"')


class Refused(Exception):
    """What is wrong, and the remedy, in one sentence."""


# -- one document from many pages -------------------------------------------------------------


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


def name(page, fragment=""):
    """Return the name that a place of a page has in the document."""
    return f"{page.removeprefix('book/').replace('/', '.')}--{fragment}"


def moved(text, page, pages):
    """Return the HTML of a page with names and links for a document in which all pages stand."""

    def one(match):
        key, value = match.groups()
        if key in ("id", "for", "aria-labelledby", "aria-describedby"):
            value = " ".join(name(page, word) for word in value.split())
        elif key in ("clip-path", "style", "fill"):
            value = re.sub(r"url\((&quot;|')?#([^)'&]+)\1?\)", lambda m: f"url(#{name(page, m[2])})", value)
        elif value.startswith(("data:", "mailto:")):
            pass
        elif value.startswith("#"):
            value = f"#{name(page, value[1:])}"
        else:
            address = urljoin(f"{SITE}{page}.html", value)
            if key == "src":
                return f'{key}="{address}"'
            place, _, fragment = address.partition("#")
            target = place.removeprefix(SITE).removesuffix(".html")
            if target in pages:
                value = f"#{name(target, fragment)}"
            elif place.startswith(SITE):
                return 'data-dropped=""'  # a file or a listing that is not in the book
        return f'{key}="{value}"'

    text = re.sub(r"<script\b.*?</script>", "", text, flags=re.S)
    text = re.sub(r'<a class="(?:headerlink|viewcode-back)".*?</a>', "", text, flags=re.S)
    text = re.sub(r'<a class="[^"]*" href="[^"]*_modules/[^"]*"><span class="viewcode-link">.*?</a>', "", text, flags=re.S)
    return TAG.sub(lambda tag: ATTRIBUTE.sub(one, tag[0]), text)


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


def contents(parts, texts, numbers):
    """Return the table of contents as HTML, with the numbers of pages as far as they are known."""

    def line(page, fragment, words):
        place = name(page, fragment)
        shown = numbers.get(place, "000")
        return f'<a href="#{place}"><span>{moved(words, page, ())}</span><span class="number">{shown}</span></a>'

    pieces = []
    for caption, pages in parts:
        pieces.append(f'<div class="part">{html.escape(caption)}</div><ul>' if caption else "<ul>")
        for page in pages:
            found = headings(texts[page])
            title = next((words for level, _, words in found if level == 1), html.escape(page))
            inner = "".join(f"<li>{line(page, at, words)}</li>" for level, at, words in found if level == 2)
            if page.startswith("book/api/"):  # hundreds of functions are not contents
                inner = ""
            inner = f"<ul>{inner}</ul>" if inner else ""
            pieces.append(f'<li class="chapter">{line(page, "", title)}{inner}</li>')
        pieces.append("</ul>")
    return "".join(pieces)


def plain(words):
    """Return HTML as text, fit for a string of CSS."""
    text = html.unescape(re.sub(r"<[^>]*>", "", words))
    return re.sub(r"\s+", " ", text).strip().replace("\\", "").replace('"', "”")


def document(about, parts, texts, numbers):
    """Return the whole book as one page of HTML."""
    pages = {page for _, several in parts for page in several}
    heads, bodies = [], []
    for page in [page for _, several in parts for page in several]:
        title = plain(next((words for level, _, words in headings(texts[page]) if level == 1), page))
        kind = "k-" + re.sub(r"\W", "-", name(page))
        heads.append(f'@page {kind} {{ @top-center {{ content: "{title}"; }} }}\n.{kind} {{ page: {kind} }}\n')
        bodies.append(
            f'<article class="bd-article {kind}" id="{name(page)}">{moved(texts[page], page, pages)}</article>\n'
        )
    styles = re.findall(r'<link[^>]*rel="stylesheet"[^>]*>', about["head"])
    styles = "".join(
        f'<link rel="stylesheet" href="{urljoin(SITE + "book/", re.search(r"href=.([^\"]*)", s)[1])}">'
        for s in styles
    )
    listed = contents(parts, texts, numbers)
    esc = {key: html.escape(value) for key, value in about.items() if key != "head"}
    return f"""<!DOCTYPE html>
<html lang="{esc["language"]}" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{esc["title"]}</title>{styles}
<style>{(ROOT / "tools" / "pdf.css").read_text("utf-8")}
@page {{ @top-center {{ font: italic 9pt "Liberation Serif", "DejaVu Serif", serif; color: #444; }} }}
{"".join(heads)}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "tex2jax_process|mathjax_process|math|output_area",
  enableAssistiveMml: false, enableMenu: false}}}}</script>
<script defer src="{SITE}_static/mathjax/tex-chtml.js"></script></head>
<body><main class="bd-main"><div class="bd-content"><div class="bd-article-container">
<div class="kexue-title"><div><p class="name">{esc["title"]}</p><p class="about">{esc["subtitle"]}</p>
<p>{esc["author"]}</p></div><p class="small">{esc["edition"]}<br>{esc["licences"]}</p></div>
<article class="bd-article kexue-contents"><h1>Contents</h1>{listed}</article>
{"".join(bodies)}</div></div></main></body></html>"""


# -- the browser ------------------------------------------------------------------------------


def browser():
    """Return the program that prints."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise Refused("there is no browser to print with: install chromium (apt-get install chromium)")
    return found


class Press:
    """A browser that prints a document, with the files of the built book at hand."""

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

    def open(self, text):
        """Show a document as it will be printed; return its tab."""
        self.text = text
        tab = self.browser.new_page(viewport={"width": WIDTH, "height": 1000})
        tab.set_default_timeout(0)
        tab.emulate_media(media="print", color_scheme="light")
        tab.route("**/*", self.answer)
        tab.goto(f"{SITE}whole.html")
        tab.add_script_tag(path=ROOT / "tools" / "pdf.js")
        tab.evaluate("prepare()")
        tab.evaluate("MathJax.startup.promise.then(() => document.fonts.ready).then(() => true)")
        return tab

    def numbers(self, tab, numbers):
        """Write the numbers of pages into the contents."""
        tab.evaluate(
            """numbers => { for (const a of document.querySelectorAll('.kexue-contents li > a')) {
            const number = numbers[decodeURIComponent(a.getAttribute('href').slice(1))];
            if (number) a.querySelector('.number').textContent = number; } }""",
            numbers,
        )


def printed(tab):
    """Return the PDF of a tab."""
    return tab.pdf(prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
