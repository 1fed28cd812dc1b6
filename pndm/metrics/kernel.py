"""Kernel distance (KID; Binkowski, Sutherland, Arbel and Gretton, 2018), with the standard error of all its samples.

The squared maximum mean discrepancy between the features of generated and of real images under the kernel
k(x, y) = (x·y / d + 1)³, by its unbiased estimator: it is 0 on average when both have one distribution, at any number
of samples, and may be negative. In the features of Inception it is the KID; in those of our own classifier it compares
with itself only.

Pairs of generated images are taken within blocks of 1000 as they arrive, so that memory does not grow; pairs of a
generated and a real image are all taken. The standard error comes from the first-order influence of every sample (twice
its mean kernel to its block less twice that to the real images), and holds for the given real images, which all
solvers share. It is not the spread over random subsets that is often printed beside a KID.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.metrics.estimate import Estimate, Means, Resampling, check_enough, estimate

BLOCK = 1000


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(B, d), (C, d) -> (B, C)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


class KernelDistance:
    """The kernel distance to the features of some real images, (R, d). Raises OptionError for fewer than 2 of them."""

    least = 2

    def __init__(self, real: Tensor, *, bootstrap: int = 200, seed: int = 0):
        if len(real) < self.least:
            raise OptionError(f"kid: real={len(real)} images are too few: it needs at least {self.least}")
        self.real = real.double()
        size = len(real)
        total = sum(kernel(block, self.real).sum().item() for block in self.real.split(BLOCK))
        own = ((self.real.square().sum(1) / real.shape[1] + 1) ** 3).sum().item()
        self.within_real = (total - own) / (size * (size - 1))
        self.means = Means(2, Resampling(bootstrap, seed))
        self.waiting: list[Tensor] = []
        self.indices: list[int] = []

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add features (B, d)."""
        self.waiting.append(features.detach().to("cpu", torch.float64))
        self.indices += indices
        while len(self.indices) >= BLOCK:
            together = torch.cat(self.waiting)
            self._add(together[:BLOCK], self.indices[:BLOCK])
            self.waiting, self.indices = [together[BLOCK:]], self.indices[BLOCK:]

    def merge(self, other: Self) -> None:
        """Add the samples behind `other`."""
        self.means.merge(other.means)
        if other.indices:
            self.update(torch.cat(other.waiting), other.indices)

    def compute(self) -> dict[str, Estimate]:
        """kid."""
        check_enough("kid", self.means.n + len(self.indices), self.least)
        if len(self.indices) >= self.least:  # a last one alone has no pair
            whole = copy.copy(self)
            whole.means = copy.copy(self.means)
            whole._add(torch.cat(self.waiting), self.indices)
        else:
            whole = self
        value, centre = whole.means.mean().tolist()
        moved = whole.means.resampled()[:, 1] - centre
        return {"kid": estimate(value, whole.means.n, value + moved)}

    def _add(self, x: Tensor, indices: Sequence[int]) -> None:
        pairs = kernel(x, x)
        near = (pairs.sum(1) - pairs.diagonal()) / (len(x) - 1)
        cross = kernel(x, self.real).mean(1)
        self.means.update(torch.stack([near - 2 * cross + self.within_real, 2 * near - 2 * cross], 1), indices)
