"""DPM-Solver's single-step method of order 3. (Its order 2 is a preset of Runge-Kutta: midpoint x manifold in lam.)"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from pndm.clocks import between, polynomial_weights
from pndm.solvers.base import Solver, Step, register

Plan = tuple[float, float, list[float], list[float]]


@register("dpm_solver_3", about="DPM-Solver-3: 3 stages in lam, each along the line through two evaluations.")
class DPMSolver3(Solver):
    """Three stages, at 0, 1/3 and 2/3 of the step in lam; the third and the step follow lines, integrated exactly.

    The third stage follows the line in lam through the first two evaluations, the step the one through the first and
    the third: the terms with (e^h - 1)/h - 1 of the paper are these lines' integrals.
    transfer: manifold (eps: DPM-Solver-3) or data (x0: DPM-Solver++(3S)).
    Order: 3. Evaluations a step: 3; 1 for a step into sigma = 0. Source: Lu et al. 2022 (DPM-Solver), Algorithm 2 with
    r1 = 1/3, r2 = 2/3; for x0 DPM-Solver++(3S) of its successor. Shapes: x (B, *shape), any float dtype.
    Fails: a step into sigma = 0, where lam is infinite, is Euler's. The noise end needs steps of less than about 1 in
    lam before the order shows.
    """

    order = 3
    evaluations_per_step = 3

    def __init__(self, transfer: str = "manifold"):
        super().__init__(transfer)

    def reset(self) -> None:
        self.plans = [None if self.noiseless(s) else self._plan(t, s) for t, s in pairwise(self.times.tolist())]
        self.steps_made = 0

    def _plan(self, t: float, s: float) -> Plan:
        """The times of the inner stages, and the weights of two evaluations for the third stage and for the step."""
        path, measure = self.schedule, self._transfer_type.clock
        third, two_thirds = (between(path, "lam", t, s, share) for share in (1 / 3, 2 / 3))
        return (
            third,
            two_thirds,
            polynomial_weights(path, "lam", measure, [t, third], t, two_thirds),
            polynomial_weights(path, "lam", measure, [t, two_thirds], t, s),
        )

    def step(self, x: Tensor, t: float, s: float) -> Step:
        plan = self.plans[self.steps_made]
        self.steps_made += 1
        e1 = yield x, t
        if plan is None:
            return self.transfer(x, e1, t, s)
        third, two_thirds, to_stage, to_end = plan
        e2 = yield self.transfer(x, e1, t, third), third
        e3 = yield self.transfer.along(x, to_stage, [e1, e2], t, two_thirds), two_thirds
        return self.transfer.along(x, to_end, [e1, e3], t, s)

    def evaluations(self) -> int:
        return sum(3 if plan else 1 for plan in self.plans)
