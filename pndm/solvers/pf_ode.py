"""The probability-flow ODE by scipy's adaptive Runge-Kutta: the fifth method of the paper's code."""

from __future__ import annotations

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
        from scipy.integrate import solve_ivp  # slow to import, and only needed here

        start, end = float(self.times[0]), float(self.times[-1])
        stop = min(start, max(end, self.schedule.t_least)) if self.noiseless(end) else end
        reached = start

        def slope(t: float, flat):  # type: ignore[no-untyped-def]
            nonlocal reached
            reached = t
            state = torch.from_numpy(flat).to(x).view_as(x)
            return self.transfer.direction(state, t, evaluate(state, t)).double().flatten().cpu().numpy()

        last = x
        if stop < start:
            flat = x.double().flatten().cpu().numpy()
            shown = [*self.times[self.times > stop], stop]
            found = solve_ivp(slope, (start, stop), flat, "RK45", t_eval=shown, rtol=self.rtol, atol=self.atol)
            if not found.success:
                raise ModelError(f"solver pf_ode gave up at t = {reached:g}: {found.message}")
            states = torch.from_numpy(found.y.T.copy()).to(x).view(-1, *x.shape)
            last = states[-1]
            for k, t in enumerate(self.times[1:].tolist(), start=1):
                if t >= stop:
                    on_step(k, t, states[k])
        if stop > end:
            e, manifold = evaluate(last, stop), Manifold(self.schedule)
            for k, t in enumerate(self.times[1:].tolist(), start=1):
                if t < stop:
                    x = manifold(last, e, stop, t)
                    on_step(k, t, x)
            return x
        return last
