"""What a solver is: a generator that asks for evaluations of eps and returns the next state.

    class Mine(Solver):
        '''One line for the listing. Order, evaluations a step, source.'''
        order, evaluations_per_step = 2, 2

        def step(self, x, t, s):
            mid = (t + s) / 2
            e1 = yield x, t
            e2 = yield self.transfer(x, e1, t, mid), mid
            return self.transfer(x, e2, t, s)

A solver never calls a network. Whoever drives it answers each question (x, t) with eps there: `pndm.solve` with a
model, a diffusers scheduler with what its pipeline hands in. What the solver is sent is the direction that its transfer
follows: eps itself on the manifold, dx/dt with the linear transfer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from itertools import pairwise
from typing import ClassVar, Self, TypeVar

import numpy as np
from torch import Tensor

from pndm.errors import unknown_name
from pndm.noise import Noise
from pndm.registry import Registry
from pndm.schedules import Schedule
from pndm.transfer import TRANSFERS, Transfer

Question = tuple[Tensor, float]
Step = Generator[Question, Tensor, Tensor]
Evaluate = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, float, Tensor], None]

FIRST = ("network", "analytic")
T = TypeVar("T")


class Solver:
    """A numerical method. An object made by its constructor holds options only; `begin` makes the one that runs.

    order: global order of convergence in the step size, on a smooth problem with the ends of time away from sigma = 0.
    evaluations_per_step: network evaluations of an ordinary step; None where they are not fixed beforehand.
    stochastic: whether steps draw noise (then `order` is 0: the error to a deterministic solution is not defined).
    first: who answers the first question of a run: the network, or `guess` (analytic), which saves an evaluation.
    """

    name: str = ""
    order: int
    evaluations_per_step: int | None
    stochastic: ClassVar[bool] = False
    first: str

    schedule: Schedule
    times: np.ndarray
    transfer: Transfer
    noise: Noise

    def __init__(self, transfer: str = "manifold", first: str = "network"):
        if transfer not in TRANSFERS:
            raise unknown_name("transfer", transfer, TRANSFERS)
        if first not in FIRST:
            raise unknown_name("first", first, FIRST)
        self._transfer_type, self.first = TRANSFERS[transfer], first

    def begin(self, schedule: Schedule, times: np.ndarray, noise: Noise) -> Self:
        """A copy of this solver, bound to one run: its schedule, its times of shape (steps + 1,), its noise source."""
        run = copy.copy(self)
        run.schedule, run.times, run.noise = schedule, times, noise
        run.transfer = self._transfer_type(schedule)
        run.reset()
        return run

    def reset(self) -> None:
        """Forget what a former run left: called by `begin` on the copy. Solvers with a history override it."""

    def step(self, x: Tensor, t: float, s: float) -> Step:
        """One step from x at time t to time s < t, as a generator of questions (x, t). Shapes: x (B, *shape)."""
        raise NotImplementedError

    def evaluations(self) -> int | None:
        """How many evaluations the run that `begin` prepared will ask for; None if that depends on the answers."""
        return None if self.evaluations_per_step is None else self.evaluations_per_step * (len(self.times) - 1)

    def ask(self, x: Tensor, t: float, s: float) -> Step:
        """`step`, for whoever drives it: is sent eps, and hands on the direction that the transfer makes of it."""
        step = self.step(x, t, s)
        question = next(step)
        while True:
            analytic = self.first == "analytic" and question[1] == self.times[0]
            eps = self.guess(*question) if analytic else (yield question)
            eps = self.transfer.direction(*question, eps)
            del question  # here and below: a state that the step has done with is free for the next
            try:
                question = step.send(eps)
            except StopIteration as end:
                return end.value
            del eps

    def integrate(self, x: Tensor, evaluate: Evaluate, on_step: OnStep) -> Tensor:
        """The whole run: x at the first time to x at the last. on_step(k, t, x) follows each step."""
        for k, (t, s) in enumerate(pairwise(self.times.tolist()), start=1):
            x = drive(self.ask(x, t, s), evaluate)
            on_step(k, s, x)
        return x

    def guess(self, x: Tensor, t: float) -> Tensor:
        """eps at the noise end without a network: sigma x, which is exact for data of mean 0 and variance 1.

        Other data leave an error of the size of alpha(t) in the first direction, hence one of order 1 in the step with
        this small factor, whatever the method: for runs of few evaluations that start where alpha is near 0.
        """
        return x * self.schedule.sigma(t)

    @property
    def saved(self) -> int:
        """Evaluations of a run that `first` saves."""
        return int(self.first == "analytic")

    def noiseless(self, s: float) -> bool:
        """Whether sigma(s) = 0: there eps is undefined, and a solver must not ask for it."""
        return self.schedule.sigma(s) == 0


solvers: Registry[Solver] = Registry("solver", group="pndm.solvers", base=Solver)
register, create, names = solvers.register, solvers.create, solvers.names


def drive(asking: Generator[Question, Tensor, T], evaluate: Evaluate) -> T:
    """Answer all questions of a generator (there may be none), and give what it returns."""
    try:
        x, t = next(asking)
        while True:
            eps = evaluate(x, t)
            del x
            x, t = asking.send(eps)
            del eps
    except StopIteration as end:
        return end.value
