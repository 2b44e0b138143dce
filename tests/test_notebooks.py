"""Chapters are read, checked and refused as they should."""

import tempfile

import jupytext
import nbformat
import pytest
from nbformat import v4

from kexue_lib import notebooks
from kexue_lib.record import MIME

FENCES = """---
kernelspec:
  name: python3
  display_name: Python 3
# a comment
---

```{code-cell}
:tags: [parameters, hide-input]
:other: "a: b"

size = 3
```

~~~{code-cell} ipython3
---
tags:
  - validate
mystnb: {figure: {caption: "A: b"}}
---

text = "```{code-cell}"

~~~

````md
```{code-cell}
not = "a cell"
```
````

<!--
```{code-cell}
commented = "out"
```
-->

   ```{code-cell} ipython3
   indented = 1
   ```

- in a list
  ```{code-cell}
  nor = "this"
  ```

````{code-cell}
:tags: [x]
fence = '''
```
'''
````

``` {code-cell}
no = "directive"
```

```{code-cell}
```

```{code-cell}
never = "closed"
"""


@pytest.mark.parametrize(
    "text",
    [FENCES, *((notebooks.book_root() / f"book/{s}.md").read_text("utf-8") for s in notebooks.chapters())],
)
def test_the_quick_way_to_the_code_cells_finds_what_jupytext_finds(text):
    cells = [c for c in jupytext.reads(text, "md:myst").cells if c.cell_type == "code"]
    # They differ in blank lines at the end of a cell, which say nothing.
    found = [(tags, source.rstrip()) for tags, source in notebooks.code_cells(text)]
    assert found == [(c.metadata.get("tags", []), c.source.rstrip()) for c in cells]
    assert len(cells) > 5


def test_odd_outputs_carry_no_record_and_break_nothing():
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# T"), v4.new_raw_cell("r"), v4.new_code_cell()])
    notebook.cells[-1].outputs = [
        v4.new_output("stream", text="a line"),
        v4.new_output("error", ename="E", evalue="", traceback=[]),
        v4.new_output("display_data"),
        nbformat.from_dict({"output_type": "display_data", "data": None}),
        v4.new_output("display_data", {MIME: "damaged"}),
        v4.new_output("display_data", {MIME: {"a": {"value": 1}}}),
        v4.new_output("display_data", {MIME: {"b": {"value": 2}}}),
    ]
    assert notebooks.record_of(notebook) == {"a": {"value": 1}, "b": {"value": 2}}
    assert notebooks.verdicts_of(notebook) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("size: int = 3", "size: int = 0"),  # its own value is out of range
        ('"how many", 1, 9', '"how many", 9, 1'),  # the range is empty
        ('"plain", "broken", "wrong", "slow", "killed"', ""),  # nothing to choose from
        ("share=Real(share", "share=Real(size"),  # another parameter's value: a slip of copying
        ("share: float = 0.5", "share: float = 0.5\nextra = 1"),  # declared and never checked
        ("size: int = 3", "size: int = three"),
        (":tags: [validate]", ":tags: []"),
        (":tags: [validate]", ":tags: [validate"),
        ("    rules=", "    wrong="),
        ("\nvalidate(", "\n_ = validate("),
        ("lambda: size != 7", "lambda: 1 / 0"),
    ],
)
def test_an_authors_mistake_is_one_sentence_that_names_the_chapter(demo_book, before, after):
    page = demo_book / "book" / "demo.md"
    assert before in page.read_text("utf-8")
    page.write_text(page.read_text("utf-8").replace(before, after), "utf-8")
    with pytest.raises(ValueError, match=r"^chapter demo"):
        notebooks.check_parameters("demo")


def test_all_unknown_names_are_refused_together(demo_book):
    with pytest.raises(ValueError, match=r"'siez'.*did you mean size\?; parameter = 'nope'"):
        notebooks.check_parameters("demo", {"siez": "1", "nope": "2", "size": "3"})


@pytest.mark.parametrize(
    "toc", ["", "just words", "- a\n- b\n", "parts: 3", "parts:\n  - chapters: [1]", "a: [", b"\xff"]
)
def test_a_table_of_contents_that_is_none_is_refused(demo_book, toc):
    (demo_book / "_toc.yml").write_bytes(toc if isinstance(toc, bytes) else toc.encode())
    with pytest.raises(ValueError, match=r"_toc\.yml is no table of contents"):
        notebooks.chapters()


def test_a_title_is_a_heading_and_not_a_comment(demo_book):
    page = demo_book / "book" / "demo.md"
    text = page.read_text("utf-8")
    page.write_text(text.replace("kernelspec:", "# a comment\nkernelspec:"), "utf-8")
    assert notebooks.title("demo") == "A demonstration"
    page.write_text(text.replace("# A demonstration", "A demonstration"), "utf-8")
    with pytest.raises(ValueError, match="chapter demo has no heading"):
        notebooks.title("demo")


@pytest.mark.parametrize(
    "name", ["run.txt", "-", "run", "", ".ipynb", "run.failed.ipynb", "a" * 250 + ".ipynb"]
)
@pytest.mark.parametrize("force", [False, True])
def test_an_output_must_be_a_notebook(tmp_path, name, force):
    with pytest.raises(ValueError, match=r"output = .*expected a file"):
        notebooks.check_output(tmp_path / name if name else notebooks.Path(), force=force)
    assert list(tmp_path.iterdir()) == []


def test_an_output_may_replace_files_only_and_only_when_told(tmp_path, monkeypatch):
    (tmp_path / "there.ipynb").write_text("old")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "kept.failed.ipynb").mkdir()
    for name in ("there.ipynb", "link.ipynb"):
        notebooks.check_output(tmp_path / name, force=True)
        with pytest.raises(ValueError, match="--force"):
            notebooks.check_output(tmp_path / name)
    for name in ("folder.ipynb", "kept.ipynb", "there.ipynb/run.ipynb", "missing/run.ipynb"):
        with pytest.raises(ValueError, match="output = "):
            notebooks.check_output(tmp_path / name, force=True)

    def read_only(**_):
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ValueError, match="writable folder"):
        notebooks.check_output(tmp_path / "new.ipynb")


def test_an_export_is_checked_before_anything_is_written(demo_book, tmp_path):
    pages = demo_book / "book"
    (pages / "other.md").write_text((pages / "demo.md").read_text("utf-8"), "utf-8")
    toc = demo_book / "_toc.yml"
    toc.write_text(toc.read_text("utf-8") + "  - file: book/other\n", "utf-8")
    out = tmp_path / "new" / "out"
    assert notebooks.export(out) == [out / "demo.ipynb", out / "other.ipynb"]
    assert nbformat.read(out / "other.ipynb", 4).cells[-1].outputs == []
    (out / "demo.ipynb").unlink()
    (out / "other.ipynb").write_text("mine")
    with pytest.raises(ValueError, match="--force"):
        notebooks.export(out)
    assert [path.name for path in out.iterdir()] == ["other.ipynb"]
    assert (out / "other.ipynb").read_text() == "mine"
    notebooks.export(out, force=True)
    assert (out / "other.ipynb").read_text() != "mine"
    for folder in (out / "other.ipynb", out / "other.ipynb" / "below"):
        with pytest.raises(ValueError, match=r"folder = .*expected a folder"):
            notebooks.export(folder)


def test_a_busy_machine_has_time_for_its_outputs(demo_book, tmp_path, monkeypatch):
    """papermill gives up on outputs that come four seconds after the end of a cell."""
    import papermill.clientwrap

    seen = []
    whole = papermill.clientwrap.PapermillNotebookClient.execute
    monkeypatch.setattr(
        papermill.clientwrap.PapermillNotebookClient,
        "execute",
        lambda self, **more: (seen.append(self.iopub_timeout), whole(self, **more))[1],
    )
    notebooks.run("demo", tmp_path / "run.ipynb")
    assert seen == [60]
