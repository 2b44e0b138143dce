"""Data sets from a server on the loopback address: only the right bytes are taken, whatever happens."""

import errno
import gzip
import hashlib
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from kexue_lib import datasets, ddpm
from kexue_lib.datasets import DatasetError, Source, fetch

BYTES = np.random.default_rng(1)


class Server(ThreadingHTTPServer):
    """Serves `files` by path; what `breaks` names is cut off after so many bytes, once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.asked, self.ranges = {}, {}, [], True

    def url(self, file):
        return f"http://127.0.0.1:{self.server_port}/{file}"

    def source(self, file, content, **changes):
        """Serve a file; return what is said of it."""
        self.files[file] = content
        told = Source("toys", file, hashlib.sha256(content).hexdigest(), len(content), (self.url(file),))
        return replace(told, **changes)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, start = self.path[1:], 0
        self.server.asked.append((name, self.headers.get("Range")))
        if name not in self.server.files:
            return self.send_error(404)
        content = self.server.files[name]
        if (wanted := self.headers.get("Range")) and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.breaks.pop(name, None)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "data"


def kept(folder):
    return sorted(file.name for file in folder.iterdir())


# -- fetching --------------------------------------------------------------------------------------

CONTENT = BYTES.bytes(400_000)


def test_a_file_is_fetched_once_and_then_nobody_is_asked(server, folder):
    source = server.source("a.bin", CONTENT)
    assert fetch(source).read_bytes() == CONTENT
    assert server.asked == [("a.bin", None)]
    server.files.clear()
    assert fetch(source) == folder / "a.bin"
    assert len(server.asked) == 1
    assert kept(folder) == ["a.bin"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server, folder):
    source = server.source("a.bin", CONTENT)
    fetch(source).write_bytes(CONTENT[:-1] + b"!")
    assert fetch(source).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_broken_transfer_is_told_kept_and_continued(server, folder):
    source = server.source("a.bin", CONTENT)
    server.breaks["a.bin"] = 300_000
    with pytest.raises(DatasetError, match=r"toys could not be fetched \(http://127.*a.bin: .* broke off\)"):
        fetch(source)
    assert kept(folder) == ["a.bin.part"]
    some = (folder / "a.bin.part").stat().st_size
    assert 0 < some <= 300_000
    assert fetch(source).read_bytes() == CONTENT
    assert server.asked[1:] == [("a.bin", f"bytes={some}-")]
    assert kept(folder) == ["a.bin"]


def test_a_server_that_cannot_continue_sends_the_whole(server, folder):
    source = server.source("a.bin", CONTENT)
    server.breaks["a.bin"], server.ranges = 300_000, False
    with pytest.raises(DatasetError):
        fetch(source)
    assert fetch(source).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [b"x" * 100, CONTENT[:100_000] + b"!"])
def test_what_is_kept_is_no_obstacle_if_it_was_wrong(server, folder, rest):
    source = server.source("a.bin", CONTENT)
    folder.mkdir(parents=True)
    (folder / "a.bin.part").write_bytes(rest)
    with pytest.raises(DatasetError, match="another checksum"):
        fetch(source)
    assert kept(folder) == []
    assert fetch(source).read_bytes() == CONTENT


def test_a_server_with_less_than_is_there_is_no_obstacle(server, folder):
    source = server.source("a.bin", CONTENT)
    folder.mkdir(parents=True)
    (folder / "a.bin.part").write_bytes(CONTENT[:300_000])
    server.files["a.bin"] = CONTENT[:200_000]
    with pytest.raises(DatasetError, match="the server says 416"):
        fetch(source)
    assert kept(folder) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (CONTENT[:-1], "its file has 399,999 bytes instead of 400,000"),
        (b"<html>Please log in</html>", "its file has 26 bytes instead of"),
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "its file has another checksum"),
        (CONTENT + b"x", "400,001 bytes instead of 400,000"),
    ],
)
def test_another_file_is_refused_and_not_kept(server, folder, wrong, sentence):
    source = server.source("a.bin", CONTENT)
    server.files["a.bin"] = wrong
    with pytest.raises(DatasetError, match=sentence) as error:
        fetch(source)
    assert "\n" not in str(error.value) and "try again" in str(error.value)
    assert kept(folder) == []
    server.files["a.bin"] = CONTENT
    assert fetch(source).read_bytes() == CONTENT


def test_the_next_address_is_asked(server):
    source = server.source("a.bin", CONTENT)
    source = replace(source, urls=(server.url("gone"), server.url("a.bin")))
    assert fetch(source).read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == ["gone", "a.bin"]


def test_what_each_address_said_is_told(server, folder):
    source = server.source("a.bin", CONTENT, urls=(server.url("gone"), server.url("b.bin")))
    server.files["b.bin"] = b"?"
    with pytest.raises(DatasetError, match=r"gone: the server says 404; .*b.bin: its file has 1 bytes"):
        fetch(source)


def test_a_server_that_is_gone(server, folder):
    source = server.source("a.bin", CONTENT)
    server.shutdown()
    server.server_close()
    with pytest.raises(DatasetError, match=r"toys could not be fetched \(http://127.*: no connection"):
        fetch(source)
    assert kept(folder) == []


def test_a_full_disk(server, folder, monkeypatch):
    source = server.source("a.bin", CONTENT, urls=(server.url("a.bin"),) * 2)

    class Full(io.FileIO):
        def write(self, block):
            if self.tell() >= 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block)

    monkeypatch.setattr(datasets, "open", Full, raising=False)
    with pytest.raises(DatasetError, match=r"toys cannot be kept in '.*': No space left.*0\.4 MB") as error:
        fetch(source)
    assert str(folder) in str(error.value) and "KEXUE_CACHE" in str(error.value)
    assert len(server.asked) == 1  # another server would not help
    assert kept(folder) == ["a.bin.part"]
    monkeypatch.undo()
    monkeypatch.setenv("KEXUE_CACHE", str(folder.parent))
    assert fetch(source).read_bytes() == CONTENT


def test_a_folder_that_cannot_be(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match=r"toys cannot be kept in .*file"):
        fetch(server.source("a.bin", CONTENT))
    assert server.asked == []


def test_a_folder_that_may_not_be_written(server, monkeypatch):
    import pooch

    def refused(path, **_):
        raise PermissionError(f"no right to write to {path}")

    monkeypatch.setattr(pooch.core, "make_local_storage", refused)
    with pytest.raises(DatasetError, match=r"cannot be kept in .*: no right to write;"):
        fetch(server.source("a.bin", CONTENT))


def test_the_users_cache_without_the_variable(server, monkeypatch, tmp_path):
    monkeypatch.delenv("KEXUE_CACHE")
    monkeypatch.setattr(datasets, "user_cache_path", lambda name: tmp_path / name)
    assert fetch(server.source("a.bin", CONTENT)) == tmp_path / "kexue" / "data" / "a.bin"


def test_importing_needs_neither_pooch_nor_a_network():
    code = (
        "import sys, socket; socket.socket.connect = None;"
        "from kexue_lib import datasets; datasets.images('digits');"
        "sys.exit(bool({'pooch', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_published_has_the_form_of_a_checksum():
    known = [*datasets.MNIST.values(), datasets.CIFAR10, datasets.TEXT8, datasets.WIKITEXT103]
    assert len({source.sha256 for source in known}) == len({source.file for source in known}) == 7
    for source in known:
        assert re.fullmatch("[0-9a-f]{64}", source.sha256) and source.size > 4000 and source.urls
        assert all(source.file in url for url in source.urls)


# -- pictures --------------------------------------------------------------------------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def mnist_of(server, **spoiled):
    """Serve thirty and twenty grey pictures in MNIST's format; return sources and arrays."""
    arrays, sources = {}, {}
    for part, count in (("train", 30), ("t10k", 20)):
        arrays[f"{part}-images-idx3"] = BYTES.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1"] = BYTES.integers(0, 10, count, np.uint8)
    for name, array in arrays.items():
        raw = spoiled.get(name.replace("-", "_"), lambda raw: raw)(idx(array))
        sources[f"{name}-ubyte.gz"] = server.source(f"{name}-ubyte.gz", gzip.compress(raw))
    return sources, arrays


def test_mnist(server):
    sources, arrays = mnist_of(server)
    learn, judged = datasets.mnist(sources=sources)
    assert learn.images.shape == (30, 784) and judged.images.shape == (20, 784)
    assert learn.images.dtype == torch.float32
    back = (learn.images * 255).round().byte().numpy().reshape(30, *datasets.SHAPES["mnist"])
    assert np.array_equal(back, arrays["train-images-idx3"])
    assert judged.labels.tolist() == arrays["t10k-labels-idx1"].tolist()
    some, few = datasets.mnist(7, 3, sources)
    assert torch.equal(some.images, learn.images[:7]) and torch.equal(few.labels, judged.labels[:3])
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("file", "spoil", "sentence"),
    [
        ("train_images_idx3", lambda raw: b"\0\0\r" + raw[3:], "not an IDX file of bytes with 3 axes"),
        ("train_labels_idx1", lambda raw: raw[:3] + b"\2" + raw[4:], "not an IDX file of bytes with 1 axes"),
        ("t10k_images_idx3", lambda raw: raw[:10], "not an IDX file"),
        ("train_images_idx3", lambda raw: raw[:-1], r"has 23,535 bytes, not those of \[30, 28, 28\]"),
        ("train_images_idx3", lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "not those of"),
        ("train_labels_idx1", lambda raw: raw + b"\0", "not those of"),
        ("train_labels_idx1", lambda raw: raw[:-1] + b"\n", "a label from 0 to 9 for each picture"),
        (
            "train_labels_idx1",
            lambda raw: idx(np.zeros(29, np.uint8)),
            "a label from 0 to 9 for each picture",
        ),
    ],
)
def test_idx_files_that_are_not_what_they_say(server, file, spoil, sentence):
    sources, _ = mnist_of(server, **{file: spoil})
    with pytest.raises(DatasetError, match=sentence):
        datasets.mnist(sources=sources)


def test_a_file_that_is_no_gzip(server):
    sources, _ = mnist_of(server)
    for content in (b"no gzip", gzip.compress(CONTENT)[:-9]):
        sources["t10k-labels-idx1-ubyte.gz"] = server.source("t10k-labels-idx1-ubyte.gz", content)
        with pytest.raises(DatasetError, match=r"toys: t10k-labels-idx1-ubyte.gz cannot be read: "):
            datasets.mnist(sources=sources)


def tar(members):
    """Return a tar.gz of names and contents; a tuple is a link of a type to a target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def batches(count=4):
    """Return the members of an archive like CIFAR's binary one, and what is in them."""
    labels = BYTES.integers(0, 10, (6, count), np.uint8)
    pixels = BYTES.integers(0, 256, (6, count, 3, 32, 32), np.uint8)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    return {
        f"cifar-10-batches-bin/{name}.bin": np.concatenate(
            [labels[k, :, None], pixels[k].reshape(count, -1)], 1
        ).tobytes()
        for k, name in enumerate(names)
    }, (labels, pixels)


def test_cifar10(server):
    members, (labels, pixels) = batches()
    others = {"cifar-10-batches-bin/readme.html": b"hello", "cifar-10-batches-bin/batches.meta.txt": b"cat\n"}
    learn, judged = datasets.cifar10(source=server.source("c.tar.gz", tar(others | members)))
    assert (len(learn), len(judged)) == (20, 4)
    assert torch.equal(learn.labels, torch.tensor(labels[:5].reshape(-1)).long())
    shown = (judged.images * 255).round().byte().numpy().reshape(4, *datasets.SHAPES["cifar10"])
    assert np.array_equal(shown[..., 2], pixels[5, :, 2])  # blue
    some, few = datasets.cifar10(6, 1, server.source("c.tar.gz", tar(members)))
    assert torch.equal(some.images, learn.images[:6]) and torch.equal(few.images, judged.images[:1])


@pytest.mark.parametrize("link", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_a_link_is_refused(server, link, tmp_path):
    members, _ = batches()
    (tmp_path / "secret").write_bytes(members["cifar-10-batches-bin/test_batch.bin"])
    members["cifar-10-batches-bin/test_batch.bin"] = (link, str(tmp_path / "secret"))
    with pytest.raises(DatasetError, match=r"test_batch.bin' in c.tar.gz is not a regular file"):
        datasets.cifar10(source=server.source("c.tar.gz", tar(members)))


def test_an_archive_that_tries_to_leave_its_folder(server, folder, tmp_path):
    members, _ = batches()
    outside = {"../x": b"!", "../../x": b"!", str(tmp_path / "x"): b"!"}
    datasets.cifar10(source=server.source("c.tar.gz", tar(outside | members)))
    datasets.text8(source=server.source("t.zip", zipped(outside | {"text8": b"0123456789"})))
    assert not [*tmp_path.rglob("x")]
    assert kept(folder) == ["c.tar.gz", "t.zip"]
    with pytest.raises(DatasetError, match=r"cannot be read: .*text8"):
        datasets.text8(source=server.source("t.zip", zipped({"../text8": b"0123456789"})))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda m: m.pop("cifar-10-batches-bin/data_batch_3.bin"), "cannot be read: .*data_batch_3.bin"),
        (lambda m: m.update({"cifar-10-batches-bin/test_batch.bin": b"x" * 3072}), "not made of records"),
        (lambda m: m.update({"cifar-10-batches-bin/test_batch.bin": b""}), "not made of records"),
        (lambda m: m.update({"cifar-10-batches-bin/test_batch.bin": b"\n" * 3073}), "a label from 0 to 9"),
    ],
)
def test_batches_that_are_not_what_they_should_be(server, spoil, sentence):
    members, _ = batches()
    spoil(members)
    with pytest.raises(DatasetError, match=sentence):
        datasets.cifar10(source=server.source("c.tar.gz", tar(members)))


def test_a_broken_tar(server):
    for content in (b"no archive", tar(batches()[0])[:-2000]):
        with pytest.raises(DatasetError, match=r"toys: c.tar.gz cannot be read: "):
            datasets.cifar10(source=server.source("c.tar.gz", content))


def test_pictures_by_the_name_of_a_parameter(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "mnist", lambda *sizes: asked.append(("mnist", sizes)))
    monkeypatch.setattr(datasets, "cifar10", lambda *sizes: asked.append(("cifar10", sizes)))
    learn, judged = datasets.images("digits")
    assert (len(learn), len(judged)) == (1198, 599) and not asked
    datasets.images("mnist")
    datasets.images("cifar10")
    assert asked == [("mnist", (10_000, 1_000)), ("cifar10", (10_000, 1_000))]
    with pytest.raises(ValueError, match=r"name = 'mnits': expected one of .*; did you mean mnist"):
        datasets.images("mnits")


def test_a_network_of_other_pictures_has_a_file_of_its_own(server, folder):
    tiny = {"steps": 2, "width": 8, "blocks": 1}
    learn, _ = datasets.mnist(sources=mnist_of(server)[0])
    first = ddpm.digits_model(3, **tiny, real=learn)
    assert first.dim == 784 and ddpm.digits_model(3, **tiny).dim == 64
    assert len([*folder.parent.glob("*.pt")]) == 2
    ddpm.digits_model(3, **tiny, real=datasets.images("digits")[0])  # the usual ones
    again = ddpm.digits_model(3, **tiny, real=learn)
    assert len([*folder.parent.glob("*.pt")]) == 2
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


# -- texts -----------------------------------------------------------------------------------------


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def said(part):
    return part.numpy().tobytes()


def test_text8(server):
    raw = bytes(BYTES.choice([*b" abcdefghijklmnopqrstuvwxyz"], 2000).astype(np.uint8))
    source = server.source("t.zip", zipped({"text8": raw}))
    text = datasets.text8(source=source)
    assert (said(text.train), said(text.held_out)) == (raw[:1800], raw[1800:])
    short = datasets.text8(100, 10, source)
    assert (said(short.train), said(short.held_out)) == (raw[:100], raw[1800:1810])
    assert len(server.asked) == 1


def test_wikitext103(server):
    parts = {
        f"wikitext-103-raw/wiki.{part}.raw": f" = {part} é = \n".encode() * 9
        for part in ("train", "valid", "test")
    }
    source = server.source("w.zip", zipped(parts))
    text = datasets.wikitext103(50, 10**6, source)
    assert said(text.train) == parts["wikitext-103-raw/wiki.train.raw"][:50]
    assert said(text.held_out) == parts["wikitext-103-raw/wiki.test.raw"]


def test_a_text_that_is_a_link_is_refused(server):
    link = zipfile.ZipInfo("text8")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match=r"'text8' in t.zip is not a regular file"):
        datasets.text8(source=server.source("t.zip", out.getvalue()))


def test_texts_that_are_not_there(server):
    for content, sentence in (
        (b"no archive", "t.zip cannot be read"),
        (zipped({"text9": b"0123456789"}), "cannot be read: .*text8"),
        (zipped({"text8": b""}), "t.zip has no text"),
        (zipped({"text8": b"0123456789"}).replace(b"\x01", b"\x02"), "cannot be read"),
    ):
        with pytest.raises(DatasetError, match=sentence):
            datasets.text8(source=server.source("t.zip", content))
    with pytest.raises(DatasetError, match=r"w.zip has no text"):
        datasets.wikitext103(
            source=server.source(
                "w.zip",
                zipped({"wikitext-103-raw/wiki.train.raw": b"", "wikitext-103-raw/wiki.test.raw": b"x"}),
            )
        )


def test_texts_by_the_name_of_a_parameter(monkeypatch):
    monkeypatch.setattr(datasets, "text8", lambda: "of text8")
    monkeypatch.setattr(datasets, "wikitext103", lambda: "of wikitext103")
    assert len(datasets.text("stdlib").train) == 4_000_000
    assert [datasets.text(name) for name in ("text8", "wikitext103")] == ["of text8", "of wikitext103"]
    with pytest.raises(ValueError, match=r"name = 'text9': expected one of .*; did you mean text8"):
        datasets.text("text9")


@pytest.mark.parametrize("load", [datasets.mnist, datasets.cifar10, datasets.text8, datasets.wikitext103])
@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1.5, 1), (True, 1)])
def test_sizes_are_positive_integers_before_anybody_is_asked(load, sizes):
    with pytest.raises(ValueError, match=r"train|held_out"):
        load(*sizes)
