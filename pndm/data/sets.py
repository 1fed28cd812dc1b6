"""The data sets by name: where they are searched, and what must be in them."""

from __future__ import annotations

import os
from pathlib import Path

from pndm.data.binary import either, read_cifar10, read_cifar10_python, read_idx_pair
from pndm.data.folders import read_celeba, read_lsun
from pndm.data.source import SPLITS, Dataset, Layout, Source
from pndm.errors import OptionError, unknown_name

FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def names() -> list[str]:
    """The data sets that `load` knows."""
    return sorted(SOURCES)


def load(name: str, folder: str | Path | None = None, split: str = "train", limit: int | None = None) -> Dataset:
    """Read one split ("train" or "test") of a data set, or its first `limit` images.

    The files are looked for in `folder` when given; otherwise in $PNDM_DATA/<name> and $PNDM_DATA, in
    /usr/share/datasets/<name>, and in ./data/<name>. All images are held in memory. Raises OptionError for an unknown
    name or split, for a limit below 1, when the files are absent (with how to get them), and when one is not what it
    should be.
    """
    if name not in SOURCES:
        raise unknown_name("data", name, SOURCES)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise OptionError(f"limit={limit} must be at least 1, or None for all images")
    source = SOURCES[name]
    layout, place = _find(name, source, folder, split)
    images, labels = layout.reader(source, place, layout.files[split], split, limit)
    whole = source.counts[split]
    if len(images) != whole and len(images) != limit:
        raise OptionError(f"data {name!r} split {split!r} has {len(images)} images where {whole} belong")
    if int(labels.min()) < 0 or int(labels.max()) >= len(source.classes):
        raise OptionError(
            f"data {name!r} split {split!r} has label {int(labels.max())} not 0 to {len(source.classes) - 1}"
        )
    first = int((labels == 0).sum())
    if len(images) == whole and first != source.first_class[split]:
        raise OptionError(
            f"data {name!r} split {split!r} has {first} images of {source.classes[0]!r} where "
            f"{source.first_class[split]} belong: these files are of another data set"
        )
    return Dataset(images[:limit], labels[:limit], name, source.classes)


def _find(name: str, source: Source, folder: str | Path | None, split: str) -> tuple[Layout, Path]:
    """The first folder that holds every file of the split in one of the layouts."""
    if folder is not None:
        places = [Path(folder)]
    else:
        places = [Path("/usr/share/datasets", name), Path("data", name)]
        if os.environ.get("PNDM_DATA"):
            places = [Path(os.environ["PNDM_DATA"], name), Path(os.environ["PNDM_DATA"]), *places]
    for place in places:
        for layout in source.layouts:
            for candidate in (place, place / layout.subfolder):
                if all(either(candidate, file) for file in layout.files[split]):
                    return layout, candidate
    needed = " and ".join(source.layouts[0].files[split])
    raise OptionError(f"data {name!r} needs {needed}, not found in {', '.join(map(str, places))}: {source.advice}")


_IDX = Layout(
    read_idx_pair,
    {
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    },
)


def _lsun(category: str, count: int) -> Source:
    """One category of LSUN; its validation images are the test split."""
    files = {"train": (f"{category}_train",), "test": (f"{category}_val",)}
    counts = {"train": count, "test": 300}
    return Source(
        (Layout(read_lsun, files),), counts, counts, (3, 256, 256), (category,),
        f"export {category}_train_lmdb and {category}_val_lmdb of github.com/fyu/lsun as images into folders "
        f"{category}_train and {category}_val in data/lsun-{category.split('_')[0]}",
    )  # fmt: skip


SOURCES: dict[str, Source] = {
    "fashion-mnist": Source(
        (_IDX,),
        {"train": 60000, "test": 10000},
        {"train": 6000, "test": 1000},
        (1, 28, 28),
        FASHION_CLASSES,
        "install the Debian package dataset-fashion-mnist, or put the four .gz files of "
        "github.com/zalandoresearch/fashion-mnist in data/fashion-mnist",
    ),
    "mnist": Source(
        (_IDX,),
        {"train": 60000, "test": 10000},
        {"train": 5923, "test": 980},
        (1, 28, 28),
        tuple("0123456789"),
        "put the four IDX files of yann.lecun.com/exdb/mnist (plain or .gz) in data/mnist",
    ),
    "cifar10": Source(
        (
            Layout(
                read_cifar10,
                {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
                "cifar-10-batches-bin",
            ),
            Layout(
                read_cifar10_python,
                {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
                "cifar-10-batches-py",
            ),
        ),
        {"train": 50000, "test": 10000},
        {"train": 5000, "test": 1000},
        (3, 32, 32),
        CIFAR10_CLASSES,
        "unpack the binary layout, cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, in data/cifar10",
    ),
    "celeba": Source(
        (
            Layout(
                read_celeba,
                dict.fromkeys(SPLITS, ("img_align_celeba", "list_eval_partition.txt")),
                "celeba",
            ),
        ),
        {"train": 162770, "test": 19962},
        {"train": 162770, "test": 19962},
        (3, 64, 64),
        ("face",),
        "put img_align_celeba (unpacked) and list_eval_partition.txt of mmlab.ie.cuhk.edu.hk/projects/CelebA.html in "
        "data/celeba",
    ),
    "lsun-bedroom": _lsun("bedroom", 3033042),
    "lsun-church": _lsun("church_outdoor", 126227),
}
