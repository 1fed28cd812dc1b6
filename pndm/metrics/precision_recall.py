"""Precision and recall of generated images (Kynkäänniemi, Karras, Laine, Lehtinen and Aila, 2019).

Each set of images is taken for a manifold: the union of balls around its features that reach to the k-th nearest
neighbour within the set. Precision is the share of generated images on the manifold of the real ones (are they any
good), recall the share of real images on the manifold of the generated ones (is anything left out). Both depend on the
numbers of images, and compare at equal numbers only. At most as many generated images as there are real ones are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.metrics.estimate import Estimate, Means, Resampling, check_enough, share

BLOCK = 1000  # rows of the matrix of distances that are held at a time


def radii(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each row (N, d) to its k-th nearest other row, (N,)."""
    found = []
    for start in range(0, len(x), BLOCK):
        between = torch.cdist(x[start : start + BLOCK], x)
        between[torch.arange(len(between)), torch.arange(start, start + len(between))] = torch.inf  # not itself
        found.append(between.kthvalue(neighbours, dim=1).values)
    return torch.cat(found)


def covered(x: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Whether each row of x (N, d) is in the ball around any of the centres (C, d), (N,)."""
    return torch.cat([(torch.cdist(block, centres) <= reach).any(1) for block in x.split(BLOCK)])


class PrecisionRecall:
    """Precision and recall against the features of some real images, (R, d).

    Raises OptionError for `neighbours` below 1, and when there are not more images than that.
    """

    def __init__(self, real: Tensor, *, neighbours: int = 3, bootstrap: int = 200, seed: int = 0):
        if neighbours < 1:
            raise OptionError(f"precision_recall: neighbours={neighbours} must be at least 1")
        self.neighbours, self.least = neighbours, neighbours + 1
        check_enough("precision_recall", len(real), self.least)
        self.real, self.reach = real.double(), radii(real.double(), neighbours)
        self.bootstrap, self.seed = bootstrap, seed
        self.kept: list[Tensor] = []
        self.indices: list[int] = []

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add features (B, d)."""
        free = len(self.real) - len(self.indices)
        if free > 0:
            self.kept.append(features[:free].detach().to("cpu", torch.float64))
            self.indices += indices[:free]

    def merge(self, other: Self) -> None:
        """Add the samples behind `other`."""
        if other.kept:
            self.update(torch.cat(other.kept), other.indices)

    def compute(self) -> dict[str, Estimate]:
        """precision, recall. The interval of recall is over real images, the generated ones given."""
        check_enough("precision_recall", len(self.indices), self.least)
        x = torch.cat(self.kept)
        good = covered(x, self.real, self.reach)
        found = covered(self.real, x, radii(x, self.neighbours))
        precision = Means(1, Resampling(self.bootstrap, self.seed)).update(good[:, None], self.indices)
        recall = Means(1, Resampling(self.bootstrap)).update(found[:, None], range(len(found)))
        return {
            name: share(means.mean().item(), means.n, means.resampled()[:, 0])
            for name, means in (("precision", precision), ("recall", recall))
        }
