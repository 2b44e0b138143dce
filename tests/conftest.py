"""A book of one tiny chapter, for tests of everything that handles chapters; and where networks are kept."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

# What the chapters trained serves the tests as well: `make test` executes the chapters first.
os.environ["KEXUE_CACHE"] = str(Path(__file__).resolve().parents[1] / "out" / "cache")
# The addresses of the published book are not those of the books that tests build.
os.environ.pop("KEXUE_BASEURL", None)
os.environ.pop("KEXUE_REPOSITORY", None)

TOOLS = Path(__file__).resolve().parents[1] / "tools"
DEMO = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A demonstration

Twice the size is {record}`double:d`, and `code` stays.

```{code-cell} ipython3
:tags: [parameters]

size: int = 3  # how many
share: float = 0.5
mode: str = "plain"
```

```{code-cell} ipython3
:tags: [validate]

from kexue_lib.parameters import Choice, Integer, Real, validate

validate(
    size=Integer(size, "how many", 1, 9),
    share=Real(share, "which part", 0, 1),
    mode=Choice(mode, "how", "plain", "broken", "wrong", "slow", "killed"),
    rules={"size must not be 7": lambda: size != 7},
)
```

```{code-cell} ipython3
import os
import signal
import time

from kexue_lib.record import Record
from kexue_lib.verify import CheckFailed, compute

if mode == "slow":
    time.sleep(60)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "broken":
    raise CheckFailed("eq-demo: off by one")
compute("eq-demo", "sum", lambda m: sum(range(m if mode != "wrong" else undefined)),
        lambda m: m * (m - 1) // 2, over=range(size),
        refutes={"one term too many": lambda m: m * (m + 1) // 2 + 1})
Record({"double": (2 * size, "twice the size")})
```
"""


@pytest.fixture
def demo_book(tmp_path, monkeypatch):
    """Return the folder of a book whose only chapter is ``demo``."""
    root = tmp_path / "a book"
    (root / "book").mkdir(parents=True)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- caption: P\n  chapters:\n  - file: book/demo\n", "utf-8"
    )
    (root / "book" / "intro.md").write_text("# Intro\n", "utf-8")
    (root / "book" / "demo.md").write_text(DEMO, "utf-8")
    monkeypatch.setenv("KEXUE_BOOK", str(root))
    return root


@pytest.fixture(scope="session")
def printer():
    """Return a function that loads tools/pdf.py or tools/epub.py as a module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"kexue_{name}", TOOLS / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(TOOLS)
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def at_work():
    """Return a function that gives such a module back if there is a browser and a book to print from."""

    def check(module):
        # In continuous integration there must be a browser.
        if not os.environ.get("CI") and not any(map(shutil.which, module.built.PROGRAMS)):
            pytest.skip("no browser: install chromium to run these tests")
        pytest.importorskip("playwright.sync_api")
        if not module.built.HTML.is_dir():
            pytest.fail(f"{module.built.HTML} is missing: run `make book` first")
        return module

    return check
