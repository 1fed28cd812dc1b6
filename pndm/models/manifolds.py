"""Data on a curve or a surface in many dimensions, with exact eps and the exact distance to it.

The data are a fine mixture of flat Gaussian patches along the manifold, each with a deviation along the tangents of
half the spacing of its neighbours and none across. So the density along the manifold is even to 1.5 per cent, and the
data lie off it by no more than the curvature within a patch: deviation^2 / 2 radius on average, about 1e-4 on the
circle. The manifold lies in a plane (or in three dimensions) turned into D dimensions by a fixed random orthogonal map;
across that plane the data are zero, and eps there is x / sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models.mixture import ExactModel, OrientedMixture
from pndm.schedules import Schedule

WIDTH = 0.5  # a patch's deviation, in spacings: the ripple 2 exp(-2 (pi WIDTH)^2) of the density is then 0.014


@dataclass(eq=False)
class Embedded(ExactModel):
    """The inner model's data, turned into D dimensions: basis (p, D) has orthonormal rows that span their plane."""

    inner: ExactModel
    basis: Tensor

    def __post_init__(self) -> None:
        self.schedule, self.part = self.inner.schedule, self.inner.part

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        basis = self.basis.to(x)
        within = x @ basis.T
        return x / sigma + (self.inner.eps(within, alpha, sigma) - within / sigma) @ basis

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.sample(n, generator) @ self.basis

    def norm_moments(self) -> tuple[float, float]:
        return self.inner.norm_moments()

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        _, sigma = self.path(x, t)
        within, across = split(x, self.basis)
        count = x.shape[1] - within.shape[1]
        outside = -0.5 * ((across / sigma[:, 0]).square() + count * (2 * sigma[:, 0].log() + math.log(2 * math.pi)))
        return self.inner.log_density(within, t) + outside


@dataclass(frozen=True)
class Circle:
    """A circle in the plane."""

    radius: float
    plane = 2

    def patches(self, count: int, schedule: str | Schedule) -> OrientedMixture:
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        outward = torch.stack([angle.cos(), angle.sin()], dim=1)
        tangent = torch.stack([-angle.sin(), angle.cos()], dim=1)
        width = torch.tensor([WIDTH * 2 * math.pi * self.radius / count, 0.0], dtype=torch.float64)
        axes = torch.stack([tangent, outward], dim=1)
        return OrientedMixture(self.radius * outward, axes, width.expand(count, 2), schedule)

    def distance(self, within: Tensor) -> Tensor:
        return (within.norm(dim=1) - self.radius).abs()


@dataclass(frozen=True)
class Torus:
    """A torus in three dimensions: a tube around a circle of radius `ring`."""

    ring: float
    tube: float
    plane = 3

    def patches(self, count: int, schedule: str | Schedule) -> OrientedMixture:
        """`count` patches, nearly: in rows around the ring, with spacings along both circles as equal as can be."""
        around_tube = max(3, round(math.sqrt(count * self.tube / self.ring)))
        around_ring = max(3, round(count / around_tube))
        u, v = torch.meshgrid(
            torch.arange(around_ring, dtype=torch.float64) * (2 * math.pi / around_ring),
            torch.arange(around_tube, dtype=torch.float64) * (2 * math.pi / around_tube),
            indexing="ij",
        )
        u, v = u.flatten(), v.flatten()
        zero, reach = torch.zeros_like(u), self.ring + self.tube * v.cos()
        centres = torch.stack([reach * u.cos(), reach * u.sin(), self.tube * v.sin()], dim=1)
        along_ring = torch.stack([-u.sin(), u.cos(), zero], dim=1)
        along_tube = torch.stack([-v.sin() * u.cos(), -v.sin() * u.sin(), v.cos()], dim=1)
        outward = torch.stack([v.cos() * u.cos(), v.cos() * u.sin(), v.sin()], dim=1)
        width = WIDTH * 2 * math.pi * torch.stack([reach / around_ring, zero + self.tube / around_tube, zero], dim=1)
        return OrientedMixture(centres, torch.stack([along_ring, along_tube, outward], dim=1), width, schedule)

    def distance(self, within: Tensor) -> Tensor:
        off_ring = within[:, :2].norm(dim=1) - self.ring
        return (torch.hypot(off_ring, within[:, 2]) - self.tube).abs()


def distance(surface: Circle | Torus, basis: Tensor, x: Tensor) -> Tensor:
    """From states (B, D) to the embedded manifold, (B,): exact."""
    within, across = split(x, basis)
    return torch.hypot(surface.distance(within), across)


def split(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates within the plane (B, p), and the distance from it (B,)."""
    basis = basis.to(x)
    within = x @ basis.T
    return within, (x - within @ basis).norm(dim=1)


def orthonormal_rows(rows: int, dimension: int, seed: int) -> Tensor:
    """`rows` random orthonormal vectors in `dimension` dimensions, (rows, dimension), the same for the same seed."""
    if dimension < rows:
        raise OptionError(f"dimension={dimension} must be at least {rows} to hold this problem")
    drawn = np.random.Generator(np.random.Philox(seed)).standard_normal((dimension, rows))
    q, r = np.linalg.qr(drawn)
    return torch.from_numpy(np.ascontiguousarray((q * np.sign(np.diag(r))).T))  # the signs are free in QR
