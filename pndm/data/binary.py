"""Data sets whose images lie in one file as plain bytes: IDX (MNIST's) and CIFAR-10's two layouts."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pndm.data.pickled import PickleError, read_pickle
from pndm.data.source import Source
from pndm.errors import OptionError


def either(folder: Path, file: str) -> Path | None:
    """The plain file (or folder) or its gzip, whichever exists."""
    for candidate in (folder / file, folder / f"{file}.gz"):
        if candidate.exists():
            return candidate
    return None


def read_bytes(folder: Path, file: str) -> tuple[Path, bytes]:
    """The path and the content of a file that may be compressed."""
    path = either(folder, file)
    assert path is not None  # the search for the data has seen it
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise OptionError(
            f"data file {path} cannot be read ({error}): it is damaged or truncated, fetch it again"
        ) from None
    return path, data


def read_idx(folder: Path, file: str, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, type 8, number of dimensions, big-endian sizes, then the values."""
    path, data = read_bytes(folder, file)
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


def read_idx_pair(
    source: Source, folder: Path, files: tuple[str, ...], split: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """An IDX file of images and one of labels."""
    image_file, label_file = files
    images, labels = read_idx(folder, image_file, 3), read_idx(folder, label_file, 1)
    if images.shape[1:] != source.shape[1:]:
        raise OptionError(f"data file {folder / image_file} has images of {images.shape[1:]}, not {source.shape[1:]}")
    if len(images) != len(labels):
        raise OptionError(f"data in {folder} has {len(images)} images for {len(labels)} labels in split {split!r}")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def read_cifar10(
    source: Source, folder: Path, files: tuple[str, ...], split: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """CIFAR-10's binary layout: records of one label byte and 3072 pixels (red, green, blue planes)."""
    size = 1 + int(np.prod(source.shape))
    records = []
    for file in files:
        path, data = read_bytes(folder, file)
        expected = source.counts[split] // len(files) * size
        if len(data) != expected:
            raise OptionError(f"data file {path} holds {len(data)} bytes where {expected} belong: fetch it again")
        records.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, size))
    table = np.concatenate(records)
    return torch.from_numpy(table[:, 1:].reshape(-1, *source.shape)), torch.from_numpy(table[:, 0].astype(np.int64))


def read_cifar10_python(
    source: Source, folder: Path, files: tuple[str, ...], split: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """CIFAR-10's Python layout: pickles, which are parsed here and never executed."""
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for file in files:
        path, data = read_bytes(folder, file)
        expected = source.counts[split] // len(files)
        try:
            batch = read_pickle(data)
        except PickleError as error:
            raise OptionError(
                f"data file {path} is a pickle, is read without being executed, and is refused ({error}): "
                f"{source.advice}"
            ) from None
        batch = batch if isinstance(batch, dict) else {}
        table, classes = batch.get("data"), batch.get("labels")
        if not isinstance(table, np.ndarray) or table.shape != (expected, int(np.prod(source.shape))):
            raise OptionError(f"data file {path} has no table 'data' of {expected} images: fetch it again")
        if not isinstance(classes, list) or len(classes) != expected or any(type(c) is not int for c in classes):
            raise OptionError(f"data file {path} has no list 'labels' of {expected} whole numbers: fetch it again")
        pixels.append(table)
        labels += classes
    return torch.from_numpy(np.concatenate(pixels).reshape(-1, *source.shape)), torch.tensor(labels)
