"""The command: what it shows, and that a refusal is one sentence, exit code 2, and writes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kexue_lib import __version__, notebooks

COMMAND = [sys.executable, "-c", "from kexue_lib.cli import main; main()"]


def kexue(*words, code=COMMAND[-1], env=None, **more):
    command = [sys.executable, "-c", code, *map(str, words)]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | more
    return subprocess.run(command, text=True, check=False, env=os.environ | (env or {}), **more)


def refused(done, *parts):
    """Assert that a command said one sentence, did nothing, and ended with 2; return the sentence."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("kexue: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    return done.stderr


def add(book, old, new):
    """Change the demonstration chapter."""
    page = book / "book" / "demo.md"
    assert old in page.read_text("utf-8")
    page.write_text(page.read_text("utf-8").replace(old, new), "utf-8")


def test_list_and_show(demo_book):
    listed = json.loads(kexue("list", "--json").stdout)
    demo = {"chapter": "demo", "title": "A demonstration", "parameters": 3}
    assert listed == [demo | {"seconds": None}]
    kept = demo_book / "out" / "executed"
    kept.mkdir(parents=True)
    (kept / "demo.ipynb").write_text('{"metadata": {"kexue": {"seconds": 7.5}}}', "utf-8")
    assert json.loads(kexue("list", "--json").stdout) == [demo | {"seconds": 7.5}]
    shown = json.loads(kexue("show", "demo", "--json").stdout)
    assert [row["name"] for row in shown] == ["size", "share", "mode"]
    assert "how many" in kexue("show", "demo").stdout
    assert "\x1b" not in kexue("show", "demo").stdout


def test_run_writes_a_notebook_and_prints_its_record(demo_book, tmp_path):
    done = kexue("run", "demo", "-p", "size=5", "-o", tmp_path / "run.ipynb", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["double"]["value"] == 10
    text = json.loads((tmp_path / "run.ipynb").read_text("utf-8"))["cells"][0]["source"]
    assert "Twice the size is 10, and `code` stays." in "".join(text)  # this run's number, not the book's
    first, *_, last = done.stderr.splitlines()  # a busy machine's kernel may say something between
    assert first == "running demo …"
    assert last.startswith(f"wrote {tmp_path / 'run.ipynb'} after ")
    assert last.endswith(" s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a book", "run.ipynb"]
    refused(kexue("run", "demo", "-o", tmp_path / "run.ipynb"), "--force")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["demo", "-p", "size=0"], "size = 0: expected an integer from 1 to 9"),
        (["demo", "-p", "size=5.5"], "size = '5.5': expected an integer from 1 to 9, in digits"),
        (["demo", "-p", "size=1e3"], "size = '1e3': expected an integer from 1 to 9, in digits"),
        (["demo", "-p", "size=0x5"], "size = '0x5'"),
        (["demo", "-p", "size= 5"], "size = ' 5'"),
        (["demo", "-p", "size=٣"], "size = '٣'"),
        (["demo", "-p", "size="], "size = ''"),
        (["demo", "-p", "size==5"], "size = '=5'"),
        (["demo", "-p", "size=7"], "size must not be 7"),
        (["demo", "-p", "siez=5"], "did you mean size?"),
        (["demo", "-p", "=5"], "parameter = ''"),
        (["demo", "-p", "__builtins__=5"], "parameter = '__builtins__'"),
        (["demo", "-p", "size"], "NAME=VALUE"),
        (["demo", "-p", "size=5", "-p", "size=5"], "size is given twice: '5' and '5'"),
        (["demo", "-p", "share=nan"], "share = nan: expected a finite number in [0, 1]"),
        (["demo", "-p", "share=2", "-p", "size=0"], "share = 2.0"),
        (["demo", "-p", "mode=odd"], "mode = 'odd': expected one of plain, broken"),
        (["demo", "-p", "mode=Plane"], "did you mean plain?"),
        (["dmeo"], "did you mean demo?"),
        ([""], "chapter = ''"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(demo_book, tmp_path, words, part):
    refused(kexue("run", *words, "-o", tmp_path / "run.ipynb"), part)
    assert [p.name for p in tmp_path.iterdir()] == ["a book"]


@pytest.mark.parametrize("name", ["run.txt", "missing/run.ipynb", "-", ""])
def test_outputs_that_cannot_be_are_refused(demo_book, tmp_path, name):
    refused(kexue("run", "demo", "--force", "-o", name, cwd=tmp_path), "output = ")


def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(demo_book, tmp_path):
    add(demo_book, "size: int = 3", 'device: str = "auto"\nsize: int = 3')
    add(
        demo_book,
        "\n    size=Int",
        '\n    device=Choice(device, "where", "auto", "cpu", "cuda"),\n    size=Int',
    )
    words = ["run", "demo", "-p", "device=cuda", "-o", tmp_path / "run.ipynb"]
    refused(kexue(*words, env={"CUDA_VISIBLE_DEVICES": "-1"}), "torch sees no CUDA device")
    assert [p.name for p in tmp_path.iterdir()] == ["a book"]


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("broken", "CheckFailed: eq-demo: off by one"),
        ("wrong", "(eq-demo): NameError: name 'undefined' is not defined"),
        ("killed", "(eq-demo): the kernel died, killed or out of memory"),
    ],
)
def test_a_failing_chapter_keeps_its_notebook_beside_the_output(demo_book, tmp_path, mode, sentence):
    (tmp_path / "run.ipynb").write_text("old")
    done = kexue("run", "demo", "-p", f"mode={mode}", "-o", "run.ipynb", "--force", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first == "running demo …"
    assert last.startswith(
        "kexue: chapter demo failed in code cell 4"
    )  # one is papermill's, with the parameter
    assert sentence in last
    assert last.endswith("(see run.failed.ipynb)")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a book", "run.failed.ipynb", "run.ipynb"]
    assert (tmp_path / "run.ipynb").read_text() == "old"
    assert '"execution_count": 3' in (tmp_path / "run.failed.ipynb").read_text("utf-8")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_run_leaves_nothing_beside_the_output(demo_book, tmp_path, monkeypatch, number, code):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    words = ["run", "demo", "-p", "mode=slow", "-o", str(tmp_path / "run.ipynb")]
    with subprocess.Popen(
        [*COMMAND, *words], text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        for _ in range(600):
            time.sleep(0.1)
            if list(scratch.glob("kexue-*/run.ipynb")):
                break
        time.sleep(1)  # the kernel starts
        os.killpg(run.pid, number)
        words = run.communicate(timeout=30)[1].splitlines()
    assert run.returncode == code
    assert words == ["running demo …", "kexue: interrupted, nothing was written"][: 1 if code < 0 else 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a book", "scratch"]
    assert code < 0 or list(scratch.glob("kexue-*")) == []


def doctor(**more):
    done = kexue("doctor", "--json", **more)
    return done.returncode, {row["check"]: row for row in json.loads(done.stdout)}


def test_the_doctor_finds_a_healthy_environment_healthy(demo_book):
    """Pins of packages for other machines do not matter, nor how a name is spelt, nor extras."""
    pins = {d.name: d.version for d in distributions() if d.name not in ("torch", "kexue_lib")}
    lines = [f"{name.upper().replace('-', '_')}=={version} \\" for name, version in sorted(pins.items())]
    lines += ["    --hash=sha256:00 \\", "# a comment", "nowhere==1 ; sys_platform == 'plan9' \\"]
    lines += [
        f"coverage[toml]=={pins['coverage']} ; python_version >= '3'",
        "numpy==0.1 ; python_version < '3'",
    ]
    (demo_book / "requirements.lock").write_text("\n".join(lines), "utf-8")
    code, rows = doctor()
    assert set(rows) == {"python", "torch", "book", "packages", "disk", "browser"}
    assert rows["packages"]["found"] == "as required"
    assert code == 0
    assert kexue("--version").stdout == f"{__version__}\n"


def test_the_doctor_names_what_is_wrong_and_the_remedy(demo_book):
    lock = "numpy==0.1\nnowhere[all]==1 ; python_version >= '3' \\\n    --hash=sha256:00\nwhat is this\n"
    (demo_book / "requirements.lock").write_text(lock, "utf-8")
    code, rows = doctor()
    assert code == 1
    assert not rows["packages"]["ok"]
    assert rows["packages"]["remedy"] == "run make env"
    found = rows["packages"]["found"].split(", ")
    assert found[0].startswith("numpy ")
    assert found[0].endswith(" is not ==0.1")
    assert found[1:] == ["nowhere is missing", "'what is this' cannot be read"]


def test_the_doctor_helps_without_torch_and_without_a_book(tmp_path):
    code, rows = doctor(
        code=f"import sys; sys.modules['torch'] = None; {COMMAND[-1]}", env={"KEXUE_BOOK": str(tmp_path)}
    )
    assert code == 1
    assert not rows["torch"]["ok"]
    assert not rows["book"]["ok"]
    assert "KEXUE_BOOK" in rows["book"]["remedy"]


def test_every_line_of_the_lock_is_read():
    root = Path(notebooks.__file__).parents[1]
    lock = [
        line for line in (root / "requirements.lock").read_text("utf-8").splitlines() if line[:1].isalnum()
    ]
    names = [Requirement(line.rstrip("\\ ")).name for line in lock]
    assert {"numpy", "papermill", "jupytext"} <= set(names)


@pytest.mark.parametrize("book", ["nonsense", "_toc.yml", ""])
def test_without_a_book_every_command_says_so(demo_book, tmp_path, book):
    env = {"KEXUE_BOOK": str(demo_book / book if book else tmp_path)}
    commands = (["list"], ["show", "demo"], ["run", "demo", "-o", "x.ipynb"], ["export", "out"])
    for words in commands:
        refused(kexue(*words, env=env, cwd=tmp_path), "no book in", "set KEXUE_BOOK")
    assert [p.name for p in tmp_path.iterdir()] == ["a book"]


def test_export_writes_notebooks_that_run_anywhere(demo_book, tmp_path):
    done = kexue("export", "out", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == [str(Path("out", "demo.ipynb"))]
    assert (tmp_path / "out" / "demo.ipynb").is_file()
    refused(kexue("export", "out", cwd=tmp_path), "--force")
    refused(kexue("export", demo_book / "_toc.yml"), "folder = ")


def test_the_same_source_gives_the_same_notebook(demo_book):
    assert notebooks.read_chapter("demo") == notebooks.read_chapter("demo")
    assert notebooks.chapters() == ["demo"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--help"], ["yaml", "rich"]),
        (["list", "--json"], ["rich"]),
        (["show", "demo"], []),
        (["run", "demo", "-p", "size=0", "-o", "x.ipynb"], ["rich"]),
    ],
)
def test_what_answers_at_once_imports_nothing_that_takes_long(demo_book, words, more):
    heavy = ["torch", "numpy", "sympy", "jupytext", "nbformat", "papermill", "IPython", *more]
    listed = f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    code = f"import atexit, sys; atexit.register(lambda: {listed})"
    assert kexue(*words, code=f"{code}\n{COMMAND[-1]}").stderr.endswith("[]\n")


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["show", "demo"]])
def test_a_reader_that_goes_away_is_no_reason_to_speak(demo_book, words):
    reader, writer = os.pipe()
    os.close(reader)
    done = kexue(*words, stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_a_mistake_of_ours_is_one_sentence_too():
    code = "from kexue_lib import notebooks; notebooks.book_root = lambda: 1 / 0"
    done = kexue("list", code=f"{code}\n{COMMAND[-1]}")
    assert done.returncode == 1
    assert done.stderr.startswith("kexue: ZeroDivisionError")
    assert done.stderr.count("\n") == 1
    traced = kexue("list", code=f"{code}\n{COMMAND[-1]}", env={"KEXUE_TRACEBACK": "1"})
    assert "Traceback" in traced.stderr


def offered(*words):
    """Return what bash is offered for the last of these words, cut at "=" as bash cuts them."""
    env = {"COMP_WORDS": "\n".join(["kexue", *words]), "COMP_CWORD": str(len(words))}
    done = kexue(env=env | {"_KEXUE_COMPLETE": "complete_bash"})
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_chapters_names_and_choices(demo_book, tmp_path):
    modes = ["plain", "broken", "wrong", "slow", "killed"]
    assert offered("ru") == ["run"]
    assert offered("show", "") == offered("run", "d") == ["demo"]
    assert offered("run", "demo", "-p", "") == ["size=3", "share=0.5", *(f"mode={m}" for m in modes)]
    assert offered("run", "demo", "-p", "sh") == ["share=0.5"]
    assert offered("run", "demo", "-p", "size", "=", "3", "-p", "s") == ["share=0.5"]
    assert offered("run", "demo", "-p", "mode", "=") == modes
    assert offered("run", "demo", "-p", "mode", "=", "b") == ["broken"]
    assert offered("run", "demo", "-p", "mode=b") == ["mode=broken"]  # bash told not to cut
    assert offered("run", "-p", "size", "=", "3", "d") == ["demo"]
    assert offered("run", "nothing", "-p", "") == offered("run", "-p", "") == []
    shutil.rmtree(demo_book)
    assert offered("show", "") == []


def test_the_script_for_bash_works_in_bash(demo_book):
    script = kexue(env={"_KEXUE_COMPLETE": "source_bash"}).stdout
    asked = "COMP_WORDS=(kexue run demo -p mode = pl); COMP_CWORD=6; _kexue_completion kexue"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-c", f"{script}\n{asked}; echo ${{COMPREPLY[@]}}"]
    done = subprocess.run(
        command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("plain\n", "")
