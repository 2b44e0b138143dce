"""The notebook that a chapter offers for download: executed, and readable without this book.

Plain JupyterLab knows no roles, directives or equation labels. Each is replaced by what the page
shows: numbers of equations and theorems, citations, values of the record. A directive that has no
plain form is a warning, so that a strict build fails. The text is changed by `kexue_lib.plain`, as for
`kexue run`; here Sphinx says what a reference looks like.
"""

from copy import deepcopy
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.utils import new_document
from sphinx.transforms.i18n import publish_msgstr
from sphinx.util import logging
from sphinx.util.docutils import sphinx_domains

from kexue_ext import outputs
from kexue_lib import plain

LOG = logging.getLogger(__name__)


def markdown(node, page):
    """Return a resolved inline node as Markdown; `page` is the address of its page, or ''."""
    inner = "".join(markdown(child, page) for child in node.children) or node.astext()
    if isinstance(node, nodes.math):
        return f"${node.astext()}$"
    if isinstance(node, nodes.literal):
        return f"`{node.astext()}`"
    if isinstance(node, nodes.emphasis):
        return f"*{inner}*"
    if isinstance(node, nodes.reference):
        target = node.get("refuri") or "#" + node.get("refid", "")
        if page or "://" in target:
            return f"[{inner}]({urljoin(page, target)})"
    return inner


def resolved(app, docname, references):
    """Let Sphinx resolve references as if they stood on the page; return their Markdown."""
    if not references:
        return {}
    env = app.env
    settings = get_default_settings()
    settings.__dict__ |= env.settings | {"env": env, "language_code": "en"}
    source = "\n".join(f"- {reference}" for reference in references)
    env.temp_data["docname"] = docname
    with sphinx_domains(env):
        path = env.doc2path(docname)
        items = publish_msgstr(app, source, path, 0, app.config, settings)
    document = new_document(path, settings)
    document += items
    env.apply_post_transforms(document, docname)
    base = app.config.html_baseurl
    page = urljoin(base, app.builder.get_target_uri(docname)) if base else ""
    texts = [markdown(item[0], page) for item in document[0]]
    return dict(zip(references, texts, strict=True))


def write(app, error):
    """Write the notebook of every chapter beside its page."""
    if error or app.builder.format != "html":
        return
    for docname in sorted(app.env.found_docs):
        made = Path(app.env.mystnb_config.output_folder, docname + ".ipynb")
        if outputs.executed(app.srcdir, docname).exists() and made.exists():
            notebook = nbformat.read(made, as_version=4)
            rewrite(app, docname, notebook)
            target = Path(app.outdir, "_sources", docname + ".ipynb")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def rewrite(app, docname, notebook):
    """Make the text cells of a notebook plain, and its metadata free of our tools."""
    wanted = {}  # a first pass only learns which references there are, in their order
    plain.rewrite(deepcopy(notebook), lambda one: wanted.setdefault(one, ""))
    shown = resolved(app, docname, list(wanted))

    def refuse(name):
        message = "{%s} has no plain form for the downloaded notebook (kexue_lib/plain.py)"
        LOG.warning(message, name, location=docname)

    plain.rewrite(notebook, shown.__getitem__, refuse)
    kept = ("kernelspec", "language_info")
    notebook.metadata = {key: notebook.metadata[key] for key in kept if key in notebook.metadata}
