"""Problems whose right answer is known, by name: what solvers are measured on.

    problem = pndm.models.problems.create("circle", dimension=64)
    solution = pndm.solve(problem.eps("vp_linear"), noise, schedule="vp_linear", t_end=0.01)
    problem.distance(solution.x)

A problem is a distribution of data whose noisy versions have a closed form, so that eps is exact at every time and on
every schedule. A third-party package adds its own through the entry-point group `pndm.problems`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pndm import data as datasets
from pndm.denoisers import Model
from pndm.errors import OptionError
from pndm.models import manifolds
from pndm.models.mixture import ExactModel, Gaussian, GaussianMixture
from pndm.models.points import Points
from pndm.registry import Registry
from pndm.schedules import Schedule, schedules


class Problem:
    """A distribution of data with exact eps.

    shape: of one sample, (D,). schedule, t_end: what a study takes when it is not told otherwise.
    """

    name: str = ""
    schedule: str | Schedule = "vp_linear"
    t_end: float | None = 0.01

    def build(self, schedule: Schedule) -> ExactModel:
        """The exact model in the time of a schedule."""
        raise NotImplementedError

    def distance(self, x: Tensor) -> Tensor | None:
        """From states (B, D) to the manifold of the data, (B,); None where the data have no manifold."""
        return None

    def plane(self, x: Tensor) -> Tensor:
        """States as points in the plane that shows them best, (B, 2)."""
        return x[:, :2]

    def identity(self) -> dict[str, Any]:
        """Everything that determines the distribution, as plain values."""
        return {"problem": self.name or type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    def eps(self, schedule: str | Schedule) -> Model:
        """The model of eps in the time of `schedule`."""
        return self.build(schedules.resolve(schedule))

    @cached_property
    def distribution(self) -> Any:
        """The exact model that also samples and has moments; its schedule is of no matter there."""
        return self.build(schedules.resolve(self.schedule))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data(1).shape[1:])

    def data(self, n: int, seed: int = 0) -> Tensor:
        """n exact samples of the data, (n, D) in float64."""
        return self.distribution.sample(n, torch.Generator().manual_seed(seed))

    def norm_moments(self, schedule: Schedule, t: float) -> tuple[float, float]:
        """Mean and variance of |x_t|^2 for x_t = alpha x0 + sigma noise: exact, from those of |x0|^2."""
        mean, variance = self.distribution.norm_moments()
        a, s, count = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2, math.prod(self.shape)
        return a * mean + s * count, a * a * variance + 4 * a * s * mean + 2 * s * s * count


problems: Registry[Problem] = Registry("problem", group="pndm.problems", base=Problem)
register, create, names = problems.register, problems.create, problems.names


@register("gaussian")
@dataclass
class GaussianProblem(Problem):
    """One Gaussian with a full covariance, whose ODE has a closed-form solution."""

    dimension: int = 8
    smallest: float = 0.1  # deviation along the narrowest axis
    largest: float = 1.0  # and along the widest
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimension < 1 or not 0 <= self.smallest <= self.largest:
            raise OptionError(
                f"problem 'gaussian': dimension={self.dimension}, smallest={self.smallest}, largest={self.largest} "
                "must satisfy dimension >= 1 and 0 <= smallest <= largest"
            )

    def build(self, schedule: Schedule) -> Gaussian:
        axes = manifolds.orthonormal_rows(self.dimension, self.dimension, self.seed)
        variances = torch.linspace(self.smallest, self.largest, self.dimension, dtype=torch.float64).square()
        mean = axes.sum(0) / math.sqrt(self.dimension)  # of length 1
        return Gaussian(mean, axes.T @ torch.diag(variances) @ axes, schedule)


@register("mixture")
@dataclass
class MixtureProblem(Problem):
    """Three round Gaussians in the plane, near enough to each other that paths bend between them."""

    def build(self, schedule: Schedule) -> GaussianMixture:
        means = torch.tensor([[1.2, 0.6], [-0.9, 0.5], [0.1, -1.1]], dtype=torch.float64)
        weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
        return GaussianMixture(weights, means, torch.tensor([0.3, 0.4, 0.25], dtype=torch.float64), schedule)


@dataclass
class _ManifoldProblem(Problem):
    """Data on a manifold that a random orthogonal map has turned into `dimension` dimensions."""

    dimension: int = 64
    patches: int = 256  # flat Gaussians along the manifold: more make it finer and slower
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patches < 16:
            raise OptionError(f"patches={self.patches} must be at least 16 to follow the manifold")
        self.basis = manifolds.orthonormal_rows(self.manifold().plane, self.dimension, self.seed)

    def manifold(self) -> manifolds.Circle | manifolds.Torus:
        raise NotImplementedError

    def build(self, schedule: Schedule) -> manifolds.Embedded:
        return manifolds.Embedded(self.manifold().patches(self.patches, schedule), self.basis)

    def distance(self, x: Tensor) -> Tensor:
        return manifolds.distance(self.manifold(), self.basis, x)

    def plane(self, x: Tensor) -> Tensor:
        return manifolds.split(x, self.basis)[0][:, :2]


@register("circle")
@dataclass
class CircleProblem(_ManifoldProblem):
    """A circle turned into many dimensions, with the exact distance to it."""

    radius: float = 1.5

    def manifold(self) -> manifolds.Circle:
        if not self.radius > 0:
            raise OptionError(f"problem 'circle': radius={self.radius} must be positive")
        return manifolds.Circle(self.radius)


@register("surface")
@dataclass
class SurfaceProblem(_ManifoldProblem):
    """A torus turned into many dimensions, with the exact distance to it."""

    patches: int = 1500
    ring: float = 1.5
    tube: float = 0.6

    def manifold(self) -> manifolds.Torus:
        if not 0 < self.tube < self.ring:
            raise OptionError(f"problem 'surface': tube={self.tube}, ring={self.ring} must satisfy 0 < tube < ring")
        return manifolds.Torus(self.ring, self.tube)


@register("dataset")
@dataclass
class DatasetProblem(Problem):
    """The first images of a data set: what a network that has learnt them perfectly would answer."""

    source: str = "fashion-mnist"
    count: int = 2000
    deviation: float = 0.0  # blur of each image, in units of [-1, 1]
    folder: str | None = None

    def __post_init__(self) -> None:
        images = datasets.load(self.source, self.folder).images
        if not 1 <= self.count <= len(images):
            raise OptionError(f"problem 'dataset': count={self.count} must lie between 1 and {len(images)}")
        self.points = datasets.to_model(images[: self.count].flatten(1), torch.float64)

    def build(self, schedule: Schedule) -> Points:
        return Points(self.points, self.deviation, schedule)

    def distance(self, x: Tensor) -> Tensor:
        return self.distribution.distance(x)

    def plane(self, x: Tensor) -> Tensor:
        return (x - self.points.mean(0).to(x)) @ self._principal.to(x)

    def identity(self) -> dict[str, Any]:
        settings = {key: value for key, value in super().identity().items() if key != "folder"}
        return {**settings, "points": hashlib.sha256(self.points.numpy().tobytes()).hexdigest()}

    @cached_property
    def _principal(self) -> Tensor:
        """The two directions in which the images differ most, (D, 2)."""
        return torch.linalg.eigh(torch.cov(self.points.T)).eigenvectors[:, -2:].flip(1)
