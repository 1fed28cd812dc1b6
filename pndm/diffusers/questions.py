"""A run of a solver as one sequence of questions, answered from outside with what a network said.

`pndm.solve` has the model and answers its solver's questions at once. A diffusers pipeline works the other way: it asks
a scheduler for a list of timesteps, evaluates its network at each, and hands the answers in. So the questions must be
known before any is answered: `SolverRun` puts them to a state of one number first, and notes the times.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pndm.denoisers import to_eps
from pndm.errors import OptionError
from pndm.noise import Noise
from pndm.schedules import Schedule
from pndm.solvers import Solver
from pndm.solvers.base import Question

Questions = Generator[Question, Tensor, Tensor]


class Run(Protocol):
    """times: of all questions, in order."""

    times: list[float]

    def begin(self, x: Tensor, index: int) -> tuple[Questions, list[bool]]:
        """The questions from `index` on, the first of them about x, and whether each answer is of use.

        The generator is sent the network's outputs and returns the state at the last time.
        """


def whole_run(run: Solver, x: Tensor) -> Questions:
    """All steps of a run that `Solver.begin` prepared; is sent eps."""
    for t, s in pairwise(run.times.tolist()):
        x = yield from run.ask(x, t, s)
    return x


class SolverRun:
    """A solver on a grid, which can also start in the middle.

    solvers: the solver, and others that may stand in for it where it cannot start: a multistep method whose first steps
        need evaluations at other times than the rest of the list has must start at low order there.
    Raises OptionError for a solver that no list of timesteps can drive.
    """

    def __init__(
        self, solvers: Sequence[Solver], schedule: Schedule, grid: np.ndarray, predicts: str, noise: Noise
    ) -> None:
        self.solvers, self.schedule, self.grid, self.predicts, self.noise = solvers, schedule, grid, predicts, noise
        self._whole, self.times = self._prepared(solvers[0], grid)

    def begin(self, x: Tensor, index: int) -> tuple[Questions, list[bool]]:
        """See `Run`. An answer is of no use where the rest of the list holds a time that the fresh run does not ask.

        This happens only between the steps of a start-up that the run does not make. Raises OptionError where no
        solver can start.
        """
        listed = self.times[index:]
        if index == 0:
            return self._answered(self._whole, x), [True] * len(listed)
        grid = np.append(listed[0], self.grid[self.grid < listed[0]])
        possible: list[tuple[Solver, list[bool]]] = []
        for solver in self.solvers if len(grid) > 1 else ():
            run, asked = self._prepared(solver, grid)
            used = _found_in(listed, asked)
            if used:
                possible.append((run, used))
        if not possible:
            raise OptionError(
                f"solver {self.solvers[0].name!r} cannot start at index {index} of its timesteps (t = {listed[0]:g}), "
                f"inside a step; each step has {self.solvers[0].evaluations_per_step} timesteps, the scheduler's order"
            )
        run, used = max(possible, key=lambda found: sum(found[1]))
        return self._answered(run, x), used

    def _prepared(self, solver: Solver, grid: np.ndarray) -> tuple[Solver, list[float]]:
        """The solver bound to a grid, and the times of its questions, found by answering them with zeros."""
        run = solver.begin(self.schedule, grid, torch.zeros_like)
        x = torch.zeros(1, 1, dtype=torch.float64)
        asking = whole_run(run, x)
        state, t = next(asking)
        if state is not x or t != grid[0]:
            raise OptionError(
                f"solver {solver.name!r} with these options does not begin with the network's answer at the state it "
                "is given, so a diffusers pipeline cannot drive it; use pndm.solve"
            )
        asked = [t]
        try:
            while True:
                asked.append(asking.send(torch.zeros_like(x))[1])
        except StopIteration:
            return run, asked

    def _answered(self, run: Solver, x: Tensor) -> Questions:
        """The whole run, is sent outputs of the network: each becomes eps at its own time before anything else."""
        run.reset()
        run.noise = self.noise
        asking = whole_run(run, x)
        question = next(asking)
        try:
            while True:
                output = yield question
                state, t = question
                alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
                question = asking.send(to_eps(self.predicts, output, state, alpha, sigma))
        except StopIteration as end:
            return end.value


def _found_in(listed: Sequence[float], asked: Sequence[float]) -> list[bool] | None:
    """Which entries of `listed` are the times asked, in order; None if some are not there."""
    used, k = [], 0
    for t in listed:
        used.append(k < len(asked) and t == asked[k])
        k += used[-1]
    return used if k == len(asked) else None
