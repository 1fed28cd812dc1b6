"""SDE-DPM-Solver++(2M): the reverse SDE by two-step multistep in lam, on predicted data."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from pndm.errors import unknown_name
from pndm.gradient import combine
from pndm.solvers.base import Solver, Step, register

VARIANTS = ("midpoint", "heun")


@register("sde_dpmpp_2m", about="SDE-DPM-Solver++(2M): the reverse SDE on x0, 1 evaluation and 1 noise a step.")
class SDEDPMPP2M(Solver):
    """x_s = (sigma_s/sigma_t) e^-h x + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z, h = lam_s - lam_t.

    D is the line in lam through the last two x0, taken halfway (midpoint, the paper) or averaged over the step with the
    SDE's own weight (heun, the exact integral).
    Order: 0 (stochastic); without its noise the drift is integrated to order 2. Evaluations a step: 1.
    Source: Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M). Shapes: x (B, *shape), any float dtype; keeps 2
    directions of that shape.
    Fails: below some 20 steps the line reaches far past what the evaluations tell. The first step, and one into
    sigma = 0, which is D itself, have order 1.
    """

    order = 0
    evaluations_per_step = 1
    stochastic = True

    def __init__(self, variant: str = "midpoint"):
        super().__init__("data")
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
        self.variant = variant

    def reset(self) -> None:
        times = self.times.tolist()
        self.lines = [self._line(*near) for near in zip([None, *times], times, times[1:], strict=False)]
        self.factors = [self._factors(t, s) for t, s in pairwise(times)]
        self.steps_made = 0
        self.history: list[Tensor] = []  # newest first

    def _line(self, before: float | None, t: float, s: float) -> tuple[float, ...]:
        """Weights of the x0 at t and at the time before, whose sum is D."""
        if before is None or self.noiseless(s):
            return (1.0,)
        lam = self.schedule.lam(t)
        h, behind = self.schedule.lam(s) - lam, lam - self.schedule.lam(before)
        place = 0.5 if self.variant == "midpoint" else -1 / math.expm1(-2 * h) - 1 / (2 * h)
        ahead = place * h / behind
        return 1 + ahead, -ahead

    def _factors(self, t: float, s: float) -> tuple[float, float, float]:
        """What x, D and the noise are multiplied by."""
        ratio = self.schedule.rho(s) / self.schedule.rho(t)  # e^-h
        sigma_t, sigma_s = self.schedule.sigma(t), self.schedule.sigma(s)
        return sigma_s / sigma_t * ratio, self.schedule.alpha(s) * (1 - ratio**2), sigma_s * math.sqrt(1 - ratio**2)

    def step(self, x: Tensor, t: float, s: float) -> Step:
        e = yield x, t
        line, (keep, along, spread) = self.lines[self.steps_made], self.factors[self.steps_made]
        self.steps_made += 1
        self.history = [e, *self.history[:1]]
        d = combine(line, self.history[: len(line)])
        x = (x * keep).add_(d, alpha=along)
        return x.add_(self.noise(x), alpha=spread) if spread > 0 else x
