"""The transfer part: given one direction, where do we land?

Each transfer is built for one schedule, which remembers the float64 coefficients of a pair of times, so that a grid's
are computed once. States and directions have shape (B, *shape); the arithmetic is in their own precision.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pndm.schedules import Schedule


class Transfer:
    """Lands a state at another time, along a direction: `transfer(x, e, t, s)`, an affine map a x + b e.

    clock: the variable over which the direction is integrated exactly, so that this map is Euler's step in it.
    """

    clock: str

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def __call__(self, x: Tensor, e: Tensor, t: float, s: float) -> Tensor:
        a, b = self.pair(t, s)
        return torch.mul(e, b).add_(x, alpha=a)  # the state last: it is rounded once, which half precision needs

    def along(self, x: Tensor, weights: Iterable[float], directions: Iterable[Tensor], t: float, s: float) -> Tensor:
        """`transfer(x, combine(weights, directions), t, s)`, in a third fewer passes over memory.

        The combination is never a tensor of its own: its terms are summed at the size of the step, and the state added
        last. Directions beyond the weights, and those of weight zero, are left out.
        """
        a, b = self.pair(t, s)
        moved: Tensor | None = None
        for weight, direction in zip(weights, directions, strict=False):
            if not weight:
                continue
            if moved is None:
                moved = torch.mul(direction, b * weight)
            else:
                moved.add_(direction, alpha=b * weight)
        return x * a if moved is None else moved.add_(x, alpha=a)

    def pair(self, t: float, s: float) -> tuple[float, float]:
        """`coefficients(t, s)`, worked out once a path."""
        return self.schedule.remember((type(self), t, s), self.coefficients, t, s)

    def coefficients(self, t: float, s: float) -> tuple[float, float]:
        """a and b of x_s = a x_t + b e."""
        raise NotImplementedError

    def direction(self, x: Tensor, t: float, eps: Tensor) -> Tensor:
        """What this transfer follows, made from an evaluation of eps at (x, t)."""
        of_x, of_eps = self.schedule.remember((type(self), t), self.mixture, t)
        return torch.mul(x, of_x).add_(eps, alpha=of_eps)

    def mixture(self, t: float) -> tuple[float, float]:
        """How much of x and of eps the direction at t is made of."""
        raise NotImplementedError


class Manifold(Transfer):
    """The paper's formula 9, along predicted noise: exact for every step size when the noise is the true one.

    x_s = (alpha_s / alpha_t) x_t + (sigma_s - (alpha_s / alpha_t) sigma_t) e
    """

    clock = "rho"

    def coefficients(self, t: float, s: float) -> tuple[float, float]:
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return alpha_s / alpha_t, alpha_s * (self.schedule.rho(s) - self.schedule.rho(t))

    def direction(self, x: Tensor, t: float, eps: Tensor) -> Tensor:
        return eps


class Linear(Transfer):
    """The classical one, along the derivative of the probability-flow ODE: x_s = x_t + (s - t) dx/dt.

    dx/dt = (d ln alpha / dt) (x - eps / sigma), Song et al. 2021, equation 13. It is infinite where sigma = 0.
    """

    clock = "t"

    def coefficients(self, t: float, s: float) -> tuple[float, float]:
        return 1.0, s - t

    def mixture(self, t: float) -> tuple[float, float]:
        slope = self.schedule.dlog_alpha(t)
        return slope, -slope / self.schedule.sigma(t)


class Data(Transfer):
    """The manifold's map for predicted data.

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - (sigma_s / sigma_t) alpha_t) x0

    For one evaluation it lands where `Manifold` lands; combinations of several x0 and of several eps differ
    (DPM-Solver++).
    """

    clock = "snr"

    def coefficients(self, t: float, s: float) -> tuple[float, float]:
        ratio = self.schedule.sigma(s) / self.schedule.sigma(t)
        return ratio, self.schedule.alpha(s) - ratio * self.schedule.alpha(t)

    def mixture(self, t: float) -> tuple[float, float]:
        alpha = self.schedule.alpha(t)
        return 1 / alpha, -self.schedule.sigma(t) / alpha


def added(total: Tensor | None, weight: float, direction: Tensor) -> Tensor:
    """total + weight direction, in total's own memory once there is one."""
    return torch.mul(direction, weight) if total is None else total.add_(direction, alpha=weight)


TRANSFERS: dict[str, type[Transfer]] = {"manifold": Manifold, "linear": Linear, "data": Data}
