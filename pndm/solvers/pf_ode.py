"""The probability-flow ODE by scipy's adaptive Runge-Kutta: the fifth method of the paper's code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pndm.errors import ModelError, OptionError
from pndm.solvers.base import Evaluate, OnStep, Solver, Step, register
from pndm.transfer import Manifold


@register("pf_ode")
class PFODE(Solver):
    """scipy's RK45 on dx/dt (linear transfer), with an error tolerance in place of steps.

    `steps` only says at which times the trajectory is shown, by the method's interpolant.

    rtol, atol: scipy's tolerances on the local error (RMS over all numbers of the batch), 1e-3 in Song et al. 2021's
    quick setting and 1e-5 in their exact one.
    Order: adaptive, 5 with an embedded 4. Evaluations: whatever the tolerance takes, reported by the driver.
    Source: Song et al. 2021, equation 13; Dormand & Prince 1980 as in scipy.integrate.RK45.
    Shapes: x (B, *shape), any float dtype (scipy computes in float64).
    Fails: dx/dt is infinite where sigma = 0, so the integration ends at the least noise that the network knows and a
    manifold Euler step goes on from there. One step size serves the whole batch: results agree between batch sizes to
    the tolerance, not to rounding. It cannot answer step by step, so it does not serve as a diffusers scheduler.
    """

    order = 5
    evaluations_per_step = None

    def __init__(self, rtol: float = 1e-3, atol: float = 1e-3):
        super().__init__("linear")
        for option, value in (("rtol", rtol), ("atol", atol)):
            if not value > 0:
                raise OptionError(f"solver 'pf_ode': {option}={value} must be positive")
        self.rtol, self.atol = rtol, atol

    def step(self, x: Tensor, t: float, s: float) -> Step:
        raise OptionError("solver 'pf_ode' chooses its own steps, so it cannot be driven one step at a time")

    def integrate(self, x: Tensor, evaluate: Evaluate, on_step: OnStep) -> Tensor:
        start, end = float(self.times[0]), float(self.times[-1])
        stop = min(start, max(end, self.schedule.t_least)) if self.noiseless(end) else end
        last = self._followed(x, start, stop, evaluate, on_step) if stop < start else x
        if stop == end:
            return last
        e, manifold = evaluate(last, stop), Manifold(self.schedule)
        for k, t in enumerate(self.times[1:].tolist(), start=1):
            if t < stop:
                x = manifold(last, e, stop, t)
                on_step(k, t, x)
        return x

    def _followed(self, x: Tensor, start: float, stop: float, evaluate: Evaluate, on_step: OnStep) -> Tensor:
        """The state at `stop`; on_step follows each time of the grid down to there.

        Scipy's method is stepped here, since its solve_ivp would hold the states at all those times until the end.
        """
        from scipy.integrate import RK45  # slow to import, and only needed here

        reached = start

        def slope(t: float, flat: np.ndarray) -> np.ndarray:
            nonlocal reached
            reached = t
            state = as_state(flat)
            return self.transfer.direction(state, t, evaluate(state, t)).double().flatten().cpu().numpy()

        def as_state(flat: np.ndarray) -> Tensor:
            return torch.from_numpy(flat).to(x).view_as(x)

        method = RK45(slope, start, x.double().flatten().cpu().numpy(), stop, rtol=self.rtol, atol=self.atol)
        shown = [t for t in self.times[1:].tolist() if t > stop]
        k = 0
        while method.status == "running":
            message = method.step()
            if method.status == "failed":
                raise ModelError(f"solver pf_ode gave up at t = {reached:g}: {message}")
            interpolant = method.dense_output()
            while k < len(shown) and shown[k] >= method.t:
                on_step(k + 1, shown[k], as_state(interpolant(shown[k])))
                k += 1
        last = as_state(method.y)
        if stop in self.times:
            on_step(k + 1, stop, last)
        return last
