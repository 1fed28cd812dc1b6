"""Data sets that are folders of images: CelebA and LSUN, cropped and resized as DDIM's code does, and PNDM's after it.

CelebA (Song, Meng & Ermon 2020): the 128×128 window around column 89 and row 121 of the aligned 178×218 images, then
64×64. LSUN: the shorter side to 256, then the central square. Resizing is bilinear with Pillow's antialiasing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pndm.data.source import Source
from pndm.errors import OptionError

CELEBA_SIZE = (178, 218)  # width and height of the aligned images
CELEBA_WINDOW = (25, 57, 153, 185)  # left, top, right, bottom
CELEBA_SPLITS = {"train": "0", "test": "2"}  # in list_eval_partition.txt; 1 is the validation split
SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")


def read_celeba(
    source: Source, folder: Path, files: tuple[str, ...], split: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """The images of img_align_celeba that list_eval_partition.txt gives to the split."""
    images, partition = (folder / file for file in files)
    try:
        rows = [line.split() for line in partition.read_text(encoding="utf-8").splitlines() if line.strip()]
        paths = [images / name for name, part in rows if part == CELEBA_SPLITS[split]]
    except (OSError, ValueError) as error:
        raise OptionError(
            f"data file {partition} is not a list of image names and split numbers ({error}): fetch it again"
        ) from None
    return _read(source, images, paths, split, limit, _celeba_window)


def read_lsun(
    source: Source, folder: Path, files: tuple[str, ...], split: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """All images below the split's folder, in the order of their paths."""
    images = folder / files[0]
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    return _read(source, images, paths, split, limit, _central_square)


def _read(
    source: Source, folder: Path, paths: list[Path], split: str, limit: int | None, prepare: Callable
) -> tuple[Tensor, Tensor]:
    """The first `limit` images, decoded by all cores. Raises OptionError when the list is not the whole split."""
    if len(paths) != source.counts[split]:
        raise OptionError(
            f"data folder {folder} has {len(paths)} images of split {split!r} where {source.counts[split]} belong: "
            f"{source.advice}"
        )
    paths = paths[:limit]
    size = source.shape[-1]
    images = torch.empty(len(paths), *source.shape, dtype=torch.uint8)

    def fill(i: int) -> None:
        images[i] = _pixels(paths[i], partial(prepare, size=size))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run while it decodes
        for _ in pool.map(fill, range(len(paths))):
            pass
    return images, torch.zeros(len(paths), dtype=torch.int64)


def _pixels(path: Path, prepare: Callable[[Image.Image], Image.Image]) -> Tensor:
    """One image as (3, size, size) bytes."""
    try:
        with Image.open(path) as image:
            prepared = prepare(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OptionError(f"data file {path} cannot be read as an image ({error}): fetch it again") from None
    return torch.from_numpy(np.array(prepared)).permute(2, 0, 1)


def _celeba_window(image: Image.Image, size: int) -> Image.Image:
    if image.size != CELEBA_SIZE:
        raise ValueError(f"it is {image.size[0]} by {image.size[1]}, the aligned images are 178 by 218")
    return image.crop(CELEBA_WINDOW).resize((size, size), Image.Resampling.BILINEAR)


def _central_square(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
