"""tools/env.py installs, resumes, keeps quiet, and fails in one sentence.

No network and no real installation: a made-up `venv` module makes a .venv whose python is a shell
script that plays pip.  It writes down what it is asked and fails as the test wishes.
"""

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

VENV_MODULE = """
import os, shutil, sys
folder = sys.argv[-1]
if os.environ.get("NO_VENV"):
    sys.exit(os.environ["NO_VENV"])
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder + "/bin")
open(folder + "/pyvenv.cfg", "w").write("version = {}.{}.{}\\n".format(*sys.version_info[:3]))
open(folder + "/bin/pip", "w").write("#!" + folder + "/bin/python\\n")
shutil.copy(os.path.join(os.path.dirname(__file__), "python"), folder + "/bin/python")
"""

# $1 is -c for the look whether pip is there, -m for pip itself.
PYTHON_SCRIPT = """#!/bin/sh
if [ "$1" = -c ]; then exit 0; fi
shift 2
if [ -n "$HANG" ]; then echo $$ > "$(dirname "$CALLS")/pip"; fi
echo "$*" >> "$CALLS"
case "$*" in *"$FAIL_AT"*)
  if [ -n "$HANG" ]; then exec sleep 30; fi
  if [ -n "$FAIL_WITH" ]; then echo "$FAIL_WITH"; exit 1; fi;;
esac
"""

TORCH = "install --no-compile torch==2.13.0 "
LOCKED = "install --no-compile --require-hashes -r requirements.lock "
PROJECT = "install --no-deps --no-build-isolation --editable . "
ALL = [TORCH, LOCKED, PROJECT, "check "]


@pytest.fixture
def project(tmp_path):
    """A project with tools/env.py in a folder with a space, and a way to run it."""
    root, fakes, calls = tmp_path / "check out", tmp_path / "fakes", tmp_path / "calls"
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "env.py", root / "tools")
    (root / "requirements.lock").write_text("numpy==2.4.6 --hash=sha256:0\n")
    (root / "requirements.in").write_text("numpy==2.4.6   # arrays\nsphinx==7.4.7\nrich\n")
    (root / "pyproject.toml").write_text("[project]\n")
    fakes.mkdir()
    (fakes / "venv.py").write_text(VENV_MODULE)
    (fakes / "python").write_text(PYTHON_SCRIPT)
    (fakes / "python").chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "TORCH", "LATEST")}
    base = {**clean, "PYTHONPATH": str(fakes), "CALLS": str(calls)}

    def start(*arguments, **variables):
        calls.write_text("")
        return subprocess.Popen(
            [sys.executable, "tools/env.py", *arguments],
            cwd=root,
            env={**base, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(*arguments, **variables):
        process = start(*arguments, **variables)
        out, err = process.communicate(timeout=20)
        asked = [line.split("--no-input")[0] for line in calls.read_text().splitlines()]
        return SimpleNamespace(code=process.returncode, out=out, err=err, calls=asked)

    return SimpleNamespace(root=root, run=run, start=start, calls=calls)


@pytest.fixture
def env():
    """tools/env.py as a module."""
    spec = importlib.util.spec_from_file_location("env", ROOT / "tools" / "env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_one_sentence(text):
    return text.startswith("env: ") and text.endswith(".\n") and text.count("\n") == 1


# -- what it does -----------------------------------------------------------------------------


def test_a_fresh_folder_gets_torch_then_the_lock_then_the_project(project):
    first = project.run()
    assert (first.code, first.calls) == (0, ALL), first.err
    assert len(first.out.splitlines()) == 1 + 6 + 1  # head, a line a step, foot
    settings = project.root / ".venv/share/jupyter/lab/settings/overrides.d/kexue.json"
    assert "Jupytext Notebook" in settings.read_text()


def test_nothing_to_do_is_silent_and_quick(project):
    project.run()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        again = project.run()
        seconds.append(time.perf_counter() - began)
        assert (again.code, again.out, again.err, again.calls) == (0, "", "", [])
    assert min(seconds) < 0.5


def test_a_failed_installation_goes_on_where_it_stopped(project):
    failed = project.run(FAIL_AT="--require-hashes", FAIL_WITH="ERROR: something")
    assert (failed.code, failed.calls) == (1, ALL[:2])
    assert project.run().calls == ALL[1:]


def wait_for(project, process, words):
    while words not in project.calls.read_text():
        assert process.poll() is None
        time.sleep(0.02)


def test_an_interrupted_installation_goes_on_and_distrusts_half_a_package(project):
    process = project.start(FAIL_AT="--require-hashes", HANG="1")
    wait_for(project, process, "--require-hashes")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.startswith("env: interrupted")) == (130, True)

    packages = project.root / ".venv/lib/python3.11/site-packages"
    for name, files in {"half-1.dist-info": ["METADATA"], "whole-1.dist-info": ["RECORD"]}.items():
        (packages / name).mkdir(parents=True)
        for file in files:
            (packages / name / file).touch()
    assert project.run().calls == ALL[1:]
    assert [folder.name for folder in packages.iterdir()] == ["whole-1.dist-info"]


def test_a_killed_installation_is_not_resumed_beside_the_pip_it_left(project):
    process = project.start(FAIL_AT="--require-hashes", HANG="1")
    wait_for(project, process, "--require-hashes")
    process.kill()
    process.wait()
    pip = int((project.root.parent / "pip").read_text())
    again = project.start()
    assert "another command is at it, waiting" in again.stdout.readline()
    os.kill(pip, signal.SIGKILL)
    out, _ = again.communicate(timeout=20)
    assert again.returncode == 0
    assert "the packages of requirements.lock" in out
    assert "torch" not in out  # that step was done


@pytest.mark.parametrize(("file", "calls"), [("requirements.lock", ALL[1:]), ("pyproject.toml", ALL[2:])])
def test_a_change_repeats_its_step_and_those_after_it(project, file, calls):
    project.run()
    with (project.root / file).open("a") as text:
        text.write("# changed\n")
    assert project.run().calls == calls
    assert project.run().calls == []


def test_the_choice_of_torch_replaces_the_old_one_and_is_remembered(project):
    project.run()
    chosen = project.run(TORCH="torch==2.13.0 --index-url 'https://example.org/c p u'")
    # pip itself would find the other build of the same version good enough.
    assert chosen.calls[0].split() == ["uninstall", "--yes", "torch"]
    assert chosen.calls[1] == "install --no-compile torch==2.13.0 --index-url https://example.org/c p u "
    assert project.run().calls == []


def test_latest_drops_the_pins_and_keeps_the_ceilings(project):
    newest = project.run(LATEST="1")
    assert newest.code == 0
    wanted = (project.root / ".venv/latest.txt").read_text().split("\n")
    assert [line.split("#")[0].strip() for line in wanted if line] == [
        *("numpy", "sphinx", "rich"),
        *("jupyter-book<2", "sphinx<8"),
    ]


def broken_link(venv):
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/nowhere/python3")


def without_pip(venv):
    (venv / "bin/python").write_text("#!/bin/sh\nexit 1\n")


def moved(venv):
    (venv / "bin/pip").write_text("#!/nowhere/else/.venv/bin/python\n")


def cut_off(venv):
    shutil.rmtree(venv)
    (venv / "bin").mkdir(parents=True)


@pytest.mark.parametrize("damage", [broken_link, without_pip, moved, cut_off])
def test_a_broken_environment_is_made_anew(project, damage):
    project.run()
    damage(project.root / ".venv")
    repaired = project.run()
    assert (repaired.code, repaired.calls) == (0, ALL), repaired.err
    assert "made anew because" in repaired.out


def test_another_python_makes_it_anew_only_when_asked_for(project):
    project.run()
    config = project.root / ".venv/pyvenv.cfg"
    config.write_text("version = 3.99.0\n")
    project.run()  # takes note of the changed file
    assert project.run().calls == []
    assert "made anew because it has Python 3.99.0" in project.run(PYTHON="python3").out


# -- how it fails -----------------------------------------------------------------------------

OFFLINE = """WARNING: Retrying after connection broken by 'NewConnectionError: [Errno -3]
Temporary failure in name resolution'
ERROR: No matching distribution found for torch==2.13.0"""
# A lock without its extras: pip finds a newer release for coverage[toml], and then this.
UNPINNED = """Collecting coverage[toml]>=7.10.6
ERROR: In --require-hashes mode, all requirements must have their versions pinned with ==. These do not:
    coverage[toml]>=7.10.6 from https://example.org/coverage.whl (from pytest-cov==7.0.0)"""


@pytest.mark.parametrize(
    ("step", "words", "sentence"),
    [
        ("torch", "OSError: [Errno 28] No space left on device", "the disk is full: free some"),
        ("torch", OFFLINE, "the package index cannot be reached: check the network"),
        ("torch", "ERROR: No matching distribution found for torch==2.13.0", "no release of torch"),
        ("lock", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "(hashes): restore the loc"),
        ("lock", UNPINNED, "requirements.lock misses a version or a hash of something that is needed"),
        ("lock", "ERROR: Invalid requirement: '<<<<<<<'", "requirements.lock cannot be read"),
        (
            "lock",
            "ImportError: no luck\nnote: see above",
            "install.log, last: ImportError: no luck",
        ),
        ("--editable", "OSError: Readme file does not exist", "pip failed on pyproject.toml"),
        ("check", "a 1.0 requires b, which is not installed.", "last: a 1.0 requires b, which"),
    ],
)
def test_what_pip_says_becomes_one_sentence(project, step, words, sentence):
    failed = project.run(FAIL_AT=step, FAIL_WITH=words)
    assert failed.code == 1
    assert sentence in failed.err
    assert is_one_sentence(failed.err), failed.err
    assert words in (project.root / ".venv/install.log").read_text()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("HashMismatch", "requirements.lock and the packages that came differ (hashes)"),
        ("HashMissing", "requirements.lock misses a version or a hash"),
        ("HashUnpinned", "requirements.lock misses a version or a hash"),
        ("VcsHashUnsupported", "requirements.lock misses a version or a hash"),
        ("DirectoryUrlHashUnsupported", "requirements.lock misses a version or a hash"),
    ],
)
def test_the_words_are_those_of_the_pip_that_is_here(env, name, sentence):
    said = getattr(importlib.import_module("pip._internal.exceptions"), name).head
    assert env.diagnose("requirements.lock", 1, f"ERROR: {said}\n    a").startswith(sentence)


def test_a_python_without_venv_is_named_with_the_package_that_helps(project):
    debian = "The virtual environment was not created successfully because ensurepip is not"
    failed = project.run(NO_VENV=debian)
    assert failed.code == 1
    assert "apt install python{}.{}-venv".format(*sys.version_info) in failed.err
    assert is_one_sentence(failed.err)


def test_no_lock_and_a_bad_choice_of_torch(project):
    failed = project.run(TORCH="torch 'open")
    assert (failed.code, is_one_sentence(failed.err)) == (1, True)
    assert "open quotation mark" in failed.err
    (project.root / "requirements.lock").unlink()
    failed = project.run()
    assert (failed.code, is_one_sentence(failed.err)) == (1, True)
    assert "git checkout requirements.lock" in failed.err


def test_arguments_are_refused_as_wrong_usage(project):
    failed = project.run("install")
    assert (failed.code, failed.calls) == (2, [])
    assert failed.err.startswith("usage: ")


@pytest.fixture
def in_empty_folder(env, tmp_path, monkeypatch):
    monkeypatch.setattr(env, "ROOT", tmp_path)
    monkeypatch.setattr(env, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(env, "CHOICE", tmp_path / ".venv/.stamps/torch-choice")
    return env


def test_an_old_python_is_refused_and_a_newer_one_named(in_empty_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(in_empty_folder, "runs", "python3.12".__eq__)
    assert in_empty_folder.main([]) == 1
    text = capsys.readouterr().err
    assert is_one_sentence(text)
    assert "3.11 or newer is needed" in text
    assert "is 3.9.2: point to it, for example `make PYTHON=python3.12 book`" in text


def test_a_full_disk_is_noticed_before_anything_is_made(in_empty_folder, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.2e9))
    assert in_empty_folder.main([]) == 1
    text = capsys.readouterr().err
    assert is_one_sentence(text)
    assert "about 3 GB are needed" in text
    assert "1.2 GB free" in text
    assert not in_empty_folder.VENV.exists()


def test_it_parses_on_the_pythons_that_it_has_to_refuse():
    source = ROOT / "tools/env.py"
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 7))
    script = "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())"
    for name in ("python3.6", "python3.8", "python3.9"):  # the real ones, where there are some
        if shutil.which(name) and subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            subprocess.run([name, "-c", script, str(source)], check=True)
