"""UniPC: a multistep predictor, and a corrector that spends the next step's evaluation a second time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from pndm.clocks import polynomial_weights
from pndm.errors import OptionError, unknown_name
from pndm.solvers.base import Solver, Step, register

VARIANTS = ("bh1", "bh2")


@register("unipc", about="UniPC: x0 as a polynomial in lam, predicted and then corrected; 1 evaluation a step.")
class UniPC(Solver):
    """Predict with the last evaluations, evaluate, correct with that one too, and go on without asking again (PEC).

    UniP and UniC of order p integrate the polynomial in lam through p and p + 1 evaluations exactly, as Adams-Bashforth
    and Adams-Moulton do. Solving the paper's linear system for their weights, B(h) cancels. It is felt only where the
    paper puts 1/2 for the solution of a system of one equation: UniP-2 and UniC-1, whose line has the slope B(h)/2.
    variant: bh1 (B = h) or bh2 (B = e^h - 1): with bh2 that line is DPM-Solver++(2M)'s midpoint rule.
    transfer: data (x0, the paper's choice) or manifold (eps).
    final_order: the highest order of the last step; the one before may have one more, and so on (0: no limit).
    first: analytic answers the first question by sigma x instead of the network; `Solver.guess` says what that costs.
    Order: one more than `order`, since each state but the last is corrected; at most 3, as the first step is Euler's
    with UniC-1 after it. Evaluations a step: 1. Source: Zhao et al. 2023 (UniPC), Algorithms 1 (UniC) and 2 (UniP).
    Shapes: x (B, *shape), any float dtype; keeps `order` directions and one state of that shape.
    Fails: states on the way are predictions, not yet corrected. Order 3 extrapolates wildly on few large steps (cap it
    with final_order). A step into sigma = 0 has order 1, as lam is infinite there.
    """

    evaluations_per_step = 1
    startup = "low_order"  # Euler, then growing order: there is no other

    def __init__(
        self,
        order: int = 2,
        variant: str = "bh2",
        transfer: str = "data",
        final_order: int = 0,
        first: str = "network",
    ):
        if transfer not in ("data", "manifold"):
            raise unknown_name("transfer", transfer, ("data", "manifold"))
        super().__init__(transfer, first)
        if order not in (1, 2, 3):
            raise OptionError(f"solver 'unipc': order={order} must be 1, 2 or 3")
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
        if not 0 <= final_order <= order:
            raise OptionError(f"final_order={final_order} must lie between 0 (no limit) and order={order}")
        self.weights_order, self.variant, self.final_order = order, variant, final_order
        self.order = min(order + 1, 3)

    def reset(self) -> None:
        self.history: deque[Tensor] = deque(maxlen=self.weights_order)
        self.before: tuple[Tensor, float] | None = None  # the last corrected state, and its time
        self.predictors: list[Sequence[float]] = []  # of step k, newest evaluation first
        self.correctors: list[Sequence[float]] = []  # of step k, with the evaluation at its end before the others
        for k, (t, s) in enumerate(pairwise(self.times.tolist())):
            order = min(self.weights_order, k + 1)
            if self.final_order:
                order = min(order, self.final_order + len(self.times) - 2 - k)
            if self.noiseless(s):
                self.predictors.append([1.0])
                break  # no evaluation there to correct with
            asked = self.times[k::-1][:order].tolist()
            self.predictors.append(self._weights(asked, t, s))
            self.correctors.append(self._weights([s, *asked], t, s))
        self.steps_made = 0

    def step(self, x: Tensor, t: float, s: float) -> Step:
        k = self.steps_made
        self.steps_made += 1
        e = yield x, t
        if self.before:
            state, time = self.before
            weights = self.correctors[k - 1]
            x = self.transfer.along(state, weights, [e, *self.history], time, t)
        self.before = x, t
        self.history.appendleft(e)
        weights = self.predictors[k]
        return self.transfer.along(x, weights, self.history, t, s)

    def _weights(self, asked: Sequence[float], t: float, s: float) -> list[float]:
        """Weights of evaluations at the times `asked`, the one at t among them, for a step from t to s."""
        if len(asked) != 2:
            return polynomial_weights(self.schedule, "lam", self._transfer_type.clock, asked, t, s)
        return self.schedule.remember(
            (type(self), self.variant, self._transfer_type, *asked, t, s), self._line, asked, t, s
        )

    def _line(self, asked: Sequence[float], t: float, s: float) -> list[float]:
        (other,) = (time for time in asked if time != t)
        h = self.schedule.lam(s) - self.schedule.lam(t)
        reach = (self.schedule.lam(other) - self.schedule.lam(t)) / h
        signed = -h if self._transfer_type.clock == "snr" else h
        share = 0.5 / reach * (signed / math.expm1(signed) if self.variant == "bh1" else 1.0)
        return [share if time == other else 1 - share for time in asked]

    def evaluations(self) -> int:
        return len(self.times) - 1 - self.saved
