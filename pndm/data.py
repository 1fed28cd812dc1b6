"""Image data sets in their standard file layouts, as uint8 tensors.

    dataset = pndm.data.load("fashion-mnist", split="train")
    dataset.images      (60000, 1, 28, 28) uint8
    to_model(images)    float in [-1, 1], what a network is trained on
    to_uint8(x)         back to pixels, rounded and clamped

Nothing is ever downloaded: when the files are absent, the error says how to get them. Every header, size, count and
label range is checked, since a truncated or misplaced file would otherwise train a network on rubbish in silence.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pndm.errors import OptionError, unknown_name

SPLITS = ("train", "test")

FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) as uint8 and labels (N,) as int64, with the names of the classes."""

    images: Tensor
    labels: Tensor
    name: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Source:
    """Where a data set's files are found and what must be in them."""

    reader: Callable[[Source, Path, str], tuple[Tensor, Tensor]]
    files: Mapping[str, tuple[str, ...]]
    """The file names of each split; a `.gz` of each is as good."""
    counts: dict[str, int]
    first_class: dict[str, int]
    """How many images have label 0: it tells MNIST from Fashion-MNIST, whose files have the same names and sizes."""
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    advice: str
    """How to get the files, as the end of a sentence."""
    subfolder: str = ""
    """The folder that the publisher's archive unpacks to, which is searched too."""


def names() -> list[str]:
    """The data sets that `load` knows."""
    return sorted(SOURCES)


def load(name: str, folder: str | Path | None = None, split: str = "train") -> Dataset:
    """Read one split ("train" or "test") of a data set.

    The files are looked for in `folder` when given; otherwise in $PNDM_DATA/<name> and $PNDM_DATA, in
    /usr/share/datasets/<name>, and in ./data/<name>. Raises OptionError for an unknown name or split, when the files
    are absent (with how to get them), and when one is not what it should be.
    """
    if name not in SOURCES:
        raise unknown_name("data", name, SOURCES)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    source = SOURCES[name]
    images, labels = source.reader(source, _find(name, source, folder, split), split)
    if len(images) != source.counts[split]:
        raise OptionError(f"data {name!r} split {split!r} has {len(images)} images where {source.counts[split]} belong")
    if int(labels.min()) < 0 or int(labels.max()) >= len(source.classes):
        raise OptionError(
            f"data {name!r} split {split!r} has label {int(labels.max())} not 0 to {len(source.classes) - 1}"
        )
    first = int((labels == 0).sum())
    if first != source.first_class[split]:
        raise OptionError(
            f"data {name!r} split {split!r} has {first} images of {source.classes[0]!r} where "
            f"{source.first_class[split]} belong: these files are of another data set"
        )
    return Dataset(images, labels, name, source.classes)


def to_model(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels 0..255 as floats in [-1, 1]."""
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [-1, 1] as pixels 0..255, rounded to the nearest and clamped."""
    x = x if x.dtype == torch.float64 else x.float()  # bfloat16 cannot count to 255 in steps of a half
    return x.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


# Reading --------------------------------------------------------------------------------------------------------------


def _find(name: str, source: Source, folder: str | Path | None, split: str) -> Path:
    """The first folder that holds every file of the split."""
    if folder is not None:
        places = [Path(folder)]
    else:
        places = [Path("/usr/share/datasets", name), Path("data", name)]
        if os.environ.get("PNDM_DATA"):
            places = [Path(os.environ["PNDM_DATA"], name), Path(os.environ["PNDM_DATA"]), *places]
    if source.subfolder:
        places = [place for parent in places for place in (parent, parent / source.subfolder)]
    for place in places:
        if all(_either(place, file) for file in source.files[split]):
            return place
    if source.reader is _read_cifar10:
        for place in places:
            if (place / "data_batch_1").exists() or (place / "cifar-10-batches-py").exists():
                raise OptionError(
                    f"data {name!r} in {place} is in the Python layout, whose files are pickles that can run any code, "
                    f"and is not read: {source.advice}"
                )
    searched = ", ".join(str(place) for place in places)
    raise OptionError(
        f"data {name!r} needs {' and '.join(source.files[split])}, not found in {searched}: {source.advice}"
    )


def _either(folder: Path, file: str) -> Path | None:
    """The plain file or its gzip, whichever exists."""
    for candidate in (folder / file, folder / f"{file}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _read_bytes(folder: Path, file: str) -> tuple[Path, bytes]:
    path = _either(folder, file)
    assert path is not None  # _find has seen it
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise OptionError(
            f"data file {path} cannot be read ({error}): it is damaged or truncated, fetch it again"
        ) from None
    return path, data


def read_idx(folder: Path, file: str, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, type 8, number of dimensions, big-endian sizes, then the values."""
    path, data = _read_bytes(folder, file)
    if len(data) < 4 or data[:4] != bytes((0, 0, 8, ndim)):
        raise OptionError(
            f"data file {path} starts with {data[:4].hex()!r} where an IDX file of bytes in {ndim} dimensions starts "
            f"with '000008{ndim:02x}'"
        )
    header = 4 + 4 * ndim
    shape = tuple(int(size) for size in np.frombuffer(data[4:header], dtype=">u4")) if len(data) >= header else ()
    expected = header + int(np.prod(shape)) if shape else header
    if len(data) != expected:
        raise OptionError(
            f"data file {path} holds {len(data)} bytes where its header asks for {expected}: fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _read_idx_pair(source: Source, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    image_file, label_file = source.files[split]
    images, labels = read_idx(folder, image_file, 3), read_idx(folder, label_file, 1)
    if images.shape[1:] != source.shape[1:]:
        raise OptionError(f"data file {folder / image_file} has images of {images.shape[1:]}, not {source.shape[1:]}")
    if len(images) != len(labels):
        raise OptionError(f"data in {folder} has {len(images)} images for {len(labels)} labels in split {split!r}")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def _read_cifar10(source: Source, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """CIFAR-10's binary layout: records of one label byte and 3072 pixels (red, green, blue planes)."""
    size = 1 + int(np.prod(source.shape))
    records = []
    for file in source.files[split]:
        path, data = _read_bytes(folder, file)
        expected = source.counts[split] // len(source.files[split]) * size
        if len(data) != expected:
            raise OptionError(f"data file {path} holds {len(data)} bytes where {expected} belong: fetch it again")
        records.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, size))
    table = np.concatenate(records)
    return torch.from_numpy(table[:, 1:].reshape(-1, *source.shape)), torch.from_numpy(table[:, 0].astype(np.int64))


_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

SOURCES: dict[str, Source] = {
    "fashion-mnist": Source(
        _read_idx_pair,
        _IDX_FILES,
        {"train": 60000, "test": 10000},
        {"train": 6000, "test": 1000},
        (1, 28, 28),
        FASHION_CLASSES,
        "install the Debian package dataset-fashion-mnist, or put the four .gz files of "
        "github.com/zalandoresearch/fashion-mnist in data/fashion-mnist",
    ),
    "mnist": Source(
        _read_idx_pair,
        _IDX_FILES,
        {"train": 60000, "test": 10000},
        {"train": 5923, "test": 980},
        (1, 28, 28),
        tuple("0123456789"),
        "put the four IDX files of yann.lecun.com/exdb/mnist (plain or .gz) in data/mnist",
    ),
    "cifar10": Source(
        _read_cifar10,
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        {"train": 50000, "test": 10000},
        {"train": 5000, "test": 1000},
        (3, 32, 32),
        CIFAR10_CLASSES,
        "unpack the binary layout, cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, in data/cifar10",
        subfolder="cifar-10-batches-bin",
    ),
}
