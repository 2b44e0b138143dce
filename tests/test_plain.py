"""Chapters as plain Markdown: what is shown without Sphinx is what Sphinx shows."""

import re

import nbformat
import pytest
from nbformat import v4

from kexue_lib import notebooks, plain

ROOT = notebooks.book_root()
BIBLIOGRAPHY = (ROOT / "book" / "references.bib").read_text("utf-8")
CODE = re.compile(r"^( *`{3,}).*?^\1$|(`+)[^`].*?\2", re.M | re.S)
OURS = re.compile(r"\{[a-z:]+\}`|^ *:{3,}|^ *`{3,}\{|^\([\w:-]+\)=|\]\([\w/]+\.md|^%", re.M)


def made_plain(slug, numbers=None):
    notebook = notebooks.read_chapter(slug)
    notebooks.make_plain(slug, notebook, numbers)
    return notebook


def prose(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


# -- the chapters of this book --------------------------------------------------------------------


@pytest.mark.parametrize("slug", notebooks.chapters())
def test_without_sphinx_every_cell_reads_as_with_it(slug):
    """The download of the built book, in which Sphinx resolved each reference, is an independent oracle."""
    built = ROOT / "_build" / "html" / "_sources" / "book" / f"{slug}.ipynb"
    if not built.is_file():
        pytest.fail(f"{built} is missing: run `make book` first")
    ran = nbformat.read(ROOT / "out" / "executed" / f"{slug}.ipynb", 4)
    seconds = {"runtime": {"value": ran.metadata["kexue"]["seconds"], "error": None}}
    mine = made_plain(slug, seconds | notebooks.record_of(ran))
    theirs = nbformat.read(built, 4)
    for ours, other in zip(mine.cells, theirs.cells, strict=True):
        assert (ours.cell_type, ours.source) == (other.cell_type, other.source)
    assert len(prose(mine)) > 20 and any(text.startswith("**Fig. ") for text in prose(mine))


@pytest.mark.parametrize("slug", notebooks.chapters())
def test_no_markup_of_the_book_is_left_in_an_exported_chapter(slug):
    raw, exported = notebooks.read_chapter(slug), made_plain(slug)
    nbformat.validate(exported)
    left = [found for text in prose(exported) for found in OURS.findall(CODE.sub("", text))]
    assert left == []
    assert OURS.search("\n".join(prose(raw)))  # the search finds what there is to find
    code = [[cell for cell in book.cells if cell.cell_type == "code"] for book in (raw, exported)]
    assert [cell.source for cell in code[0]] == [cell.source for cell in code[1]]
    assert [cell.metadata.get("tags") for cell in code[0]] == [cell.metadata.get("tags") for cell in code[1]]
    assert not any("figure" in cell.metadata.get("mystnb", {}) for cell in code[1])
    assert len({cell.id for cell in exported.cells}) == len(exported.cells)
    assert "…" in "".join(prose(exported))


def test_authors_and_their_order_are_those_of_the_bibliography():
    """pybtex, which reads the file for the page, is the oracle."""
    database = pytest.importorskip("pybtex.database")
    find = pytest.importorskip("pybtex.plugin").find_plugin
    entries = database.parse_string(BIBLIOGRAPHY, "bibtex").entries
    mine = {work.key: work for work in plain.works(BIBLIOGRAPHY)}
    assert mine.keys() == set(entries)
    for key, entry in entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        last = ["".join(map(str, p.rich_prelast_names + p.rich_last_names)) for p in people]
        squeezed = ["".join(name.split()) for name, _ in mine[key].authors]
        assert squeezed == ["".join(name.replace("\N{NO-BREAK SPACE}", " ").split()) for name in last], key
        assert mine[key].year == entry.fields["year"], key
    order = find("pybtex.style.sorting", "author_year_title")().sort(entries.values())
    assert [work.key for work in sorted(mine.values(), key=plain.Work.order)] == [one.key for one in order]


# -- counting --------------------------------------------------------------------------------------

PAGE = r"""(top)=
# A *title* of $n$

$$ a $$ (eq-a)

$$ unlabelled $$

```text
$$ c $$ (eq-code)
:::{exercise}
:label: ex-code
:::
```

:::{prf:theorem} First
:label: thm-a

$$
b
$$ (eq-b)
:::

:::{prf:proof}
Easy.
:::

:::{prf:lemma}
:label: lem-a

So.
:::

:::{prf:theorem}
:label: thm-b

And.
:::

(below)=
## Below

:::{exercise-start}
:label: ex-a
:::
Why?
:::{exercise-end}
:::

:::{exercise}
:nonumber:
:label: ex-none

How?
:::

:::{exercise}
:label: ex-b

When?
:::
"""


def figure(name, caption="A *line*."):
    cell = v4.new_code_cell("draw()")
    about = {"caption": caption} | ({"name": name} if name else {})
    cell.metadata = nbformat.from_dict({"tags": ["hide-input"], "mystnb": {"figure": about}})
    return cell


def references(chapter=3, **more):
    cells = [v4.new_markdown_cell(PAGE), figure("fig-a"), figure(""), figure("fig-c")]
    other = [v4.new_markdown_cell("# Other\n\n$$ x $$ (eq-other)")]
    pages = {"book/one": plain.page(cells, chapter), "book/two": plain.page(other, 4)}
    works = """
@misc{one, author = {van Eyck, Jan}, title = {A}, year = {1434}}
@misc{two, author = {Rolin, N. and Ruiz, {P.}}, title = {B}, year = 2001}
@book{many, editor = "Jos{\\'e} {\\O}st and B and C", title = {{C} {d} e}, year = "1999"}
"""
    return plain.References("book/one", list(pages), pages.__getitem__, works, **more)


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("{eq}`eq-a`", "(3.1)"),
        ("{eq}`eq-b`", "(3.2)"),  # what has no label, or stands in code, has no number
        ("{prf:ref}`thm-a`", "Theorem 3.1"),
        ("{prf:ref}`lem-a`", "Lemma 3.1"),  # each kind by itself
        ("{prf:ref}`thm-b`", "Theorem 3.2"),
        ("{ref}`ex-a`", "Exercise 3.1"),
        ("{ref}`ex-b`", "Exercise 3.2"),
        ("{ref}`that one <ex-b>`", "that one"),
        ("{ref}`below`", "Below"),
        ("{ref}`top`", "A *title* of $n$"),
        ("{numref}`fig-a`", "Fig. 3.1"),
        ("{numref}`fig-c`", "Fig. 3.3"),
        ("{numref}`Picture %s <fig-c>`", "Picture 3.3"),
        ("{eq}`eq-other`", "(4.1)"),
        ("{doc}`two`", "Other"),
        ("{doc}`the second <two>`", "the second"),
        ("[the *second*](two.md#eq-other)", "the *second*"),
        ("[](two.md)", "Other"),
        ("[](#ex-a)", "Exercise 3.1"),
        ("[it](#ex-a)", "it"),
        ("{cite}`one`", "[van Eyck, 1434]"),
        ("{cite:p}`two`", "[Rolin and Ruiz, 2001]"),
        ("{cite:t}`many`", "Øst *et al.* [1999]"),
        ("{cite}`one,two`", "[Rolin and Ruiz, 2001, van Eyck, 1434]"),
        ("{py:func}`~kexue_lib.sde.reverse`", "`reverse()`"),
        ("{py:class}`kexue_lib.sde.Process`", "`kexue_lib.sde.Process`"),
        ("{py:mod}`~kexue_lib.sde`", "`sde`"),
        ("{math}`x`", "$x$"),
        ("{record}`top±:.1f`", "2.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.5"),
        ("{record}`moist:d`", "…"),
        ("{record}`two top:d`", "…"),  # another page's
    ],
)
def test_a_reference_is_what_the_page_shows(reference, shown):
    assert references(record={"top": {"value": 2, "error": 0.5}})(reference) == shown


@pytest.mark.parametrize(
    "reference",
    [
        "{eq}`eq-code`",
        "{ref}`ex-code`",
        "{numref}`fig-z`",
        "{cite}`one,nobody`",
        "{cite:odd}`one`",
        "{odd}`x`",
    ],
)
def test_what_is_not_known_stays_and_breaks_nothing(reference):
    assert references()(reference) == reference
    assert plain.plain(f"So {reference}.", references()) == f"So {reference}."


def test_a_page_that_has_no_number_counts_alone():
    assert [references(None)(one) for one in ("{eq}`eq-b`", "{numref}`fig-c`")] == ["(2)", "Fig. 3"]


def test_a_published_book_is_linked():
    show = references(address="https://example.org/notes/")
    assert show("[it](two.md#eq-other)") == "[it](https://example.org/notes/book/two.html#eq-other)"
    assert show("{doc}`two`") == "[Other](https://example.org/notes/book/two.html)"
    assert show("{eq}`eq-other`") == "(4.1)"


# -- notebooks -------------------------------------------------------------------------------------


def test_a_caption_becomes_text_below_the_figure():
    cells = [v4.new_code_cell("1"), figure("fig-a", "As\n{eq}`eq-b` says."), figure("", "No name.")]
    notebook = v4.new_notebook(cells=cells)
    plain.rewrite(notebook, references())
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ["code", "code", "markdown", "code", "markdown"]
    assert prose(notebook) == ["**Fig. 3.1.** As (3.2) says.", "No name."]
    assert notebook.cells[1].metadata == {"tags": ["hide-input"]}
    before = nbformat.writes(notebook)
    plain.rewrite(notebook, references())  # it is plain already
    assert nbformat.writes(notebook) == before


def test_a_directive_without_plain_form_is_told_and_its_content_kept():
    refused = []
    assert plain.plain(":::{odd}\n:option: 1\nText.\n:::", references(), refused.append).strip() == "Text."
    assert refused == ["odd"]


BODY = """
Twice the size is {record}`double:d`, and by {eq}`eq-demo` it is even {cite}`one`.

$$ 2n $$ (eq-demo)
"""


@pytest.fixture
def demo(demo_book):
    page = demo_book / "book" / "demo.md"
    text = page.read_text("utf-8")
    page.write_text(text.replace("# A demonstration\n", f"# A demonstration\n{BODY}"), "utf-8")
    works = "@misc{one, author = {van Eyck, Jan}, title = {A}, year = {1434}}"
    (demo_book / "book" / "references.bib").write_text(works, "utf-8")


def test_a_run_is_plain_with_its_own_numbers(demo, tmp_path):
    notebooks.run("demo", tmp_path / "run.ipynb", {"size": 4})
    [text] = prose(nbformat.read(tmp_path / "run.ipynb", 4))
    assert "Twice the size is 8, and by (1) it is even [van Eyck, 1434]." in text
    assert "\\tag{1}" in text


def test_a_failed_run_is_plain_too(demo, tmp_path):
    with pytest.raises(notebooks.RunFailed, match=r"failed in code cell 4"):
        notebooks.run("demo", tmp_path / "run.ipynb", {"mode": "broken"})
    text = "\n".join(prose(nbformat.read(tmp_path / "run.failed.ipynb", 4)))  # papermill says where
    assert "Twice the size is …, and by (1) it is even [van Eyck, 1434]." in text


def test_an_export_is_plain_and_knows_where_parameters_go(demo, tmp_path):
    [path] = notebooks.export(tmp_path / "out")
    notebook = nbformat.read(path, 4)
    assert "Twice the size is …, and by (1)" in prose(notebook)[0]
    assert [cell.metadata.get("tags") for cell in notebook.cells[1:3]] == [["parameters"], ["validate"]]
