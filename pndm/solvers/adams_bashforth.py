"""Multistep methods: Adams-Bashforth weights times a transfer, with a start-up rule.

With the manifold transfer these are the paper's S-PNDM and F-PNDM (pseudo linear multistep), with the linear one FON.
"""

from __future__ import annotations

from collections import deque

from torch import Tensor

from pndm.errors import OptionError, unknown_name
from pndm.gradient import ADAMS_BASHFORTH, HEUN, RK4, Tableau, combine
from pndm.solvers.base import Solver, Step, register
from pndm.solvers.runge_kutta import fitting, runge_kutta_step

STARTUPS = ("rk", "heun", "low_order")


@register("s_pndm", order=2, about="AB2 x manifold, Heun start-up: the paper's S-PNDM.")
@register("plms", about="AB4 x manifold, Runge-Kutta start-up: the paper's F-PNDM.")
@register("fon", transfer="linear", about="AB4 x linear, Runge-Kutta start-up: the paper's FON.")
@register("ab4", transfer="linear", startup="low_order", about="AB4 x linear that starts as Euler, AB2, AB3.")
@register("adams_bashforth", about="Any order 1-4 x any transfer (manifold, linear) x any start-up.")
class AdamsBashforth(Solver):
    """Explicit linear multistep: the direction is a fixed combination of the last evaluations, as for equal steps in t.

    startup: what makes the first order - 1 steps, for which there is no history yet:
        rk         Runge-Kutta of the same order, as in the paper: order 4 spends 9 more evaluations, order 2 spends 1;
        heun       one Heun step, then growing order: 1 more evaluation (diffusers' skip_prk_steps);
        low_order  Euler, then growing order: no more evaluations.
    Order: `order` with the linear transfer and start-up by rk (measured 4 for fon); at most 2 on the manifold, since
    the weights assume equal steps in t while the integral runs over rho, and with a start-up of lower order, whose
    first steps leave an error of second order (low_order) or third (heun).
    Evaluations a step: 1. Source: PNDM, section 3.3, formula 12 and Algorithm 2; Liu et al. 2022.
    Shapes: x (B, *shape), any float dtype; keeps order - 1 directions of that shape.
    Fails: on grids with unequal steps the weights are no longer Adams-Bashforth's, and the order falls to 1 or 2.
    """

    evaluations_per_step = 1

    def __init__(self, order: int = 4, transfer: str = "manifold", startup: str = "rk"):
        super().__init__(transfer)
        if order not in ADAMS_BASHFORTH:
            raise OptionError(f"order={order} must be one of {', '.join(map(str, ADAMS_BASHFORTH))}")
        if startup not in STARTUPS:
            raise unknown_name("startup", startup, STARTUPS)
        self.weights_order = order
        self.startup = startup
        start_order = {"rk": order, "heun": 3, "low_order": 2}[startup]
        self.order = min(order, start_order, 2 if transfer == "manifold" else 4)

    def reset(self) -> None:
        self.history: deque[Tensor] = deque(maxlen=self.weights_order)
        self.steps_made = 0

    def step(self, x: Tensor, t: float, s: float) -> Step:
        starter = self._starter(self.steps_made)
        self.steps_made += 1
        if starter:
            x, e = yield from runge_kutta_step(fitting(starter, self.noiseless(s)), self.transfer, x, t, s)
            self.history.appendleft(e)
            return x
        e = yield x, t
        self.history.appendleft(e)
        e = combine(ADAMS_BASHFORTH[len(self.history)], self.history)
        return self.transfer(x, e, t, s)

    def _starter(self, k: int) -> Tableau | None:
        """The Runge-Kutta method that makes step k of the run; None once the history serves."""
        if self.startup == "rk" and k < self.weights_order - 1:
            return {2: HEUN, 3: RK4, 4: RK4}[self.weights_order]
        return HEUN if self.startup == "heun" and k == 0 and self.weights_order > 1 else None

    def evaluations(self) -> int:
        total = 0
        for k, s in enumerate(self.times[1:].tolist()):
            starter = self._starter(k)
            total += len(fitting(starter, self.noiseless(s)).nodes) if starter else 1
        return total
