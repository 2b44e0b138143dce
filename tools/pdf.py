"""Print the whole book into one file, _build/kexue.pdf.  `make pdf` runs it, after `make book`.

The pages of _build/html, one after the other in the order of the book, become one document: links
between them lead within it. Chromium sets it (it runs no script of the pages but MathJax and reaches
nothing outside _build/html), and prints it twice: the first time tells the page of every heading.

What cannot be read on paper is not published: a formula, a table or code wider than the text, a formula
in error, a character without a glyph, a link within the book that leads nowhere, a font that is not
embedded. The file is written beside and renamed, so _build/kexue.pdf is always a whole, good one.
"""

import html
import re
import sys
import zlib
from string import ascii_letters, digits
from urllib.parse import urljoin

import built
from built import HTML, ROOT, SITE, TAG, Refused, about, article, bare, headings, plain, toc

PDF = ROOT / "_build" / "kexue.pdf"
WIDTH = 612  # of the text, 162 mm, in CSS pixels
ATTRIBUTE = re.compile(
    r'(?<=\s)(id|href|for|aria-labelledby|aria-describedby|src|clip-path|style|fill)="([^"]*)"'
)


# -- one document from many pages -------------------------------------------------------------


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

    return TAG.sub(lambda tag: ATTRIBUTE.sub(one, tag[0]), bare(text))


def contents(parts, texts, numbers):
    """Return the table of contents as HTML, with the numbers of pages as far as they are known."""

    def line(page, fragment, words):
        place = name(page, fragment)
        shown = numbers.get(place, "000")
        return (
            f'<a href="#{place}"><span>{moved(words, page, ())}</span><span class="number">{shown}</span></a>'
        )

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


def document(about, parts, texts, numbers):
    """Return the whole book as one page of HTML."""
    pages = {page for _, several in parts for page in several}
    heads, bodies = [], []
    for page in [page for _, several in parts for page in several]:
        title = plain(next((words for level, _, words in headings(texts[page]) if level == 1), page))
        kind = "k-" + re.sub(r"\W", "-", name(page))
        heads.append(
            f'@page {kind} {{ @top-center {{ content: "{title}"; }} }}\n.{kind} {{ page: {kind} }}\n'
        )
        bodies.append(
            f'<article class="bd-article {kind}" id="{name(page)}">'
            f"{moved(texts[page], page, pages)}</article>\n"
        )
    sheets = re.findall(
        r'<link[^>]*href="([^"]*)"[^>]*rel="stylesheet"|rel="stylesheet"[^>]*href="([^"]*)"', about["head"]
    )
    styles = "".join(
        f'<link rel="stylesheet" href="{urljoin(SITE + "book/", one or other)}">' for one, other in sheets
    )
    listed = contents(parts, texts, numbers)
    esc = {key: html.escape(value) for key, value in about.items() if isinstance(value, str)}
    return f"""<!DOCTYPE html>
<html lang="{esc["language"]}" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{esc["title"]}</title>{styles}
<style>{(ROOT / "tools" / "pdf.css").read_text("utf-8")}
@page {{ @top-center {{ font: italic 9pt "Liberation Serif", "DejaVu Serif", serif; color: #444; }} }}
{"".join(heads)}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "tex2jax_process|mathjax_process|math|output_area",
  enableAssistiveMml: false, enableMenu: false}}, chtml: {{matchFontHeight: false, scale: 1.05}}}}</script>
<script defer src="{SITE}_static/mathjax/tex-chtml.js"></script></head>
<body><main class="bd-main"><div class="bd-content"><div class="bd-article-container">
<div class="kexue-title"><div><p class="name">{esc["title"]}</p><p class="about">{esc["subtitle"]}</p>
<p>{esc["author"]}</p></div><p class="small">{esc["edition"]}<br>{esc["licences"]}</p></div>
<article class="bd-article kexue-contents" id="contents--">
<h1><a href="#contents--">Contents</a></h1>{listed}</article>
{"".join(bodies)}</div></div></main></body></html>"""


# -- the browser ------------------------------------------------------------------------------


class Press(built.Browser):
    """A browser that prints a document."""

    def open(self, text):
        """Show a document as it will be printed; return its tab."""
        tab = self.show(text, "print", width=WIDTH, height=1000)
        tab.add_script_tag(path=ROOT / "tools" / "pdf.js")
        tab.evaluate("prepare()")
        tab.evaluate("MathJax.startup.promise.then(() => document.fonts.ready).then(told)")
        return tab

    def numbers(self, tab, numbers):
        """Write the numbers of pages into the contents."""
        tab.evaluate(
            """numbers => { for (const a of document.querySelectorAll('.kexue-contents li > a')) {
            const number = numbers[decodeURIComponent(a.getAttribute('href').slice(1))];
            if (number) a.querySelector('.number').textContent = number; } }""",
            numbers,
        )


def printed(tab, tagged=True):
    """Return the PDF of a tab. Chromium's own outline leaves out headings at the top of a page."""
    return tab.pdf(prefer_css_page_size=True, print_background=True, tagged=tagged, outline=False)


# -- the file ---------------------------------------------------------------------------------


class File:
    """As much of the form of a PDF as chromium writes: numbered objects, a table of them, streams."""

    def __init__(self, data):
        self.data, self.places = data, {}
        try:
            self.root, start, seen = None, int(re.findall(rb"startxref\s+(\d+)\s+%%EOF", data)[-1]), set()
            while start not in seen:
                seen.add(start)
                end = data.index(b"startxref", start)
                head, _, trailer = data[start:end].partition(b"trailer")
                lines = iter(head.splitlines()[1:])
                for line in lines:
                    first, count = map(int, line.split())
                    for number in range(first, first + count):
                        offset, _, kind = next(lines).split()
                        if kind == b"n":
                            self.places.setdefault(number, int(offset))
                self.root = self.root or int(re.search(rb"/Root (\d+) 0 R", trailer)[1])
                self.size = max(self.places) + 1
                if before := re.search(rb"/Prev (\d+)", trailer):
                    start = int(before[1])
        except (IndexError, ValueError, TypeError, StopIteration):
            raise Refused(
                "the file that the browser printed is not a whole PDF: run make pdf again"
            ) from None

    def object(self, number):
        """Return the text of an object, without its stream."""
        start = self.places[number]
        whole = self.data[start : self.data.index(b"endobj", start)]
        return re.split(rb"stream\r?\n", whole.split(b"obj", 1)[1], maxsplit=1)[0].strip()

    def stream(self, number):
        """Return the decoded stream of an object."""
        start = self.data.index(b"stream", self.places[number]) + 6
        start += 2 if self.data[start : start + 1] == b"\r" else 1
        raw = self.data[start : start + int(re.search(rb"/Length (\d+)", self.object(number))[1])]
        return zlib.decompress(raw) if b"/FlateDecode" in self.object(number) else raw

    def pages(self):
        """Return the numbers of the objects of all pages, in their order."""
        found, todo = [], [int(re.search(rb"/Pages (\d+) 0 R", self.object(self.root))[1])]
        while todo:
            number = todo.pop()
            kids = re.search(rb"/Kids\s*\[(.*?)\]", self.object(number), re.S)
            if kids:
                todo += reversed([int(n) for n in re.findall(rb"(\d+) 0 R", kids[1])])
            else:
                found.append(number)
        return found

    def destinations(self):
        """Return name → number of the page (from 1) of all places that a link can lead to."""
        order = {number: i for i, number in enumerate(self.pages(), 1)}
        table = re.search(rb"/Dests (\d+) 0 R", self.object(self.root))
        entries = re.findall(rb"/(\S+)\s*\[(\d+) 0 R", self.object(int(table[1]))) if table else []
        return {named(key): order[int(page)] for key, page in entries}

    def links(self):
        """Return the names that the links and the outline lead to, and the addresses outside."""
        inside, outside = [], []
        for number in self.places:
            text = self.object(number)
            if match := re.search(rb"/Dest /([^\s/>]+)", text):
                inside.append(named(match[1]))
            if b"/Link" in text and (match := re.search(rb"/URI \((.*?)(?<!\\)\)", text)):
                outside.append(match[1].decode("latin-1"))
        return inside, outside

    def outline(self, number=None, level=1):
        """Yield level, title and destination of every entry of the outline."""
        if number is None:
            match = re.search(rb"/Outlines (\d+) 0 R", self.object(self.root))
            match = match and re.search(rb"/First (\d+) 0 R", self.object(int(match[1])))
            number = int(match[1]) if match else 0
        while number:
            text = self.object(number)
            title = bytes.fromhex(re.search(rb"/Title <([0-9A-F]*)>", text)[1].decode()).decode("utf-16")
            yield level, title, named(re.search(rb"/Dest /([^\s/>]+)", text)[1])
            if first := re.search(rb"/First (\d+) 0 R", text):
                yield from self.outline(int(first[1]), level + 1)
            after = re.search(rb"/Next (\d+) 0 R", text)
            number = int(after[1]) if after else 0

    def resources(self, number):
        """Return what a page or a form names: kind and name → object."""
        text = self.object(number)
        if match := re.search(rb"/Resources (\d+) 0 R", text):
            text = self.object(int(match[1]))
        found = {}
        for kind in (b"Font", b"XObject"):
            if match := re.search(rb"/%s\s*(?:<<(.*?)>>|(\d+) 0 R)" % kind, text, re.S):
                inner = match[1] if match[1] is not None else self.object(int(match[2]))
                found[kind] = {key: int(n) for key, n in re.findall(rb"/(\S+)\s+(\d+) 0 R", inner)}
        return found

    def drawn(self, page):
        """Yield what draws a page: (resources, operators) of it and of the forms it uses."""
        todo, seen = [page], set()
        while todo:
            number = todo.pop()
            if number in seen:
                continue
            seen.add(number)
            text, named_here = self.object(number), self.resources(number)
            if b"/Type /Page" in text:
                inner = re.search(rb"/Contents\s*(?:\[(.*?)\]|(\d+ 0 R))", text, re.S)
                streams = re.findall(rb"(\d+) 0 R", inner[1] or inner[2]) if inner else []
                operators = b"\n".join(self.stream(int(n)) for n in streams)
            elif b"/Subtype /Form" in text:
                operators = self.stream(number)
            else:
                continue
            yield named_here, operators
            todo += named_here.get(b"XObject", {}).values()

    def glyphless(self, page):
        """Return how many characters of a page no font could draw: chromium gives them the code 0."""
        count = 0
        for names, operators in self.drawn(page):
            two = True
            operators = re.sub(rb"<<.*?>>", b"", operators, flags=re.S)  # what is said and not drawn
            for font, text in re.findall(rb"/(\S+) [-\d.]+ Tf|<([0-9A-Fa-f]+)>", operators):
                if font:
                    two = b"/Type0" in self.object(names[b"Font"][font])
                else:
                    step = 4 if two else 2
                    count += sum(not int(text[i : i + step], 16) for i in range(0, len(text), step))
        return count

    def fonts_outside(self):
        """Return the fonts that are named but not in the file."""
        bad = []
        for number in self.places:
            text = self.object(number)
            drawn = re.search(rb"/Subtype /Type[03]\b", text)  # by its parts, or by operators in the file
            if not re.search(rb"/Type /Font\b", text) or drawn:
                continue
            about_it = re.search(rb"/FontDescriptor (\d+) 0 R", text)
            if not about_it or not re.search(rb"/FontFile[23]? ", self.object(int(about_it[1]))):
                bad.append(re.search(rb"/BaseFont /(\S+)", text)[1].decode("latin-1"))
        return bad

    def with_(self, objects):
        """Return the file with objects added or replaced, as PDF foresees it: at its end."""
        pieces, table, at = [self.data.rstrip(b"\n") + b"\n"], [], 0
        at = len(pieces[0])
        for number, text in sorted(objects.items()):
            piece = b"%d 0 obj\n%s\nendobj\n" % (number, text)
            table.append(b"%d 1\n%010d 00000 n \n" % (number, at))
            pieces.append(piece)
            at += len(piece)
        last = int(re.findall(rb"startxref\s+(\d+)\s+%%EOF", self.data)[-1])
        size = max(self.size, max(objects) + 1)
        trailer = b"<</Size %d /Root %d 0 R /Info %d 0 R /Prev %d>>" % (size, self.root, self.info(), last)
        pieces += [b"xref\n", *table, b"trailer\n", trailer, b"\nstartxref\n%d\n%%%%EOF\n" % at]
        return b"".join(pieces)

    def info(self):
        """Return the number of the object that tells title and author."""
        return int(re.findall(rb"/Info (\d+) 0 R", self.data)[-1])


def named(key):
    """Return a name of PDF as text."""
    return re.sub(rb"#([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), key).decode("utf-8", "replace")


def string(text):
    """Return text as a string of PDF."""
    return b"<" + ("\ufeff" + text).encode("utf-16-be").hex().upper().encode() + b">"


def key(text):
    """Return text as a name of PDF, in the way of chromium."""
    kept = ascii_letters + digits + "!\"$&'*+,-.:;=?@\\^_`|~"
    return b"/" + b"".join(bytes([c]) if chr(c) in kept else b"#%02X" % c for c in text.encode())


def bound(data, about, entries):
    """Return a printed file with the outline `entries` (level, title, name) and what it is about."""
    file = File(data)
    known = file.destinations()
    top = file.size
    number = {i: top + 1 + i for i in range(len(entries))}
    parents, stack = {}, []  # stack: the open entries, outermost first
    for i, (level, _, _) in enumerate(entries):
        while stack and entries[stack[-1]][0] >= level:
            stack.pop()
        parents[i] = stack[-1] if stack else None
        stack.append(i)
    children = {}
    for i, parent in parents.items():
        children.setdefault(parent, []).append(i)
    objects = {}
    for parent, several in children.items():
        for k, i in enumerate(several):
            _, title, place = entries[i]
            if place not in known:
                raise Refused(f"the outline leads nowhere at {title}: run make clean and then make pdf")
            text = b"<</Title %s /Dest %s /Parent %d 0 R" % (
                string(title), key(place), top if parent is None else number[parent],
            )  # fmt: skip
            text += b" /Prev %d 0 R" % number[several[k - 1]] if k else b""
            text += b" /Next %d 0 R" % number[several[k + 1]] if k + 1 < len(several) else b""
            if inner := children.get(i):  # closed: a minus before their count
                text += b" /First %d 0 R /Last %d 0 R /Count -%d" % (
                    number[inner[0]],
                    number[inner[-1]],
                    len(inner),
                )
            objects[number[i]] = text + b">>"
    first, last = number[children[None][0]], number[children[None][-1]]
    objects[top] = b"<</Type /Outlines /First %d 0 R /Last %d 0 R /Count %d>>" % (
        first,
        last,
        len(children[None]),
    )
    root = re.sub(rb"/(?:Outlines \d+ 0 R|PageMode /\w+)\s*", b"", file.object(file.root))
    objects[file.root] = root.removesuffix(b">>") + b" /Outlines %d 0 R /PageMode /UseOutlines>>" % top
    when = about["moment"].strftime("D:%Y%m%d%H%M%S+00'00'").encode()
    told = {"Title": about["title"], "Author": about["author"], "Subject": about["subtitle"]}
    told |= {"Keywords": about["edition"], "Creator": about["creator"]}
    info = b"".join(b"/%s %s " % (name_.encode(), string(value)) for name_, value in told.items())
    objects[file.info()] = b"<<%s/Producer (Skia/PDF) /CreationDate (%s) /ModDate (%s)>>" % (info, when, when)
    return file.with_(objects)


# -- the book ---------------------------------------------------------------------------------


def bookmarks(parts, texts):
    """Return the entries of the outline: parts, their pages, the sections of these."""
    entries = [(1, "Contents", "contents--")]
    for caption, pages in parts:
        if caption:
            entries.append((1, caption, name(pages[0])))
        for page in pages:
            for level, place, words in headings(texts[page]):
                if level == 1:
                    entries.append((2 if caption else 1, plain(words), name(page)))
                elif not page.startswith("book/api/"):
                    entries.append((3 if caption else 2, plain(words), name(page, place)))
    return entries


def faults(data, chapters):
    """Return what is wrong with a finished file."""
    file = File(data)
    known, pages = file.destinations(), file.pages()
    inside, outside = file.links()
    found = [f"a link leads nowhere: {place}" for place in sorted({*inside} - known.keys())]
    found += [
        f"a link leads out of the book into its pages: {one}" for one in outside if one.startswith(SITE)
    ]
    found += [f"a font is not embedded: {one}" for one in file.fonts_outside()]
    for i, page in enumerate(pages, 1):
        if count := file.glyphless(page):
            found.append(
                f"page {i}: no font has {count} of its characters (fonts-dejavu-core, fonts-noto-cjk)"
            )
    listed = {place for _, _, place in file.outline()}
    found += [f"the outline lacks {page}" for page in chapters if name(page) not in listed]
    return found


def make(parts, root=HTML, said=lambda text: None):
    """Return the PDF of the pages in parts; raise Refused for what could not be read on paper."""
    texts = {page: article(page, root) for _, pages in parts for page in pages}
    what = about(root, list(texts))
    with Press(root) as press:
        tab = press.open(document(what, parts, texts, {}))
        said("formulas set")
        shrunk = tab.evaluate("fit()")
        wrong = tab.evaluate("faults()")
        if wrong:
            raise Refused("the pages cannot be printed as they are:\n    " + "\n    ".join(wrong))
        said(f"{shrunk['formulas']} formulas and {shrunk['tables']} tables made smaller to fit")
        known = File(printed(tab, tagged=False)).destinations()
        said("pages numbered")
        press.numbers(tab, known)
        data = printed(tab)
        if File(data).destinations() != known:
            raise Refused("the numbers of the pages changed while they were written: run make pdf again")
    data = bound(data, what, bookmarks(parts, texts))
    if wrong := faults(data, texts):
        raise Refused("the printed file has faults:\n    " + "\n    ".join(wrong))
    return data


def main():
    return built.run(
        __doc__,
        "PDF",
        PDF,
        make=lambda said: make(toc(), said=said),
        told=lambda data: f"{len(File(data).pages())} pages",
    )


if __name__ == "__main__":
    sys.exit(main())
