"""The digits are the ones of scikit-learn, whole, and the text is Python's; nobody can spoil them."""

import sysconfig
from pathlib import Path

import pytest
import torch

from kexue_lib import data
from kexue_lib.data import Images, digits, digits_split, standard_library_text


def test_the_digits_are_grey_and_labelled():
    whole = digits()
    assert whole.images.shape == (1797, 64)
    assert whole.images.dtype == torch.float32
    assert (whole.images.min(), whole.images.max()) == (0, 1)
    assert sorted(set(whole.labels.tolist())) == list(range(10))


def test_the_parts_are_disjoint_complete_and_balanced():
    learn, judged = digits_split()
    assert len(learn) + len(judged) == 1797
    rows = torch.cat([learn.images, judged.images])
    assert torch.equal(rows.sum(0), digits().images.sum(0))
    shares = [torch.bincount(part.labels) / len(part) for part in (learn, judged)]
    assert (shares[0] - shares[1]).abs().max() < 0.02


def test_a_change_does_not_reach_the_next_reader():
    digits().images.zero_()
    assert digits().images.max() == 1


def test_parts_keep_pictures_and_labels_together():
    whole, (learn, judged) = digits(), digits_split()
    assert (len(learn), len(judged)) == (1198, 599)
    assert torch.equal(judged.labels, whole.labels[2::3])
    chosen = whole[torch.tensor([5, 9])]
    assert torch.equal(chosen.labels, whole.labels[[5, 9]])
    assert torch.equal(chosen.images, whole.images[[5, 9]])
    whole.labels.zero_()
    assert digits().labels.max() == 9


def test_pictures_need_their_labels():
    with pytest.raises(ValueError, match="images and labels"):
        Images(torch.zeros(3, 64), torch.zeros(4))


# -- text of the standard library ------------------------------------------------------------------


def source(name):
    """Return the first 2000 bytes of the source of a module."""
    return (Path(sysconfig.get_path("stdlib")) / name).read_bytes().replace(b"\r\n", b"\n")[:2000]


def test_a_module_is_learned_or_held_out_and_never_both():
    text = standard_library_text(10**8, 10**8)
    learn, judged = (part.numpy().tobytes() for part in (text.train, text.held_out))
    assert len(learn) > 2 * len(judged) > 1_200_000
    parts = {}
    for name in ("argparse", "ast", "dataclasses", "inspect", "os", "pathlib", "random", "typing", "weakref"):
        if (Path(sysconfig.get_path("stdlib")) / f"{name}.py").exists():
            parts[name] = (source(f"{name}.py") in learn, source(f"{name}.py") in judged)
    assert set(parts.values()) == {(True, False), (False, True)}
    packages = [
        (source(name) in learn, source(name) in judged) for name in ("json/decoder.py", "email/message.py")
    ]
    assert all(a != b for a, b in packages)


def test_sizes_cut_from_the_end():
    whole, short = standard_library_text(), standard_library_text(1000, 50)
    assert len(whole.train) == 4_000_000 and 600_000 < len(whole.held_out) <= 1_000_000
    assert whole.train.dtype == torch.uint8
    assert torch.equal(short.train, whole.train[:1000])
    assert torch.equal(short.held_out, whole.held_out[:50])
    short.train.zero_()
    assert torch.equal(standard_library_text(1000, 50).train, whole.train[:1000])


def library(folder, *names, text=b"x = 1\r\n"):
    """Write files of a pretended standard library."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"# {name}".encode() + text)
    data._module_sources.cache_clear()
    return data._module_sources(folder)


def test_modules_come_in_order_without_tests_and_strangers(tmp_path):
    root = tmp_path / "tests"  # what lies above does not matter
    found = library(
        root,
        "os.py",
        "abc.py",
        "json/decoder.py",
        "json/__init__.py",
        "json/tests/test_all.py",
        "json/deep/tool.py",
        "test/support.py",
        "idlelib/help.py",
        "encodings/cp1251.py",
        "site-packages/other.py",
        "stranger.py",
        "json/data.txt",
    )
    assert list(found) == ["abc", "json", "os"]
    assert found["abc"] == b"# abc.pyx = 1\n"
    names = ["__init__", "decoder", "deep/tool"]
    assert found["json"] == b"".join(f"# json/{name}.pyx = 1\n".encode() for name in names)


def test_every_fifth_module_is_held_out(tmp_path, monkeypatch):
    names = ["abc", "ast", "bdb", "cgi", "cmd", "csv", "dis", "heapq", "json", "os", "re", "uuid"]
    names = [name for name in names if name in data.sys.stdlib_module_names]
    library(tmp_path, *(f"{name}.py" for name in names), text=b"\n" * 500_000)
    monkeypatch.setattr(data.sysconfig, "get_path", lambda kind: str(tmp_path))
    text = standard_library_text(10**8, 10**8)
    held, learn = (
        [name for name in names if f"# {name}.py".encode() in part.numpy().tobytes()]
        for part in (text.held_out, text.train)
    )
    assert held == names[4::5] and sorted(held + learn) == names


def test_a_python_without_sources_is_named(tmp_path, monkeypatch):
    library(tmp_path, "os.py", "abc.py")
    monkeypatch.setattr(data.sysconfig, "get_path", lambda kind: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="sources of Python's standard library are not in") as error:
        standard_library_text()
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1.5, 1), (-1, 1)])
def test_sizes_of_the_text_are_positive_integers(sizes):
    with pytest.raises(ValueError, match="_bytes = "):
        standard_library_text(*sizes)
