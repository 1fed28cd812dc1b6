"""Multistep methods: Adams-Bashforth weights times a transfer, with a clock and a start-up rule.

Three choices make all of them: what is combined (eps on the manifold, x0 on data, dx/dt on the linear transfer), the
clock in which the polynomial through the last evaluations runs, and the order. The paper's S-PNDM and F-PNDM (pseudo
linear multistep) and FON take the fixed weights of equal steps; with a clock come the methods of the later literature.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from pndm.clocks import polynomial_weights
from pndm.errors import OptionError, unknown_name
from pndm.gradient import ADAMS_BASHFORTH, HEUN, RK4, Tableau
from pndm.solvers.base import Solver, Step, register
from pndm.solvers.runge_kutta import fitting, runge_kutta_step

STARTUPS = ("rk", "heun", "low_order")
WEIGHT_CLOCKS = ("steps", "t", "rho", "lam")


@register("s_pndm", order=2, about="AB2 x manifold, Heun start-up: the paper's S-PNDM.")
@register("plms", about="AB4 x manifold, Runge-Kutta start-up: the paper's F-PNDM.")
@register("ipndm", startup="low_order", about="AB4 x manifold that starts as DDIM, AB2, AB3 (iPNDM).")
@register("fon", transfer="linear", about="AB4 x linear, Runge-Kutta start-up: the paper's FON.")
@register("ab4", transfer="linear", startup="low_order", about="AB4 x linear that starts as Euler, AB2, AB3.")
@register("deis", order=3, clock="t", startup="low_order", about="eps as a polynomial in t: DEIS (tAB).")
@register(
    "rho_ab", clock="rho", startup="low_order", about="eps as a polynomial in rho: variable-step Adams-Bashforth."
)
@register(
    "dpmpp_2m",
    order=2,
    transfer="data",
    clock="lam",
    startup="low_order",
    about="x0 as a line in lam: DPM-Solver++(2M).",
)
@register(
    "dpmpp_3m",
    order=3,
    transfer="data",
    clock="lam",
    startup="low_order",
    about="x0 as a parabola in lam: DPM-Solver++(3M).",
)
@register("adams_bashforth", about="Any order 1-4 x transfer (manifold, linear, data) x clock x start-up.")
class AdamsBashforth(Solver):
    """Explicit linear multistep: the direction is a combination of the last evaluations.

    clock: steps  the weights of equal steps, whatever the grid (the paper's);
           t, rho, lam  the polynomial through the last evaluations runs in this variable and is integrated exactly over
           the transfer's own, so that the order holds on every grid.
    startup: what makes the first order - 1 steps, for which there is no history yet:
           rk         Runge-Kutta of the same order, as in the paper: order 4 spends 9 more evaluations, order 2 one;
           heun       one Heun step, then growing order: 1 more evaluation (diffusers' skip_prk_steps);
           low_order  Euler, then growing order: no more evaluations.
    final_order: the highest order of the last step; the one before may have one more, and so on (0: no limit).
    first: analytic answers the first question by sigma x instead of the network; `Solver.guess` says what that costs.
    Order: `order`, but at most 2 on the manifold with the weights of equal steps, since they assume equal steps in t
    while the integral runs over rho; and with a start-up of lower order, whose first steps leave an error of order 2
    (low_order) or 3 (heun), which shows once it is above that of the rest.
    Evaluations a step: 1. Sources: PNDM, section 3.3, formula 12 and Algorithm 2; DEIS, Zhang & Chen 2023;
    DPM-Solver++, Lu et al. 2022; iPNDM, Zhang & Chen 2023, appendix; variable steps: Hairer, Norsett & Wanner, chapter
    III.5. Shapes: x (B, *shape), any float dtype; keeps order - 1 directions of that shape.
    Fails: clock steps has order 1 where neighbouring steps stay unequal (on smoothly graded grids such as karras, 2).
    With clock steps on the manifold, a run from where alpha is near 0 (cosine's last index) diverges: start lower.
    High order on few steps extrapolates beyond what the evaluations tell. With x0 and clock lam, a step into sigma = 0
    has order 1, as lam is infinite there.
    """

    evaluations_per_step = 1

    def __init__(
        self,
        order: int = 4,
        transfer: str = "manifold",
        clock: str = "steps",
        startup: str = "rk",
        final_order: int = 0,
        first: str = "network",
    ):
        super().__init__(transfer, first)
        if order not in ADAMS_BASHFORTH:
            raise OptionError(f"order={order} must be one of {', '.join(map(str, ADAMS_BASHFORTH))}")
        if clock not in WEIGHT_CLOCKS:
            raise unknown_name("clock", clock, WEIGHT_CLOCKS)
        if startup not in STARTUPS:
            raise unknown_name("startup", startup, STARTUPS)
        if not 0 <= final_order <= order:
            raise OptionError(f"final_order={final_order} must lie between 0 (no limit) and order={order}")
        self.weights_order, self.clock, self.startup, self.final_order = order, clock, startup, final_order
        own_clock = self._transfer_type.clock
        pseudo = clock == "steps" and own_clock != "t"
        self.start_clock = "t" if clock == "steps" else own_clock
        self.running_order = min(order, 2) if pseudo else order  # of the steps after the start-up
        self.order = min(self.running_order, {"rk": order, "heun": 3, "low_order": 2}[startup])

    def reset(self) -> None:
        self.history: deque[Tensor] = deque(maxlen=self.weights_order)
        self.weights: dict[int, Sequence[float]] = {}
        if len(self.times):
            self.weights = {k: self._weights(k) for k in range(len(self.times) - 1) if not self._starter(k)}
        self.steps_made = 0

    def step(self, x: Tensor, t: float, s: float) -> Step:
        k = self.steps_made
        self.steps_made += 1
        starter = self._starter(k)
        if starter:
            x, e = yield from runge_kutta_step(starter, self.transfer, self.start_clock, x, t, s)
            self.history.appendleft(e)
            return x
        self.history.appendleft((yield x, t))
        weights = self.weights[k]
        return self.transfer.along(x, weights, self.history, t, s)

    def _weights(self, k: int) -> Sequence[float]:
        """Weights of step k, newest evaluation first."""
        t, s = float(self.times[k]), float(self.times[k + 1])
        order = min(self.weights_order, k + 1)
        if self.final_order:
            order = min(order, self.final_order + len(self.times) - 2 - k)
        if self.clock == "steps":
            return ADAMS_BASHFORTH[order]
        own_clock = self._transfer_type.clock
        if self.clock == "lam" and own_clock == "snr" and self.noiseless(s):
            order = 1
        asked = self.times[k::-1][:order].tolist()
        return polynomial_weights(self.schedule, self.clock, own_clock, asked, t, s)

    def _starter(self, k: int) -> Tableau | None:
        """The Runge-Kutta method that makes step k of the run; None once the history serves."""
        if self.startup == "rk" and k < self.weights_order - 1:
            starter = {2: HEUN, 3: RK4, 4: RK4}[self.weights_order]
        elif self.startup == "heun" and k == 0 and self.weights_order > 1:
            starter = HEUN
        else:
            return None
        return fitting(starter, self.start_clock, self.noiseless(float(self.times[k + 1])))

    def evaluations(self) -> int:
        starters = [self._starter(k) for k in range(len(self.times) - 1)]
        return sum(len(starter.nodes) if starter else 1 for starter in starters) - self.saved
