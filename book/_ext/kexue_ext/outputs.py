"""How the outputs of an executed chapter become parts of a page.

`read` gives a page the outputs of out/executed, so that Sphinx never runs code. `Mime` turns two
outputs of our own into nodes: the verdict of a check, and the record (kept, and not shown twice).
"""

import re
from copy import deepcopy
from pathlib import Path

import nbformat
from docutils import nodes
from myst_nb.core.read import myst_nb_reader_plugin

from kexue_ext import figures, ledger

TYPE = "application/vnd.kexue.%s+json"
OURS = re.compile(r'<table class="kexue-')
SCROLLS = '<div class="kexue-table" tabindex="0">{}</div>'
PARTS = ("claim", "method", "figures")


def executed(srcdir: str, docname: str) -> Path:
    """Return where the executed notebook of a page lies, if the page (not book/api/…) is a chapter."""
    return Path(srcdir, "out", "executed", docname.removeprefix("book/") + ".ipynb")


def read(text: str, *, source: str, ran: str) -> nbformat.NotebookNode:
    """Read the chapter `source` with the outputs of the executed notebook `ran`.

    Raises ValueError if the code of the two differs: the outputs would belong to other code.
    """
    page, done = myst_nb_reader_plugin(source), nbformat.read(ran, as_version=4)
    pairs = [[c for c in nb.cells if c.cell_type == "code"] for nb in (page, done)]
    if [cell.source for cell in pairs[0]] != [cell.source for cell in pairs[1]]:
        raise ValueError(f"{ran} does not belong to {source}: run make book")
    for cell, other in zip(*pairs, strict=True):
        cell.outputs, cell.execution_count = other.outputs, other.execution_count
    page.metadata["language_info"] = done.metadata["language_info"]
    return page


class Mime:
    """The plugin that myst-nb asks about every entry of every output."""

    mime_priority_overrides = (("*", TYPE % "verdict", 1),)

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return nodes for what is ours and None for the rest."""
        if data.mime_type == TYPE % "record":
            ledger.entry(renderer.renderer.sphinx_env)["record"].update(data.content)
            return []
        if data.mime_type == TYPE % "verdict":
            return [verdict(renderer.renderer, data.content, data.line)]
        if data.mime_type == "text/html" and OURS.match(data.string):
            # Not by the usual way, which lays a light card under it in dark mode.
            return [nodes.raw(text=SCROLLS.format(data.string), format="html")]
        return figures.render(renderer, data)


def verdict(markdown, content, line):
    """Return the box under a check, and keep the verdict for the ledger."""

    def inline(text):
        node = nodes.inline()
        with markdown.current_node_context(node):
            markdown.nested_render_text(text, line, inline=True)
        return node

    parts = {key: inline(content[key]) for key in PARTS}
    controls = nodes.bullet_list("", classes=["kexue-controls"])
    for control in content["controls"]:
        sentence = nodes.paragraph("", "", translatable=False)
        sentence += [inline(control["story"]), nodes.Text(" ("), inline(control["outcome"])]
        sentence += nodes.Text(").")
        controls += nodes.list_item("", sentence)
    kept = {"json": content, "controls": deepcopy(controls)} | deepcopy(parts)
    ledger.entry(markdown.sphinx_env)["verdicts"].setdefault(content["label"], []).append(kept)

    for item in controls:
        item[0].insert(0, nodes.Text("Refuted: "))
    # `translatable`: else every verdict would be a sentence for the translators.
    first = nodes.paragraph("", "", translatable=False)
    first += nodes.strong("", ledger.sign(content["status"]))
    first += [nodes.Text(" "), ledger.equation_link(label=content["label"]), nodes.Text(" ")]
    first += parts["claim"]
    how = nodes.paragraph("", "", translatable=False, classes=["kexue-how"])
    how += [parts["method"], nodes.Text("; "), parts["figures"]]
    return nodes.container("", first, how, controls, classes=["kexue-verdict", content["status"]])
