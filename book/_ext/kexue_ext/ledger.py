"""Who checked what: marks beside equations, the table of claims, and numbers in the prose.

Everything a page brings is kept in `env.kexue[docname]`: its verdicts by label, its record, the
TeX of its equations, and what is wrong with them. `{record}`name:.2f`` writes a value of the
chapter's record, `{record}`name±:.2f`` adds its error, `{record}`hubness name:.2f`` reads another
chapter's; the name `runtime` is the chapter's run time in seconds.
"""

import hashlib
import json
from collections import Counter
from copy import deepcopy
from html import escape
from pathlib import Path
from shutil import copyfile

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode

from kexue_ext.benchmarks import table
from kexue_lib import __version__
from kexue_lib.record import formatted

LOG = logging.getLogger(__name__)
PAGE = "book/claims"
STATUS = {"proved": "✓", "computed": "✓", "supported": "≈"}
WAYS = {
    "prove": "computer algebra",
    "compute": "exact arithmetic",
    "support": "Monte Carlo",
    "agree": "two numerical routes",
    "rate": "order of a limit",
}
SCHEMA = Path(__file__).with_name("claims.schema.json")
COLUMNS = {"Equation": 8, "Statement": 30, "What was checked": 22, "Verdict": 22}
COLUMNS |= {"Wrong variants refuted": 26, "Seconds": 5}


class claims_table(nodes.General, nodes.Element):
    """Stands for the ledger until every page has been read."""


class record_value(nodes.Inline, nodes.TextElement):
    """Stands for a number of a record."""


class claim_link(nodes.Inline, nodes.TextElement):
    """Stands for the link from an equation to its row in the ledger."""


class equation_link(nodes.Inline, nodes.TextElement):
    """Stands for the number of an equation."""


class functions_of(nodes.Inline, nodes.TextElement):
    """Stands for the links from an equation to the functions whose docstrings name it (library.py)."""


def entry(env, docname=None):
    """Return what a page (the one being read, by default) has brought."""
    env.kexue = getattr(env, "kexue", {})
    empty = {"verdicts": {}, "record": {}, "tex": {}, "wrong": [], "digest": "", "functions": {}}
    return env.kexue.setdefault(docname or env.docname, empty)


def sign(status):
    """Return a status with its sign; an unknown one is an error in the check."""
    return f"{STATUS[status]} {status}"


# -- while a page is read ---------------------------------------------------------------------


class Claims(SphinxDirective):
    """The ledger of all checks."""

    def run(self):
        """Leave a place; the verdicts of later pages are not known yet."""
        return [claims_table()]


class RecordRole(SphinxRole):
    """A number from the record of this chapter or of another one."""

    def run(self):
        """Leave a place; the last cell of the page brings the record."""
        name, _, spec = self.text.partition(":")
        chapter, _, name = name.strip().rpartition(" ")
        docname = f"book/{chapter.strip()}" if chapter else self.env.docname
        if chapter:
            self.env.metadata[self.env.docname]["kexue_reads_others"] = True
        plain = name.removesuffix("±")
        return [record_value(doc=docname, name=plain, spec=spec, error=plain != name)], []


def value(env, node):
    """Return the text for a place of a number; raise ValueError if it has none."""
    found = env.kexue.get(node["doc"], {}).get("record", {}).get(node["name"])
    about = f"{{record}}: {node['name']!r} in the record of {node['doc']}"
    if found is None:
        raise ValueError(f"{about}: there is no such name")
    try:
        return formatted(found, node["spec"], error=node["error"])
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{about}: {problem}") from None


def own_numbers(app, doctree):
    """Fill in the page's own numbers before titles are collected."""
    for node in list(doctree.findall(record_value)):
        if node["doc"] == app.env.docname:
            try:
                node.replace_self(nodes.Text(value(app.env, node)))
            except ValueError as problem:
                entry(app.env)["wrong"].append(str(problem))
                node.replace_self(nodes.Text("?"))


def marks(app, doctree):
    """Put the verdict beside each equation; note equations and verdicts that stand alone."""
    page = entry(app.env)
    blocks = {n["label"]: n for n in doctree.findall(nodes.math_block) if n.get("label")}
    page["tex"] = {label: block.astext() for label, block in blocks.items()}
    page["wrong"] = [
        f"no check decides the equation {label}"
        for label in blocks
        if label.startswith("eq-") and label not in page["verdicts"]
    ] + [f"a check decides {label}, no equation" for label in page["verdicts"] if label not in blocks]
    for label, found in page["verdicts"].items():
        if block := blocks.get(label):
            ways = sorted({one["json"]["status"] for one in found}, key=list(STATUS).index)
            link = claim_link("", ", ".join(map(sign, ways)), label=label)
            words = nodes.paragraph("", "", link, functions_of(label=label))
            mark = nodes.container("", words, classes=["kexue-mark"])
            block.parent.insert(block.parent.index(block) + 1, mark)


def purge(app, env, docname):
    """Forget a page that is read again or gone."""
    entry(env, docname)
    del env.kexue[docname]


# -- when all pages have been read ------------------------------------------------------------


def check(app, env):
    """Warn in every build, also about pages that this one did not read again."""
    for docname, page in sorted(getattr(env, "kexue", {}).items()):
        for text in page["wrong"]:
            LOG.warning(text, location=docname)


def dependents(app, env):
    """Return the pages that show what others bring; all, if a title or number anywhere changed."""
    math, cited = env.get_domain("math"), env.get_domain("cite").citations
    math.data["has_equations"][PAGE] = True  # the ledger's come later
    outline = {name: title.astext() for name, title in env.titles.items()}, math.equations
    outline += env.toctree_includes, env.toc_secnumbers, env.toc_fignumbers
    outline += (sorted(one.key for one in cited), functions(env))
    digest = hashlib.sha256(json.dumps(outline, sort_keys=True).encode()).hexdigest()
    changed = digest != getattr(env, "kexue_outline", digest)
    env.kexue_outline = digest
    reads = {doc for doc in env.found_docs if "kexue_reads_others" in env.metadata[doc]}
    return sorted(env.found_docs if changed else (reads | {PAGE}) & env.found_docs)


def functions(env):
    """Return label → (page, name) of the functions that name it."""
    found = {}
    for docname in sorted(getattr(env, "kexue", {})):
        for label, names in env.kexue[docname]["functions"].items():
            found.setdefault(label, []).extend((docname, name) for name in names)
    return found


def ledger(env):
    """Yield page and its verdicts (label, several verdicts), in the order of the book."""
    order = [env.config.root_doc, *env.toctree_includes.get(env.config.root_doc, [])]
    for docname in order:
        if found := getattr(env, "kexue", {}).get(docname, {}).get("verdicts"):
            yield docname, found


class Late(SphinxPostTransform):
    """Fill in what was left, before references are resolved (by Sphinx at 10, for LaTeX at 5)."""

    default_priority = 3

    def run(self, **kwargs):
        """Numbers of other chapters, links to and from the ledger, the ledger."""
        for node in list(self.document.findall(claims_table)):
            node.replace_self(self.tables())
        for node in list(self.document.findall(record_value)):
            try:
                node.replace_self(nodes.Text(value(self.env, node)))
            except ValueError as problem:
                LOG.warning("%s", problem, location=self.env.docname)
                node.replace_self(nodes.Text("?"))
        for node in list(self.document.findall(equation_link)):
            node.replace_self(self.equation(node["label"]))
        for node in list(self.document.findall(claim_link)):
            builder, here, target = self.app.builder, self.env.docname, f"claim-{node['label']}"
            # A book may do without the page of claims; the mark is then plain text.
            known = PAGE in self.env.found_docs
            link = make_refnode(builder, here, PAGE, target, node.children) if known else None
            node.replace_self(link or node.children)

    def equation(self, label):
        """Return a reference to an equation; its number is filled in by Sphinx."""
        known = label in self.env.get_domain("math").equations
        options = {"refdomain": "math", "reftype": "eq", "reftarget": label, "refwarn": True}
        text = nodes.literal("", label)
        if not known:  # `check` has warned
            return text
        return pending_xref("", text, refdoc=self.env.docname, refexplicit=False, **options)

    def tables(self):
        """Return the totals, the filter, and one table for each chapter."""
        head = ["Chapter", "Equations", "Checks", *map(str.capitalize, STATUS)]
        counts = [(*head, "Wrong variants refuted", "Seconds")]
        counts += [self.counted(d, list(labels.values())) for d, labels in ledger(self.env)]
        whole = [several for _, labels in ledger(self.env) for several in labels.values()]
        counts.append(self.counted(None, whole))
        links = [
            nodes.reference("", name, refuri=name, internal=True) for name in ("claims.json", SCHEMA.name)
        ]
        text = nodes.paragraph("", "The same as data: ", links[0], nodes.Text(", described by "), links[1])
        text += nodes.Text(".")
        pieces = [table(counts, "kexue-counts"), text, nodes.raw("", self.filter(), format="html")]
        for docname, labels in ledger(self.env):
            title = nodes.rubric("", self.env.titles[docname].astext())
            classes = ["kexue-chapter", Path(docname).name]
            pieces.append(nodes.container("", title, self.table(docname, labels), classes=classes))
        return pieces

    def counted(self, docname, found):
        """Return the line of a chapter (of all, without a name) in the table of totals."""
        verdicts = [one["json"] for several in found for one in several]
        statuses = Counter(one["status"] for one in verdicts)
        refuted = sum(len(one["controls"]) for one in verdicts)
        seconds = sum(one["seconds"] for one in verdicts)
        name = self.env.titles[docname].astext() if docname else "All"
        numbers = [len(found), len(verdicts), *(statuses[status] for status in STATUS), refuted]
        return name, *map(str, numbers), f"{seconds:.1f}"

    def filter(self):
        """Return what readers choose rows by; it shows itself only where there are scripts (claims.js)."""
        chapters = {Path(d).name: self.env.titles[d].astext() for d, _ in ledger(self.env)}
        choices = {
            "chapter": chapters,
            "status": {status: sign(status) for status in STATUS},
            "way": WAYS,
        }
        fields = ""
        for name, values in choices.items():
            options = "".join(f'<option value="{v}">{escape(shown)}</option>' for v, shown in values.items())
            label = {"way": "Decided by"}.get(name, name.capitalize())
            select = f'<select name="{name}"><option value="">all</option>{options}</select>'
            fields += f"<label>{label} {select}</label>"
        fields += '<label>Words <input type="search" name="words" autocomplete="off"></label>'
        return f'<form class="kexue-filter" hidden>{fields}<output aria-live="polite"></output></form>'

    def table(self, docname, labels):
        """Return the rows of one chapter."""
        body = nodes.tbody()
        for label, several in labels.items():
            tex = self.env.kexue[docname]["tex"].get(label, "").rstrip(" .,;\n")
            for i, one in enumerate(several):
                first = nodes.paragraph("", "", equation_link(label=label))
                if not i:
                    first.insert(0, nodes.target("", "", ids=[f"claim-{label}"]))
                math = nodes.math_block("", tex, number=None, label=None, nowrap=False)
                how = nodes.paragraph("", "", nodes.strong("", sign(one["json"]["status"])))
                how += [nodes.Text(": "), one["method"], nodes.Text("; "), one["figures"]]
                seconds = nodes.paragraph("", f"{one['json']['seconds']:.2f}")
                cells = [first, math, nodes.paragraph("", "", one["claim"]), how, one["controls"]]
                entries = (nodes.entry("", deepcopy(c)) for c in [*cells, seconds])
                body += nodes.row("", *entries, classes=[one["json"]["status"], one["json"]["way"]])
        names = (nodes.entry("", nodes.paragraph("", name)) for name in COLUMNS)
        widths = [nodes.colspec(colwidth=width) for width in COLUMNS.values()]
        head = nodes.thead("", nodes.row("", *names))
        group = nodes.tgroup("", *widths, head, body, cols=len(COLUMNS))
        return nodes.table("", group, classes=["kexue-claims"])


def filtered(app, pagename, templatename, context, doctree):
    """Give the page of claims the script of its filter."""
    if pagename == PAGE:
        app.add_js_file("claims.js", loading_method="defer")


def data(app):
    """Return the ledger as claims.schema.json describes it."""
    claims, math = [], app.env.get_domain("math")
    for docname, labels in ledger(app.env):
        for label, several in labels.items():
            node = pending_xref("", refdoc=PAGE, refexplicit=False)
            link = math.resolve_xref(app.env, PAGE, app.builder, "eq", label, node, nodes.literal())
            about = {"chapter": Path(docname).name, "label": label}
            about |= {"number": link.astext().strip("()"), "address": link["refuri"]} if link else {}
            about["tex"] = app.env.kexue[docname]["tex"].get(label, "").strip()
            for one in several:
                claims.append(about | {k: v for k, v in one["json"].items() if k not in ("label", "version")})
    about = {"$schema": SCHEMA.name, "version": 2, "book": app.config.html_title, "release": __version__}
    return about | {"claims": claims}


def write_json(app, error):
    """Write the ledger as data beside its page, and what describes it."""
    if error or app.builder.format != "html" or PAGE not in app.env.found_docs:
        return
    text = json.dumps(data(app), indent=1, ensure_ascii=False)
    target = Path(app.outdir, PAGE + ".json")
    target.write_text(text + "\n", encoding="utf-8")
    copyfile(SCHEMA, target.with_name(SCHEMA.name))


def setup(app):
    """Register what this file defines."""
    app.add_directive("kexue-claims", Claims)
    app.add_role("record", RecordRole())
    app.add_post_transform(Late)
    app.connect("doctree-read", own_numbers, priority=400)  # titles are collected at 500
    app.connect("doctree-read", marks)
    app.connect("env-purge-doc", purge)
    app.connect("env-get-updated", dependents, priority=900)  # numbers are given at 500
    app.connect("env-check-consistency", check)
    app.connect("html-page-context", filtered)
    app.connect("build-finished", write_json)
