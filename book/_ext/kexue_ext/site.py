"""What search engines, other sites and feed readers are told, and where renamed pages have gone.

One setting has the address: `html: baseurl:` in _config.yml, or else the variable KEXUE_BASEURL. Without
it nothing is written that needs one: no canonical links (Sphinx writes those), sitemap, feed or card.
Another one has the repository: `repository: url:`, or the variable KEXUE_REPOSITORY. Without it no page
has a link to its source or a button that starts the chapter on Binder, for they would lead nowhere.
"""

import os
import re
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import yaml
from docutils import nodes
from markdown_it import MarkdownIt
from sphinx.errors import ConfigError
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

from kexue_ext import card, words
from kexue_ext.cite import BUILDERS

LOG = logging.getLogger(__name__)
VARIABLE, CARD, FEED = "KEXUE_BASEURL", "_static/card.png", "feed.xml"
REPOSITORY, BINDER = "KEXUE_REPOSITORY", "https://mybinder.org"
VERSION = re.compile(r"^## \[([^\]\n]+)\] - (\d{4}-\d\d-\d\d)$\n(.*?)(?=^## |\Z)", re.M | re.S)
STUB = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={link}" />
{more}</head>
<body><p>You are on the way to <a href="{link}">{title}</a>.</p></body>
</html>
"""


def address(app, config):
    """Settle where the book will be: an absolute address that ends with a stroke, or nothing."""
    given = (os.environ.get(VARIABLE) or config.html_baseurl or "").strip()
    if given:
        parts = urlsplit(given)
        whole = parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment
        if not whole:
            raise ConfigError(
                f"baseurl: expected an address such as https://example.org/book/, got {given!r}"
            )
        given = given.rstrip("/") + "/"
    config.html_baseurl = given


def repository(app, config):
    """Let chapters be started on Binder, which reads environment.yml, if there is a repository."""
    options = config.html_theme_options
    given = (os.environ.get(REPOSITORY) or options.get("repository_url") or "").strip().rstrip("/")
    if not given:
        return
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+){2,}", given):
        raise ConfigError(
            f"repository url: expected an address such as https://github.com/someone/book, got {given!r}"
        )
    options |= {"repository_url": given.removesuffix(".git"), "use_repository_button": True}
    options["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": BINDER}


def summary(app):
    """Return what CITATION.cff says the book is."""
    path = Path(app.srcdir, "CITATION.cff")
    cff = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    return " ".join(cff.get("abstract", app.config.html_title).split())


# -- the head of a page -----------------------------------------------------------------------


def description(app, doctree, title):
    """Return the first paragraph of a page, in at most 160 characters; of a page without one, its title."""
    texts = []
    for one in doctree.findall(nodes.paragraph) if doctree else ():
        if isinstance(one.parent, nodes.section) or not texts:
            texts.append(words.plain(words.pieces(one)))
            if isinstance(one.parent, nodes.section) and texts[-1]:
                break
    return words.short(texts[-1] if texts and texts[-1] else f"{title}. {summary(app)}")


def tags(app, docname, title, text):
    """Return what the head of a page says about it: description, OpenGraph, the link to the feed."""
    base, name = app.config.html_baseurl, app.config.html_title
    kind = "website" if docname == app.config.root_doc else "article"
    about = {"og:title": title, "og:description": text, "og:site_name": name, "og:type": kind}
    if base:
        about |= {"og:url": base + app.builder.get_target_uri(docname), "og:image": base + CARD}
        about |= {"og:image:width": str(card.SIZE[0]), "og:image:height": str(card.SIZE[1])}
        about |= {"og:image:alt": card.ALT}
    lines = [f'<meta name="description" content="{escape(text)}" />']
    lines += [f'<meta property="{key}" content="{escape(value)}" />' for key, value in about.items()]
    lines.append(f'<meta name="twitter:card" content="{"summary_large_image" if base else "summary"}" />')
    if base and versions(app):
        link = f'type="application/atom+xml" title="{escape(name)}: versions" href="{base}{FEED}"'
        lines.append(f'<link rel="alternate" {link} />')
    return lines


def head(app, pagename, templatename, context, doctree):
    """Add the tags to a page."""
    if app.builder.name not in BUILDERS:
        return
    titles = app.env.titles
    title = words.plain(words.pieces(titles[pagename])) if pagename in titles else ""
    # Of pages that Sphinx makes the title is HTML, and the index and the search bring theirs later.
    title = title or re.sub(r"<[^>]+>", "", context.get("title") or "")
    title = title or {"genindex": "Index"}.get(pagename, pagename.capitalize())
    found, text = context.get("metatags") or "", description(app, doctree, title)
    if own := re.search(r'<meta (?=[^>]*name="description")[^>]*content="([^"]*)"[^>]*>', found):
        found, text = found.replace(own[0], ""), unescape(own[1])  # the page's html_meta
    context["metatags"] = "\n".join([found, *tags(app, pagename, title, text), ""])


# -- files ------------------------------------------------------------------------------------


def sitemap(app):
    """Return the addresses of all pages, as sitemaps.org describes."""
    base, env = app.config.html_baseurl, app.env
    pages = ElementTree.Element("urlset", xmlns="http://www.sitemaps.org/schemas/sitemap/0.9")
    for name in sorted(env.found_docs):
        entry = ElementTree.SubElement(pages, "url")
        ElementTree.SubElement(entry, "loc").text = base + app.builder.get_target_uri(name)
    return xml(pages)


def xml(tree):
    """Return a tree as the text of a file."""
    ElementTree.indent(tree, " ")
    return ElementTree.tostring(tree, "utf-8", xml_declaration=True).decode() + "\n"


def versions(app):
    """Return version, date and Markdown of what CHANGELOG.md says of versions that are released."""
    path = Path(app.srcdir, "CHANGELOG.md")
    return VERSION.findall(path.read_text("utf-8")) if path.is_file() else []


def feed(app, found):
    """Return the versions as an Atom feed (RFC 4287)."""
    base, config = app.config.html_baseurl, app.config
    home = base + app.builder.get_target_uri(config.root_doc)
    tree = ElementTree.Element("feed", xmlns="http://www.w3.org/2005/Atom")

    def add(parent, name, text="", **about):
        element = ElementTree.SubElement(parent, name, about)
        element.text = text or None
        return element

    add(tree, "title", config.html_title)
    add(tree, "id", base + FEED)
    add(tree, "link", rel="self", type="application/atom+xml", href=base + FEED)
    add(tree, "link", rel="alternate", type="text/html", href=home)
    add(tree, "updated", max(day for _, day, _ in found) + "T00:00:00Z")
    add(add(tree, "author"), "name", config.author)
    for version, day, text in found:
        entry = add(tree, "entry")
        add(entry, "title", f"{config.html_title} {version}")
        add(entry, "id", f"{base}{FEED}#{version}")
        add(entry, "link", rel="alternate", type="text/html", href=home)
        add(entry, "updated", f"{day}T00:00:00Z")
        add(entry, "content", MarkdownIt().render(text.strip()), type="html")
    return xml(tree)


def write(app, error):
    """Write what belongs to the whole site."""
    if error or app.builder.name not in BUILDERS:
        return
    made, base, folder = redirects(app), app.config.html_baseurl, Path(app.outdir)
    if base:
        # Read at the root of a host only; on a page of a project it does no harm.
        made["robots.txt"] = f"User-agent: *\nAllow: /\n\nSitemap: {base}sitemap.xml\n"
        made["sitemap.xml"] = sitemap(app)
        if found := versions(app):
            made[FEED] = feed(app, found)
        (folder / CARD).parent.mkdir(exist_ok=True)
        (folder / CARD).write_bytes(card.png(app.config.html_title))
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def redirects(app):
    """Return the pages that lead on: those of `kexue_redirects` (old name: new name), and index.html."""
    made, found, root = {}, app.env.found_docs, app.config.root_doc
    for old, target in app.config.kexue_redirects.items():
        new, _, place = target.partition("#")
        known = new in found and (not place or f'id="{place}"' in page(app, new).read_text("utf-8"))
        if old in found or not re.fullmatch(r"\w[\w-]*(/\w[\w-]*)*", old):
            LOG.warning("kexue_redirects: %r is a page, or no name of one", old)
        elif not known:
            LOG.warning("kexue_redirects: %r should lead to %r, which there is not", old, target)
        else:
            made[page(app, old).relative_to(app.outdir).as_posix()] = stub(app, old, new, place)
    if "index" not in found | {root}:
        title = words.plain(words.pieces(app.env.titles[root]))
        text = description(app, app.env.get_doctree(root), title)
        made["index.html"] = stub(app, "index", root, more=tags(app, root, title, text))
    return made


def stub(app, old, new, place="", more=()):
    """Return a page that leads to another one, also for readers whose browser does not jump."""
    base, uri = app.config.html_baseurl, app.builder.get_target_uri(new)
    link = relative_uri(app.builder.get_target_uri(old), uri) + (f"#{place}" if place else "")
    canonical = [f'<link rel="canonical" href="{escape(base + uri)}" />'] if base else []
    title = escape(words.plain(words.pieces(app.env.titles[new])))
    return STUB.format(
        title=title, link=escape(link), more="".join(f"{one}\n" for one in [*canonical, *more])
    )


def page(app, docname):
    """Return the file of a page."""
    return Path(app.builder.get_outfilename(docname))


def setup(app):
    """Register what this file defines."""
    app.add_config_value("kexue_redirects", {}, "html")
    app.connect("config-inited", address)
    app.connect("config-inited", repository)
    app.connect("html-page-context", head)
    app.connect("build-finished", write)
