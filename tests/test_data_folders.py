"""CelebA and LSUN: the windows that DDIM's code cuts, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pndm import data
from pndm.errors import OptionError

COUNT = 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets of five images a split."""
    few = {"train": COUNT, "test": COUNT}
    for name in ("celeba", "lsun-church"):
        source = dataclasses.replace(data.SOURCES[name], counts=few, first_class=few)
        monkeypatch.setitem(data.SOURCES, name, source)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, so that resizing has something to interpolate."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_celeba(folder: Path, size: tuple[int, int] = (178, 218)) -> None:
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = []
    for i in range(3 * COUNT):
        name = f"{i + 1:06}.png"
        photograph(*size, seed=i).save(folder / "img_align_celeba" / name)
        lines.append(f"{name} {i % 3}")
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("subfolder", [".", "celeba"])
def test_celeba(tmp_path: Path, subfolder: str) -> None:
    write_celeba(tmp_path / subfolder)
    train, test = (data.load("celeba", tmp_path, split) for split in ("train", "test"))
    assert train.images.shape == test.images.shape == (COUNT, 3, 64, 64)
    assert train.images.dtype == torch.uint8
    for read, index, seed in ((train, 2, 6), (test, 1, 5)):  # every third image is of the split
        whole = np.asarray(photograph(178, 218, seed=seed))
        window = whole[121 - 64 : 121 + 64, 89 - 64 : 89 + 64].astype(np.float64)
        # bilinear by 2 with antialiasing weighs four neighbours 1/8, 3/8, 3/8, 1/8 (away from the border)
        rows = sum(w * window[1 + k : 125 + k : 2] for k, w in enumerate((0.125, 0.375, 0.375, 0.125)))
        expected = sum(w * rows[:, 1 + k : 125 + k : 2] for k, w in enumerate((0.125, 0.375, 0.375, 0.125)))
        inner = read.images[index].permute(1, 2, 0).numpy()[1:-1, 1:-1].astype(np.float64)
        assert np.abs(inner - expected).max() <= 1.0


def test_celeba_of_another_size_is_refused(tmp_path: Path) -> None:
    write_celeba(tmp_path, (64, 64))
    with pytest.raises(OptionError, match=r"000001\.png cannot be read as an image \(it is 64 by 64"):
        data.load("celeba", tmp_path)


def test_celeba_partition_is_checked(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    partition = tmp_path / "list_eval_partition.txt"
    lines = partition.read_text().splitlines()
    partition.write_text("\n".join(lines[3:]))
    with pytest.raises(OptionError, match="has 4 images of split 'train' where 5 belong"):
        data.load("celeba", tmp_path)
    partition.write_text("one two three\n")
    with pytest.raises(OptionError, match="not a list of image names"):
        data.load("celeba", tmp_path)


def write_lsun(folder: Path, size: tuple[int, int] = (400, 300), suffix: str = "webp") -> None:
    for split in ("train", "val"):
        for i in range(COUNT):
            place = folder / f"church_outdoor_{split}" / "ab"[i % 2]  # the export nests its folders
            place.mkdir(parents=True, exist_ok=True)
            photograph(*size, seed=i).save(place / f"{i}.{suffix}", lossless=True)


@pytest.mark.parametrize("size", [(400, 300), (300, 411), (256, 256)])
def test_lsun(tmp_path: Path, size: tuple[int, int]) -> None:
    write_lsun(tmp_path, size)
    read = data.load("lsun-church", tmp_path, "test")
    assert read.images.shape == (COUNT, 3, 256, 256)
    assert read.classes == ("church_outdoor",)
    scale = 256 / min(size)
    resized = photograph(*size, seed=2).resize((int(size[0] * scale), int(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 256) / 2), round((resized.height - 256) / 2)
    expected = np.asarray(resized)[top : top + 256, left : left + 256]
    assert np.array_equal(read.images[1].permute(1, 2, 0).numpy(), expected)  # a/0, a/2, a/4, b/1, b/3


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    write_lsun(tmp_path)
    photograph(400, 300).convert("L").save(tmp_path / "church_outdoor_train" / "a" / "0.webp", lossless=True)
    first = data.load("lsun-church", tmp_path).images[0]
    assert torch.equal(first[0], first[1])


def test_limit_reads_only_the_first(tmp_path: Path) -> None:
    write_lsun(tmp_path)
    whole = data.load("lsun-church", tmp_path)
    (tmp_path / "church_outdoor_train" / "b" / "3.webp").write_bytes(b"broken")
    part = data.load("lsun-church", tmp_path, limit=3)
    assert torch.equal(part.images, whole.images[:3])
    assert len(part.labels) == 3
    with pytest.raises(OptionError, match=r"3\.webp cannot be read as an image"):
        data.load("lsun-church", tmp_path)


def test_missing_images_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"needs church_outdoor_train, not found.*fyu/lsun"):
        data.load("lsun-church", tmp_path)
    write_lsun(tmp_path)
    (tmp_path / "church_outdoor_train" / "a" / "0.webp").unlink()
    with pytest.raises(OptionError, match=r"has 4 images of split 'train' where 5 belong: export"):
        data.load("lsun-church", tmp_path)
