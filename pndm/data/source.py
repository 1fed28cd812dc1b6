"""What a data set is, and where its files are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

SPLITS = ("train", "test")


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
class Layout:
    """One way in which a publisher lays a data set out in files."""

    reader: Callable[[Source, Path, tuple[str, ...], str, int | None], tuple[Tensor, Tensor]]
    """(source, folder, the split's files, split, limit) -> images, labels. The limit spares only the slow readers."""
    files: Mapping[str, tuple[str, ...]]
    """The files and folders of each split; a `.gz` of a file is as good."""
    subfolder: str = ""
    """The folder that the publisher's archive unpacks to, which is searched too."""


@dataclass(frozen=True)
class Source:
    """What must be in a data set's files."""

    layouts: tuple[Layout, ...]
    counts: dict[str, int]
    first_class: dict[str, int]
    """How many images have label 0: it tells MNIST from Fashion-MNIST, whose files have the same names and sizes."""
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    advice: str
    """How to get the files, as the end of a sentence."""
