"""From a function of the library to its equation, and back.

A docstring names an equation by its label: on the library's pages the label becomes a link with the
equation's number, and the verdict beside the equation links to the function.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from kexue_ext import ledger

LABEL = r"\b(?:eq|def)-[a-z0-9]+(?:-[a-z0-9]+)*"
# Labels alone in brackets lose these: a number has its own.
NAMED = re.compile(rf"\(({LABEL}(?:,\s+{LABEL})*)\)|({LABEL})")


def link(app, doctree):
    """Make links of the labels in docstrings, and note which function names which."""
    page = ledger.entry(app.env)
    for description in doctree.findall(addnodes.desc_content):
        signature = description.parent.next_node(addnodes.desc_signature)
        for text in list(description.findall(nodes.Text)):
            inner = next(above for above in parents(text) if isinstance(above, addnodes.desc_content))
            code = isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.math | nodes.raw)
            if inner is not description or code or not NAMED.search(text):
                continue
            pieces, last = [], 0
            for match in NAMED.finditer(text):
                pieces.append(nodes.Text(text[last : match.start()]))
                for number, label in enumerate(re.findall(LABEL, match[0])):
                    pieces += [nodes.Text(", ")] * bool(number) + [ledger.equation_link(label=label)]
                    users = page["functions"].setdefault(label, [])
                    for name in signature["ids"][:1]:
                        users += [name] * (name not in users)
                last = match.end()
            text.parent.replace(text, [*pieces, nodes.Text(text[last:])])


def parents(node):
    """Yield what a node lies in, from the inside."""
    while node := node.parent:
        yield node


class Back(SphinxPostTransform):
    """Fill in the links from equations to functions."""

    default_priority = 4

    def run(self, **kwargs):
        """Write nothing beside an equation that no function names."""
        known = ledger.functions(self.env)
        for node in list(self.document.findall(ledger.functions_of)):
            found = []
            for docname, name in known.get(node["label"], []):
                code = nodes.literal("", name.removeprefix("kexue_lib."))
                here = self.env.docname
                found += [nodes.Text(", " if found else " · in code: ")]
                found += [make_refnode(self.app.builder, here, docname, name, code)]
            node.replace_self(found)


def setup(app):
    """Register what this file defines."""
    app.add_post_transform(Back)
    app.connect("doctree-read", link)
