"""What a metric answers: a number, the samples behind it, and how far other samples would move it.

Intervals come from the bootstrap, made to stream. In place of drawing N samples out of N again and again at the end,
which needs them all, every sample gets a weight from Poisson(1) in each resample as it passes: the same distribution
for large N, in memory that does not grow with N. A sample's weights belong to (seed, index) alone. So they do not
depend on batches or workers, and two solvers that were run from the same noise are resampled alike: the difference of
their resamples is the bootstrap of their difference, from which what they have in common has gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from pndm.errors import OptionError

LEVEL = 0.95  # of every interval
Z = 1.959963984540054  # standard errors to each side, of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A metric's value and the number of samples behind it.

    error: its standard error. low, high: where the value of other samples of the same number would fall, at 95 %.
    bias: how far the value stands above that of infinitely many samples, where a metric has such a bias; it shifts all
    values at this n alike. floor: below it values mean nothing (the error of the reference itself). resamples: the
    bootstrap's values, for differences to other runs.
    """

    value: float
    n: int
    error: float | None = None
    low: float | None = None
    high: float | None = None
    bias: float | None = None
    floor: float | None = None
    resamples: tuple[float, ...] = ()


class Metric(Protocol):
    """A metric that is fed in batches, in constant memory."""

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add samples: what the metric looks at (B, ...), and their indices in the run."""

    def merge(self, other: Self) -> None:
        """Add the samples behind another worker's metric."""

    def compute(self) -> dict[str, Estimate]:
        """What has been measured so far, by name. Raises OptionError with fewer samples than it takes."""


def estimate(value: float, n: int, resamples: Tensor, *, least: float = -math.inf, biased: bool = False) -> Estimate:
    """An estimate whose interval is Student's around the value, with the deviation of the resamples (B,)."""
    if not len(resamples):
        return Estimate(value, n)
    error = resamples.std().item()
    half = quantile(len(resamples)) * error
    bias = resamples.mean().item() - value if biased else None
    kept = tuple(float(f"{each:.7g}") for each in resamples.tolist())
    return Estimate(value, n, error, max(value - half, least), value + half, bias, resamples=kept)


def share(part: float, n: int, resamples: Tensor) -> Estimate:
    """An estimate of a share of n samples, with Wilson's interval, which is not empty at 0 and 1 as the bootstrap's."""
    found = estimate(part, n, resamples)
    if found.error is None:
        return found
    centre = (part + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(part * (1 - part) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return replace(found, low=max(centre - half, 0.0), high=min(centre + half, 1.0))


def quantile(resamples: int) -> float:
    """How many standard errors an interval reaches to each side, the error being of so many resamples."""
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(resamples - 1, (1 + LEVEL) / 2))


def difference(a: tuple[float, Sequence[float]], b: tuple[float, Sequence[float]]) -> tuple[float, float] | None:
    """a less b, and how far the 95 % interval of that reaches to each side, of two values, each with its resamples.

    None where there are no resamples to tell by.
    """
    count = min(len(a[1]), len(b[1]))
    if count < 2:
        return None
    between = np.subtract(a[1][:count], b[1][:count])
    return a[0] - b[0], quantile(count) * float(between.std(ddof=1))


def differ(a: tuple[float, Sequence[float]], b: tuple[float, Sequence[float]]) -> bool | None:
    """Whether two values, each with its resamples, differ at 95 %; None where there are no resamples to tell by."""
    found = difference(a, b)
    return None if found is None else abs(found[0]) > found[1]


def check_enough(metric: str, n: int, least: int) -> None:
    """Raise OptionError when a metric is given fewer samples than it takes."""
    if n < least:
        raise OptionError(f"samples={n} is too few for the metric {metric}: it needs at least {least}")


class Resampling:
    """The bootstrap's weights: `count` resamples of samples that are numbered within a seed."""

    def __init__(self, count: int, seed: int = 0):
        if count < 0 or count == 1:
            raise OptionError(f"bootstrap={count} must be 0 (no intervals) or at least 2 resamples")
        self.count, self.seed = count, seed

    def weights(self, indices: Sequence[int]) -> Tensor:
        """How often each sample is in each resample, (count, B) in float64."""
        drawn = np.empty((len(indices), self.count))
        for row, index in zip(drawn, indices, strict=True):
            # SampleNoise has the same key; the counter keeps clear of its numbers
            stream = np.random.Generator(np.random.Philox(key=[self.seed, index], counter=[0, 0, 0, 1]))
            row[:] = stream.poisson(1.0, self.count)
        return torch.from_numpy(drawn.T.copy())


class Means:
    """Means of some numbers a sample, and of the same in each resample; constant memory."""

    def __init__(self, columns: int, resampling: Resampling):
        self.resampling, self.n = resampling, 0
        self.sums = torch.zeros(columns, dtype=torch.float64)
        self.weights = torch.zeros(resampling.count, dtype=torch.float64)
        self.weighted = torch.zeros(resampling.count, columns, dtype=torch.float64)

    def update(self, values: Tensor, indices: Sequence[int]) -> Self:
        """Add the rows of values (B, columns); returns itself."""
        values = values.detach().to("cpu", torch.float64)
        drawn = self.resampling.weights(indices)
        self.n += len(values)
        self.sums = self.sums + values.sum(0)
        self.weights = self.weights + drawn.sum(1)
        self.weighted = self.weighted + drawn @ values
        return self

    def merge(self, other: Self) -> Self:
        """Add the samples behind `other`; returns itself."""
        self.n += other.n
        self.sums, self.weights = self.sums + other.sums, self.weights + other.weights
        self.weighted = self.weighted + other.weighted
        return self

    def mean(self) -> Tensor:
        """(columns,)"""
        return self.sums / self.n

    def resampled(self) -> Tensor:
        """(resamples, columns); a resample that drew nothing, as of two samples, has the mean itself."""
        drawn = self.weighted / self.weights.clamp_min(1)[:, None]
        return torch.where(self.weights[:, None] > 0, drawn, self.mean())
