"""Reference solutions: what the errors of solvers are measured against.

For exact problems, Dormand and Prince's eighth-order method at a tolerance of 1e-12 in the variables y = x / alpha and
rho = sigma / alpha, where the ODE is dy / drho = eps and nothing is infinite. For networks, one solver at more and more
evaluations until two answers agree.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pndm import solvers
from pndm.answers import checked
from pndm.denoisers import Model
from pndm.errors import ModelError, OptionError
from pndm.schedules import Schedule
from pndm.solve import solve

RHO_LEAST = 1e-6  # where an exact solution into sigma = 0 takes its last, straight step: its error is of order 1e-12
METHODS = {
    "exact": "DOP853 in (x/alpha, sigma/alpha)",
    "self_converged": "adams_bashforth order=3 clock=lam on a log-SNR grid, doubled",
}


@dataclass(frozen=True)
class Reference:
    """A solution that counts as the true one, and how true it is.

    times: (N + 1,), decreasing. states: (N + 1, B, *shape) in float64, at those times. difference: root mean square
    between the last two answers at the last time, which is above the error of the better one. converged: whether it
    came down to the tolerance (exact problems control the error of every step instead). nfe: of the better answer.
    """

    times: np.ndarray
    states: Tensor
    method: str
    tolerance: float
    difference: float
    converged: bool
    nfe: int

    @property
    def x(self) -> Tensor:
        """The state at the last time."""
        return self.states[-1]


def rmse(x: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over samples and their numbers, in float64."""
    return float((x.double() - reference.double()).square().mean().sqrt())


@torch.no_grad()
def exact(model: Model, x: Tensor, schedule: Schedule, times: np.ndarray, *, tolerance: float = 1e-12) -> Reference:
    """The solution through x at times[0], at all the times, of a model that answers in float64 without error.

    The difference is that to the same at ten times the tolerance. One step size serves the batch. Into a time without
    noise the solution is followed to rho = 1e-6, and straight on from there.
    Raises OptionError for a tolerance that is not positive, and ModelError when the model's answer is not finite, or
    not shaped like x.
    """
    _check_tolerance(tolerance)
    rho = np.array([schedule.rho(float(t)) for t in times])
    nfe = 0

    def slope(level: float, flat: np.ndarray) -> np.ndarray:
        nonlocal nfe
        nfe += 1
        t = schedule.t_of_rho(float(level))
        state = torch.from_numpy(flat).view(x.shape) * schedule.alpha(t)
        time = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
        answer = checked(model(state.to(x.device), time), x.shape).cpu()
        if not math.isfinite(answer.sum().item()):
            raise ModelError(f"the model returned NaN or infinity in the reference solution, at t = {t:g}")
        return answer.double().flatten().numpy()

    start = (x.double().cpu() / schedule.alpha(float(times[0]))).flatten().numpy()
    rough = _through(slope, rho[[0, -1]], start, 10 * tolerance)[-1]
    nfe = 0
    found = _through(slope, rho, start, tolerance)
    alpha = torch.tensor([schedule.alpha(float(t)) for t in times], dtype=torch.float64)
    states = torch.from_numpy(found).view(len(times), *x.shape) * alpha.view(-1, *[1] * x.dim())
    difference = float(alpha[-1]) * math.sqrt(np.mean((found[-1] - rough) ** 2))
    return Reference(times, states, METHODS["exact"], tolerance, difference, True, nfe)


def _through(slope, rho: np.ndarray, start: np.ndarray, tolerance: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """y at every rho, (N + 1, size): DOP853 from each to the next, so that none is interpolated."""
    from scipy.integrate import DOP853  # slow to import, and only needed here

    found, step = [start], None
    for level, end in itertools.pairwise(rho):
        end = max(end, RHO_LEAST)
        first = None if step is None else min(step, level - end)
        method = DOP853(slope, level, found[-1], end, first_step=first, rtol=tolerance, atol=tolerance)
        while method.status == "running":
            before, message = method.t, method.step()
            if method.status == "failed":
                raise ModelError(f"the reference solution cannot be carried on at rho = {method.t:g}: {message}")
            if method.status == "running" or step is None:
                step = abs(method.t - before)  # the last step of a stretch is cut short, and says nothing
        found.append(method.y)
    if rho[-1] < RHO_LEAST:
        found[-1] = found[-1] + (rho[-1] - RHO_LEAST) * slope(RHO_LEAST, found[-1])
    return np.stack(found)


@torch.no_grad()
def self_converged(
    model: Model,
    x: Tensor,
    schedule: Schedule,
    times: np.ndarray,
    *,
    tolerance: float = 1e-4,
    first: int = 250,
    most: int = 8000,
) -> Reference:
    """The solution through x at times[0], at all the times, of any model, in the precision of x.

    `first` steps, equal in lambda between the given times, then twice as many, and so on, until two successive answers
    agree to the tolerance (root mean square at the end) or `most` is passed; see `converged`. Into a time
    without noise it goes in one straight step from the least noise that the network was trained on.
    Raises OptionError for a tolerance that is not positive and for `first` or `most` that leave nothing to compare, and
    ModelError when the model's answer is not finite, or not shaped like x.
    """
    _check_tolerance(tolerance)
    if first < 1:
        raise OptionError(f"the reference's first={first} must be at least 1")
    answers: list[tuple[Tensor, int]] = []
    difference, steps = math.inf, first
    while difference > tolerance and steps <= most:
        answers = [*answers[-1:], _run(model, x, schedule, times, steps)]
        if len(answers) == 2:
            difference = rmse(answers[1][0][-1], answers[0][0][-1])
        steps *= 2
    if len(answers) < 2:
        raise OptionError(f"the reference's most={most} must be at least twice first={first}")
    states, nfe = answers[-1]
    return Reference(times, states, METHODS["self_converged"], tolerance, difference, difference <= tolerance, nfe)


def _run(model: Model, x: Tensor, schedule: Schedule, times: np.ndarray, steps: int) -> tuple[Tensor, int]:
    """The states at the given times, (N + 1, B, *shape) in float64 on the CPU, and the evaluations spent."""
    end = float(times[-1])
    straight = schedule.sigma(end) == 0
    knots = [float(t) for t in (times[:-1] if straight else times)]
    if straight and knots[-1] > schedule.t_least:
        knots.append(schedule.t_least)
    grid, places = refined(schedule, knots, steps)
    if straight:
        places.add(len(grid))
    kept = [x.double().cpu()]

    def keep(k: int, t: float, state: Tensor) -> None:
        if k in places and t in times:
            kept.append(state.double().cpu())

    method = solvers.create("adams_bashforth", order=3, clock="lam")
    solution = solve(model, x, solver=method, schedule=schedule, grid=grid, callback=keep, denoise=straight)
    return torch.stack(kept), solution.nfe


def refined(schedule: Schedule, knots: list[float], steps: int) -> tuple[np.ndarray, set[int]]:
    """About `steps` times equal in lambda between the given ones, which are among them; and the places of those."""
    lam = [schedule.lam(t) for t in knots]
    grid, places = knots[:1], set()
    for s, a, b in zip(knots[1:], lam, lam[1:], strict=False):
        count = max(1, round(steps * (b - a) / (lam[-1] - lam[0])))
        grid += [*schedule.t_of_lam(np.linspace(a, b, count + 1)[1:-1]).tolist(), s]
        places.add(len(grid) - 1)
    return np.array(grid), places


def _check_tolerance(tolerance: float) -> None:
    if not tolerance > 0:
        raise OptionError(f"the reference's tolerance={tolerance} must be positive")
