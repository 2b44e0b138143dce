"""Bigger real data, for readers with a network: fetched when asked for, checked, and kept.

What is on every machine is in `kexue_lib.data`; nothing here runs unless a reader asks for it. Files are kept
in the folder ``data`` of ``KEXUE_CACHE`` (or the user's cache), and taken only if their SHA-256 is the one
below, so it does not matter which server they came from. Archives are read in memory, member by member:
nothing is unpacked, and none of these formats can execute anything.
"""

import contextlib
import gzip
import math
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from platformdirs import user_cache_path

from kexue_lib.arguments import integer, one_of, refuse
from kexue_lib.data import Images, Text, digits_split, standard_library_text

Bytes = NDArray[np.uint8]


class DatasetError(RuntimeError):
    """A data set could not be fetched, or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """One file on the network.

    Parameters
    ----------
    name : str
        Of the data set, for messages.
    file : str
        Its name in the cache.
    sha256 : str
    size : int
        In bytes.
    urls : tuple of str
        Where it lies, in the order in which they are tried.
    """

    name: str
    file: str
    sha256: str
    size: int
    urls: tuple[str, ...]


def _mnist(file: str, size: int, sha256: str) -> Source:
    places = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    return Source("MNIST", file, sha256, size, tuple(place + file for place in places))


# Sizes and checksums: TensorFlow Datasets, url_checksums/mnist.txt. The first address is torchvision's.
MNIST: Mapping[str, Source] = {
    source.file: source
    for source in (
        _mnist(
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _mnist(
            "train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        _mnist(
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _mnist(
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
}

# TensorFlow Datasets, url_checksums/cifar10.txt. The binary version: the one for Python is a pickle.
CIFAR10 = Source(
    "CIFAR-10",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)

# The site publishes no SHA-256; this one stands in many independent programs that fetch the file.
TEXT8 = Source(
    "text8",
    "text8.zip",
    "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    31_344_016,
    ("https://mattmahoney.net/dc/text8.zip", "http://mattmahoney.net/dc/text8.zip"),
)

# The checksum is in mlx-data (python/mlx/data/datasets/wikitext.py). The first address, at Salesforce, is
# gone; these are a mirror at a fixed revision and an author's own.
WIKITEXT103 = Source(
    "WikiText-103",
    "wikitext-103-raw-v1.zip",
    "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
    191_984_949,
    (
        "https://huggingface.co/datasets/mattdangerw/wikitext-103-raw/resolve/"
        "3555105b17ae31cc619a136fac72dbe2865c3738/wikitext-103-raw-v1.zip",
        "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
    ),
)

SHAPES: Mapping[str, tuple[int, ...]] = {"digits": (8, 8), "mnist": (28, 28), "cifar10": (32, 32, 3)}


# -- fetching ----------------------------------------------------------------------------------


def fetch(source: Source) -> Path:
    """Return the file in the cache, fetched if it is not there or not whole.

    What came before a connection broke is kept beside it and continued by the next call.

    Raises
    ------
    DatasetError
        If no address answers with the whole right file, or it cannot be kept.
    """
    import pooch
    from requests import RequestException

    folder = Path(os.environ.get("KEXUE_CACHE") or user_cache_path("kexue")) / "data"
    wrong = []
    for url in source.urls:
        try:
            kept = pooch.retrieve(
                url, f"sha256:{source.sha256}", source.file, folder, downloader=_continuing(source, folder)
            )
        except RequestException as error:
            wrong.append(f"{url}: {_reason(error)}")
        except ValueError as error:
            wrong.append(f"{url}: {error if 'bytes' in str(error) else 'its file has another checksum'}")
        except OSError as error:
            raise DatasetError(
                f"{source.name} cannot be kept in {str(folder)!r}: {error.strerror or 'no right to write'}; "
                f"{source.size / 1e6:,.1f} MB are needed there, or in another folder that KEXUE_CACHE names"
            ) from error
        else:
            return Path(kept)
    raise DatasetError(
        f"{source.name} could not be fetched ({'; '.join(wrong)}): look after the network and try again, "
        "what has come is not lost, or stay with the data that need none"
    )


def _reason(error: Exception) -> str:
    from requests import HTTPError, Timeout

    if isinstance(error, HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code}"
    return "no answer in time" if isinstance(error, Timeout) else "no connection, or it broke off"


def _continuing(source: Source, folder: Path) -> Any:
    """Return a downloader for pooch that goes on where the last one was interrupted."""
    part = folder / f"{source.file}.part"

    def download(url: str, output_file: str, _: Any) -> None:
        import requests

        with contextlib.suppress(FileNotFoundError):
            os.replace(part, output_file)  # taken away, so that no other process writes to it
        have = os.path.getsize(output_file)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
                if answer.status_code == 416:  # less than we have: not of the same file
                    os.truncate(output_file, 0)
                answer.raise_for_status()
                with open(output_file, "ab" if answer.status_code == 206 else "wb") as file:
                    for block in answer.iter_content(2**16):
                        file.write(block)
        except BaseException:
            if 0 < os.path.getsize(output_file) < source.size:
                os.replace(output_file, part)
            raise
        if (have := os.path.getsize(output_file)) != source.size:
            raise ValueError(f"its file has {have:,} bytes instead of {source.size:,}")

    return download


# -- archives ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(source: Source) -> Iterator[Path]:
    """Fetch, and say of which data set it was if the archive cannot be read."""
    file = fetch(source)
    try:
        yield file
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{source.name}: {source.file} cannot be read: {error}") from error


def _gunzipped(source: Source) -> bytes:
    with _reading(source) as file, gzip.open(file) as unpacked:
        return unpacked.read()


def _from_tar(source: Source, names: list[str]) -> list[bytes]:
    """Return regular members, by their exact names."""
    found = []
    with _reading(source) as file, tarfile.open(file, "r:gz") as archive:
        for name in names:
            member = archive.getmember(name)
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise DatasetError(f"{source.name}: {name!r} in {source.file} is not a regular file")
            found.append(content.read())
    return found


def _from_zip(source: Source, name: str, most: int = -1) -> bytes:
    """Return a regular member by its exact name, or its first bytes."""
    with _reading(source) as file, zipfile.ZipFile(file) as archive:
        member = archive.getinfo(name)
        if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
            raise DatasetError(f"{source.name}: {name!r} in {source.file} is not a regular file")
        with archive.open(member) as content:
            return content.read(most)


# -- pictures ----------------------------------------------------------------------------------


def _idx(source: Source, ndim: int) -> Bytes:
    """Return the array of unsigned bytes in an IDX file."""
    raw = _gunzipped(source)
    start = 4 + 4 * ndim
    if raw[:4] != bytes([0, 0, 8, ndim]) or len(raw) < start:
        raise DatasetError(f"{source.name}: {source.file} is not an IDX file of bytes with {ndim} axes")
    shape = np.frombuffer(raw, ">u4", ndim, 4).astype(int).tolist()
    if len(raw) != start + math.prod(shape):
        raise DatasetError(f"{source.name}: {source.file} has {len(raw):,} bytes, not those of {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _images(source: Source, pixels: Bytes, labels: Bytes, count: int) -> Images:
    if len(pixels) != len(labels) or not len(labels) or labels.max() > 9:
        raise DatasetError(f"{source.name}: {source.file} does not have a label from 0 to 9 for each picture")
    flat = pixels[:count].reshape(-1, math.prod(pixels.shape[1:]))
    return Images(torch.tensor(flat, dtype=torch.float32) / 255, torch.tensor(labels[:count]).long())


def mnist(
    train: int = 60_000, held_out: int = 10_000, sources: Mapping[str, Source] = MNIST
) -> tuple[Images, Images]:
    """Return handwritten digits of 28 x 28 grey pixels (MNIST), to learn from and to be judged by.

    Parameters
    ----------
    train, held_out : int
        How many at most, from the start of the two published parts.
    sources : mapping
        The four files by their published names.

    Raises
    ------
    ValueError
        If a number is not a positive integer.
    DatasetError
        If the data cannot be fetched, or are not what they should be.
    """
    counts = {"train": integer("train", train, 1), "t10k": integer("held_out", held_out, 1)}
    first, second = (
        _images(
            sources[f"{part}-images-idx3-ubyte.gz"],
            _idx(sources[f"{part}-images-idx3-ubyte.gz"], 3),
            _idx(sources[f"{part}-labels-idx1-ubyte.gz"], 1),
            count,
        )
        for part, count in counts.items()
    )
    return first, second


def cifar10(train: int = 50_000, held_out: int = 10_000, source: Source = CIFAR10) -> tuple[Images, Images]:
    """Return photographs of 32 x 32 pixels in ten classes (CIFAR-10), to learn from and to be judged by.

    A row has the pixels line by line, and of each red, green and blue, as figures take them.

    Parameters
    ----------
    train, held_out : int
        How many at most, from the start of the two published parts.
    source : Source

    Raises
    ------
    ValueError
        If a number is not a positive integer.
    DatasetError
        If the data cannot be fetched, or are not what they should be.
    """
    train, held_out = integer("train", train, 1), integer("held_out", held_out, 1)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    files = [f"cifar-10-batches-bin/{name}.bin" for name in names]
    batches = [np.frombuffer(raw, np.uint8) for raw in _from_tar(source, files)]
    if any(len(batch) % 3073 or not len(batch) for batch in batches):
        sizes = ", ".join(f"{len(batch):,}" for batch in batches)
        raise DatasetError(f"{source.name}: batches of {sizes} bytes are not made of records of 3,073")
    parts = []
    for whole, count in ((batches[:5], train), (batches[5:], held_out)):
        records = np.concatenate(whole).reshape(-1, 3073)
        colours_last = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append(_images(source, colours_last, records[:, 0], count))
    return parts[0], parts[1]


def images(name: str) -> tuple[Images, Images]:
    """Return pictures to learn from and to be judged by, of the data that a chapter's parameter names.

    Rows are of the shape ``SHAPES[name]``, flat.

    Parameters
    ----------
    name : "digits", "mnist" or "cifar10"
        The digits need no network. Of the others the first 10,000 and 1,000, because the chapters
        compare every sample with every picture.

    Raises
    ------
    ValueError
        If it is none of these.
    DatasetError
        If the data cannot be fetched, or are not what they should be.

    Examples
    --------
    >>> [len(part) for part in images("digits")], SHAPES["digits"]
    ([1198, 599], (8, 8))
    """
    if name == "digits":
        return digits_split()
    if name not in SHAPES:
        raise refuse("name", name, one_of(name, SHAPES))
    return mnist(10_000, 1_000) if name == "mnist" else cifar10(10_000, 1_000)


# -- texts -------------------------------------------------------------------------------------


def _text(train: bytes, held_out: bytes) -> Text:
    return Text(*(torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in (train, held_out)))


def text8(train_bytes: int = 4_000_000, held_out_bytes: int = 1_000_000, source: Source = TEXT8) -> Text:
    """Return text of the English Wikipedia, in small letters and spaces only (text8).

    It has a hundred million bytes, of which the last tenth is held out, as is usual.

    Parameters
    ----------
    train_bytes, held_out_bytes : int
        How many bytes at most, from the start of both parts.
    source : Source

    Raises
    ------
    ValueError
        If a size is not a positive integer.
    DatasetError
        If the text cannot be fetched, or is not what it should be.
    """
    train_bytes = integer("train_bytes", train_bytes, 1)
    held_out_bytes = integer("held_out_bytes", held_out_bytes, 1)
    raw = _from_zip(source, "text8")
    if (border := len(raw) // 10 * 9) == 0:
        raise DatasetError(f"{source.name}: {source.file} has no text")
    return _text(raw[:border][:train_bytes], raw[border:][:held_out_bytes])


def wikitext103(
    train_bytes: int = 4_000_000, held_out_bytes: int = 1_000_000, source: Source = WIKITEXT103
) -> Text:
    """Return good articles of the English Wikipedia (WikiText-103, the raw version), as UTF-8 bytes.

    The published test part is held out.

    Parameters
    ----------
    train_bytes, held_out_bytes : int
        How many bytes at most, from the start of both parts.
    source : Source

    Raises
    ------
    ValueError
        If a size is not a positive integer.
    DatasetError
        If the text cannot be fetched, or is not what it should be.
    """
    sizes = {
        "train": integer("train_bytes", train_bytes, 1),
        "test": integer("held_out_bytes", held_out_bytes, 1),
    }
    parts = [_from_zip(source, f"wikitext-103-raw/wiki.{part}.raw", size) for part, size in sizes.items()]
    if not all(parts):
        raise DatasetError(f"{source.name}: {source.file} has no text")
    return _text(*parts)


def text(name: str) -> Text:
    """Return the text that a chapter's parameter names, four million bytes and at most one million held out.

    Parameters
    ----------
    name : "stdlib", "text8" or "wikitext103"
        The standard library of Python needs no network.

    Raises
    ------
    ValueError
        If it is none of these.
    DatasetError
        If the text cannot be fetched, or is not what it should be.

    Examples
    --------
    >>> len(text("stdlib").train)
    4000000
    """
    known = {"stdlib": standard_library_text, "text8": text8, "wikitext103": wikitext103}
    if name not in known:
        raise refuse("name", name, one_of(name, known))
    found: Text = known[name]()
    return found
