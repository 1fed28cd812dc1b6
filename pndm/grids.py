"""Which times a run visits: decreasing, from the noise end to the clean end, in float64.

A grid is a rule; `times(...)` applies it to a schedule, a number of steps and two ends, and checks the result.
`leading`, `trailing` and `linspace` are the integer spacings of the diffusers library, for networks and comparisons
that want exactly those; they end with a step to the clean end.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pndm.errors import OptionError
from pndm.registry import Registry
from pndm.schedules import Schedule

_MOST = 700.0  # of the logarithm of a float64


class Grid:
    """A rule for placing times."""

    name: str = ""

    def place(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        """steps + 1 times from start down to end."""
        raise NotImplementedError


grids: Registry[Grid] = Registry("grid", group="pndm.grids", base=Grid)
register, create, names = grids.register, grids.create, grids.names


def times(
    grid: str | Grid | Sequence[float] | np.ndarray,
    steps: int,
    schedule: Schedule,
    t_start: float | None = None,
    t_end: float | None = None,
) -> np.ndarray:
    """The times of a run, shape (steps + 1,), strictly decreasing.

    grid: a registered name, a Grid, or the times themselves (then `steps`, `t_start` and `t_end` are not used).
    Raises OptionError for a grid that is none of these, for steps that are not a positive whole number or more than a
    discrete schedule has, for ends that the schedule does not reach, and for times that do not decrease strictly.
    """
    if not isinstance(grid, (str, Grid)):
        return _checked(_given(grid), schedule, "the given times")
    if isinstance(steps, bool) or not isinstance(steps, numbers.Real) or steps % 1 != 0 or steps < 1:
        raise OptionError(f"steps={steps} must be a whole number of at least 1")
    if schedule.train_steps is not None and steps > schedule.train_steps:
        raise OptionError(f"steps={steps} is more than the {schedule.train_steps} that the schedule has")
    start = schedule.t_noise if t_start is None else _number("t_start", t_start)
    end = schedule.t_clean if t_end is None else _number("t_end", t_end)
    if not start > end:
        raise OptionError(f"t_start={start:g} must be later (noisier) than t_end={end:g}")
    _check_ends(start, end, schedule, f"t_start={start:g}, t_end={end:g}")
    grid = grids.resolve(grid)
    label = f"grid {grid.name or type(grid).__name__!r} with steps={steps}, t_start={start:g}, t_end={end:g}"
    return _checked(grid.place(int(steps), schedule, start, end), schedule, label)


def _given(times: Any) -> np.ndarray:
    try:
        return np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"grid={reprlib.repr(times)} must be a name, a Grid object or one list of decreasing numbers"
        ) from error


def _number(option: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{option}={value!r} must be a number") from error


def _checked(placed: np.ndarray, schedule: Schedule, label: str) -> np.ndarray:
    if placed.ndim != 1 or len(placed) < 2:
        raise OptionError(f"{label}: a grid needs at least two times in one list, not shape {placed.shape}")
    if not np.all(np.diff(placed) < 0):
        k = int(np.argmin(np.diff(placed) < 0))
        raise OptionError(f"{label}: times must decrease strictly, but {placed[k]:g} is followed by {placed[k + 1]:g}")
    _check_ends(placed[0], placed[-1], schedule, label)
    return placed


def _check_ends(start: float, end: float, schedule: Schedule, label: str) -> None:
    if start > schedule.t_noise or end < schedule.t_data:
        raise OptionError(
            f"{label}: times must lie in [{schedule.t_data:g}, {schedule.t_noise:g}], not {start:g} to {end:g}"
        )


@register("uniform")
@dataclass
class Uniform(Grid):
    """Equal steps in t, both ends included."""

    def place(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        return np.linspace(start, end, steps + 1)


@register("quadratic")
@dataclass
class Quadratic(Grid):
    """Equal steps in a root of t, so that steps shrink towards the clean end (power 2: DDIM's "quad")."""

    power: float = 2.0

    def place(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        if self.power <= 0:
            raise OptionError(f"grid 'quadratic': power={self.power} must be positive")
        share = np.linspace(1, 0, steps + 1) ** self.power
        return start * share + end * (1 - share)


@dataclass
class _IntegerGrid(Grid):
    """Integer times at which the network is asked, then a step to the end."""

    def place(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        if schedule.train_steps is None:
            raise OptionError(
                f"grid {self.name!r} needs a schedule with training steps; use 'uniform' for a continuous one"
            )
        return np.append(self.asked(steps, int(start) + 1), end)

    def asked(self, steps: int, total: int) -> np.ndarray:
        raise NotImplementedError


@register("leading")
@dataclass
class Leading(_IntegerGrid):
    """Multiples of T // steps, from 0 up (diffusers "leading", the DDPM and PNDM default there)."""

    offset: int = 0

    def asked(self, steps: int, total: int) -> np.ndarray:
        return np.arange(steps - 1, -1, -1) * (total // steps) + self.offset


@register("trailing")
@dataclass
class Trailing(_IntegerGrid):
    """Multiples of T / steps counted from the noise end, rounded (diffusers "trailing")."""

    def asked(self, steps: int, total: int) -> np.ndarray:
        return np.round(total - np.arange(steps) * (total / steps)) - 1


@register("linspace")
@dataclass
class Linspace(_IntegerGrid):
    """Rounded equal spacing that includes both 0 and T - 1 (diffusers "linspace")."""

    def asked(self, steps: int, total: int) -> np.ndarray:
        return np.round(np.linspace(0, total - 1, steps))[::-1]


@dataclass
class _NoiseGrid(Grid):
    """Equal steps in a function of the noise level.

    Where the end has no noise at all the function may be infinite; the steps then run to the least noise that the
    network knows, and the last one goes from there to the end.
    """

    def place(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        if schedule.sigma(end) > 0:
            return self.between(steps, schedule, start, end)
        if steps == 1:
            return np.array([start, end])
        return np.append(self.between(steps - 1, schedule, start, schedule.t_least), end)

    def between(self, steps: int, schedule: Schedule, start: float, end: float) -> np.ndarray:
        placed = self.invert(np.linspace(self.level(schedule, start), self.level(schedule, end), steps + 1), schedule)
        placed[0], placed[-1] = start, end  # without the rounding of the inverse
        return placed

    def level(self, schedule: Schedule, t: float) -> float:
        raise NotImplementedError

    def invert(self, levels: np.ndarray, schedule: Schedule) -> np.ndarray:
        raise NotImplementedError


@register("logsnr")
@dataclass
class LogSNR(_NoiseGrid):
    """Equal steps in lambda, half the log signal-to-noise ratio (DPM-Solver's)."""

    def level(self, schedule: Schedule, t: float) -> float:
        return schedule.lam(t)

    def invert(self, levels: np.ndarray, schedule: Schedule) -> np.ndarray:
        return schedule.t_of_lam(levels)


@register("karras")
@dataclass
class Karras(_NoiseGrid):
    """Equal steps in rho^(1/power), rho = sigma / alpha (Karras et al. 2022, equation 5, power 7)."""

    power: float = 7.0

    def level(self, schedule: Schedule, t: float) -> float:
        if self.power <= 0:
            raise OptionError(f"grid 'karras': power={self.power} must be positive")
        if -schedule.lam(t) > _MOST * self.power:
            least = -schedule.lam(t) / _MOST
            raise OptionError(
                f"grid 'karras': power={self.power} must be above {least:.3g} here, where rho reaches "
                f"{schedule.rho(t):.3g}, or rho^(1/power) overflows"
            )
        return schedule.rho(t) ** (1 / self.power)

    def invert(self, levels: np.ndarray, schedule: Schedule) -> np.ndarray:
        return schedule.t_of_rho(levels**self.power)
