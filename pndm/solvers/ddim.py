"""The stochastic family: DDIM with its eta, and DDPM's ancestral sampling, which the paper speeds up."""

from __future__ import annotations

import math

from torch import Tensor

from pndm.errors import OptionError, unknown_name
from pndm.solvers.base import Solver, Step, register


@register("ddim")
class DDIM(Solver):
    """Euler x manifold, with noise of strength eta (0: deterministic, 1: DDPM's).

    Order: 1 (eta = 0). Evaluations a step: 1. Source: Song, Meng & Ermon 2021, equations 12 and 16.
    Shapes: x (B, *shape), any float dtype. Fails: needs many steps; the noise of eta > 0 needs more still.
    """

    order = 1
    evaluations_per_step = 1

    def __init__(self, eta: float = 0.0):
        super().__init__("manifold")
        if not 0 <= eta <= 1:
            raise OptionError(f"solver 'ddim': eta={eta} must lie between 0 (deterministic) and 1 (DDPM)")
        self.eta = eta
        self.stochastic = eta > 0  # type: ignore[misc]
        self.order = 0 if self.stochastic else 1

    def step(self, x: Tensor, t: float, s: float) -> Step:
        e = yield x, t
        if not self.stochastic:
            return self.transfer(x, e, t, s)
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        sigma_t, sigma_s = self.schedule.sigma(t), self.schedule.sigma(s)
        spread = self.eta * sigma_s / sigma_t * math.sqrt(1 - (alpha_t / alpha_s) ** 2)
        along = math.sqrt(sigma_s**2 - spread**2) - alpha_s / alpha_t * sigma_t
        x = (x * (alpha_s / alpha_t)).add_(e, alpha=along)
        return x.add_(self.noise(x), alpha=spread) if spread > 0 else x


@register("ddpm")
class DDPM(Solver):
    """Ancestral sampling: a draw from the posterior of x_s given x_t and the predicted x0.

    variance: "small" is the posterior's own (equal to DDIM with eta = 1), "large" is beta; both from Ho et al. 2020,
    section 3.2. Any number of steps; the paper's baseline takes all 1000.
    Order: 0 (stochastic). Evaluations a step: 1. Source: Ho, Jain & Abbeel 2020, equations 6, 7 and Algorithm 2.
    Shapes: x (B, *shape), any float dtype. Fails: below some hundred steps the posterior is far from Gaussian.
    """

    order = 0
    evaluations_per_step = 1
    stochastic = True

    def __init__(self, variance: str = "small"):
        super().__init__("manifold")
        if variance not in ("small", "large"):
            raise unknown_name("variance", variance, ("small", "large"))
        self.variance = variance

    def step(self, x: Tensor, t: float, s: float) -> Step:
        e = yield x, t
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        sigma_t, sigma_s = self.schedule.sigma(t), self.schedule.sigma(s)
        ratio = alpha_t / alpha_s
        beta = 1 - ratio**2
        x = (x / ratio).add_(e, alpha=-beta / (ratio * sigma_t))  # the mean, with x0 = (x - sigma_t e) / alpha_t put in
        if sigma_s == 0:
            return x
        deviation = math.sqrt(beta) * (sigma_s / sigma_t if self.variance == "small" else 1.0)
        return x.add_(self.noise(x), alpha=deviation)
