"""The notebook that a chapter offers for download: executed, and readable without this book.

Plain JupyterLab knows no roles, directives or equation labels. Each is replaced by what the page
shows: numbers of equations and theorems, citations, values of the record. A directive that has no
plain form is a warning, so that a strict build fails.
"""

import re
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

LOG = logging.getLogger(__name__)
# A role, or a link that names a label or a page of the book.
REFERENCE = re.compile(r"\{[a-z:]+\}`[^`]+`|\[[^\]\n]*\]\((?:#[\w:-]+|[\w/-]+\.md(?:#[\w:-]+)?)\)")
MATH = re.compile(r"^( *)\$\$(.+?)\$\$ *\(([\w:-]+)\) *$", re.M | re.S)
FENCE = re.compile(r"^ *(:{3,}|`{3,})\{([\w:-]+)\} *(.*)$")
DROPPED = re.compile(r"^(\([\w:-]+\)=|%.*|\{[.#][^}]*\})\s*$")
BOXES = ("note", "tip", "hint", "important", "warning", "caution", "attention", "seealso")


def start(name, title, options, show):
    """Return what a directive begins and ends with in plain Markdown, or None."""
    kind = name.removeprefix("prf:").removesuffix("-start")
    label = options.get("label")
    title = f" ({title})" if title else ""
    if kind == "proof":
        return f"**Proof{title}.**\n", "\n∎"
    if kind == "kexue-sweep":
        return f"```bash\n{title[2:-1]}\n```\n", ""
    if name.startswith("prf:"):
        number = show(f"{{prf:ref}}`{label}`") if label else kind.capitalize()
        return f"**{number}{title}.**\n", ""
    if kind == "exercise":
        return f"**{show(f'{{ref}}`{label}`') if label else 'Exercise'}{title}.**\n", ""
    if kind in ("solution", "dropdown"):
        what = f"Solution of {show(f'{{ref}}`{title[2:-1]}`')}" if kind == "solution" else title[2:-1]
        if name.endswith("-start"):
            return f"**{what}.**\n", ""
        return f"<details><summary>{what}</summary>\n", "\n</details>"
    if kind in BOXES or kind == "admonition":
        return f"**{title[2:-1] or kind.capitalize()}.**\n", ""
    if name in ("solution-end", "exercise-end"):
        return "", ""
    return None


def plain(source, show, refuse):
    """Return MyST Markdown as plain Markdown; `show` says what a reference looks like."""

    def tagged(match):
        number = show(f"{{eq}}`{match[3]}`").strip("()")
        return f"{match[1]}$${match[2].rstrip()} \\tag{{{number}}}\n$$"

    lines, ends, fresh = [], [], None  # ends: what closes each open fence, and what it leaves
    for line in MATH.sub(tagged, source).splitlines():
        if fresh:  # the options of the directive that was just opened
            if option := re.match(r" *:([\w-]+): *(.*)$", line):
                fresh[2][option[1]] = option[2]
                continue
            begin_end = start(*fresh, show)
            if begin_end is None:
                refuse(fresh[0])
            lines.append((begin_end or ("", ""))[0])
            ends[-1][1], fresh = (begin_end or ("", ""))[1], None
        if ends and line.strip() == ends[-1][0]:
            lines.append(ends.pop()[1])
        elif ends and ends[-1][1] == "```":  # code is left as it is
            lines.append(line)
        elif opened := FENCE.match(line):
            code = opened[2] in ("code-block", "code")
            ends.append([opened[1], "```" if code else ""])
            if code:
                lines.append("```" + opened[3])
            else:
                fresh = (opened[2], opened[3], {})
        elif opened := re.match(r" *(```+)\w*$", line):
            ends.append([opened[1], "```"])
            lines.append(line)
        elif not DROPPED.match(line):
            lines.append(REFERENCE.sub(lambda match: show(match[0]), line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


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
    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    wanted = {}  # a first pass only learns which references there are, in their order
    for cell in texts:
        plain(cell.source, lambda one: wanted.setdefault(one, ""), lambda name: None)
    shown = resolved(app, docname, list(wanted))

    def refuse(name):
        message = "{%s} has no plain form for the downloaded notebook (kexue_ext/download.py)"
        LOG.warning(message, name, location=docname)

    for cell in texts:
        cell.source = plain(cell.source, shown.__getitem__, refuse)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:04}"
    kept = ("kernelspec", "language_info")
    notebook.metadata = {key: notebook.metadata[key] for key in kept if key in notebook.metadata}
