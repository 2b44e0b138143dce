"""How to cite the book and its chapters: BibTeX, RIS and CSL-JSON, as files and on the page `cite`.

What is cited stands in CITATION.cff (title, authors, version), in the chapter (its title, and its line
"Source: …", which names the posts) and in git (commit and date, if the sources are those of the commit).
The day of the build is nowhere: the same commit gives the same bytes.
"""

import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ConfigError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx.util.osutil import relative_uri

from kexue_ext import outputs, words

LOG = logging.getLogger(__name__)
PAGE, FOLDER = "book/cite", "_cite"
SENTENCE = "To cite this chapter"
BLOG = "Scientific Spaces"
SUFFIXES = {"BibTeX": ".bib", "RIS": ".ris", "CSL-JSON": ".json"}
BUILDERS = ("html", "dirhtml")  # one page a chapter; the others have no files beside them
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DATE = re.compile(rf"(\d\d?) ({'|'.join(MONTHS)}) (\d{{4}})")
# What the pages are made from; anything else may differ from the commit.
SOURCES = ("book", "kexue_lib", "results", "tools", "_config.yml", "_toc.yml", "requirements.lock")
SOURCES += ("CITATION.cff", "CHANGELOG.md")


@dataclass(frozen=True)
class Work:
    """Something to be cited; `kind` is book, chapter or post, a title is in pieces (words.py)."""

    kind: str
    key: str
    title: tuple[tuple[bool, str], ...]
    authors: tuple[dict[str, str], ...]  # as CSL-JSON has names
    date: tuple[int, ...]  # year, or year, month, day
    container: str = ""
    version: str = ""
    commit: str = ""
    address: str = ""
    language: str = "en"


# -- the three forms --------------------------------------------------------------------------


def bibtex(work):
    """Return an entry. All are @misc: the one kind of which no style asks for a publisher."""
    names = [
        f"{{{words.escaped(one['literal'])}}}"
        if "literal" in one
        else f"{words.escaped(one['family'])}, {words.escaped(one['given'])}"
        for one in work.authors
    ]
    container = words.escaped(work.container)
    notes = [f"version {work.version}"] * bool(work.version) + [f"commit {work.commit[:12]}"] * bool(
        work.commit
    )
    notes += ["in Chinese"] * (work.language == "zh")
    note = ", ".join(notes)
    fields = {
        "author": " and ".join(names),
        "title": f"{{{words.tex(work.title)}}}",  # the inner braces keep the capitals
        "howpublished": f"Chapter of {container}" if work.kind == "chapter" else container,
        "year": str(work.date[0]),
        "month": MONTHS[work.date[1] - 1][:3].lower() if work.date[1:] else "",
        "note": note[:1].upper() + note[1:],
        "url": work.address,
    }
    lines = [
        f"  {name} = {text if name == 'month' else '{' + text + '}'},\n"
        for name, text in fields.items()
        if text
    ]
    return f"@misc{{{work.key},\n{''.join(lines)}}}\n"


def ris(work):
    """Return a record, line by line `TAG  - text`, from TY to ER."""
    # A comma would divide the name of a group into family and given name.
    names = [
        one["literal"].replace(",", "") if "literal" in one else f"{one['family']}, {one['given']}"
        for one in work.authors
    ]
    day = "/".join(f"{part:02}" for part in work.date)
    lines = [
        ("TY", {"book": "BOOK", "chapter": "CHAP", "post": "BLOG"}[work.kind]),
        ("ID", work.key),
        *(("AU", name) for name in names),
        ("TI", words.plain(work.title)),
        ("T2", work.container),
        ("PY", str(work.date[0])),
        ("DA", f"{day}/" if work.date[1:] else ""),
        ("ET", work.version),
        ("N1", f"Commit {work.commit}" if work.commit else ""),
        ("LA", work.language),
        ("UR", work.address),
    ]
    return "".join(f"{tag}  - {text}\r\n" for tag, text in lines if text) + "ER  - \r\n"


def csl(work):
    """Return an item of CSL-JSON."""
    item = {
        "id": work.key,
        "type": {"book": "book", "chapter": "chapter", "post": "post-weblog"}[work.kind],
        "title": words.plain(work.title),
        "author": list(work.authors),
        "issued": {"date-parts": [list(work.date)]},
        "container-title": work.container,
        "version": work.version,
        "note": f"Commit {work.commit}" if work.commit else "",
        "language": work.language,
        "URL": work.address,
    }
    return {name: value for name, value in item.items() if value}


def files(works):
    """Return the three forms of several works by the suffix of their files."""
    return {
        ".bib": "\n".join(map(bibtex, works)),
        ".ris": "\r\n".join(map(ris, works)),
        ".json": json.dumps([csl(work) for work in works], indent=1, ensure_ascii=False) + "\n",
    }


def sentence(work):
    """Return nodes that say for people what the forms say for programs."""
    order = ("family", "given") if work.language == "zh" else ("given", "family")
    names = " and ".join(one.get("literal") or " ".join(one[part] for part in order) for one in work.authors)
    title = [nodes.math("", text) if tex else nodes.Text(text) for tex, text in work.title]
    parts = [nodes.Text(f"{names} ({work.date[0]}): "), nodes.emphasis("", "", *title)]
    where = (
        f". Chapter of {work.container}"
        if work.kind == "chapter"
        else f". {work.container}" * bool(work.container)
    )
    version = f", version {work.version}" if work.version else ""
    return [*parts, nodes.Text(f"{where}{version}"), *linked(work), nodes.Text(".")]


def linked(work):
    """Return a post's address as a link."""
    if work.kind != "post":
        return []
    shown = work.address.partition("://")[2]
    return [nodes.Text(", "), nodes.reference("", shown, refuri=work.address)]


# -- what is to be cited ----------------------------------------------------------------------


def history(srcdir):
    """Return commit and date (year, month, day), if the sources are those of the commit; else blanks."""

    def git(*asked):
        # In a container the checkout often belongs to another user, which git refuses by default.
        command = ["git", "-c", "safe.directory=*", *asked]
        done = subprocess.run(command, cwd=srcdir, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") or git("status", "--porcelain", "--", *SOURCES):
            return "", ()  # a folder inside of somebody's repository, or changed since
        commit, day = git("log", "-1", "--format=%H %cs").split()
    except (OSError, subprocess.CalledProcessError):
        return "", ()
    return commit, tuple(map(int, day.split("-")))


def about(app):
    """Return the book as CITATION.cff describes it."""
    path = Path(app.srcdir, "CITATION.cff")
    cff = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    authors = tuple(
        {"literal": one["name"]}
        if "name" in one
        else {"family": one["family-names"], "given": one.get("given-names", "")}
        for one in cff.get("authors", [{"name": app.config.author}])
    )
    commit, day = history(app.srcdir)
    if released := cff.get("date-released"):
        day = tuple(map(int, str(released).split("-")))
    elif not day and (year := re.search(r"\d{4}", str(app.config.copyright))):
        day = (int(year[0]),)
    if not day:
        raise ConfigError(
            f"copyright: expected a year (CITATION.cff and git have no date), got {app.config.copyright!r}"
        )
    title = ((False, cff.get("title", app.config.html_title)),)
    version, base = str(cff.get("version", "")), app.config.html_baseurl
    address = base and base + app.builder.get_target_uri(app.config.root_doc)
    address = address or cff.get("url") or cff.get("repository-code") or ""
    return Work("book", f"kexue{day[0]}", title, authors, day, "", version, commit, address)


def source(doctree):
    """Return the paragraph in which a chapter names its posts, or None."""
    found = (one for one in doctree.findall(nodes.paragraph) if one.astext().startswith("Source: "))
    return next(found, None)


def posts(doctree, keys):
    """Return the posts that a chapter starts from; `keys` are those of the bibliography by address."""
    found, title, address, author = [], "", "", ""
    for part in getattr(source(doctree), "children", ()):
        if isinstance(part, nodes.emphasis):
            title = part.astext()
        elif isinstance(part, nodes.reference):
            address = part["refuri"]
        elif isinstance(part, nodes.Text):
            text, papers, _ = part.astext().partition("Papers:")
            author = author or text.removeprefix("Source: ").strip(" ,")
            if title and address and (day := DATE.search(text)):
                if title.startswith("（") and found:  # a series: its name stands once
                    title = found[-1].title[0][1].partition("（")[0] + title
                family, _, given = author.partition(" ")
                names = ({"family": family, "given": given},) if given else ({"literal": author},)
                date = (int(day[3]), MONTHS.index(day[2]) + 1, int(day[1]))
                key = keys.get(address) or f"su{day[3]}kexue{urlsplit(address).path.rpartition('/')[2]}"
                language = "zh" if re.search(r"[\u4e00-\u9fff]", title) else "en"
                work = Work("post", key, ((False, title),), names, date, BLOG, address=address)
                found.append(replace(work, language=language))
                title = address = ""
            if papers:
                break
    return found


def chapters(app):
    """Return the chapters in the order of the book."""
    root = app.config.root_doc
    listed = app.env.toctree_includes.get(root, [])
    return [name for name in listed if outputs.executed(app.srcdir, name).exists()]


def everything(app):
    """Return page (None for the book) → the works to be cited, the page's own first."""
    book = about(app)
    domain = app.env.domains.get("cite")
    entries = domain.bibdata.data.entries if domain else {}
    keys = {one.fields["url"]: key for key, one in entries.items() if "url" in one.fields}
    found = {None: [book]}
    for name in chapters(app):
        slug, base = Path(name).name, app.config.html_baseurl
        doctree = app.env.get_doctree(name)
        chapter = replace(
            book,
            kind="chapter",
            key=book.key + slug.replace("_", ""),
            title=tuple(words.pieces(app.env.titles[name])),
            container=words.plain(book.title),
            address=base + app.builder.get_target_uri(name) if base else book.address,
        )
        found[name] = [chapter, *posts(doctree, keys)]
        if len(found[name]) == 1:
            LOG.warning(
                "no post to cite: expected a line `Source: Author, *title*, [link](…), date`", location=name
            )
    return found


# -- pages and files --------------------------------------------------------------------------


class citations(nodes.General, nodes.Element):
    """Stands for all citations until every page has been read."""


class Cite(SphinxDirective):
    """How to cite the book and each chapter."""

    def run(self):
        """Leave a place."""
        return [citations()]


def anchor(docname):
    """Return the name of a chapter's (or the book's) place on the page, and of its files."""
    return Path(docname).name if docname else "book"


def listing(app, here):
    """Return a table of contents and a section for the book and for each chapter."""
    found = everything(app)
    items, sections = nodes.bullet_list(), []
    for docname, works in found.items():
        name = f"cite-{anchor(docname)}"
        title = app.env.titles[docname].children if docname else [nodes.Text("The whole book")]
        title = [one.deepcopy() for one in title]
        link = nodes.reference("", "", *title, refid=name, internal=True)
        items += nodes.list_item("", nodes.paragraph("", "", link))
        section = nodes.section("", nodes.title("", "", *[one.deepcopy() for one in title]), ids=[name])
        for number, work in enumerate(works):
            start = f"The post{'s' * bool(works[2:])} it starts from: " if number == 1 else ""
            section += nodes.paragraph("", start, *sentence(work))
        if docname:
            section[1].append(nodes.Text(" "))
            section[1].append(make_refnode(app.builder, here, docname, "", nodes.Text("To the chapter")))
        text = files(works)[".bib"].rstrip()
        section += nodes.literal_block(text, text, language="bibtex")
        if app.builder.name in BUILDERS:
            section += nodes.paragraph(
                "", "As files: ", *downloads(app, here, anchor(docname)), nodes.Text(".")
            )
        sections.append(section)
    return [items, *sections]


def downloads(app, here, name):
    """Return links to the three files."""
    found, base = [], app.builder.get_target_uri(here)
    for form, suffix in SUFFIXES.items():
        target = relative_uri(base, f"{FOLDER}/{name}{suffix}")
        found += [nodes.Text(", ")] * bool(found) + [nodes.reference("", form, refuri=target, internal=True)]
    return found


def fill(app, doctree, docname):
    """Put the citations in their place, and make each chapter's last sentence a link to its own."""
    for node in list(doctree.findall(citations)):
        node.replace_self(listing(app, docname))
    if PAGE not in app.env.found_docs:
        return
    known = set(chapters(app))
    for text in [one for one in doctree.findall(nodes.Text) if one.astext().startswith(SENTENCE)]:
        above = [text]
        while above[-1].parent is not None and not isinstance(above[-1], addnodes.start_of_file):
            above.append(above[-1].parent)
        page = above[-1].get("docname", docname)  # one document may hold all pages
        if page in known and isinstance(text.parent, nodes.paragraph):
            link = make_refnode(app.builder, docname, PAGE, f"cite-{anchor(page)}", nodes.Text(SENTENCE))
            text.parent.replace(text, [link, nodes.Text(text.astext().removeprefix(SENTENCE))])


def dependents(app, env):
    """Write the page in every build: it shows titles and sources of others, commit and CITATION.cff."""
    return [PAGE] if PAGE in env.found_docs else []


def write(app, error):
    """Write the three files of the book and of each chapter."""
    if error or app.builder.name not in BUILDERS or PAGE not in app.env.found_docs:
        return
    folder = Path(app.outdir, FOLDER)
    folder.mkdir(exist_ok=True)
    for docname, works in everything(app).items():
        for suffix, text in files(works).items():
            (folder / (anchor(docname) + suffix)).write_bytes(text.encode())


def setup(app):
    """Register what this file defines."""
    app.add_directive("kexue-cite", Cite)
    app.connect("env-get-updated", dependents)
    app.connect("doctree-resolved", fill)
    app.connect("build-finished", write)
