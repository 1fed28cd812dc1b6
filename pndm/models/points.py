"""A finite data set as the mixture of its points: the exact minimiser of the training loss on it.

What a network of unlimited capacity would learn from these images and no others, so a solver's error at image size can
be measured with no network error in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models.mixture import LOG_2PI, ExactModel, norm_moments
from pndm.schedules import Schedule

# Logits held at once: rows of states by columns of centres. 2^19 of float32 stay in a processor's second-level cache
# and are enough for full speed; memory beyond the centres does not grow with either number.
ROWS, COLUMNS = 256, 2048
# Smaller weights than exp of this count as this: far below rounding, but not so small that processors slow down.
LEAST = -70.0


@dataclass(eq=False)
class Points(ExactModel):
    """Data at the points (K, D) with equal weight, each blurred by one common deviation (0: the points themselves).

    As a model: eps = sigma (x - alpha m) / v, with v = (alpha deviation)^2 + sigma^2 and m the mean of the points
    weighted by exp(-|x - alpha p|^2 / 2v). Distances come from one matrix product, taken from the points' common mean
    so that little cancels; in float32 the weights of points at nearly equal distance from a state of little noise
    (sigma < 0.02 at image size) carry an error of some per cent, and float64 has none that matters.
    Shapes: x (B, D), t (B,). At sigma = 0 and deviation 0 eps does not exist (0/0), and solvers do not ask there.
    """

    points: Tensor
    deviation: float = 0.0
    schedule: str | Schedule = "vp_linear"

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or len(self.points) == 0:
            raise OptionError(f"points must be of shape (K, D) with K at least 1, not {tuple(self.points.shape)}")
        if not self.deviation >= 0:
            raise OptionError(f"deviation={self.deviation} must be at least 0")
        self.part = ROWS
        self.mean = self.points.double().mean(0)
        self._prepared: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance, offset, _, total, pulled = self._posterior(x, alpha, sigma)
        return (offset - alpha * (pulled / total)) * (sigma / variance)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path(x, t)
        variance, offset, best, total, _ = self._posterior(x, alpha, sigma)
        exponent = (best + total.log())[:, 0] - 0.5 * offset.square().sum(1) / variance[:, 0]
        return exponent - math.log(len(self.points)) - 0.5 * x.shape[1] * (LOG_2PI + variance[:, 0].log())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.points), (n,), generator=generator)
        noise = torch.randn(n, self.points.shape[1], generator=generator, dtype=torch.float64)
        return self.points[which].double() + self.deviation * noise

    def norm_moments(self) -> tuple[float, float]:
        return norm_moments(
            torch.ones(len(self.points)), self.points, torch.tensor(self.deviation).expand_as(self.points)
        )

    def distance(self, x: Tensor) -> Tensor:
        """From each state to the nearest point, (B,)."""
        points = self.points.to(x)
        nearest = [points[torch.cdist(part, points).argmin(1)] for part in x.split(ROWS)]
        return (x - torch.cat(nearest)).norm(dim=1)

    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The softmax over the points in one pass over blocks of them, keeping the running maximum.

        Returns the variance v (B, 1); x - alpha mean (B, D); and of the weights' logarithms their maximum (B, 1), the
        sum of their exponentials over that maximum (B, 1), and the points' so weighted sum (B, D) about the mean.
        """
        mean, centres, half_squares = self._in(x)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        offset = x - alpha * mean
        query, bias = offset * (alpha / variance), alpha.square() / variance  # of exp(query c - bias |c|^2 / 2)
        best = torch.full_like(alpha, -math.inf)
        total, pulled = torch.zeros_like(alpha), torch.zeros_like(offset)
        for block, squares in zip(centres.split(COLUMNS), half_squares.split(COLUMNS), strict=True):
            logits = torch.addmm(bias * squares, query, block.T, beta=-1)
            highest = torch.maximum(best, logits.detach().amax(1, keepdim=True))  # any constant: it cancels
            weights, shrink = logits.sub_(highest).clamp_(min=LEAST).exp_(), (best - highest).exp()
            total = total * shrink + weights.sum(1, keepdim=True)
            pulled = torch.addmm(pulled * shrink, weights, block)
            best = highest
        return variance, offset, best, total, pulled

    def _in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In the precision of x: the points' mean (D,), the points about it (K, D), half their squared norms (K,)."""
        key = (x.dtype, x.device)
        if key not in self._prepared:
            about = self.points.double() - self.mean.to(self.points.device)
            self._prepared[key] = (self.mean.to(x), about.to(x), (0.5 * about.square().sum(1)).to(x))
        return self._prepared[key]
