"""Make .venv/: torch, then the locked packages, then this project.  `make env` runs it.

Standard library only, because it runs with the system's Python, whatever that is: it must parse on
an old one (3.6) to be able to say that a newer one is needed.

Every step leaves a stamp in .venv/.stamps, a hash of all that the step and those before it depend
on.  A step whose stamp fits is skipped, so an interrupted installation goes on where it was and a
finished one costs a moment.  pip's words go to .venv/install.log; what a reader sees of a failure
is one sentence with the remedy.

Environment variables, all optional (make hands over those of its command line):
    PYTHON   the interpreter the environment is for; another one than before means a new .venv
    TORCH    what pip installs as torch, with options if need be; remembered in .venv, for example
             "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
    LATEST   if set, the newest release of everything instead of the lock (for the weekly canary)
pip's own configuration is passed through untouched.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / ".stamps"
CHOICE = STAMPS / "torch-choice"
LOG = VENV / "install.log"
LOCK = ROOT / "requirements.lock"

NEEDED = (3, 11)
TORCH = "torch==2.13.0"
# pip would compile every file of every package, for a minute; Python compiles what is imported, when it is.
INSTALL = ("install", "--no-compile")
SPACE = 3e9  # bytes: 1.8 GB installed, the rest for unpacking; a CUDA build of torch needs more

# The canary takes everything as new as it comes, within what the book's tools can be at all.
CEILINGS = ("jupyter-book<2", "sphinx<8")

# JupyterLab opens the chapters as notebooks on a double click, and asks no server for news.
LAB = {
    "@jupyterlab/docmanager-extension:plugin": {
        "defaultViewers": {"markdown": "Jupytext Notebook", "myst": "Jupytext Notebook"}
    },
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}

# What pip writes, and what it means.  First match wins: a full disk or a wrong hash comes with
# network noise more often than the other way round.
DISK = "the disk is full: free some space (about 3 GB are needed, also in TMPDIR)"
SYMPTOMS = (
    (r"No space left on device|Errno 28\b|Disk quota exceeded", DISK),
    (
        r"all requirements must have their versions pinned|Hashes are required in --require-hashes mode"
        r"|have a way to hash version control|requirements because they point to directories",
        "requirements.lock misses a version or a hash of something that is needed: restore it with "
        "`git checkout requirements.lock` or, if requirements.in was changed, make it anew with `make lock`",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "requirements.lock and the packages that came differ (hashes): restore the lock with "
        "`git checkout requirements.lock`, and if it was untouched do not trust that package index",
    ),
    (
        r"Invalid requirement|Could not parse|requirements\.lock: error|UnicodeDecodeError",
        "{what} cannot be read as requirements: put right or restore it "
        "(`git checkout requirements.lock` for the lock)",
    ),
    (
        r"Failed to establish a new connection|NewConnectionError|ConnectTimeout|Read timed out"
        r"|name resolution|Connection (?:refused|reset|aborted)|ProxyError|SSLError"
        r"|CERTIFICATE_VERIFY_FAILED|Network is unreachable|RemoteDisconnected",
        "the package index cannot be reached: check the network, the proxy (HTTPS_PROXY) and pip's "
        "settings (`{pip} config list`)",
    ),
    (
        r"No matching distribution found for (?P<name>\S+)",
        "no release of {name} fits Python {version} on this platform: try another Python "
        "(`make PYTHON=python3.12 env`) or, for torch, another build (`make TORCH=... env`)",
    ),
)


class Failure(Exception):
    """What went wrong and how to put it right, in one sentence."""


def main(arguments):
    """Bring .venv up to date; the exit status is 0, 1 (failed), 2 (usage) or 130 (interrupted)."""
    if arguments:
        print("usage: python tools/env.py   (no arguments; see its first lines)", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone():
            install()
    except Failure as failure:
        print(f"env: {failure}.", file=sys.stderr)
        return 1
    except OSError as failure:
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = DISK if full else f"{failure}: put that right and run the same command again"
        print(f"env: {remedy}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("env: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def install():
    """Run the steps whose stamps do not fit."""
    began = time.monotonic()
    choice = os.environ.get("TORCH", "").strip() or read(CHOICE)
    torch = choice or TORCH
    done = True
    reason = ailment()
    if reason:
        announce()
        create(reason)
        done = False
    STAMPS.mkdir(exist_ok=True)
    key = read(VENV / "pyvenv.cfg")
    for name, label, ingredient, action in (
        ("torch", torch, torch, lambda: install_torch(torch)),
        ("packages", *packages()),
        ("project", "this project, editable", read(ROOT / "pyproject.toml"), install_project),
        ("lab", "JupyterLab settings", json.dumps(LAB), install_lab_settings),
        ("check", "check that they fit together", "", check),
    ):
        key = hashlib.sha256(f"{key}\n{name}\n{ingredient}".encode()).hexdigest()
        stamp = STAMPS / name
        if read(stamp) == key:
            continue
        if done:
            announce()
            tidy()
            done = False
        if choice and name == "torch":
            CHOICE.write_text(choice)
        with timed(label):
            action()
        stamp.write_text(key)
    if not done:
        print(f"environment ready in {time.monotonic() - began:.0f} s", flush=True)


# -- the virtual environment ------------------------------------------------------------------


def ailment():
    """Why .venv has to be made (anew), or an empty string."""
    if not VENV.exists():
        return "new"
    if not os.access(str(PYTHON), os.X_OK):
        return "its Python is gone"
    wanted = "{}.{}".format(*sys.version_info[:2])
    if os.environ.get("PYTHON") and not venv_version().startswith(wanted + "."):
        return f"it has Python {venv_version()}, PYTHON is {wanted}"
    # Scripts hold the path of their interpreter: a copied or moved folder would run the old one.
    script = read(VENV / "bin" / "pip")
    home = re.search(r"(/[^\"'\n]*)/bin/python", script)
    if home and not (os.path.exists(home[1]) and os.path.samefile(home[1], str(VENV))):
        return "the folder was moved or copied"
    # Not with `-m pip --version`, which takes five times as long; this runs at every `make`.
    probe = [str(PYTHON), "-c", "import pip"]
    if subprocess.call(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        return "it is incomplete"
    return ""


def create(reason):
    """Make an empty virtual environment in place of whatever is there."""
    require_python()
    require_space()
    again = "" if reason == "new" else f", made anew because {reason}"
    with timed(f".venv with Python {sys.version.split()[0]}{again}"):
        # --clear also empties what an interrupted run or a link to another disk left behind.
        command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        made = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    text = made.stdout.decode(errors="replace")
    if made.returncode == 0:
        return
    if re.search(SYMPTOMS[0][0], text):
        raise Failure(DISK)
    if re.search("ensurepip|No module named '?venv", text):
        raise Failure(
            f"the Python at {sys.executable} comes without a complete venv module: install it "
            "(Debian, Ubuntu: `apt install python{}.{}-venv`)".format(*sys.version_info[:2])
            + " and run the same command again"
        )
    raise Failure(f"`{shlex.quote(sys.executable)} -m venv` failed: {last_line(text)}")


def require_python():
    """Refuse a Python that is too old, and name a better one that is here."""
    if sys.version_info >= NEEDED:
        return
    names = [f"python3.{minor}" for minor in (13, 12, 11, 14)]
    found = [name for name in names if runs(name)]
    raise Failure(
        "Python {}.{} or newer is needed and ".format(*NEEDED)
        + "{} is {}.{}.{}: ".format(sys.executable, *sys.version_info[:3])
        + ("" if found else "install one and ")
        + f"point to it, for example `make PYTHON={(found or names)[0]} book`"
    )


def runs(name):
    """Say whether there is a program of this name that starts (a pyenv shim may not)."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return bool(shutil.which(name)) and subprocess.call([name, "-c", ""], **quiet) == 0


def require_space():
    """Refuse to begin on a disk that will be full before the end."""
    free = shutil.disk_usage(str(ROOT)).free
    if free < SPACE:
        raise Failure(
            f"about {SPACE / 1e9:.0f} GB are needed for the environment and the disk that holds "
            f"{ROOT} has {free / 1e9:.1f} GB free: make room and run the same command again"
        )


def venv_version():
    """The version of the Python that .venv was made with."""
    found = re.search(r"^version(?:_info)? *= *(\S+)", read(VENV / "pyvenv.cfg"), re.MULTILINE)
    return found[1] if found else "?"


# -- what goes into it ------------------------------------------------------------------------


def install_torch(requirement):
    """Torch first and alone: the CPU or a CUDA build, not in the lock because it is a choice."""
    if (STAMPS / "torch").exists() or os.environ.get("TORCH"):
        # To pip, the CPU and the CUDA build of one version are the same requirement, satisfied.
        forget("torch")
        pip("torch", "uninstall", "--yes", "torch")
    try:
        words = shlex.split(requirement)
    except ValueError:
        raise Failure(f"TORCH is {requirement!r}, which has an open quotation mark") from None
    pip(f"TORCH ({requirement})", *INSTALL, *words)


def packages():
    """Label, ingredient and action of the step that installs everything else."""
    if not os.environ.get("LATEST"):
        if not LOCK.exists():
            raise Failure("requirements.lock is missing: `git checkout requirements.lock`")
        options = (*INSTALL, "--require-hashes", "-r", LOCK.name)
        return "the packages of requirements.lock", read(LOCK), lambda: pip(LOCK.name, *options)
    names = re.sub(r"==\S+", "", read(ROOT / "requirements.in"))
    wanted = VENV / "latest.txt"

    def newest():
        wanted.write_text("\n".join([names, *CEILINGS, ""]))
        pip("requirements.in", *INSTALL, "--upgrade", "-r", str(wanted))

    return "the newest packages", names, newest


def install_project():
    """Editable, and apart from the lock: a folder has no hash."""
    pip("pyproject.toml", "install", "--no-deps", "--no-build-isolation", "--editable", ".")


def install_lab_settings():
    """Write JupyterLab's settings into the environment, not into the reader's home."""
    folder = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kexue.json").write_text(json.dumps(LAB, indent=2) + "\n")


def check():
    """Let pip look for packages that miss or contradict each other."""
    pip("the environment", "check")


def announce():
    """Say what begins."""
    print("environment in .venv (a few minutes; pip's words in .venv/install.log)", flush=True)


def tidy():
    """Clear up after a run that was cut off."""
    LOG.write_text("")
    # pip writes RECORD last.  Without it a package looks installed and is not: pip would skip it.
    for folder in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(str(folder))


# -- running pip ------------------------------------------------------------------------------


def pip(what, *arguments):
    """Run pip in .venv, into the log; `what` names its subject if it fails."""
    command = [str(PYTHON), "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    with LOG.open("ab") as log:
        log.write(f"\n$ pip {' '.join(map(shlex.quote, arguments))}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command,
            cwd=str(ROOT),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            close_fds=False,  # see `alone`
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if code:
        raise Failure(diagnose(what, code, LOG.read_bytes()[start:].decode(errors="replace")))


def diagnose(what, code, text):
    """Turn what pip wrote before it failed into one sentence."""
    for pattern, meaning in SYMPTOMS:
        found = re.search(pattern, text)
        if found:
            facts = dict(found.groupdict(), what=what, version=venv_version(), pip=".venv/bin/pip")
            return meaning.format(**facts) + "; then run the same command again"
    if code < 0:
        return (
            f"pip was killed by signal {-code} while it worked on {what} (memory may have run out):"
            " run the same command again"
        )
    return f"pip failed on {what}, all it said is in .venv/install.log, last: {last_line(text)}"


def last_line(text):
    """Return the last line that states an error, or else the last that is not empty."""
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()] or ["nothing"]
    return ([line for line in lines if re.match(r"\w*(Error|ERROR): ", line)] or lines)[-1]


# -- small things -----------------------------------------------------------------------------


@contextlib.contextmanager
def timed(label):
    """Print a line for a step: its label at once, its time at the end."""
    began = time.monotonic()
    print(f"  {label:<44} ", end="", flush=True)
    try:
        yield
    except BaseException:
        print("stopped", flush=True)
        raise
    print(f"{time.monotonic() - began:4.0f} s", flush=True)


@contextlib.contextmanager
def alone():
    """Hold the project's folder, so that two commands at once do not install over each other.

    pip holds it too: should this process be killed, the next command waits for the pip it leaves.
    """
    import fcntl  # not on Windows, where this would be run in WSL

    handle = os.open(str(ROOT), os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("environment: another command is at it, waiting", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # some network disks cannot lock; then it is up to the reader
        yield
    finally:
        os.close(handle)


def forget(name):
    """Remove a stamp, so that the step runs again if it is cut off."""
    with contextlib.suppress(FileNotFoundError):
        (STAMPS / name).unlink()


def read(path):
    """Return the text of a file, or nothing if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
