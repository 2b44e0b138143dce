"""Real data that is already on every reader's machine."""

import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kexue_lib.arguments import integer, refuse


@dataclass(frozen=True)
class Images:
    """Pictures and what they show: ``images`` float32 (n, pixels) in [0, 1], ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 2 or self.labels.shape != self.images.shape[:1]:
            shapes = tuple(self.images.shape), tuple(self.labels.shape)
            raise refuse("images and labels", shapes, "shapes (n, pixels) and (n,)")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])


@cache
def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Images(torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target).long())


def digits() -> Images:
    """Return the 1797 handwritten digits of 8 x 8 grey pixels that ship with scikit-learn.

    They are the test part of Alpaydin and Kaynak's optical recognition data (UCI, 1998).

    Examples
    --------
    >>> len(digits()), digits().images.shape, float(digits().images.max())
    (1797, torch.Size([1797, 64]), 1.0)
    """
    whole = _digits()
    return Images(whole.images.clone(), whole.labels.clone())  # nobody can spoil them for the next cell


def digits_split() -> tuple[Images, Images]:
    """Return 1198 digits to learn from and 599 to be judged by (every third), the same for everyone."""
    whole = digits()
    held_out = torch.arange(len(whole)) % 3 == 2
    return whole[~held_out], whole[held_out]


# Modules that are tables, manuals or programs rather than a library, or that some systems ship apart.
LEFT_OUT = {
    "distutils",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "tkinter",
    "turtledemo",
}
TESTS = {"idle_test", "test", "tests"}


@dataclass(frozen=True)
class Text:
    """Bytes to learn from and bytes to be judged by: ``train`` and ``held_out``, uint8 (n,)."""

    train: Tensor
    held_out: Tensor


@cache
def _module_sources(root: Path) -> dict[str, bytes]:
    """Return the sources of each top-level module below a folder, in the order of their names."""
    found = {}
    for name in sorted(sys.stdlib_module_names - LEFT_OUT - TESTS):
        files = [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]
        kept = [file for file in files if file.is_file() and not TESTS & set(file.relative_to(root).parts)]
        if kept:
            found[name] = b"".join(file.read_bytes().replace(b"\r\n", b"\n") for file in kept)
    return found


def standard_library_text(train_bytes: int = 4_000_000, held_out_bytes: int = 1_000_000) -> Text:
    """Return source code of Python's standard library: real text on every reader's machine.

    Whole top-level modules in the order of their names, of which every fifth is held out, without tests,
    tables and manuals; cut to the given sizes. The same for everyone with the same version of Python.

    Parameters
    ----------
    train_bytes, held_out_bytes : int
        How many bytes to keep at most, from the start.

    Raises
    ------
    ValueError
        If a size is not a positive integer.
    FileNotFoundError
        If this Python came without the sources of its library.

    Examples
    --------
    >>> text = standard_library_text(60_000, 60_000)
    >>> b"import sys" in bytes(text.train.tolist()), len(text.held_out)
    (True, 60000)
    """
    train_bytes = integer("train_bytes", train_bytes, 1)
    held_out_bytes = integer("held_out_bytes", held_out_bytes, 1)
    root = Path(sysconfig.get_path("stdlib"))
    modules = list(_module_sources(root).values())
    parts = [
        b"".join(kept)
        for kept in ([m for i, m in enumerate(modules) if (i % 5 == 4) is out] for out in (False, True))
    ]
    if min(map(len, parts)) < 500_000:
        raise FileNotFoundError(
            f"the sources of Python's standard library are not in {str(root)!r}: use a Python that has them"
        )
    train, held_out = (
        torch.frombuffer(bytearray(part[:size]), dtype=torch.uint8)
        for part, size in zip(parts, (train_bytes, held_out_bytes), strict=True)
    )
    return Text(train, held_out)
