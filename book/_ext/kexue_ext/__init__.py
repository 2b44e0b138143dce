"""The book's Sphinx extension: outputs that were executed elsewhere, the ledger, offline pages."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import nbformat
from docutils import nodes
from myst_nb.core.read import is_myst_markdown_notebook
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset

from kexue_ext import (
    benchmarks,
    cite,
    download,
    foreign,
    ledger,
    library,
    outputs,
    pictures,
    site,
    status,
    sweeps,
    swift,
    tidy,
)

LOG = logging.getLogger(__name__)
BODIES = {"exercise-content", "solution-content", "proof-content", "proof"}  # as their extensions name them
HTML = ("html", "dirhtml", "singlehtml")
# What TeX on our pages needs: the program, its extensions, its fonts (2 of the package's 24 MB).
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")


def same_handlers(app, config):
    """Let singlehtml draw what html can: one extension registers for it and hides the others."""
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def mathjax(app):
    """Copy MathJax from its package (its licence lies in book/_static): no page needs a network."""
    if app.builder.name in HTML:
        package = find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
        source, target = Path(package, "static", "mathjax"), Path(app.outdir, "_static", "mathjax")
        for part in MATHJAX:
            copy_asset(str(source / part), str(target / part if "/" in part else target))


def digest(app, docname):
    """Return what tells one execution of a chapter from another; '' for other pages."""
    ran = outputs.executed(app.srcdir, docname)
    return hashlib.sha256(ran.read_bytes()).hexdigest() if ran.exists() else ""


def outdated(app, env, added, changed, removed):
    """Return pages whose outputs changed although their text did not."""
    pages = getattr(env, "kexue", {}).items()
    return [name for name, page in pages if name not in removed and digest(app, name) != page["digest"]]


def give_outputs(app, docname, content):
    """Give an executed chapter the reader that adds its outputs."""
    source, ran = app.env.doc2path(docname), outputs.executed(app.srcdir, docname)
    page = ledger.entry(app.env, docname)
    page["digest"] = digest(app, docname)
    if ran.exists():
        options = {"source": source, "ran": str(ran)}
        app.env.mystnb_config.custom_formats[source] = ("kexue_ext.outputs.read", options, False)
        seconds = nbformat.read(ran, as_version=4).metadata.get("kexue", {}).get("seconds")
        page["record"]["runtime"] = {"value": seconds, "error": None, "meaning": "run time in s"}
    elif is_myst_markdown_notebook(content[0]):
        LOG.warning("this chapter has not been executed: run make book", location=docname)


def offer_notebook(app, pagename, templatename, context, doctree):
    """Add the executed notebook to the downloads of a chapter."""
    if outputs.executed(app.srcdir, pagename).exists():
        context["ipynb_source"] = pagename + ".ipynb"


def visit_citation(translator, node):
    """Let docutils write an entry, without a role that ARIA has dropped."""
    type(translator).visit_citation(translator, node)
    translator.body[-1] = translator.body[-1].replace("doc-biblioentry", "listitem")


def depart_citation(translator, node):
    """End it as docutils does."""
    type(translator).depart_citation(translator, node)


def one_name_each(app, doctree):
    """Number exercises, solutions and theorems that have the name of their kind."""
    bodies = [one for one in doctree.findall(nodes.Element) if one["ids"] and BODIES.issuperset(one["ids"])]
    for number, body in enumerate(bodies, 1):
        body["ids"] = [f"{name}-{number}" for name in body["ids"]]


def setup(app):
    """Register everything."""
    ledger.setup(app)
    library.setup(app)
    status.setup(app)
    pictures.setup(app)
    swift.setup(app)
    cite.setup(app)
    site.setup(app)
    foreign.setup(app)
    tidy.setup(app)
    app.add_directive("kexue-benchmarks", benchmarks.Benchmarks)
    app.add_directive("kexue-gpu", benchmarks.Gpu)
    app.add_directive("kexue-sweep", sweeps.Sweep)
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.connect("config-inited", same_handlers)
    app.connect("builder-inited", mathjax)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", give_outputs)
    app.connect("doctree-read", one_name_each, priority=100)  # before names are collected
    app.connect("html-page-context", offer_notebook, priority=400)  # before the theme's buttons
    app.connect("build-finished", download.write, priority=900)
    return {"env_version": 1, "parallel_read_safe": False}
