"""How the book was made: the time of each chapter against its budget, machine, versions, trained networks."""

import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from kexue_ext import ledger, outputs
from kexue_ext.benchmarks import listed, table

PAGE = "book/status"
# Seconds that a chapter may take alone on two cores. Networks take longer than formulas.
BUDGET = {"ddpm": 90, "guidance": 90, "length_extrapolation": 120}
USUAL = 60


class status_place(nodes.General, nodes.Element):
    """Stands for the table and what belongs to it until every page has been read."""


class Status(SphinxDirective):
    """What is known about the executions that the pages show."""

    def run(self):
        """Leave a place."""
        return [status_place()]


def circumstances(app):
    """Return on what the chapters were executed, and what is kept between executions."""
    from kexue_lib import __version__, recorded

    machine = recorded.machine() | {"threads": 1}
    kept = [path for path in Path(app.srcdir, "out", "cache").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in kept) / 1e6
    lines = (
        f"Version {__version__}. Machine: {listed(machine)}. Versions: {listed(recorded.versions())}.",
        "Each chapter was executed once, by one thread, two chapters at a time. What they share, such as "
        f"trained networks, is kept between executions: {len(kept)} files, {size:.1f} MB.",
    )
    return [nodes.paragraph("", line) for line in lines]


def chapters(app):
    """Return the lines of the table, in the order of the book."""
    env, lines = app.env, []
    for docname, labels in ledger.ledger(env):
        path = outputs.executed(app.srcdir, docname)
        about = json.loads(path.read_text("utf-8"))["metadata"].get("kexue", {})
        slug, seconds = Path(docname).name, about.get("seconds")
        budget = BUDGET.get(slug, USUAL)
        checks = sum(map(len, labels.values()))
        verdict = "–" if seconds is None else "yes" if seconds <= budget else "no"
        shown = "–" if seconds is None else f"{seconds:.1f}"
        size = path.stat().st_size / 1e6
        name = env.titles[docname].astext()
        lines.append(
            (name, about.get("finished", "–"), shown, str(budget), verdict, str(checks), f"{size:.1f}")
        )
    return lines


def fill(app, doctree, docname):
    """Put all this in its place."""
    for node in list(doctree.findall(status_place)):
        head = ("Chapter", "Executed", "Seconds", "Budget", "Budget kept", "Checks", "Notebook, MB")
        node.replace_self([table([head, *chapters(app)], "kexue-counts"), *circumstances(app)])


def dependents(app, env):
    """Write the page in every build: it tells of other pages."""
    return [PAGE] if PAGE in env.found_docs else []


def setup(app):
    """Register what this file defines."""
    app.add_directive("kexue-status", Status)
    app.connect("env-get-updated", dependents)
    app.connect("doctree-resolved", fill)
