"""The noise path x_t = alpha(t) x0 + sigma(t) eps with alpha^2 + sigma^2 = 1, as functions of a real time t.

A discrete schedule counts time in the network's own training index, 0 ... T-1, extended smoothly between the integers,
with -1 the clean end (alpha = 1). A continuous schedule has t in (0, 1]. All functions take a float, a numpy array or a
torch tensor and return the same kind; floats, arrays and float64 tensors are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from pndm.errors import OptionError
from pndm.registry import Registry

Time = TypeVar("Time", float, np.ndarray, torch.Tensor)
T = TypeVar("T")

_MOST_REMEMBERED = 8192
_LEAST = 1e-300  # of alpha squared: rho squared must be a number, with room for the factors of a solver


def _math(t: Any) -> Any:
    """The module with exp, sqrt, log and expm1 for this kind of number."""
    return torch if isinstance(t, torch.Tensor) else np if isinstance(t, np.ndarray) else math


class Schedule:
    """A variance-preserving noise path, given by log alpha(t), its derivative and its inverse.

    t_clean, t_noise: the two ends of time, where a run goes to and starts from when it is not told otherwise.
    t_least: the time of least noise that a network on this schedule has been trained on.
    train_steps: T of a discrete schedule; None for a continuous one.
    """

    name: str = ""
    t_clean: float
    t_noise: float
    t_least: float
    train_steps: int | None

    @property
    def t_data(self) -> float:
        """The time of the data themselves: sigma = 0. A discrete schedule's t_clean; of a continuous one below it."""
        return -1.0 if self.train_steps else 0.0

    @cached_property
    def _remembered(self) -> dict[Any, Any]:
        return {}

    def remember(self, key: tuple[Any, ...], compute: Callable[..., T], *arguments: Any) -> T:
        """compute(*arguments), or what it was when this path was last asked for `key`: coefficients are made once a
        grid, not once a run. Holds the last few thousand."""
        known: T | None = self._remembered.get(key)
        if known is None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[key] = compute(*arguments)
        return known

    def log_alpha(self, t: Time) -> Time:
        """ln alpha(t), at most 0 and decreasing in t."""
        raise NotImplementedError

    def dlog_alpha(self, t: Time) -> Time:
        """d ln alpha / dt."""
        raise NotImplementedError

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Inverse of `log_alpha`, clamped to the ends of time."""
        raise NotImplementedError

    def same_path(self, other: Schedule) -> bool:
        """Whether the other schedule has the same noise at the same times."""
        return other is self or (type(other) is type(self) and other == self)

    def alpha(self, t: Time) -> Time:
        """Scale of the clean sample. The paper's ᾱ is alpha squared."""
        return _math(t).exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Time:
        """Standard deviation of the noise."""
        return _math(t).sqrt(0.0 - _math(t).expm1(2 * self.log_alpha(t)))

    def rho(self, t: Time) -> Time:
        """Noise-to-signal ratio sigma / alpha: the time in which the ODE is d(x/alpha)/d rho = eps."""
        return _math(t).sqrt(_math(t).expm1(-2 * self.log_alpha(t)))

    def lam(self, t: Time) -> Time:
        """-ln rho, half the logarithm of the signal-to-noise ratio; +inf at a clean end with sigma = 0."""
        if isinstance(t, (np.ndarray, torch.Tensor)):
            return -_math(t).log(self.rho(t))
        rho = self.rho(t)
        return -math.log(rho) if rho > 0 else math.inf

    def t_of_rho(self, rho: Time) -> Time:
        """Inverse of `rho`."""
        return self.t_of_log_alpha(-0.5 * _math(rho).log1p(rho * rho))

    def t_of_lam(self, lam: Time) -> Time:
        """Inverse of `lam`."""
        return self.t_of_rho(_math(lam).exp(-lam))


schedules: Registry[Schedule] = Registry("schedule", group="pndm.schedules", base=Schedule)
register, create, names = schedules.register, schedules.create, schedules.names


class DiscreteSchedule(Schedule):
    """A path known at the training indices through a table of ᾱ, extended smoothly to real times.

    ln ᾱ is interpolated by the quintic spline through (-1, 0) and the table, so the path has four continuous
    derivatives and a fourth-order method keeps its order between the integers. At the integers it is the table. Where
    the spline would overshoot, in a sparse or uneven table, straight lines in ln ᾱ take its place: noise must not fall
    as time grows.

    Shapes: alphas_cumprod is (T,), decreasing, in [1e-300, 1). Raises OptionError otherwise.
    """

    t_clean = -1.0
    t_least = 0.0
    train_steps: int

    def __init__(self, alphas_cumprod: Sequence[float] | np.ndarray | torch.Tensor):
        from scipy.interpolate import PPoly, make_interp_spline  # slow to import, and only needed here

        table = np.asarray(alphas_cumprod, dtype=np.float64)
        if table.ndim != 1 or len(table) < 6:
            raise OptionError(f"alphas_cumprod must be a list of at least 6 numbers, not of shape {table.shape}")
        if not (np.all(np.diff(table) < 0) and 0 < table[-1] and table[0] < 1):
            raise OptionError(
                "alphas_cumprod must decrease strictly from below 1 to above 0: noise grows with the index"
            )
        if table[-1] < _LEAST:
            raise OptionError(
                f"alphas_cumprod ends at {table[-1]:g} and must stay at or above {_LEAST:g}, or rho overflows"
            )
        self.train_steps = len(table)
        self.t_noise = self.train_steps - 1.0
        self._knots = np.arange(-1.0, self.train_steps)
        self._log_table = np.concatenate([[0.0], 0.5 * np.log(table)])
        pieces = PPoly.from_spline(make_interp_spline(self._knots, self._log_table, k=5))
        # A B-spline's end knots are repeated; keep the pieces between integers, and re-expand each at its left integer.
        self._coefficients = np.stack([pieces.derivative(k)(self._knots[:-1]) / math.factorial(k) for k in range(6)])
        self._on_device: dict[torch.device, torch.Tensor] = {}
        if np.any(self.dlog_alpha(np.linspace(-1.0, self.t_noise, 32 * self.train_steps + 1)) >= 0):
            self._coefficients[0] = self._log_table[:-1]
            self._coefficients[1] = np.diff(self._log_table)
            self._coefficients[2:] = 0
        self._pieces = self._coefficients.T.tolist()  # for one time, indexing an array takes longer than the rest

    def log_alpha(self, t: Time) -> Time:
        c, u = self._piece(t)
        return u * (c[1] + u * (c[2] + u * (c[3] + u * (c[4] + u * c[5])))) + c[0]

    def dlog_alpha(self, t: Time) -> Time:
        c, u = self._piece(t)
        return c[1] + u * (2 * c[2] + u * (3 * c[3] + u * (4 * c[4] + u * 5 * c[5])))

    def _piece(self, t: Any) -> tuple[Any, Any]:
        """Coefficients of the pieces that hold t, and the distances from their left ends."""
        last = self.train_steps - 1
        k: Any
        if isinstance(t, torch.Tensor):
            if t.device not in self._on_device:
                self._on_device[t.device] = torch.from_numpy(self._coefficients).to(t.device)
            u = t.double() + 1
            k = u.long().clamp(0, last)
            return self._on_device[t.device][:, k], u - k
        if isinstance(t, np.ndarray):
            k = np.clip((t + 1).astype(np.int64), 0, last)
            return self._coefficients[:, k], t + 1 - k
        k = min(max(int(t + 1), 0), last)
        return self._pieces[k], t + 1 - k

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        if isinstance(log_alpha, np.ndarray):
            return self.t_of_log_alpha(torch.from_numpy(log_alpha)).numpy()
        if isinstance(log_alpha, float):
            return self.t_of_log_alpha(torch.tensor([log_alpha], dtype=torch.float64)).item()
        falling = torch.from_numpy(-self._log_table).to(log_alpha.device)
        sought = -log_alpha.double()
        k = torch.searchsorted(falling, sought).clamp(1, self.train_steps)
        t = k - 2 + (sought - falling[k - 1]) / (falling[k] - falling[k - 1])
        t = t.clamp(-1.0, self.t_noise)
        for _ in range(4):  # Newton, from the piecewise linear inverse; it doubles the correct digits each time
            t = (t - (self.log_alpha(t) + sought) / self.dlog_alpha(t)).clamp(-1.0, self.t_noise)
        return t


def _betas_to_table(betas: np.ndarray) -> np.ndarray:
    return np.exp(np.cumsum(np.log1p(-betas)))


def _check_betas(schedule: str, beta_start: float, beta_end: float, train_steps: int) -> None:
    if not 0 < beta_start <= beta_end < 1:
        raise OptionError(
            f"{schedule}: beta_start={beta_start} and beta_end={beta_end} must satisfy 0 < start <= end < 1"
        )
    if train_steps < 6:
        raise OptionError(f"{schedule}: train_steps={train_steps} must be at least 6")


@register("linear")
@dataclass
class Linear(DiscreteSchedule):
    """DDPM's: beta_i grows linearly from beta_start to beta_end (Ho et al. 2020)."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    train_steps: int = 1000

    def __post_init__(self) -> None:
        _check_betas("linear", self.beta_start, self.beta_end, self.train_steps)
        super().__init__(_betas_to_table(np.linspace(self.beta_start, self.beta_end, self.train_steps)))


@register("scaled_linear")
@dataclass
class ScaledLinear(DiscreteSchedule):
    """sqrt(beta_i) grows linearly: the original PNDM code's "quad", and latent diffusion's schedule."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000

    def __post_init__(self) -> None:
        _check_betas("scaled_linear", self.beta_start, self.beta_end, self.train_steps)
        roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_steps)
        super().__init__(_betas_to_table(roots**2))


@register("cosine")
@dataclass
class Cosine(DiscreteSchedule):
    """ᾱ follows a squared cosine, with beta_i at most max_beta (Nichol & Dhariwal 2021)."""

    offset: float = 0.008
    max_beta: float = 0.999
    train_steps: int = 1000

    def __post_init__(self) -> None:
        if self.offset < 0 or not 0 < self.max_beta < 1 or self.train_steps < 6:
            raise OptionError(
                f"cosine: offset={self.offset}, max_beta={self.max_beta}, train_steps={self.train_steps} must satisfy "
                "offset >= 0, 0 < max_beta < 1, train_steps >= 6"
            )
        u = np.arange(self.train_steps + 1) / self.train_steps
        curve = np.cos((u + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        super().__init__(_betas_to_table(np.minimum(1 - curve[1:] / curve[:-1], self.max_beta)))


@register("table")
@dataclass(eq=False)  # comparing tables is not worth it: a table is the same as itself
class Table(DiscreteSchedule):
    """Any discrete schedule, from its table of ᾱ (diffusers' `scheduler.alphas_cumprod`)."""

    alphas_cumprod: Any = field(repr=False)

    def __post_init__(self) -> None:
        super().__init__(self.alphas_cumprod)


@register("vp_linear")
@dataclass
class VPLinear(Schedule):
    """The continuous VP path: beta(t) linear from beta_min to beta_max on t in (0, 1] (Song et al. 2021)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_clean: float = 1e-3

    train_steps = None
    t_noise = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise OptionError(
                f"vp_linear: beta_min={self.beta_min}, beta_max={self.beta_max} must satisfy 0 < min < max"
            )
        if self.beta_min + self.beta_max > -2 * math.log(_LEAST):
            raise OptionError(
                f"vp_linear: beta_min={self.beta_min}, beta_max={self.beta_max} must have a mean of at most "
                f"{-math.log(_LEAST):.1f}, or rho overflows"
            )
        if not 0 <= self.t_clean < 1:
            raise OptionError(f"vp_linear: t_clean={self.t_clean} must be at least 0 and below 1")
        self.t_least = max(self.t_clean, 1e-3)

    def log_alpha(self, t: Time) -> Time:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def dlog_alpha(self, t: Time) -> Time:
        return -0.5 * t * (self.beta_max - self.beta_min) - 0.5 * self.beta_min

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        slope = self.beta_max - self.beta_min
        # The root of slope t^2 + 2 beta_min t + 4 log_alpha = 0, in the form without cancellation near t = 0.
        t: Any = -4 * log_alpha / (self.beta_min + _math(log_alpha).sqrt(self.beta_min**2 - 4 * slope * log_alpha))
        if isinstance(log_alpha, np.ndarray) or isinstance(log_alpha, torch.Tensor):  # noqa: SIM101  (for mypy)
            return t.clip(0.0, self.t_noise)
        return min(max(t, 0.0), self.t_noise)
