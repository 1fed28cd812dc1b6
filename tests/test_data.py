"""Readers of data files: what they return, and what they refuse."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pndm import data
from pndm.errors import OptionError

COUNT = 40


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data sets of 40 images, and no place to find them but the given folder."""
    few = {"train": COUNT, "test": COUNT}
    for name, source in data.SOURCES.items():
        first = {"train": COUNT // 10, "test": COUNT // 10}
        monkeypatch.setitem(data.SOURCES, name, dataclasses.replace(source, counts=few, first_class=first))
    monkeypatch.delenv("PNDM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)


def write_idx(folder: Path, pixels: np.ndarray, labels: np.ndarray, *, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
        content = idx(array)
        name = folder / f"train-{stem}{'.gz' if zipped else ''}"
        name.write_bytes(gzip.compress(content) if zipped else content)


LABELS = (np.arange(COUNT) % 10).astype(np.uint8)


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path: Path, name: str, zipped: bool) -> None:
    write_idx(tmp_path / "d", images(), LABELS, zipped=zipped)
    read = data.load(name, tmp_path / "d")
    assert read.images.shape == (COUNT, 1, 28, 28)
    assert read.images.dtype == torch.uint8
    assert read.labels.dtype == torch.int64
    assert len(read.classes) == 10
    assert len(read) == COUNT
    assert np.array_equal(read.images[:, 0].numpy(), images())
    assert read.labels.tolist() == LABELS.tolist()


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "data" / "mnist", images(), LABELS)
    assert len(data.load("mnist")) == COUNT  # ./data/<name>
    monkeypatch.setenv("PNDM_DATA", str(tmp_path / "all"))
    write_idx(tmp_path / "all" / "mnist", 255 - images(), LABELS)
    assert data.load("mnist").images[0, 0, 0, 0] == 255 - images()[0, 0, 0]  # $PNDM_DATA comes first


def write_cifar(folder: Path, split: str = "train") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(1).integers(0, 256, (COUNT, 3073), dtype=np.uint8)
    table[:, 0] = LABELS
    files = data.SOURCES["cifar10"].layouts[0].files[split]
    for file, rows in zip(files, np.split(table, len(files)), strict=True):
        (folder / file).write_bytes(rows.tobytes())
    return table


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-bin"])
def test_cifar10_binary(tmp_path: Path, split: str, subfolder: str) -> None:
    table = write_cifar(tmp_path / subfolder, split)
    read = data.load("cifar10", tmp_path, split)
    assert read.images.shape == (COUNT, 3, 32, 32)
    assert np.array_equal(read.images[7, 2].numpy().ravel(), table[7, 1 + 2048 :])  # the blue plane is the last
    assert read.labels.tolist() == LABELS.tolist()
    assert read.classes[0] == "airplane"


def test_absent_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dataset-fashion-mnist"):
        data.load("fashion-mnist", tmp_path)
    with pytest.raises(OptionError, match=f"not found in {tmp_path}.*cifar-10-binary"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_image(tmp_path: Path, limit: int) -> None:
    """A negative one would cut images off the end."""
    write_idx(tmp_path, images(), LABELS)
    with pytest.raises(OptionError, match=f"limit={limit} must be at least 1, or None for all images"):
        data.load("mnist", tmp_path, limit=limit)


def test_unknown_names() -> None:
    with pytest.raises(OptionError, match="did you mean 'fashion-mnist'"):
        data.load("fashion-mnits")
    with pytest.raises(OptionError, match="train"):
        data.load("mnist", split="trian")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-100],
            "header only": content[:9],
            "empty": b"",
            "longer": content + b"x",
            "other type": bytes((0, 0, 13)) + content[3:],
            "not IDX": b"<html>404 not found</html>",
        }[how]
    )


@pytest.mark.parametrize("how", ["truncated", "header only", "empty", "longer", "other type", "not IDX"])
def test_damaged_idx_is_refused(tmp_path: Path, how: str) -> None:
    write_idx(tmp_path, images(), LABELS)
    damage(tmp_path / "train-images-idx3-ubyte", how)
    with pytest.raises(OptionError, match=r"train-images-idx3-ubyte.*(fetch it again|starts with)"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("how", ["truncated", "empty", "not IDX"])
def test_damaged_gzip_is_refused(tmp_path: Path, how: str) -> None:
    write_idx(tmp_path, images(), LABELS, zipped=True)
    damage(tmp_path / "train-images-idx3-ubyte.gz", how)
    with pytest.raises(OptionError, match=r"train-images-idx3-ubyte\.gz"):
        data.load("mnist", tmp_path)


def test_wrong_content_is_refused(tmp_path: Path) -> None:
    for folder, pixels, labels, message in (
        ("count", images()[:-1], LABELS[:-1], "39 images where 40 belong"),
        ("pair", images(), LABELS[:-1], "40 images for 39 labels"),
        ("size", images()[:, :27], LABELS, r"\(27, 28\)"),
        ("label", images(), np.where(LABELS == 9, 10, LABELS).astype(np.uint8), "label 10"),
        ("other", images(), np.roll(LABELS, 1) // 2, "another data set"),
    ):
        write_idx(tmp_path / folder, pixels, labels)
        with pytest.raises(OptionError, match=message):
            data.load("mnist", tmp_path / folder)


def test_truncated_cifar10_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    damage(tmp_path / "data_batch_3.bin", "truncated")
    with pytest.raises(OptionError, match=r"data_batch_3\.bin holds"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_pixels_there_and_back(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    x = data.to_model(pixels)
    assert x[0] == -1
    assert x[-1] == 1
    assert x.dtype == torch.float32
    if dtype != torch.bfloat16:  # whose steps near 1 are larger than a pixel's
        assert torch.equal(data.to_uint8(x.to(dtype)), pixels)
    given = torch.tensor([-7.0, -1.001, 0.0, 1.5], dtype=dtype)
    kept = given.clone()
    assert data.to_uint8(given).tolist() == [0, 0, 128, 255]
    assert torch.equal(given, kept)
    assert pixels[3] == 3
