"""The driver: answers a solver's questions with a model, counts them, and watches over the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm import grids, schedules, solvers
from pndm.answers import checked
from pndm.errors import ModelError, OptionError
from pndm.noise import Noise, as_noise
from pndm.transfer import Manifold

Model = Callable[[Tensor, Tensor], Tensor]
Place = tuple[int, int, float]  # step, evaluation and time, of an evaluation

_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Solution:
    """What a run gives.

    x: the state at the last time, shape (B, *shape). nfe: network evaluations spent (each on the whole batch).
    times: the grid, shape (steps + 1,); of an adaptive solver the times it chose, with `rejected` more steps tried.
    trajectory: the states at those times, (steps + 1, B, *shape), when asked for.
    """

    x: Tensor
    nfe: int
    times: np.ndarray
    trajectory: Tensor | None = None
    rejected: int = 0


@torch.no_grad()
def solve(
    model: Model,
    x: Tensor,
    *,
    solver: str | solvers.Solver = "plms",
    steps: int = 50,
    schedule: str | schedules.Schedule = "linear",
    grid: str | grids.Grid | Sequence[float] | np.ndarray = "uniform",
    t_start: float | None = None,
    t_end: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | Noise | None = None,
    callback: Callable[[int, float, Tensor], Any] | None = None,
    progress: bool | Any = False,
    trajectory: bool = False,
    denoise: bool = False,
) -> Solution:
    """Carry the state x from the noise end to the clean end with a numerical method.

    model: model(x, t) -> eps, any callable; x is (B, *shape), t is (B,) in the schedule's time, eps is shaped like x
        and a tensor of its own, not a buffer that the next call overwrites: multistep solvers keep it.
        For a network that predicts x0 or v, see `pndm.denoisers`.
    x: the state at t_start, shape (B, *shape), any float dtype; the run keeps its dtype and device.
    solver, schedule, grid: a registered name or an object; `grid` also the decreasing times themselves.
    t_start, t_end: the ends of time; the schedule's own when None.
    generator: noise for stochastic solvers: a torch generator, a list of B of them, or a `pndm.noise` source.
    callback: called after step k as callback(k, t, x), with x the state at t.
    progress: True for a bar over evaluations, or an object with `update(n)` that counts them.
    trajectory: keep the state at every time.
    denoise: go on from the last time of the grid to where there is no noise with one evaluation more, straight to the
        predicted x0, whatever the solver ("denoise to zero" elsewhere): one more time, one more call of `callback`.

    Raises OptionError for a choice that cannot be used, and ModelError, with the solver, the evaluation and its time,
    when the model's answer has another shape than x, is complex, or has a number that is not finite in x's dtype; and
    when the state at the end has one all the same.
    """
    schedule = schedules.schedules.resolve(schedule)
    solver = solvers.solvers.resolve(solver)
    if not isinstance(x, Tensor) or x.dim() == 0:
        found = f"one of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise OptionError(f"x must be a torch tensor of shape (B, *shape), not {found}")
    if not x.is_floating_point():
        raise OptionError(f"x must be of a floating-point dtype, not {x.dtype}")
    times = grids.times(grid, steps, schedule, t_start, t_end)
    if denoise and schedule.sigma(times[-1]) == 0:
        raise OptionError(f"denoise=True has nothing to do: the run ends without noise, at t={times[-1]:g}; set t_end")
    run = solver.begin(schedule, times, as_noise(generator))
    states = [x.clone()] if trajectory else None
    total = run.evaluations()
    total = None if total is None else total + denoise
    bar: Any = None if progress is False else progress
    if progress is True:
        bar = _progress_bar(total, solver)
    asked = _Evaluator(model, run.name or type(run).__name__, total, x, bar)

    def on_step(k: int, t: float, state: Tensor) -> None:
        asked.step = k + 1
        if states is not None:
            states.append(state.clone())
        if callback is not None:
            callback(k, t, state)

    try:
        x, times = run.integrate(x, asked, on_step), run.times
        if denoise:
            last, clean = float(times[-1]), schedule.t_data
            x = Manifold(schedule)(x, asked(x, last), last, clean)
            on_step(len(times), clean, x)
            times = np.append(times, clean)
        asked.finish(x)
    finally:
        if progress is True:
            bar.close()
    return Solution(x, asked.nfe, times, torch.stack(states) if states else None, getattr(run, "rejected", 0))


class _Evaluator:
    """Answers questions with the model; counts them; stops at the first answer that cannot be used."""

    def __init__(self, model: Model, name: str, total: int | None, x: Tensor, bar: Any):
        self.model = model
        self.name = name
        self.total = total
        self.bar = bar
        self.nfe = 0
        self.step = 1
        self.shape, self.dtype = x.shape, x.dtype
        self.size, self.device = (len(x),), x.device
        self.time_dtype = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell 998 from 999
        self.at_once = x.device.type == "cpu"  # elsewhere, reading a number would stop the device
        self.unread: list[tuple[Place | None, Tensor]] = []  # without a place: the state at the end

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.nfe += 1
        time = torch.full(self.size, t, dtype=self.time_dtype, device=self.device)
        try:
            eps = checked(self.model(x, time), self.shape)
        except ModelError as error:  # of the answer, or of a wrapper's network, which does not know where it is
            raise ModelError(f"{error}: {self._where((self.step, self.nfe, t))}") from error
        eps = eps if eps.dtype == self.dtype else eps.to(self.dtype)  # where what was finite may not be
        self._watch(eps, (self.step, self.nfe, t))
        if self.bar is not None:
            self.bar.update(1)
        return eps

    def finish(self, x: Tensor) -> None:
        """Watch the state at the end too: a solver that divides by 0, or a start with NaN in it, shows only there."""
        self._watch(x, None)
        self.check()

    def _watch(self, numbers: Tensor, place: Place | None) -> None:
        """Raise ModelError for a number that is not finite; leave it to `check` where reading would stop a device."""
        # NaN and infinity survive a sum. One of halves overflows; float32 is what torch adds them up in anyway.
        total = numbers.sum() if numbers.dtype in _WIDE else numbers.sum(dtype=torch.float32)
        if not self.at_once:
            self.unread.append((place, total))
        elif not math.isfinite(total):
            raise self._not_finite(place)

    def check(self) -> None:
        """Raise ModelError for the first unread answer, or state, with a number that is not finite."""
        if self.unread:
            places, totals = zip(*self.unread, strict=True)
            for place, finite in zip(places, torch.stack(totals).isfinite().tolist(), strict=True):
                if not finite:
                    raise self._not_finite(place)

    def _not_finite(self, place: Place | None) -> ModelError:
        if place is None:
            return ModelError(
                f"the state at the end holds NaN or infinity, though every answer of the model was finite in "
                f"{self.dtype}: solver {self.name}"
            )
        return ModelError(f"the model returned NaN or infinity: {self._where(place)}")

    def _where(self, place: Place) -> str:
        step, evaluation, t = place
        if self.total is None:  # of a solver that chooses its own steps
            return f"solver {self.name}, evaluation {evaluation}, at t = {t:g}"
        return f"solver {self.name}, step {step}, evaluation {evaluation} of {self.total}, at t = {t:g}"


def _progress_bar(total: int | None, solver: solvers.Solver) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=solver.name or type(solver).__name__, unit="eval")
