"""The command: what it shows, and that a refusal is one sentence, exit code 2, and writes nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kexue_lib import notebooks


def kexue(*words, cwd=None, **more):
    command = [sys.executable, "-c", "from kexue_lib.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False, **more)


def test_list_and_show(demo_book):
    listed = json.loads(kexue("list", "--json").stdout)
    assert listed == [{"chapter": "demo", "title": "A demonstration", "parameters": 3}]
    shown = json.loads(kexue("show", "demo", "--json").stdout)
    assert [row["name"] for row in shown] == ["size", "share", "mode"]
    assert "how many" in kexue("show", "demo").stdout
    assert "\x1b" not in kexue("show", "demo").stdout


def test_run_writes_a_notebook_and_prints_its_record(demo_book, tmp_path):
    done = kexue("run", "demo", "-p", "size=5", "-o", tmp_path / "run.ipynb", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["double"]["value"] == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a book", "run.ipynb"]
    again = kexue("run", "demo", "-o", tmp_path / "run.ipynb")
    assert again.returncode == 2
    assert "--force" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "-p", "size=0"],
        ["demo", "-p", "size=5.5"],
        ["demo", "-p", "size=7"],
        ["demo", "-p", "siez=5"],
        ["demo", "-p", "size"],
        ["demo", "-p", "share=nan"],
        ["demo", "-p", "mode=odd"],
        ["dmeo"],
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(demo_book, tmp_path, words):
    done = kexue("run", *words, "-o", tmp_path / "run.ipynb")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kexue: ")
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a book"]


@pytest.mark.parametrize("name", ["run.txt", "missing/run.ipynb"])
def test_outputs_that_cannot_be_are_refused(demo_book, tmp_path, name):
    done = kexue("run", "demo", "-o", tmp_path / name)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_failing_chapter_keeps_its_notebook_beside_the_output(demo_book, tmp_path):
    done = kexue("run", "demo", "-p", "mode=broken", "-o", tmp_path / "run.ipynb")
    assert done.returncode == 1
    assert "eq-demo: off by one" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a book", "run.failed.ipynb"]


def test_an_interrupted_run_leaves_no_output(demo_book, tmp_path):
    command = [sys.executable, "-c", "from kexue_lib.cli import main; main()"]
    words = ["run", "demo", "-p", "mode=slow", "-o", str(tmp_path / "run.ipynb")]
    process = subprocess.Popen([*command, *words], start_new_session=True, stderr=subprocess.DEVNULL)
    time.sleep(6)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run.ipynb").exists()


def test_doctor_and_version(demo_book):
    rows = json.loads(kexue("doctor", "--json").stdout)
    assert {row["check"] for row in rows} >= {"python", "torch", "packages", "disk", "browser"}
    assert kexue("--version").stdout.strip()


def test_export_writes_notebooks_that_run_anywhere(demo_book, tmp_path):
    assert kexue("export", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "demo.ipynb").is_file()


def test_the_same_source_gives_the_same_notebook(demo_book):
    assert notebooks.read_chapter("demo") == notebooks.read_chapter("demo")
    assert notebooks.chapters() == ["demo"]


def test_starting_the_command_does_not_import_torch():
    code = "import sys; import kexue_lib.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
