"""The adaptive pseudo solver: an embedded Runge-Kutta pair over the manifold transfer, told a tolerance, not steps."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pndm.clocks import between
from pndm.errors import OptionError, unknown_name
from pndm.gradient import Tableau, combine
from pndm.solvers.base import Evaluate, OnStep, Question, Solver, Step, drive, register


@dataclass(frozen=True)
class Pair:
    """A Runge-Kutta method and a poorer one that shares its evaluations.

    tableau: the method that makes the step. Its first evaluation of a step is the last one of the step before.
    error: what to combine its directions and the one at the step's end with, for the difference between the two methods
    as a direction: weights that sum to 0.
    """

    tableau: Tableau
    error: tuple[float, ...]


BOGACKI_SHAMPINE = Pair(
    Tableau(order=3, nodes=(0.0, 1 / 2, 3 / 4), stages=((), (1.0,), (0.0, 1.0)), weights=(2 / 9, 1 / 3, 4 / 9)),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
)
DORMAND_PRINCE = Pair(
    Tableau(
        order=5,
        nodes=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        stages=(
            (),
            (1.0,),
            (1 / 4, 3 / 4),
            (11 / 9, -14 / 3, 40 / 9),
            (4843 / 1458, -3170 / 243, 8056 / 729, -53 / 162),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
PAIRS = {"bs32": BOGACKI_SHAMPINE, "dp54": DORMAND_PRINCE}

FIRST_STEP = 0.8  # in lam; the states at the noise end are so smooth in it that every tolerance accepts more
LEAST, MOST = 0.2, 2.0  # the factors by which a step size may change from one step to the next


@register("adaptive", about="Told a tolerance instead of steps: embedded pair x manifold, PI controller.")
class Adaptive(Solver):
    """An embedded pair over the manifold transfer in its own clock rho, with steps that a PI controller chooses.

    tol: the error promised at the end: root mean square over the numbers of a sample, the largest of the batch, for
        data of about unit size. Measured for 1e-2 to 1e-6 on exact problems: 0.07 to 4.4 times it.
    pair: dp54 (Dormand-Prince, 6 evaluations a step) or bs32 (Bogacki-Shampine, 3): cheaper at 1e-2 (22 to 46
        evaluations instead of 37 to 55), as good at 1e-3, at 1e-6 twice as dear.
    safety: how much of the predicted step size is taken. max_evaluations: where to give up.
    A step is accepted when the difference of the two methods, in the state at its end, is at most tol. Errors in the
    state neither grow nor shrink much on the way to the clean end, so that no other scale is needed. Step sizes are
    counted in lam, where steps of equal difficulty are nearly equal: few are rejected.
    Of the grid only the two ends are used. The run's `times` become those of the accepted steps; `accepted` and
    `rejected` count them. Order: 5 (dp54), 3 (bs32). Evaluations: as many as it takes.
    Source: Dormand & Prince 1980; Bogacki & Shampine 1989; the controller: Hairer & Wanner II, chapter IV.2, with
    Gustafsson's exponents 0.7 and 0.4. Shapes: x (B, *shape), any float dtype; keeps 7 (bs32: 4) directions of that
    shape.
    Fails: a tol below the rounding of x's dtype (float32: about 1e-6) is not reached. Where sigma(t_end) = 0 the
    promise holds to the least noise that the network knows; from there an Euler step along the last direction goes on.
    One step size serves the whole batch: the sample that needs the smallest steps sets them for all, so the same sample
    in another batch agrees to tol, not to rounding. Reading the error stops a GPU once a step.
    """

    evaluations_per_step = None

    def __init__(self, tol: float = 1e-3, pair: str = "dp54", safety: float = 0.9, max_evaluations: int = 2000):
        super().__init__("manifold")
        if not 0 < tol < math.inf:
            raise OptionError(f"solver 'adaptive': tol={tol} must be positive and finite")
        if pair not in PAIRS:
            raise unknown_name("pair", pair, PAIRS)
        if not 0 < safety <= 1:
            raise OptionError(f"solver 'adaptive': safety={safety} must be above 0 and at most 1")
        if max_evaluations < 1:
            raise OptionError(f"solver 'adaptive': max_evaluations={max_evaluations} must be at least 1")
        self.tol, self.pair, self.safety, self.max_evaluations = tol, PAIRS[pair], safety, max_evaluations
        self.order = self.pair.tableau.order

    def reset(self) -> None:
        self.directions: list[Tensor] = []  # the one at the state reached so far, once it is known
        self.size = FIRST_STEP  # of the next attempt, in lam
        self.last_error = 1.0
        self.accepted = self.rejected = self.asked = 0

    def step(self, x: Tensor, t: float, s: float) -> Step:
        while t > s:
            x, t = yield from self.advance(x, t, s)
        return x

    def integrate(self, x: Tensor, evaluate: Evaluate, on_step: OnStep) -> Tensor:
        t, end = float(self.times[0]), float(self.times[-1])
        reached = [t]
        while t > end:
            x, t = drive(self.advance(x, t, end), evaluate)
            reached.append(t)
            on_step(self.accepted, t, x)
        self.times = np.array(reached)
        return x

    def advance(self, x: Tensor, t: float, s: float) -> Generator[Question, Tensor, tuple[Tensor, float]]:
        """One accepted step from t towards s: the new state and its time."""
        stop = max(s, self.schedule.t_least) if self.noiseless(s) else s
        if not self.directions:
            self.directions = [(yield self._counted(x, t))]
        if t <= stop:  # the run starts below the least noise that the network knows
            return self.transfer(x, self.directions[-1], t, s), s
        power, retry = 1 / self.order, False
        while True:
            left = self.schedule.lam(stop) - self.schedule.lam(t)
            size = left if self.size > 0.9 * left else min(self.size, left / 2)  # no sliver at the end
            there = stop if size == left else self.schedule.t_of_lam(self.schedule.lam(t) + size)
            landed, directions, error = yield from self._attempt(x, t, there)
            if error <= 1:
                factor = self.safety * max(error, 1e-10) ** (-0.7 * power) * self.last_error ** (0.4 * power)
                self.size = size * min(max(factor, LEAST), 1.0 if retry else MOST)
                self.last_error, self.directions = max(error, 1e-4), directions[-1:]
                self.accepted += 1
                if there == stop > s:
                    landed, there = self.transfer(landed, directions[-1], stop, s), s
                return landed, there
            factor = self.safety * error**-power if math.isfinite(error) else LEAST
            self.size, retry = size * min(max(factor, LEAST), 0.8), True
            self.rejected += 1

    def _attempt(
        self, x: Tensor, t: float, s: float
    ) -> Generator[Question, Tensor, tuple[Tensor, list[Tensor], float]]:
        """A step from t to s: the state there, the directions up to the one there, and the error in units of tol."""
        tableau, directions = self.pair.tableau, list(self.directions)
        for node, stage in zip(tableau.nodes[1:], tableau.stages[1:], strict=True):
            there = between(self.schedule, "rho", t, s, node) if node < 1 else s
            directions.append((yield self._counted(self.transfer.along(x, stage, directions, t, there), there)))
        landed = self.transfer.along(x, tableau.weights, directions, t, s)
        directions.append((yield self._counted(landed, s)))
        _, along = self.transfer.coefficients(t, s)
        apart = combine(self.pair.error, directions).reshape(len(x), -1)
        error = abs(along) * apart.square().mean(1).sqrt().max().item()
        return landed, directions, error / self.tol

    def _counted(self, x: Tensor, t: float) -> Question:
        self.asked += 1
        if self.asked > self.max_evaluations:
            raise OptionError(
                f"solver 'adaptive': max_evaluations={self.max_evaluations} took it only to t = {t:g}: raise it or "
                f"tol={self.tol:g}, which must lie above the rounding of {x.dtype}"
            )
        return x, t
