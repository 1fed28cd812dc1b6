"""EDM's sampler: Heun's method on d(x/alpha)/d rho = eps, with noise added before each step on request."""

from __future__ import annotations

import math

from torch import Tensor

from pndm.errors import OptionError
from pndm.gradient import HEUN
from pndm.solvers.base import Solver, Step, register
from pndm.solvers.runge_kutta import fitting, runge_kutta_step


@register("edm_heun", about="EDM: Heun x manifold, with churn (s_churn=40, say): fresh noise before each step.")
class EDMHeun(Solver):
    """Raise the noise of the state a little, then go down from there by Heun x manifold.

    The paper's sigma is rho = sigma / alpha, and its state x / alpha.
    s_churn: how much fresh noise the whole run adds. A step raises rho by the factor 1 + min(s_churn / steps,
        sqrt(2) - 1). 0 adds none, and the solver is pseudo_heun.
    s_tmin, s_tmax: the values of rho between which noise is added. s_noise: its standard deviation, a little above 1
        against the detail that a network's denoising loses (1.003 to 1.007 in the paper).
    Order: 2 without churn. Evaluations a step: 2; 1 for a step into sigma = 0. Source: Karras et al. 2022, Algorithm 2.
    Shapes: x (B, *shape), any float dtype.
    Fails: more churn needs more steps; s_noise other than 1 widens the distribution that is reached. No noise is added
    above the schedule's noise end, which no network has seen.
    """

    evaluations_per_step = 2

    def __init__(self, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0):
        super().__init__("manifold")
        if not 0 <= s_churn < math.inf:
            raise OptionError(f"solver 'edm_heun': s_churn={s_churn} must be at least 0, and finite")
        if not 0 <= s_tmin <= s_tmax:
            raise OptionError(f"solver 'edm_heun': s_tmin={s_tmin}, s_tmax={s_tmax} must satisfy 0 <= s_tmin <= s_tmax")
        if not 0 <= s_noise < math.inf:
            raise OptionError(f"solver 'edm_heun': s_noise={s_noise} must be at least 0, and finite")
        self.s_churn, self.s_tmin, self.s_tmax, self.s_noise = s_churn, s_tmin, s_tmax, s_noise
        self.stochastic = s_churn > 0  # type: ignore[misc]
        self.order = 0 if self.stochastic else 2

    def reset(self) -> None:
        self.raised = {t: self._raised(t) for t in self.times[:-1].tolist()} if self.stochastic else {}

    def _raised(self, t: float) -> tuple[float, float, float]:
        """The noisier time from which the step that starts at t goes down; the state's factor there; the noise's."""
        path = self.schedule
        rho = path.rho(t)
        if not self.s_tmin <= rho <= self.s_tmax:
            return t, 1.0, 0.0
        growth = 1 + min(self.s_churn / (len(self.times) - 1), math.sqrt(2) - 1)
        noisier = path.t_of_rho(min(rho * growth, path.rho(path.t_noise)))
        alpha = path.alpha(noisier)
        added = math.sqrt(max(0.0, path.rho(noisier) ** 2 - rho**2))
        return noisier, alpha / path.alpha(t), alpha * self.s_noise * added

    def step(self, x: Tensor, t: float, s: float) -> Step:
        start, factor, spread = self.raised.get(t, (t, 1.0, 0.0))
        if spread > 0:
            x = (x * factor).add_(self.noise(x), alpha=spread)
        x, _ = yield from runge_kutta_step(fitting(HEUN, "t", self.noiseless(s)), self.transfer, "t", x, start, s)
        return x

    def evaluations(self) -> int:
        return 2 * (len(self.times) - 1) - self.noiseless(float(self.times[-1]))
