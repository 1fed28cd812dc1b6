"""Gaussians and their mixtures, with exact eps: models without network error, for measuring solvers.

Each is a model, eps(x, t) = -sigma(t) grad log p_t(x) for x of shape (B, D) and t of shape (B,), in the precision of
x; and a distribution: `log_density(x, t)` of the noisy data at time t, `sample(n, generator)` of the data themselves,
and `norm_moments()`, the mean and variance of |x0|^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pndm.schedules import Schedule, schedules

LOG_2PI = math.log(2 * math.pi)
BLOCK = 2**20  # numbers that an intermediate tensor may hold; longer batches are answered part by part


class ExactModel:
    """What exact models share: a schedule, and answers for a batch part by part, so that memory stays bounded."""

    schedule: str | Schedule
    part: int  # states answered at once

    def path(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma of the times t, each (B, 1), computed in float64 and rounded to the precision of x."""
        self.schedule = schedules.resolve(self.schedule)
        time = t.double()
        return self.schedule.alpha(time)[:, None].to(x), self.schedule.sigma(time)[:, None].to(x)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path(x, t)
        if len(x) <= self.part:
            return self.eps(x, alpha, sigma)
        parts = zip(x.split(self.part), alpha.split(self.part), sigma.split(self.part), strict=True)
        return torch.cat([self.eps(*each) for each in parts])

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The answer for (B, D) states with alpha and sigma of shape (B, 1)."""
        raise NotImplementedError

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Log density of the noisy data at (B, D) states and times (B,)."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Exact samples of the data, (n, D) in float64."""
        raise NotImplementedError

    def norm_moments(self) -> tuple[float, float]:
        """Mean and variance of |x0|^2 over the data."""
        raise NotImplementedError


@dataclass(eq=False)
class Gaussian(ExactModel):
    """Data from one Gaussian of any covariance: mean (D,), covariance (D, D). Its ODE has a closed-form solution."""

    mean: Tensor
    covariance: Tensor
    schedule: str | Schedule = "vp_linear"

    def __post_init__(self) -> None:
        variances, self.axes = torch.linalg.eigh(self.covariance.double())  # axes (D, D), one a column
        self.variances = variances.clamp(min=0)
        self.part = max(1, BLOCK // len(self.mean))

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        along, variance = self._along(x, alpha, sigma)
        return (along * (sigma / variance)) @ self.axes.to(x).T

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        along, variance = self._along(x, *self.path(x, t))
        return -0.5 * (along.square() / variance + variance.log() + LOG_2PI).sum(1)

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The exact solution at time s of the probability-flow ODE through (x, t): a scaling along each axis."""
        start, end = (torch.full((len(x),), time, dtype=torch.float64, device=x.device) for time in (t, s))
        along, before = self._along(x, *self.path(x, start))
        alpha, sigma = self.path(x, end)
        after = alpha.square() * self.variances.to(x) + sigma.square()
        return alpha * self.mean.to(x) + (along * (after / before).sqrt()) @ self.axes.to(x).T

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + (noise * self.variances.sqrt()) @ self.axes.T

    def norm_moments(self) -> tuple[float, float]:
        return norm_moments(torch.ones(1), (self.mean.double() @ self.axes)[None], self.variances.sqrt()[None])

    def _along(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The offset from the mean along the axes, and its variance: (B, D) each."""
        offset = (x - alpha * self.mean.to(x)) @ self.axes.to(x)
        return offset, alpha.square() * self.variances.to(x) + sigma.square()


@dataclass(eq=False)
class GaussianMixture(ExactModel):
    """Data from isotropic Gaussians: weights (K,), means (K, D), one deviation each (K,)."""

    weights: Tensor
    means: Tensor
    deviations: Tensor
    schedule: str | Schedule = "vp_linear"

    def __post_init__(self) -> None:
        self.part = max(1, BLOCK // self.means.numel())

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        log_joint, offset, variance = self._components(x, alpha, sigma)
        share = torch.softmax(log_joint, dim=1) / variance
        return sigma * (share[:, :, None] * offset).sum(1)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        log_joint, _, _ = self._components(x, *self.path(x, t))
        return torch.logsumexp(log_joint, dim=1) - 0.5 * x.shape[1] * LOG_2PI

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights.double(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[which] + self.deviations[which, None] * noise

    def norm_moments(self) -> tuple[float, float]:
        return norm_moments(self.weights, self.means, self.deviations[:, None].expand_as(self.means))

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log of weight times density up to a constant (B, K), offsets from the means (B, K, D), variances (B, K)."""
        variance = (alpha * self.deviations.to(x)) ** 2 + sigma**2
        offset = x[:, None, :] - alpha[:, :, None] * self.means.to(x)
        weights = self.weights.to(x) / self.weights.to(x).sum()
        log_weight = weights.log() - 0.5 * x.shape[1] * variance.log()
        return log_weight - 0.5 * offset.square().sum(-1) / variance, offset, variance


@dataclass(eq=False)
class OrientedMixture(ExactModel):
    """Data from Gaussians with axes of their own: centres (K, D), axes (K, D, D), deviations along them (K, D).

    Row j of axes[k] is the unit vector along which component k has the deviation deviations[k, j]. Zero is allowed, so
    a component can be flat, as the patches of a surface are. All have equal weight.
    """

    centres: Tensor
    axes: Tensor
    deviations: Tensor
    schedule: str | Schedule = "vp_linear"

    def __post_init__(self) -> None:
        self.along_own = torch.einsum("kjd,kd->kj", self.axes, self.centres)  # the centres in their own coordinates
        self.part = max(1, BLOCK // self.centres.numel())

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        log_density, along, variance = self._components(x, alpha, sigma)
        share = torch.softmax(log_density, dim=1)
        pull = (share[:, :, None] * along / variance).flatten(1)  # (B, K D)
        return sigma * (pull @ self.axes.to(x).flatten(0, 1))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        log_density, _, _ = self._components(x, *self.path(x, t))
        count, dimension = self.centres.shape
        return torch.logsumexp(log_density, dim=1) - math.log(count) - 0.5 * dimension * LOG_2PI

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        count, dimension = self.centres.shape
        which = torch.randint(count, (n,), generator=generator)
        noise = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
        return self.centres[which] + torch.einsum("nj,njd->nd", noise * self.deviations[which], self.axes[which])

    def norm_moments(self) -> tuple[float, float]:
        return norm_moments(torch.ones(len(self.centres)), self.along_own, self.deviations)

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log densities up to a constant (B, K), offsets along the axes (B, K, D), and their variances (B, K, D)."""
        along = (x @ self.axes.to(x).flatten(0, 1).T).view(-1, *self.centres.shape)
        along = along - alpha[:, :, None] * self.along_own.to(x)
        variance = (alpha[:, :, None] * self.deviations.to(x)) ** 2 + sigma[:, :, None] ** 2
        return -0.5 * (along.square() / variance + variance.log()).sum(-1), along, variance


def norm_moments(weights: Tensor, centres: Tensor, deviations: Tensor) -> tuple[float, float]:
    """Mean and variance of |x|^2 for a mixture: weights (K,), centres and deviations (K, D) along each one's axes."""
    share = weights.double() / weights.double().sum()
    squares, variances = centres.double().square(), deviations.double().square()
    mean = (squares + variances).sum(1)  # of each component
    spread = (4 * squares * variances + 2 * variances.square()).sum(1)
    overall = float(share @ mean)
    return overall, float(share @ (spread + (mean - overall).square()))
