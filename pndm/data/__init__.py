"""Image data sets in their standard file layouts, as uint8 tensors.

    dataset = pndm.data.load("fashion-mnist", split="train")
    dataset.images      (60000, 1, 28, 28) uint8
    to_model(images)    float in [-1, 1], what a network is trained on
    to_uint8(x)         back to pixels, rounded and clamped

Nothing is ever downloaded: when the files are absent, the error says how to get them. Every header, size, count and
label range is checked, since a truncated or misplaced file would otherwise train a network on rubbish in silence.
"""

from pndm.data.binary import read_idx
from pndm.data.pixels import to_model, to_uint8
from pndm.data.sets import CIFAR10_CLASSES, FASHION_CLASSES, SOURCES, load, names
from pndm.data.source import SPLITS, Dataset, Layout, Source

__all__ = [
    "CIFAR10_CLASSES", "FASHION_CLASSES", "SOURCES", "SPLITS", "Dataset", "Layout", "Source", "load", "names",
    "read_idx", "to_model", "to_uint8",
]  # fmt: skip
