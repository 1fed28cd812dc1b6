"""CIFAR-10's Python layout: read without being executed, and whatever is more than plain data refused."""

from __future__ import annotations

import dataclasses
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pndm import data
from pndm.data.pickled import PickleError, read_pickle
from pndm.errors import OptionError

COUNT = 40
FILES = 5  # a training set's


def python2(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle wrote it (protocol 2), instruction for instruction as in the published files."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    content = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08" + number(0) + b"\x85U\x01b\x87Rq\t("
        + number(1) + number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    )  # fmt: skip
    names = b"".join(string(b"image_%d.png" % i) + b"r" + struct.pack("<i", 300 + i) for i in range(len(labels)))
    return (
        b"\x80\x02}q\x01(" + string(b"batch_label") + b"q\x02" + string(b"training batch 1 of 5") + b"q\x03"
        + string(b"labels") + b"q\x04]q\x05(" + b"".join(map(number, labels)) + b"e"
        + string(b"data") + b"q\x06" + array + string(b"filenames") + b"q\x0c]q\r(" + names + b"eu."
    )  # fmt: skip


PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 3072), dtype=np.uint8)
LABELS = [i % 10 for i in range(COUNT)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 with 40 images a split."""
    few = {"train": COUNT, "test": COUNT}
    first = {"train": COUNT // 10, "test": COUNT // 10}
    source = dataclasses.replace(data.SOURCES["cifar10"], counts=few, first_class=first)
    monkeypatch.setitem(data.SOURCES, "cifar10", source)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_batch").write_bytes(python2(PIXELS, LABELS))
    for i, rows in enumerate(np.split(np.arange(COUNT), FILES), start=1):
        (folder / f"data_batch_{i}").write_bytes(python2(PIXELS[rows], [LABELS[row] for row in rows]))


def test_what_unpickling_would_give() -> None:
    written = python2(PIXELS, LABELS)
    theirs = {key.decode(): value for key, value in pickle.loads(written, encoding="bytes").items()}
    mine = read_pickle(written)
    assert mine.keys() == theirs.keys()
    assert np.array_equal(mine["data"], theirs["data"])
    assert mine["data"].dtype == theirs["data"].dtype
    assert mine["labels"] == theirs["labels"]
    assert [name.encode() for name in mine["filenames"]] == theirs["filenames"]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-py"])
def test_python_layout(tmp_path: Path, split: str, subfolder: str) -> None:
    write(tmp_path / subfolder)
    read = data.load("cifar10", tmp_path, split)
    assert np.array_equal(read.images.flatten(1).numpy(), PIXELS)
    assert read.images.shape == (COUNT, 3, 32, 32)
    assert read.labels.tolist() == LABELS
    assert read.labels.dtype == torch.int64


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(max_size=5), inner, max_size=6)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_plain_data_are_read_as_python_does(value: object) -> None:
    assert read_pickle(pickle.dumps(value, protocol=2)) == value


def test_what_is_shared_is_read_once() -> None:
    """383 bytes that nest one dictionary 2^32 times, as a stranger's file could: pickle itself takes no time for it."""
    nested: dict = {"end": 1}
    for _ in range(32):
        nested = {"a": nested, "b": nested}
    read = read_pickle(pickle.dumps(nested, protocol=2))
    for _ in range(32):
        assert read["a"] is read["b"]
        read = read["a"]
    assert read == {"end": 1}


def test_keys_that_take_for_ever_to_hash_are_refused() -> None:
    nested = b"N" + b"q\x00h\x00\x86" * 40  # (k, k), and that again
    with pytest.raises(PickleError, match="a tuple as a key"):
        read_pickle(b"\x80\x02}" + nested + b"Ns.")


class Bomb:
    """What a stranger's pickle can do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    write(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({"labels": LABELS, "data": Bomb(ran)}, protocol))
    with pytest.raises(OptionError, match=r"data_batch_3 is a pickle.*refused \(it .*cifar-10-binary\.tar\.gz"):
        data.load("cifar10", tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"not a pickle", "damaged"),
        (python2(PIXELS, LABELS)[:-1], "damaged"),
        (python2(PIXELS, LABELS)[:5000], "damaged"),
        (b"\x80\x02e.", "damaged"),  # a list's end without its beginning
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02}q\x00h\x00h\x00s.", "damaged"),  # a dictionary as its own key
        (b"\x80\x02}q\x00U\x01ah\x00s.", "damaged"),  # one that holds itself
        (b"\x80\x02cos\nsystem\n.", "asks for os.system"),
        (b"\x80\x02cnumpy\ndtype\n.", "the name numpy.dtype alone"),
        (python2(PIXELS, LABELS).replace(b"U\x02u1", b"U\x02i1"), "other than bytes"),
        (python2(PIXELS, LABELS).replace(b"\x89T", b"\x88T"), "C order"),
        (python2(PIXELS, LABELS).replace(b"K\x01K(M", b"K\x01K)M"), "damaged"),  # 41 rows
    ],
)
def test_damaged_or_other_pickles_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PickleError, match=reason):
        read_pickle(content)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "no table 'data'"),
        ({"labels": LABELS}, "no table 'data'"),
        ({"data": [0] * 3072, "labels": LABELS}, "no table 'data'"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path: Path, batch: object, message: str) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(OptionError, match=message):
        data.load("cifar10", tmp_path, "test")


def test_wrong_counts_are_refused(tmp_path: Path) -> None:
    for pixels, labels, message in (
        (PIXELS[:-1], LABELS[:-1], "table 'data' of 40"),
        (PIXELS, LABELS[:-1], "list 'labels' of 40"),
        (PIXELS, [*LABELS[:-1], 10], "label 10"),
    ):
        (tmp_path / "test_batch").write_bytes(python2(pixels, labels))
        with pytest.raises(OptionError, match=message):
            data.load("cifar10", tmp_path, "test")
