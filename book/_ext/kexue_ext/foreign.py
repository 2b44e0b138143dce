"""Chinese words in the English text say that they are Chinese: to voices, to fonts, to hyphenation."""

import re

from docutils import nodes

HAN, SIGNS = r"\u3400-\u9fff", r"\u3000-\u303f\uff00-\uffef"  # letters, and punctuation as wide as they
CHINESE = re.compile(f"([{HAN}{SIGNS}]+)")
AS_IT_IS = nodes.literal, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block, nodes.comment


class chinese(nodes.inline):
    """Words in Chinese."""


def mark(app, doctree, docname):
    """Wrap what is Chinese."""
    for text in list(doctree.findall(nodes.Text)):
        if re.search(f"[{HAN}]", text) and not isinstance(text.parent, AS_IT_IS):
            pieces = [one for one in CHINESE.split(text) if one]
            found = [chinese("", one) if CHINESE.fullmatch(one) else nodes.Text(one) for one in pieces]
            text.parent.replace(text, found)


def visit(translator, node):
    """Begin the words."""
    translator.body.append('<span lang="zh">')


def depart(translator, node):
    """End them."""
    translator.body.append("</span>")


def plain(translator, node):
    """Write the words as they are."""


def setup(app):
    """Register what this file defines."""
    others = dict.fromkeys(("latex", "text", "man", "texinfo"), (plain, plain))
    app.add_node(chinese, html=(visit, depart), **others)
    app.connect("doctree-resolved", mark, priority=900)  # after those that bring titles of posts
