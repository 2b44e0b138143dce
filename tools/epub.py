"""Make one EPUB of the whole book, _build/kexue.epub.  `make epub` runs it, after `make book`.

Each page of _build/html becomes one XHTML file: Chromium, which runs no script of the pages but MathJax
and reaches nothing outside _build/html, turns formulas into MathML and drawings into files. Links lead
within the book; nothing in it needs a script or a network. The same pages give the same bytes.

What no reader's device takes is not published: a formula in error or left as TeX, a picture without a
description, a link within the book that leads nowhere, a file that is not well-formed or not listed.
"""

import base64
import html
import io
import posixpath
import re
import sys
import uuid
import zipfile
from urllib.parse import quote, unquote, urljoin, urlsplit
from xml.etree import ElementTree

import built
from built import HTML, ROOT, SITE, TAG, Refused, about, article, bare, toc

EPUB = ROOT / "_build" / "kexue.epub"
PREFIX = "EPUB/"
TYPES = {
    ".xhtml": "application/xhtml+xml",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
OPS = "http://www.idpf.org/2007/ops"
CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles><rootfile full-path="EPUB/package.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
COVER = (600, 900)  # in CSS pixels, drawn at twice that
DRAWING = "_static/two-clouds.png"
ACCESS = {
    "accessMode": ["textual", "visual"],
    "accessModeSufficient": ["textual"],
    "accessibilityFeature": [
        "alternativeText",
        "MathML",
        "readingOrder",
        "structuralNavigation",
        "tableOfContents",
    ],
    "accessibilityHazard": ["none"],
    "accessibilitySummary": [
        "Every figure has a description, formulas are MathML, headings and contents follow the book. "
        "Hidden code and the solutions of exercises can be opened."
    ],
}
ATTRIBUTE = re.compile(r'(?<=\s)(href|src)="([^"]*)"')
# So many parts each of these has in MathML.
ARITY = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3}
ARITY |= {"munder": 2, "mover": 2, "munderover": 3}
# Beside these, a backslash is a formula that was left as TeX.
VERBATIM = {"pre", "code", "dt"}


def name(page):
    """Return the file that a page of the book becomes."""
    return f"{page.removeprefix('book/').replace('/', '.')}.xhtml"


def linked(text, page, pages):
    """Return the HTML of a page with links for a book that has one file for each of `pages`."""

    def one(match):
        key, value = match.groups()
        if value.startswith(("data:", "mailto:", "#")):
            return match[0]
        address = urljoin(f"{SITE}{page}.html", value)
        if key == "src":
            return f'src="{address}"'
        place, mark, fragment = address.partition("#")
        target = place.removeprefix(SITE).removesuffix(".html")
        if target in pages:
            return (
                f'href="{mark}{fragment}"'
                if target == page and mark
                else f'href="{name(target)}{mark}{fragment}"'
            )
        if place.startswith(SITE):
            return 'data-dropped=""'  # a file or a listing that is not in the book
        return match[0]

    return TAG.sub(lambda tag: ATTRIBUTE.sub(one, tag[0]), bare(text))


# -- pages ------------------------------------------------------------------------------------


def desk():
    """Return the page in which the browser works: MathJax, and the text's own styles to measure formulas."""
    return f"""<!DOCTYPE html>
<html><head><meta charset="utf-8"><style>{(ROOT / "tools" / "epub.css").read_text("utf-8")}</style>
<script>window.MathJax = {{startup: {{typeset: false}}, options: {{enableMenu: false}}}}</script>
<script defer src="{SITE}_static/mathjax/tex-chtml.js"></script></head>
<body style="width: 8000px; font-size: 16px"><main></main></body></html>"""


def xhtml(about, title, body, kind=""):
    """Return a file of the book as text."""
    kind = f' epub:type="{kind}"' if kind else ""
    language = about["language"]
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="{OPS}" lang="{language}" xml:lang="{language}">
<head><title>{html.escape(title)}</title><link rel="stylesheet" type="text/css" href="epub.css"/></head>
<body{kind}>{body}</body>
</html>
"""


def picture(kind, content, root):
    """Return suffix and bytes of a picture that the browser found on a page."""
    if kind == "svg":
        return ".svg", f'<?xml version="1.0" encoding="UTF-8"?>\n{content}\n'.encode()
    if kind != "file":
        return f".{kind}", base64.b64decode(content)
    path = root / posixpath.normpath(unquote(content.removeprefix(SITE)))
    if not content.startswith(SITE) or not path.is_file():
        raise Refused(f"the picture {content} is not there: run make clean and then make book")
    return path.suffix, path.read_bytes()


def leaf(page, made, about, root):
    """Return the files that a page becomes: its XHTML, and its pictures."""
    found, names = {}, []
    for number, (kind, content) in enumerate(made["files"], 1):
        suffix, data = picture(kind, content, root)
        names.append(f"images/{name(page).removesuffix('.xhtml')}-{number}{suffix}")
        found[names[-1]] = data
    text = re.sub(r'src="picture:(\d+)"', lambda match: f'src="{names[int(match[1])]}"', made["text"])
    inner = text[text.index(">") + 1 : text.rindex("</main>")]
    title = next((words for level, _, words in made["heads"] if level == 1), page)
    found[name(page)] = xhtml(about, title, f'<main epub:type="chapter">{inner}</main>').encode()
    return found


# -- what stands around them ------------------------------------------------------------------


def cover(about, root):
    """Return the page that is drawn as the cover."""
    mark = (root / "_static" / "favicon.svg").read_text("utf-8")
    image = f'<img src="{SITE}{DRAWING}" alt="">' if (root / DRAWING).is_file() else ""
    esc = {key: html.escape(value) for key, value in about.items() if isinstance(value, str)}
    return f"""<!DOCTYPE html><html><head><meta charset="utf-8"><style>
body {{ margin: 0; width: 600px; height: 900px; background: #0b1f36; color: #fff;
  font-family: "Liberation Sans", Arial, "DejaVu Sans", sans-serif;
  display: flex; flex-direction: column; justify-content: space-between }}
div {{ padding: 48px 48px 0 }} svg {{ width: 64px; display: block }}
h1 {{ font-size: 52px; line-height: 1.1; margin: 28px 0 20px }}
p {{ font-size: 22px; line-height: 1.35; margin: 0; color: #c9d6e4 }}
figure {{ margin: 0; background: #fff; padding: 20px 36px }} img {{ width: 100%; display: block }}
.by {{ font-size: 18px; padding: 24px 48px 32px; color: #fff }}
</style></head><body><div>{mark}<h1>{esc["title"]}</h1><p>{esc["subtitle"]}</p></div>
<figure>{image}</figure><p class="by">{esc["author"]}</p></body></html>"""


def contents(parts, heads):
    """Return the contents as nested lists: parts, pages, sections."""

    def entry(page):
        title = next((words for level, _, words in heads[page] if level == 1), page)
        inner = "".join(
            f'<li><a href="{name(page)}#{quote(at)}">{html.escape(words)}</a></li>\n'
            for level, at, words in heads[page]
            if level == 2 and not page.startswith("book/api/")  # hundreds of functions are not contents
        )
        inner = f"\n<ol>\n{inner}</ol>" if inner else ""
        return f'<li><a href="{name(page)}">{html.escape(title)}</a>{inner}</li>\n'

    pieces = []
    for caption, pages in parts:
        inner = "".join(map(entry, pages))
        pieces.append(
            f"<li><span>{html.escape(caption)}</span>\n<ol>\n{inner}</ol></li>\n" if caption else inner
        )
    return f"<ol>\n{''.join(pieces)}</ol>"


def front(about, parts, heads):
    """Return the files before the pages: cover, title page, contents."""
    esc = {key: html.escape(value) for key, value in about.items() if isinstance(value, str)}
    first = name(parts[0][1][0])
    body = (
        f'<section class="title" epub:type="titlepage"><h1>{esc["title"]}</h1><p>{esc["subtitle"]}</p>\n'
        f"<p>{esc['author']}</p><p>{esc['edition']}</p><p>{esc['licences']}</p></section>"
    )
    lists = (
        f'<nav epub:type="toc" id="toc"><h1>Contents</h1>\n{contents(parts, heads)}</nav>\n'
        '<nav epub:type="landmarks" hidden="hidden"><h2>Landmarks</h2><ol>\n'
        '<li><a epub:type="cover" href="cover.xhtml">Cover</a></li>\n'
        '<li><a epub:type="toc" href="nav.xhtml">Contents</a></li>\n'
        f'<li><a epub:type="bodymatter" href="{first}">Text</a></li></ol></nav>'
    )
    drawn = f'<section class="cover"><img src="images/cover.png" alt="Cover: {esc["title"]}"/></section>'
    return {
        "cover.xhtml": xhtml(about, about["title"], drawn, "cover").encode(),
        "title.xhtml": xhtml(about, about["title"], body, "frontmatter").encode(),
        "nav.xhtml": xhtml(about, "Contents", lists, "frontmatter").encode(),
    }


def key(file):
    """Return the name of a file in the package."""
    return re.sub(r"\W", "-", file)


def package(about, files, spine):
    """Return package.opf: what the book is, its files, and their order."""
    esc = {key: html.escape(value) for key, value in about.items() if isinstance(value, str)}
    moment = about["moment"].strftime("%Y-%m-%dT%H:%M:%SZ")
    # The same in every edition: the date tells them apart.
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"epub:{about['title']}").urn
    told = "".join(
        f'<meta property="schema:{kind}">{html.escape(value)}</meta>\n'
        for kind, values in ACCESS.items()
        for value in values
    )
    items = []
    for file, data in sorted(files.items()):
        suffix = posixpath.splitext(file)[1]
        if suffix not in TYPES:
            known = ", ".join(sorted(TYPES))
            raise Refused(f"devices need not know files such as {file}: make it one of {known}")
        kinds = ["nav"] * (file == "nav.xhtml") + ["cover-image"] * (file == "images/cover.png")
        kinds += ["mathml"] * (suffix == ".xhtml" and b"<math" in data)
        kinds = f' properties="{" ".join(kinds)}"' if kinds else ""
        items.append(f'<item id="{key(file)}" href="{file}" media-type="{TYPES[suffix]}"{kinds}/>\n')
    order = "".join(f'<itemref idref="{key(file)}"/>\n' for file in spine)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id"
 xml:lang="{esc["language"]}">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">{identity}</dc:identifier>
<dc:title id="title">{esc["title"]}</dc:title>
<dc:creator id="creator">{esc["author"]}</dc:creator>
<meta refines="#creator" property="role" scheme="marc:relators">aut</meta>
<dc:language>{esc["language"]}</dc:language>
<dc:description>{esc["subtitle"]}. {esc["edition"]}.</dc:description>
<dc:rights>{esc["licences"]}</dc:rights>
<dc:date>{moment}</dc:date>
<meta property="dcterms:modified">{moment}</meta>
{told}</metadata>
<manifest>
{"".join(items)}</manifest>
<spine>
{order}</spine>
</package>
"""


# -- the file ---------------------------------------------------------------------------------


def zipped(files, moment):
    """Return an archive in the form of an EPUB: its type first, plain, and the rest sorted, of one date."""
    when = max(moment.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for file in ["mimetype", *sorted(files.keys() - {"mimetype"})]:
            entry = zipfile.ZipInfo(file, when)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if file == "mimetype" else zipfile.ZIP_DEFLATED
            made.writestr(entry, files[file], compresslevel=9)
    return stream.getvalue()


def unzipped(data):
    """Return the files of an EPUB: name → bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {file: archive.read(file) for file in archive.namelist()}


def local(tag):
    return tag.rpartition("}")[2]


def spoken(element):
    """Yield the text of an element, except code and the names of functions."""
    if local(element.tag) not in VERBATIM:
        yield element.text or ""
        for child in element:
            yield from spoken(child)
            yield child.tail or ""


def faults(files):
    """Return what is wrong with the files of an EPUB."""
    found, trees, ids = [], {}, {}
    for file, data in files.items():
        if posixpath.splitext(file)[1] in {".xhtml", ".svg", ".opf", ".xml"}:
            try:
                trees[file] = ElementTree.fromstring(data)
            except ElementTree.ParseError as problem:
                found.append(f"{file} is not well-formed: {problem}")
                continue
            every = [e.get("id") for e in trees[file].iter() if e.get("id") is not None]
            ids[file] = {*every}
            found += [f"{file}: the name {one} stands twice" for one in ids[file] if every.count(one) > 1]
    for file, tree in trees.items():
        if not file.endswith(".xhtml"):
            continue
        for e in tree.iter():
            tag = local(e.tag)
            if tag in {"script", "style", "iframe", "object", "form", "input", "button", "merror", "svg"}:
                found.append(f"{file}: an element {tag}")
            if len(e) != ARITY.get(tag, len(e)):
                found.append(f"{file}: a {tag} of {len(e)} parts: {''.join(e.itertext())[:60]}")
            if tag == "img" and not (e.get("alt") or "").strip():
                found.append(f"{file}: a picture without a description")
            for kind in ("href", "src"):
                place = urlsplit(e.get(kind, ""))
                if place.scheme and kind == "src":
                    found.append(f"{file}: {e.get(kind)[:60]} is not in the book")
                if place.scheme or e.get(kind) is None:
                    continue
                path = posixpath.join(posixpath.dirname(file), unquote(place.path))
                target, at = posixpath.normpath(path) if place.path else file, unquote(place.fragment)
                if target not in files or (at and at not in ids.get(target, ())):
                    found.append(f"{file}: a link leads nowhere: {e.get(kind)}")
        text = "".join(spoken(tree))
        for match in re.finditer(r"\\[a-zA-Z()\[\]]|\ufffd", text):
            around = re.sub(r"\s+", " ", text[max(0, match.start() - 30) : match.end() + 30])
            found.append(f"{file}: a formula left as TeX, or a lost character: {around}")
    if tree := trees.get(f"{PREFIX}package.opf"):
        listed = {PREFIX + e.get("href") for e in tree.iter() if local(e.tag) == "item"}
        there = {file for file in files if file.startswith(PREFIX)} - {f"{PREFIX}package.opf"}
        found += [f"{file} is listed and missing" for file in sorted(listed - there)]
        found += [f"{file} is not listed" for file in sorted(there - listed)]
    return found


# -- the book ---------------------------------------------------------------------------------


def make(parts, root=HTML, said=lambda text: None):
    """Return the EPUB of the pages in parts; raise Refused for what no device would show."""
    pages = [page for _, several in parts for page in several]
    texts = {page: linked(article(page, root), page, {*pages}) for page in pages}
    what = about(root, pages)
    files, heads, wrong, counts = {}, {}, [], {"formulas": 0, "broken": 0}
    with built.Browser(root) as browser:
        tab = browser.show(desk(), "screen", width=8200, height=1000)
        tab.add_script_tag(path=ROOT / "tools" / "epub.js")
        tab.evaluate("MathJax.startup.promise")
        for page in pages:
            made = tab.evaluate("source => page(source)", texts[page])
            heads[page] = made["heads"]
            wrong += [f"{page}: {one}" for one in made["found"]]
            counts = {kind: number + made["counts"][kind] for kind, number in counts.items()}
            files |= leaf(page, made, what, root)
        said(f"{counts['formulas']} formulas, {counts['broken']} of them in pieces that fit a line")
        tab = browser.show(cover(what, root), "screen", width=COVER[0], height=COVER[1], scale=2)
        tab.evaluate("Promise.all([document.fonts.ready, ...Array.from(document.images, i => i.decode())])")
        files["images/cover.png"] = tab.screenshot(type="png")
    if wrong:
        raise Refused("the pages cannot be shown as they are:\n    " + "\n    ".join(wrong))
    before = front(what, parts, heads)
    if taken := before.keys() & files.keys():
        raise Refused(f"a page cannot become {min(taken)}, which is a name of this book: rename it")
    files |= before | {"epub.css": (ROOT / "tools" / "epub.css").read_bytes()}
    files["package.opf"] = package(what, files, [*before, *map(name, pages)]).encode()
    files = {PREFIX + file: data for file, data in files.items()}
    files |= {"mimetype": b"application/epub+zip", "META-INF/container.xml": CONTAINER.encode()}
    if wrong := faults(files):
        raise Refused("the book has faults:\n    " + "\n    ".join(wrong))
    return zipped(files, what["moment"])


def main():
    return built.run(
        __doc__,
        "EPUB",
        EPUB,
        make=lambda said: make(toc(), said=said),
        told=lambda data: f"{sum(file.endswith('.xhtml') for file in unzipped(data))} pages",
    )


if __name__ == "__main__":
    sys.exit(main())
