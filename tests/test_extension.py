"""The Sphinx extension: small books whose chapters carry made-up outputs; nothing is executed."""

import gc
import json
import re
import shutil
import subprocess
import weakref
from html import unescape
from io import StringIO
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import jupytext
import nbformat
import pytest
from jsonschema import Draft202012Validator
from jupyter_book.config import get_final_config
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from kexue_lib import notebooks, report

ROOT = Path(__file__).resolve().parents[1]


def living():
    """Return what sphinx_external_toc looks through, without proxies of what other tests have left behind."""
    return [thing for thing in ALL() if type(thing) not in weakref.ProxyTypes]


ALL = gc.get_objects
HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---
"""
CHAPTER = """
# Sums of {record}`most:d` numbers

It took {record}`runtime:.1f` s; the mean is {record}`mean±:.2f`, the gap {record}`gap:.0e`.
See {eq}`eq-sum`, {prf:ref}`thm-sum`, {ref}`ex-sum`, {cite:t}`author2000`, [the other](two.md).

(section-sum)=
:::{prf:theorem} Gauss
:label: thm-sum

For every $n$, as {eq}`def-n` says,

$$
\\sum_{k=1}^n k = \\frac{n(n+1)}2 .
$$ (eq-sum)
:::

$$ n \\ge 1 $$ (def-n)

```{code-cell}
check()
```

:::{exercise}
:label: ex-sum

**Two.** What is $1+1$?
:::

:::{solution} ex-sum
:class: dropdown

It is 2:

```python
1 + 1  # {record}`left alone`
```
:::

```{code-cell}
record
```
"""
VERDICT = {
    "version": 2,
    "label": "eq-sum",
    "claim": "the first $n$ numbers",
    "status": "computed",
    "way": "compute",
    "method": "exact arithmetic",
    "figures": "29 cases",
    "size": 29,
    "error": None,
    "controls": [{"story": "fence posts $n^2/2$", "outcome": "wrong in 29 of 29 cases"}],
    "seconds": 0.25,
}
RECORD = {
    "most": {"value": 29, "error": None, "meaning": "most numbers"},
    "mean": {"value": -1.234, "error": 0.056, "meaning": "a mean"},
    "gap": {"value": 2.1e-16, "error": None, "meaning": "a gap"},
}
LIBRARY = """
# Library

```{eval-rst}
.. py:function:: made_up.total(n)

   Add, as (eq-sum) says; compare eq-elsewhere.
```
"""
PAGES = {
    "intro": "# Start\n\nThe other chapter says {record}`one mean:.1f`.\n",
    "two": "# Two\n\nText.\n",
    "claims": "# Ledger\n\n:::{kexue-claims}\n:::\n",
    "benchmarks": "# Benchmarks\n\n:::{kexue-benchmarks}\n:::\n",
    "library": LIBRARY,
    "status": "# Status\n\n:::{kexue-status}\n:::\n",
    "bibliography": "# Books\n\n```{bibliography}\n:all:\n```\n",
}


class Book:
    """A folder with a book, built in it again and again as a reader's would be."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "_build" / "html"
        for name in ("_static", "_templates"):
            shutil.copytree(ROOT / "book" / name, folder / "book" / name)
        for name, text in PAGES.items():
            self.write(f"book/{name}.md", text)
        self.write("book/one.md", HEAD + CHAPTER)
        entry = "@book{author2000, author={An Author}, title={A Title}, publisher={P}, year={2000}}"
        self.write("book/references.bib", entry)
        files = "".join(f"\n      - file: book/{n}" for n in ("one", *list(PAGES)[1:]))
        part = f"parts:\n  - caption: All\n    numbered: true\n    chapters:{files}\n"
        self.write("_toc.yml", f"format: jb-book\nroot: book/intro\n{part}")
        self.execute([VERDICT], RECORD)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def change(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def execute(self, verdicts, record, seconds=12.34):
        """Write out/executed/one.ipynb as if its two cells had brought these outputs."""
        notebook = jupytext.read(self.folder / "book" / "one.md")
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, (cell, kind, found) in enumerate(
            zip(cells, ("verdict", "record"), (verdicts, [record]), strict=True), 1
        ):
            cell.execution_count = count
            cell.outputs = [
                nbformat.v4.new_output(
                    "display_data",
                    {f"application/vnd.kexue.{kind}+json": one, "text/plain": "x", "text/html": "x"},
                )
                for one in found
            ]
        notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        notebook.metadata["kexue"] = {"seconds": seconds, "finished": "2026-01-02"}
        self.write("out/executed/one.ipynb", nbformat.writes(notebook))

    def build(self):
        """Build; return the warnings."""
        settings, _ = get_final_config(
            user_yaml=ROOT / "_config.yml",
            cli_config={"external_toc_path": "_toc.yml", "latex_individualpages": False},
        )
        settings.pop("comments_config")
        warnings = StringIO()
        with patch_docutils(), docutils_namespace(), mock.patch("gc.get_objects", living):
            Sphinx(
                self.folder,
                None,
                self.out,
                self.folder / "_build" / "doctrees",
                "html",
                confoverrides=settings,
                status=None,
                warning=warnings,
                keep_going=True,
                warningiserror=True,
            ).build()
        return warnings.getvalue()

    def page(self, name):
        return (self.out / "book" / f"{name}.html").read_text()


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    book = Book(tmp_path_factory.mktemp("good"))
    path = book.folder / "results" / "bench_counts.json"
    path.parent.mkdir()
    row = {"case": "a case", "ours_s": 0.0123, "peer": "a peer", "peer_s": 0.05, "goal": "2 times"}
    row |= {"ratio": [3.1, 4.0, 5.2], "differing_counts": 0}
    about = {"benchmark": "Counts", "date": "2026-01-02", "command": "make bench"}
    about["rows"] = [
        row,
        row
        | {
            "case": "in words",
            "ratio": [0.001, 0.0013, 0.2],
            "difference": "relative errors 1e-16 and 2e-16",
        },
    ]
    path.write_text(json.dumps(about | {"machine": {"cores": 2}, "versions": {"torch": "2"}}))
    assert book.build() == ""
    return book


def text(html):
    """The words of some HTML."""
    return re.sub(r"[ \n]+", " ", unescape(re.sub(r"<[^>]+>", "", html)))


# -- a good book ------------------------------------------------------------------------------


def test_numbers_in_the_text_come_from_the_record(good):
    page = text(good.page("one"))
    assert "Sums of 29 numbers" in page
    assert "It took 12.3 s; the mean is −1.23\xa0±\xa00.06, the gap 2 × 10⁻¹⁶." in page
    assert "The other chapter says −1.2." in text(good.page("intro"))


def test_titles_elsewhere_have_the_number_too(good):
    assert "Sums of 29 numbers" in text(good.page("two"))


def test_each_equation_links_to_its_verdict_and_back(good):
    mark = r'<a class="reference internal" href="claims.html#claim-eq-sum">✓ computed</a>'
    assert re.search(r'id="equation-eq-sum".*?' + mark, good.page("one"), re.S)
    ledger = good.page("claims")
    assert 'id="claim-eq-sum"' in ledger
    assert 'href="one.html#equation-eq-sum">(1.1)</a>' in ledger


def test_the_ledger_says_what_was_checked_and_what_was_refuted(good):
    ledger = text(good.page("claims"))
    for words in (
        r"\sum_{k=1}^n k = \frac{n(n+1)}2\]",
        r"the first \(n\) numbers",
        "✓ computed: exact arithmetic; 29 cases",
        r"fence posts \(n^2/2\) (wrong in 29 of 29 cases)",
        "0.25",
    ):
        assert words in ledger
    for line in ("Sums of 29 numbers 1 1 0 1 0 1 0.2", "All 1 1 0 1 0 1 0.2"):  # the totals
        assert line in ledger
    assert "mathjax/tex-chtml.js" in good.page("claims")


def test_the_ledger_is_published_as_data_that_its_schema_describes(good):
    found, schema = (
        json.loads((good.out / "book" / name).read_text()) for name in ("claims.json", "claims.schema.json")
    )
    [row] = found["claims"]
    same = {name: value for name, value in VERDICT.items() if name not in ("label", "version")}
    about = {"chapter": "one", "label": "eq-sum", "number": "1.1", "address": "one.html#equation-eq-sum"}
    assert (same | about).items() <= row.items()
    check = Draft202012Validator(schema)
    check.check_schema(schema)
    assert not list(check.iter_errors(found))
    for wrong in ({"controls": []}, {"status": "proved"}, {"error": 0.1}, {"size": 0}, {"label": "sum"}):
        assert list(check.iter_errors(found | {"claims": [row | wrong]})), wrong
    for missing in row:
        short = {name: value for name, value in row.items() if name != missing}
        assert list(check.iter_errors(found | {"claims": [short]})), missing


def test_the_ledger_can_be_filtered(good):
    ledger = good.page("claims")
    assert '<option value="one">Sums of 29 numbers</option>' in ledger
    assert re.search(r'<form class="kexue-filter" hidden', ledger)
    assert re.search(r'<tr class="computed compute row-', ledger)
    assert "_static/claims.js" in ledger
    assert "_static/claims.js" not in good.page("one")


def test_an_equation_links_to_the_functions_that_name_it_and_back(good):
    mark = r'✓ computed</a> · in code: <a [^>]*href="library.html#[^"]*made_up\.total"'
    assert re.search(mark, good.page("one"))
    page = good.page("library")
    assert re.search(r'as <a [^>]*href="one.html#equation-eq-sum">\(1.1\)</a> says', page)
    assert "eq-elsewhere" in page  # what no page has stays a name


def test_benchmarks_are_shown(good):
    page = text(good.page("benchmarks"))
    assert "4.00 (3.10 to 5.20)" in page
    assert "12.3\xa0ms" in page
    assert "0.0013 (0.001 to 0.20)" in page
    assert re.search(r"in words.*relative errors 1e-16 and 2e-16", page, re.S)


def test_the_downloaded_notebook_has_outputs_and_no_markup_of_ours(good):
    assert "_sources/book/one.ipynb" in good.page("one")
    notebook = nbformat.read(good.out / "_sources/book/one.ipynb", 4)
    nbformat.validate(notebook)
    assert all(c.outputs and c.execution_count for c in notebook.cells if c.cell_type == "code")
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    outside = re.sub(r"```python.*?```", "", prose, flags=re.S)
    assert not re.search(r"\{[a-z:]+\}`|^:::|^`{3,}\{|^\(.*\)=$", outside, re.M)
    assert "1 + 1  # {record}`left alone`" in prose
    for words in (
        "# Sums of 29 numbers",
        "the mean is −1.23\xa0±\xa00.06",
        "See (1.1), Theorem 1.1, Exercise 1.1, Author [2000], the other.",
        "**Theorem 1.1 (Gauss).**",
        "\\tag{1.1}",
        "<details><summary>Solution of Exercise 1.1</summary>",
    ):
        assert words in prose


def test_without_sphinx_the_notebook_reads_the_same(good, monkeypatch):
    monkeypatch.setenv("KEXUE_BOOK", str(good.folder))
    notebook = notebooks.read_chapter("one")
    notebooks.make_plain("one", notebook, RECORD | {"runtime": {"value": 12.34, "error": None}})
    downloaded = nbformat.read(good.out / "_sources/book/one.ipynb", 4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in downloaded.cells]


def test_no_page_asks_for_anything_from_elsewhere(good):
    loads = r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//'
    for page in good.out.rglob("*.html"):
        assert not re.search(loads, page.read_text()), page.name
    mathjax = good.out / "_static" / "mathjax"
    assert "Apache License" in (mathjax / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in mathjax.rglob("*") if path.is_file()) < 3e6


# -- books that must not be published ---------------------------------------------------------


def test_an_unknown_number_is_refused_in_every_build(book):
    book.change("book/one.md", "{record}`most:d`", "{record}`moist:d`")
    book.change("book/intro.md", "one mean", "one meat")
    for _ in range(2):
        warnings = book.build()
        assert "'moist' in the record of book/one: there is no such name" in warnings
        assert "'meat' in the record of book/one: there is no such name" in warnings


def test_a_number_without_error_has_nothing_after_plus_minus(book):
    book.change("book/one.md", "{record}`gap:.0e`", "{record}`gap±:.0e`")
    assert "'gap' in the record of book/one: it has no error to put after ±" in book.build()


def test_a_picture_of_no_chapter_is_refused(book):
    book.change("book/intro.md", "one mean", "one mean`, {picture}`sectors")
    assert "{picture}: expected one of hubness, sector, cross, ddpm, sde, optimal_variance" in book.build()


def test_a_format_that_does_not_fit_is_refused(book):
    book.change("book/one.md", "{record}`gap:.0e`", "{record}`gap:d`")
    assert "'gap' in the record of book/one: Unknown format code" in book.build()


def test_labels_without_verdict_and_verdicts_without_label_are_refused_in_every_build(book):
    book.execute([VERDICT | {"label": "eq-some"}], RECORD)
    for _ in range(2):
        warnings = book.build()
        assert "no check decides the equation eq-sum" in warnings
        assert "a check decides eq-some, no equation" in warnings
        assert "def-n" not in warnings


def test_a_chapter_that_was_not_executed_is_refused(book):
    (book.folder / "out/executed/one.ipynb").unlink()
    assert "this chapter has not been executed" in book.build()


def test_outputs_of_other_code_are_refused(book):
    book.change("book/one.md", "check()", "check(2)")
    with pytest.raises(ValueError, match="does not belong to"):
        book.build()


def test_a_directive_without_plain_form_is_refused(book):
    book.change("book/one.md", "(section-sum)=", ":::{list-table}\n* - a\n:::\n")
    assert "{list-table} has no plain form for the downloaded notebook" in book.build()


# -- building again ---------------------------------------------------------------------------


def test_new_outputs_reach_the_pages_although_no_text_changed(book):
    assert book.build() == ""
    weaker = VERDICT | {"status": "supported", "claim": "only some numbers"}
    assert "2026-01-02 12.3 60 yes 1 0.0" in text(book.page("status"))
    book.execute([VERDICT, weaker], RECORD | {"mean": {"value": 7, "error": 1, "meaning": "m"}}, 61.0)
    assert book.build() == ""
    assert "2026-01-02 61.0 60 no 2 0.0" in text(book.page("status"))
    assert "the mean is 7.00\xa0±\xa01.00" in text(book.page("one"))
    assert "The other chapter says 7.0." in text(book.page("intro"))
    assert "✓ computed, ≈ supported</a>" in book.page("one")  # every way in which it was decided
    assert "only some numbers" in book.page("claims")
    assert "7.00" in (book.out / "_sources/book/one.ipynb").read_text()


def test_a_new_title_reaches_the_navigation_of_all_pages(book):
    assert book.build() == ""
    before = (book.out / "book/bibliography.html").stat().st_mtime_ns
    book.change("book/two.md", "Text.", "Other text.")
    assert book.build() == ""
    assert (book.out / "book/bibliography.html").stat().st_mtime_ns == before
    book.change("book/two.md", "# Two", "# Deux")
    assert book.build() == ""
    assert "Deux" in book.page("bibliography")


# -- the real pages ---------------------------------------------------------------------------


def test_the_library_page_names_every_module():
    pages = [path.read_text() for path in (ROOT / "book" / "api").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"automodule:: kexue_lib\.(\w+)", page)}
    listed = subprocess.run(["git", "ls-files", "kexue_lib"], cwd=ROOT, capture_output=True, text=True)
    modules = {Path(name).stem for name in listed.stdout.split() if name.endswith(".py")}
    assert shown == modules - {"__init__", "cli"}


def test_static_files_are_small_and_well_formed():
    assert (ROOT / "book/_static/kexue.css").stat().st_size < 10_000
    assert sum(path.stat().st_size for path in (ROOT / "book/_static").glob("*.js")) < 5_000
    ElementTree.parse(ROOT / "book/_static/favicon.svg")


# -- recorded runs ----------------------------------------------------------------------------

SWEEP = """
# Sweeps

:::{kexue-sweep} kexue sweep one -p size=1,10,100 -o sweep
:entry: mean
:alt: The mean grows with the size.

It grows with $n$.
:::

:::{kexue-gpu}
:::
"""


def with_sweep(book, **changes):
    (book.folder / "results").mkdir(exist_ok=True)
    kept = {
        "date": "2026-01-02",
        "machine": {"processor": "P"},
        "versions": {"torch": "2"},
        "seconds": 240.0,
        "command": "kexue sweep one -p size=1,10,100 -o sweep",
        "table": {"size": [1, 10, 100], "seed": [1, 1, 1], "seconds": [2.0] * 3, "mean": [1.0, 2.0, 50.0]},
    }
    (book.folder / "results" / "sweep_one.json").write_text(json.dumps(kept | changes))


def test_a_sweep_shows_its_command_and_what_was_recorded(book, monkeypatch):
    monkeypatch.setenv("KEXUE_BOOK", str(book.folder))
    module = book.folder / "report.py"
    module.write_text("# what draws")
    monkeypatch.setattr(report, "__file__", str(module))
    intro = book.folder / "book" / "intro.md"
    before = intro.read_text()
    intro.write_text(before + SWEEP)
    assert book.build() == ""
    page = text(book.page("intro"))
    assert "No run of this sweep is recorded yet." in page
    assert "No run on a GPU has been recorded yet." in page
    with_sweep(book)
    gpu = {"date": "2026-02-03", "profile": "full", "machine": {"GPU": "G"}, "versions": {"torch": "2"}}
    compared = {"name": "mean", "one": 1.0, "other": 1.5, "tolerance": 0.1, "verdict": "differ"}
    gpu["chapters"] = [{"chapter": "one", "cpu_s": 30.0, "gpu_s": 10.0, "entries": [compared]}]
    (book.folder / "results" / "gpu.json").write_text(json.dumps(gpu))
    assert book.build() == ""
    page = book.page("intro")
    assert 'aria-label="The mean grows with the size."' in page
    assert "kexue sweep one -p size=1,10,100 -o sweep" in text(page)
    assert "Recorded on 2026-01-02 in 4 minutes (processor P; torch 2)." in text(page)
    assert "Recorded on 2026-02-03, profile full. Machine: GPU G. Versions: torch 2." in text(page)
    assert re.search(r"one\s+30.s\s+10.s\s+3.00\s+0\s+1\s+0", text(page))
    assert re.search(r"one\s+mean\s+1\s+1.5\s+0.1\s+differ", text(page))
    drawn = re.search(r'<svg.*?aria-label="The mean grows.*?</svg>', page, re.S)[0]
    monkeypatch.setattr(report, "drawing", lambda table, entry: Figure())
    module.write_text("# another way to draw")
    assert book.build() == ""
    assert drawn not in book.page("intro")
    with_sweep(book, command="kexue sweep one -p size=1 -o sweep")
    assert "sweep_one.json was recorded with another command or entry" in book.build()
