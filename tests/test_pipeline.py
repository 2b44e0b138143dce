"""The pipeline (tools/book.py): what it executes, how it fails, and that no moment to kill it is bad.

A copy of the project with three small chapters, one of them the template of a chapter, is built once,
in a folder with a space. Each test then starts from that built state, in the same place.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from kexue_lib import notebooks

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("Makefile", "_config.yml", "requirements.lock", "tools", "kexue_lib", "book/_ext", "book/_static")
NEEDED += ("book/_templates", "book/references.bib", "book/bibliography.md", "book/claims.md")
TOC = "format: jb-book\nroot: book/intro\nchapters:\n" + "".join(
    f"- file: book/{name}\n" for name in ("draft", "one", "two", "claims", "api", "bibliography")
)
HEAD = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n\n"
ONE = """# One

$$ \\sum_{i<n} i = \\frac{n(n-1)}2 $$ (eq-sum)

```{code-cell} ipython3
from kexue_lib.verify import compute

compute("eq-sum", "sums", lambda n: sum(range(n)), lambda n: n * (n - 1) // 2, over=range(9),
        refutes={"one term too many": lambda n: n * (n + 1) // 2})
```
"""
# It waits as long as there is a file named hold beside the book, and tells who waits.
TWO = """# Two

See {eq}`eq-sum`.

```{code-cell} ipython3
import os
import time
from pathlib import Path

from kexue_lib.record import Record

root = Path(os.environ["KEXUE_BOOK"])
if (root / "hold").exists():
    (root / "waiting.new").write_text(str(os.getpid()))
    (root / "waiting.new").rename(root / "waiting")
while (root / "hold").exists():
    time.sleep(0.05)
Record({"answer": (42, "to be shown")})
```
"""


def contents(folder):
    """Return every file below a folder with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Project:
    """The copy, and what is done with it."""

    def __init__(self, root):
        self.root, self.html, self.out = root, root / "_build" / "html", root / "out"
        self.started = []

    def chapter(self, name, text):
        (self.root / "book" / f"{name}.md").write_text(HEAD + text, "utf-8")

    def replace(self, name, old, new):
        path = self.root / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    def start(self, *words, hack=""):
        """Start tools/book.py, after Python that changes something in it."""
        code = "import sys; sys.path.insert(0, 'tools'); import book\n" + textwrap.dedent(hack)
        code += "\nsys.exit(book.main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words] if hack else [sys.executable, "tools/book.py", *words],
            cwd=self.root, env=os.environ | {"KEXUE_BOOK": "/nowhere"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *words, hack=""):
        return self.end(self.start(*words, hack=hack))

    def end(self, process):
        out, err = process.communicate(timeout=100)
        assert "Traceback" not in err, err
        executed = re.findall(r"^   (\w+) +[\d.]+ s$", out, re.M)
        return SimpleNamespace(code=process.returncode, out=out, err=err, executed=sorted(executed))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """The project in its place, its first build, and a copy of both to come back to."""
    root = tmp_path_factory.mktemp("pipeline") / "a check out"
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text(TOC)
    (root / "book" / "intro.md").write_text("# Start\n\nThe answer is {record}`two answer:d`.\n")
    (root / "book" / "api.md").write_text("# The library\n")
    shutil.copy2(ROOT / "book" / "_template.md", root / "book" / "draft.md")
    # jsonschema would take two seconds of every process to read a grammar that nothing here needs.
    (root / "rfc3987_syntax.py").write_text("raise ImportError\n")
    project = Project(root)
    project.chapter("one", ONE)
    project.chapter("two", TWO)
    project.first = project.run()
    project.kept = root.with_name("kept")
    shutil.copytree(root, project.kept)
    return project


@pytest.fixture
def project(pristine):
    """The built project."""
    yield from fresh(pristine)


@pytest.fixture
def sources(pristine):
    """The project without outputs and pages, which take a second to copy."""
    yield from fresh(pristine, "_build", "out")


def copy(source, target):
    """Copy a file, but link the many scripts of the theme, which nothing changes."""
    return os.link(source, target) if "/_static/" in source else shutil.copy2(source, target)


def fresh(project, *without):
    shutil.rmtree(project.root)
    ignore = shutil.ignore_patterns(*without)
    shutil.copytree(project.kept, project.root, ignore=ignore, copy_function=copy)
    yield project
    for process in project.started:
        if process.poll() is None:  # a test has failed
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    project.started.clear()


# -- a good build -----------------------------------------------------------------------------


def test_the_first_build_executes_every_chapter_and_shows_it(pristine):
    assert pristine.first.code == 0, pristine.first.err
    assert pristine.first.executed == ["draft", "one", "two"]
    pages = {
        path.stem: path.read_text("utf-8") for path in (pristine.kept / "_build/html/book").glob("*.html")
    }
    assert "The answer is 42." in pages["intro"]
    assert "✓ computed" in pages["one"]
    for part in ("kexue-slider", "✓ proved", "≈ supported", "<title>Draft: ", "1686"):
        assert part in pages["draft"], part  # 1686: what the executed solution prints


def test_the_template_runs_as_it_is(pristine):
    done = nbformat.read(pristine.kept / "out/executed/draft.ipynb", 4)
    assert set(notebooks.record_of(done)) == {"darts", "hits", "share", "throws"}
    assert [v["status"] for v in notebooks.verdicts_of(done)] == ["proved", "supported"]
    assert not [out for cell in done.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]


def test_without_a_change_nothing_is_done(project):
    before, began = contents(project.root), time.monotonic()
    again = project.run()
    assert time.monotonic() - began < 15
    assert (again.code, again.executed) == (0, [])
    assert "== nothing changed" in again.out
    assert contents(project.root) == before


# -- what is executed -------------------------------------------------------------------------


def test_only_what_changed_is_executed(project):
    project.replace("book/one.md", "# One", "# Number one")
    (project.out / "failed").mkdir()
    (project.out / "failed" / "one.ipynb").touch()
    assert "== chapters: 0 of 3 to execute" in project.run("execute").out
    assert not (project.out / "failed").exists()
    project.replace("book/two.md", "42", "43")
    (project.out / "executed" / "one.ipynb").unlink()
    project.replace("_toc.yml", "- file: book/draft\n", "")
    assert project.run("execute").executed == ["one", "two"]
    assert sorted(path.name for path in (project.out / "executed").iterdir()) == ["one.ipynb", "two.ipynb"]


@pytest.mark.parametrize("gone", [True, False])
def test_lost_outputs_and_failed_notebooks_are_a_change(project, gone):
    """Else there were a book without notebooks, or a failure that is shown for ever, and nothing to do."""
    shutil.rmtree(project.out) if gone else (project.out / "failed").mkdir()
    hack = "def stop(): raise book.Failure('to execute')\nbook.execute = stop"
    assert "book: to execute" in project.run(hack=hack).err


def fingerprint(root):
    """Return tools/fingerprint.py of the copy as a new module, without anything remembered."""
    spec = importlib.util.spec_from_file_location("fingerprint_of_copy", root / "tools" / "fingerprint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marks(root):
    module = fingerprint(root)
    return {slug: module.chapter(notebooks.read_chapter(slug)) for slug in notebooks.chapters()}


ALL = {"draft", "one", "two"}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("book/one.md", "# One", "# Two", set()),
        ("book/one.md", "n - 1", "n - 2", {"one"}),
        ("book/one.md", "ipython3\n", "ipython3\n:tags: [skip-execution]\n", {"one"}),
        ("book/one.md", "ipython3\n", "ipython3\n:tags: [hide-input]\n", set()),
        ("kexue_lib/hubness.py", "import", "# \nimport", {"draft"}),
        ("kexue_lib/verify.py", "import", "# \nimport", {"draft", "one"}),
        ("kexue_lib/record.py", "import", "# \nimport", {"draft", "two"}),
        ("kexue_lib/cli.py", "import", "# \nimport", set()),
        ("kexue_lib/__init__.py", "0.", "1.", ALL),
        ("requirements.lock", "sha256:", "sha256:0", ALL),
        ("tools/book.py", "NUM_THREADS", "THREADS", ALL),
        ("_config.yml", "title", "name", set()),
        ("book/references.bib", "2010", "2011", set()),
    ],
)
def test_a_chapter_depends_on_what_it_uses(sources, monkeypatch, file, old, new, changed):
    monkeypatch.setenv("KEXUE_BOOK", str(sources.root))
    before, book = marks(sources.root), fingerprint(sources.root).everything()
    sources.replace(file, old, new)
    after = marks(sources.root)
    assert {slug for slug in after if after[slug] != before[slug]} == changed
    assert fingerprint(sources.root).everything() != book


def test_a_chapter_depends_on_what_its_modules_use(sources, monkeypatch):
    monkeypatch.setenv("KEXUE_BOOK", str(sources.root))
    sources.replace("kexue_lib/record.py", "import math\n", "import math\nfrom kexue_lib import inner\n")
    (sources.root / "kexue_lib" / "inner.py").write_text("def late():\n    import kexue_lib.innermost\n")
    (sources.root / "kexue_lib" / "innermost.py").write_text("A = 1\n")
    before = marks(sources.root)
    (sources.root / "kexue_lib" / "innermost.py").write_text("A = 2\n")
    after = marks(sources.root)
    assert {slug for slug in after if after[slug] != before[slug]} == {"draft", "two"}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import kexue_lib.record", {"record"}),
        ("from kexue_lib import record, verify as v", {"record", "verify"}),
        ("from kexue_lib.verify import prove", {"verify"}),
        ("from .verify import prove", {"verify"}),
        ("from . import record", {"record"}),
        ("import math, torch", set()),
        ("def f():\n    from kexue_lib import record", {"record"}),
    ],
)
def test_imports_are_read_off(code, names):
    assert fingerprint(ROOT).imported(code) == {f"kexue_lib.{name}" for name in names}


@pytest.mark.parametrize(
    "code",
    ["import kexue_lib", "from kexue_lib import *", "import importlib", "__import__(name)", "%run x.py"],
)
def test_unclear_imports_are_everything(code):
    module = fingerprint(ROOT)
    assert module.imported(code) == set(module.modules())


# -- faults -----------------------------------------------------------------------------------


# A check whose wrong variant is right.
CONTROL = """
$$ n+n=2n $$ (eq-two)

```{code-cell} ipython3
from kexue_lib.verify import compute

compute("eq-two", "twice", lambda n: n + n, lambda n: 2 * n, over=[3],
        refutes={"the same again": lambda n: n * 2})
```
"""


def test_a_failing_check_fails_make_test_and_leaves_the_book(project):
    before = contents(project.html)
    project.replace("book/one.md", "n: n * (n - 1) // 2, over", "n: n * (n + 1) // 2, over")
    project.chapter("two", TWO + CONTROL)
    words = ["make", "--no-print-directory", "-o", "env", "-o", "lint", "-o", "types", "test"]
    done = subprocess.run(
        [*words, f"RUN='{sys.executable}'"], cwd=project.root, capture_output=True, text=True, timeout=100
    )
    assert done.returncode != 0
    assert "== pages" not in done.stdout
    assert "== tests" not in done.stdout
    for line in (
        "one failed in code cell 1, line 3\n    equation  eq-sum\n    error     CheckFailed: eq-sum: at 1",
        "    notebook  out/failed/one.ipynb\n",
        "two failed in code cell 2, line 3\n    equation  eq-two\n    error     CheckFailed: eq-two: the",
        "control 'the same again' passes the check it must fail\n",
        "The pages in _build/html are those of the last good build.",
    ):
        assert line in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert contents(project.html) == before
    failed = nbformat.read(project.out / "failed" / "one.ipynb", 4)
    assert [out.ename for cell in failed.cells for out in cell.get("outputs", ())] == ["CheckFailed"]

    project.chapter("one", ONE)  # as it was, so its outputs still fit
    project.chapter("two", TWO.replace("42", "43"))
    mended = project.run()
    assert (mended.code, mended.executed) == (0, ["two"]), mended.err
    assert "The answer is 43." in (project.html / "book" / "intro.html").read_text("utf-8")
    assert not (project.out / "failed").exists()


def one_sentence(done, words):
    assert done.code == 1
    lines = [line for line in done.err.splitlines() if line and "last good build" not in line]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("book: ")
    assert words in lines[0]


@pytest.mark.parametrize("name", ["_build", "out"])
def test_a_folder_that_cannot_be_written_is_one_sentence(sources, name):
    (sources.root / name).touch()  # nobody, not even root, makes a folder below a file
    done = sources.run()
    one_sentence(done, f"/{name}")
    assert "put that right (_build and out must be folders that you can write to" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_is_one_sentence(project):
    before = contents(project.html)
    (project.out / "executed" / ".one.ipynb.new").symlink_to("/dev/full")
    hack = "book.execute = lambda: book.write(book.EXECUTED / 'one.ipynb', 'text')"
    one_sentence(project.run("execute", hack=hack), "the disk is full: free some space")

    project.replace("book/one.md", "# One", "# Number one")
    page = project.root / "_build" / "work" / "html" / "book" / "one.html"
    page.unlink()
    page.symlink_to("/dev/full")
    one_sentence(project.run(), "the disk is full: free some space")
    assert contents(project.html) == before


@pytest.mark.parametrize(
    ("log", "text", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "{", "one stopped, the disk is full: free"),
        ("Killed", "{", "one failed:\n    Killed"),
        (
            "x",
            {"shell.execute_reply": "t"},
            "one failed in code cell 2, line 1\n    error     no end after 600 s",
        ),
    ],
)
def test_a_chapter_that_stops_without_an_error_is_explained(sources, log, text, words):
    (sources.root / "one.log").write_text(log)
    if text != "{":
        cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("sleep()")]
        cells[0].metadata["execution"] = text
        cells[1].metadata["execution"] = {"iopub.status.busy": "t"}
        text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    (sources.root / "one.ipynb").write_text(text)
    done = sources.run(hack="print(book.explain(book.ROOT / 'one.ipynb'))\nsys.exit()")
    assert done.out.startswith(words)


def test_a_source_that_changes_during_the_build_is_one_sentence(sources):
    sources.replace("book/two.md", "42", "43")
    hack = """
        def pages():
            with open("book/two.md", "a") as two: two.write("More.")
            raise ValueError("two.ipynb does not belong to two.md")
        book.execute, book.pages = (lambda: None), pages
    """
    one_sentence(sources.run(hack=hack), "a source was changed during the build: run")


# -- killed -----------------------------------------------------------------------------------


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers(project):
    """Return the processes (pytest, kernels) that work for the project."""
    found = psutil.process_iter(["cwd", "status"])
    return [p for p in found if str(project.out) in (p.info["cwd"] or "") and p.info["status"] != "zombie"]


@pytest.mark.parametrize("how", ["all killed", "only the parent killed", "parent asked to end"])
def test_killed_while_a_chapter_runs(project, how):
    before = contents(project.html)
    project.replace("book/two.md", "42", "43")
    (project.root / "hold").touch()
    process = project.start()
    wait_for((project.root / "waiting").exists)
    assert len(workers(project)) == 2  # pytest and its kernel

    if how == "all killed":
        another = project.run()
        one_sentence(another, f"another build is running (process {process.pid}): wait")
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL if "killed" in how else signal.SIGTERM)
    ended = project.end(process)
    if how == "parent asked to end":
        assert (ended.code, "interrupted" in ended.err) == (130, True)
        assert list(project.out.glob("run-*")) == []
    assert contents(project.html) == before
    wait_for(lambda: not workers(project), 10)  # though the cell would still wait

    if how == "only the parent killed":
        (project.root / "hold").unlink()
        again = project.run("execute")
        assert (again.code, again.executed) == (0, ["two"]), again.err
        assert list(project.out.glob("run-*")) == []


def test_killed_while_pages_are_written_then_faulty_then_mended(project):
    before = contents(project.html)
    project.replace("book/one.md", "# One\n", "# One\n\n$$ 1=2 $$ (eq-unchecked)\n\nSee {eq}`eq-nowhere`.\n")
    hack = """
        import time
        from sphinx.builders.html import StandaloneHTMLBuilder as Builder
        whole = Builder.handle_page
        def half(self, name, *rest, **more):
            whole(self, name, *rest, **more)
            open("waiting", "w").close()
            time.sleep(60)
        Builder.handle_page = half
    """
    process = project.start(hack=hack)
    wait_for((project.root / "waiting").exists)
    os.killpg(process.pid, signal.SIGKILL)
    project.end(process)
    assert contents(project.html) == before

    faulty = project.run()
    assert (faulty.code, faulty.executed) == (1, [])
    assert "book: the pages have faults:\nbook/" in faulty.err
    assert "book/one.md: WARNING: no check decides the equation eq-unchecked" in faulty.err
    assert "eq-nowhere" in faulty.err
    assert contents(project.html) == before

    project.chapter("one", ONE.replace("# One", "# Number one"))
    mended = project.run()
    assert (mended.code, mended.executed) == (0, []), mended.err
    assert "Number one" in (project.html / "book" / "two.html").read_text("utf-8")  # in its sidebar


def test_killed_while_it_publishes(project):
    made, other = project.root / "_build" / "work" / "html", contents(project.html)
    for number, (moment, seen) in enumerate(
        {
            "book.inputs = die": "old",  # copied, not yet marked
            "book.os.replace = die": "old",  # before the first renaming
            "book.os.replace = lambda a, b: die() if b == book.HTML else real(a, b)": "old",  # between
            "book.shutil.rmtree = die": "new",  # after the second
        }.items()
    ):
        (made / "number").write_text(str(number))
        old = contents(project.html)
        hack = f"""
            import os
            real = os.replace
            def die(*_, **__): os.kill(os.getpid(), {signal.SIGKILL})
            with book.alone():
                {moment}
                book.publish("sources")
        """
        assert project.run(hack=hack).code == -signal.SIGKILL
        assert project.run(hack="with book.alone(): sys.exit(0)").code == 0
        shown = contents(project.html)
        assert (shown == old) == (seen == "old"), moment
        if seen == "new":
            assert shown.keys() == {*other, Path("number")}
            assert shown[Path("number")] == b"3"
        left = {path.name for path in (project.root / "_build").iterdir()}
        assert left == {"html", "lock", "matplotlib", "work"}
