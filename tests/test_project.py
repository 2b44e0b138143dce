"""The files around the code agree with each other and with what they are for."""

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import kexue_lib
from kexue_lib import cli

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
BIN = Path(sys.executable).parent


@cache
def sources():
    """All files that git has or would take, if they are there."""
    # In a container the checkout often belongs to another user, which git refuses by default.
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    command = [*git, "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def normal(name):
    """A package name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    """Name to version (or None) of the requirement that each line begins with."""
    found = (re.match(r"([A-Za-z0-9][\w.-]*)(?:\[.*?\])?(?:==([^\s;]+))?", line) for line in lines)
    return {normal(match[1]): match[2] for match in found if match}


def lines_of(name):
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def metadata():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def dependencies():
    return {normal(re.match(r"[\w.-]+", line)[0]): line for line in metadata()["dependencies"]}


# -- requirements -----------------------------------------------------------------------------


def test_the_lock_has_every_direct_requirement_with_hashes_and_no_torch():
    text = (ROOT / "requirements.lock").read_text()
    lock, direct = pins(text.splitlines()), pins(lines_of("requirements.in"))
    assert "torch" not in lock
    assert {name: version or lock[name] for name, version in direct.items()}.items() <= lock.items()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1 if text.startswith("#") else 0 :]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_names_the_extras_that_packages_ask_for():
    """Else pip looks for coverage[toml] beside coverage==…, finds a newer release, and stops at its hash."""
    locked = {normal(m[1]): {*m[2].split(",")} for m in map(EXTRAS.match, lines_of("requirements.lock")) if m}
    asked = [Requirement(text) for one in distributions() for text in one.requires or ()]
    for one in asked:
        if one.extras and (one.marker is None or one.marker.evaluate({"extra": ""})):
            assert one.extras <= locked.get(normal(one.name), set()), str(one)


EXTRAS = re.compile(r"([A-Za-z0-9][\w.-]*)\[(.+?)\]==")


def test_the_lock_names_no_package_index():
    assert [line for line in lines_of("requirements.lock") if "://" in line] == []


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    *conda, by_pip = environment["dependencies"]
    assert "python=3.11" in conda
    assert metadata()["requires-python"] == ">=3.11"
    *pinned, editable = by_pip["pip"]
    assert editable == "-e ."

    lock, direct = pins(lines_of("requirements.lock")), pins(lines_of("requirements.in"))
    default = re.search(r'^TORCH = "torch==(.+)"$', (ROOT / "tools/env.py").read_text(), re.M)[1]
    assert pins(pinned) == {name: lock[name] for name in direct} | {"torch": default}


def test_what_the_library_imports_is_locked_and_torch_is_recent_enough():
    least = re.fullmatch(r"torch>=([\d.]+)", dependencies()["torch"])[1]
    default = re.search(r'"torch==([\d.]+)"', (ROOT / "tools/env.py").read_text())[1]
    assert [int(part) for part in default.split(".")] >= [int(part) for part in least.split(".")]
    assert dependencies().keys() - {"torch"} <= pins(lines_of("requirements.in")).keys()


# -- versions, licences, citation -------------------------------------------------------------


def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_one_version_everywhere():
    changes = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    versions = {metadata()["version"], citation()["version"], changes[0]}
    assert versions == {kexue_lib.__version__}


def test_the_citation_is_valid():
    tool("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")
    assert citation()["title"] == "Scientific Spaces, Executable"


def test_code_and_text_have_their_licences():
    assert metadata()["license"] == "MIT"
    assert citation()["license"] == ["MIT", "CC-BY-NC-SA-4.0"]
    assert lines_of("LICENSE")[0] == "MIT License"
    assert "creativecommons.org/licenses/by-nc-sa/4.0/" in (ROOT / "LICENSE-text.md").read_text()


def test_the_library_is_typed_strictly():
    """What `make types` does, here beside other tests: it keeps one processor busy for half a minute."""
    tool("mypy")


# -- workflows --------------------------------------------------------------------------------


def tool(name, *arguments):
    """Run a program of the environment; its words are the message if it complains."""
    done = subprocess.run([BIN / name, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == {"ci", "gpu", "pages", "canary", "release"}


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_fit_the_schema(schema):
    tool("check-jsonschema", "--builtin-schema", schema, *map(str, WORKFLOWS))


def test_workflows_pass_the_security_audit():
    tool("zizmor", "--offline", "--quiet", ".github/workflows")


def unknown_needs(jobs):
    """Jobs that others wait for and that are not there; the schema cannot see this."""
    needs = [job.get("needs", []) for job in jobs.values()]
    named = {name for need in needs for name in ([need] if isinstance(need, str) else need)}
    return named - jobs.keys()


def test_a_wrong_need_would_be_seen():
    jobs = {"a": {}, "b": {"needs": "a"}, "c": {"needs": ["b", "aa"]}, "d": {"needs": "bb"}}
    assert unknown_needs(jobs) == {"aa", "bb"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_jobs_pins_and_commands_exist(path):
    text = path.read_text()
    # YAML 1.1 reads the key `on` as true.
    jobs = yaml.safe_load(text)["jobs"]
    assert unknown_needs(jobs) == set()
    for action in re.findall(r"uses: (.+)", text):
        local = re.match(r"\./(\S+)", action)
        assert (ROOT / local[1]).exists() if local else re.fullmatch(PINNED, action), action
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"run: make ([a-z]+)", text)) <= set(targets)


# By commit, because a tag can be moved, with the release for the eye.
PINNED = r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"


def test_one_commit_per_action():
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (\w\S+ # .+)", path.read_text())}
    assert len(used) == len({line.split("@")[0] for line in used})


def test_continuous_integration_is_a_bash_script_that_runs_the_tests():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().splitlines()[-1] == "exec make --no-print-directory test"


def test_make_alone_lists_the_commands():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("env", "book", "test", "lab", "serve", "bench", "lint", "lock", "clean"):
        assert re.search(rf"^  make {target} +\S", shown, re.M), target


# -- what the documents name ------------------------------------------------------------------

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "book/intro.md")
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def code_in(text):
    """The pieces of text that are set as code, line by line."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.S | re.M)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_that_documents_name_exist(name):
    code = code_in((ROOT / name).read_text(encoding="utf-8"))
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    made = {word for line in code for word in re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z]+)", line)}
    assert made <= TARGETS
    assert {word for line in code for word in re.findall(r"(?:^|/)kexue ([a-z]+)", line)} <= commands
    assert made


def test_commands_that_messages_name_exist():
    named = [
        re.findall(r"`make (?:[A-Z]+=[^\s{]+ )*([a-z]+)", path.read_text())
        for path in ROOT.glob("tools/*.py")
    ]
    assert {"lock", "env"} <= set().union(*named) <= TARGETS


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_documents_name_exist(name):
    code = code_in((ROOT / name).read_text(encoding="utf-8"))
    paths = {text for text in code if re.fullmatch(r"[\w./-]+\.(?:md|py|yml|lock|cff)|[\w-]+/", text)}
    assert {path for path in paths if not (ROOT / path).exists()} <= {".venv/"}
    assert paths


# -- what must not be in the repository -------------------------------------------------------


def test_no_notebook_is_committed():
    assert [str(path) for path in sources() if path.suffix == ".ipynb"] == []


def test_no_large_file():
    assert {str(path): size for path in sources() if (size := path.stat().st_size) > 1e6} == {}


def test_no_path_of_somebodys_machine():
    home = re.compile(rb"(?:/home/|/Users/|/root/|[A-Z]:\\Users\\)\w")
    assert [str(path) for path in sources() if home.search(path.read_bytes())] == []


def test_json_and_yaml_can_be_read():
    for path in sources():
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".yml", ".yaml", ".cff"):
            yaml.safe_load(path.read_text(encoding="utf-8"))
