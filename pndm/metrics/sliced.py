"""Sliced Wasserstein distance (Rabin, Peyré, Delon and Bernot, 2011) between generated and real images, in pixels.

Both sets of images, as vectors with numbers in [-1, 1], are projected on the same random directions of length 1; along
each the distance W₁ is the area between two distribution functions, and the mean over directions is the result. It
needs no features, and sees what they may be blind to, such as noise that is left over.

The distribution functions are kept as histograms, exact at the edges of their bins, over all that a direction can give
(±Σ|θ|): memory does not grow. Like all Wasserstein distances it is biased upwards at few samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.metrics.estimate import Estimate, Resampling, check_enough, estimate

BINS = 1024


class SlicedWasserstein:
    """The distance to some real images, (R, d) in [-1, 1]."""

    least = 2

    def __init__(self, real: Tensor, *, directions: int = 64, bootstrap: int = 100, seed: int = 0):
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(real.shape[1], directions, generator=generator, dtype=torch.float64)
        self.directions = drawn / drawn.norm(dim=0)
        self.reach = self.directions.abs().sum(0)
        self.resampling, self.n = Resampling(bootstrap, seed), 0
        self.real = self._counted(real, torch.ones(1, len(real), dtype=torch.float64))[0] / len(real)
        self.counts = torch.zeros(1 + bootstrap, directions, BINS)

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add images as rows (B, d) in [-1, 1]. Raises OptionError for rows that are not finite."""
        once = torch.ones(1, len(features), dtype=torch.float64)
        self.counts += self._counted(features, torch.cat([once, self.resampling.weights(indices)]))
        self.n += len(features)

    def merge(self, other: Self) -> None:
        """Add the samples behind `other`."""
        self.n += other.n
        self.counts += other.counts

    def compute(self) -> dict[str, Estimate]:
        """sliced_wasserstein."""
        check_enough("sliced_wasserstein", self.n, self.least)
        width = 2 * self.reach / BINS
        value, name = self._distance(self.counts[0], width), "sliced_wasserstein"
        spread = value.repeat(len(self.counts) - 1)
        for k, counts in enumerate(self.counts[1:]):
            if counts.any():  # of a handful of samples a resample may draw none
                spread[k] = self._distance(counts, width)
        return {name: estimate(value.item(), self.n, spread, least=0.0, biased=True)}

    def _distance(self, counts: Tensor, width: Tensor) -> Tensor:
        shares = counts.double() / counts.sum(1, keepdim=True)
        return ((shares - self.real).cumsum(1).abs().sum(1) * width).mean()

    def _counted(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Weighted histograms, (W, directions, BINS), of rows (B, d) under weights (W, B)."""
        if not rows.isfinite().all():
            raise OptionError("images hold NaN or infinity: only finite numbers are accepted")
        place = rows.detach().to("cpu", torch.float64) @ self.directions / self.reach  # in [-1, 1]
        bins = ((place + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
        count = len(self.reach)
        flat = (bins + BINS * torch.arange(count)).flatten()
        counts = torch.zeros(len(weights), count * BINS)
        counts.index_add_(1, flat, weights.float().repeat_interleave(count, dim=1))
        return counts.view(len(weights), count, BINS)
