"""What diffusers' own PNDM and DDIM schedulers compute, for those who need the images that they made.

Not a solver of the registry: these runs keep the choices of diffusers that `pndm.diffusers` exists to correct.
- Every step is num_train_timesteps // steps long, also where the list of timesteps goes by another distance.
- Half steps are truncated to whole timesteps.
- PNDM combines the network's outputs across times as they are, and only then converts v to eps, at one time.
- PNDM without Runge-Kutta steps counts its second evaluation as the first one's second stage, also when an
  image-to-image run starts further on, where that evaluation is not in the list; the rest of the run lags by a step.
- Coefficients are computed in single precision, which at the noise end costs a few digits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm import grids
from pndm.denoisers import to_eps
from pndm.diffusers.questions import Questions
from pndm.errors import OptionError, unknown_name
from pndm.gradient import ADAMS_BASHFORTH, RK4, combine
from pndm.schedules import Schedule

SPACINGS = ("leading", "trailing", "linspace")


def single_precision(config: Mapping[str, Any], exact: Schedule) -> Tensor:
    """ᾱ of a configuration, shape (T,), multiplied up in float32 as diffusers does. `exact`: its path in float64."""
    steps, ends = config["num_train_timesteps"], (config["beta_start"], config["beta_end"])
    if config.get("trained_betas") is not None:
        betas = torch.tensor(np.asarray(config["trained_betas"]), dtype=torch.float32)
    elif config["beta_schedule"] == "linear":
        betas = torch.linspace(*ends, steps, dtype=torch.float32)
    elif config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, steps, dtype=torch.float32) ** 2
    else:
        table = exact.alpha(np.arange(-1.0, steps)) ** 2
        betas = torch.tensor(1 - table[1:] / table[:-1], dtype=torch.float32)
    return torch.cumprod(1 - betas, dim=0)


class _TheirRun:
    """asked: the times of the steps, decreasing. stride: how far each step goes. final: where a step below 0 ends."""

    def __init__(self, config: Mapping[str, Any], predicts: str, path: Schedule, table: Tensor, steps: int) -> None:
        if config["timestep_spacing"] not in SPACINGS:
            raise unknown_name("timestep_spacing of compat=True", config["timestep_spacing"], SPACINGS)
        options = {"offset": config["steps_offset"]} if config["timestep_spacing"] == "leading" else {}
        grid = grids.create(config["timestep_spacing"], **options)
        self.asked = grids.times(grid, steps, path)[:-1].tolist()
        self.times = self.asked
        self.stride = config["num_train_timesteps"] // steps
        self.table, self.final = table, torch.tensor(1.0) if config["set_alpha_to_one"] else table[0]
        self.predicts, self.config = predicts, config

    def begin(self, x: Tensor, index: int) -> tuple[Questions, list[bool]]:
        return self.questions(x, index), [True] * (len(self.times) - index)

    def questions(self, x: Tensor, index: int) -> Questions:
        raise NotImplementedError

    def alpha_bar(self, t: float) -> Tensor:
        """ᾱ as a float32 of no dimension, which leaves the dtype of a state that it multiplies."""
        return self.table[int(t)] if t >= 0 else self.final


class TheirDDIM(_TheirRun):
    """DDIMScheduler with eta = 0, and clip_sample as configured."""

    def questions(self, x: Tensor, index: int) -> Questions:
        for t in self.times[index:]:
            output = yield x, t
            here, there = self.alpha_bar(t), self.alpha_bar(t - self.stride)
            alpha, sigma = here**0.5, (1 - here) ** 0.5
            eps = to_eps(self.predicts, output, x, alpha, sigma)
            if self.predicts == "x0":
                x0 = output
            else:
                x0 = (x - sigma * output) / alpha if self.predicts == "eps" else alpha * x - sigma * output
            if self.config.get("clip_sample"):
                bound = self.config["clip_sample_range"]
                x0 = x0.clamp(-bound, bound)
            x = there**0.5 * x0 + (1 - there) ** 0.5 * eps
        return x


class TheirPNDM(_TheirRun):
    """PNDMScheduler: Runge-Kutta for three steps, or with skip_prk_steps one Heun step, then Adams-Bashforth."""

    def __init__(self, config: Mapping[str, Any], predicts: str, path: Schedule, table: Tensor, steps: int) -> None:
        super().__init__(config, predicts, path, table, steps)
        if predicts == "x0":
            raise OptionError("compat=True: PNDMScheduler knows prediction_type epsilon and v_prediction only")
        self.half = self.stride // 2
        self.staged = 0  # how many of the times belong to Runge-Kutta steps
        if config["skip_prk_steps"]:
            self.times = [*self.asked[:2], *self.asked[1:]] if steps > 1 else self.asked
            return
        if steps < 4:
            raise OptionError(
                f"num_inference_steps={steps}: with compat=True and skip_prk_steps=False, as in diffusers, at least 4"
            )
        first = self.asked[:4]
        stages = [(t, s + self.half, s + self.half, s) for t, s in pairwise(first)]
        self.staged = 12
        self.times = [*(t for stage in stages for t in stage), *self.asked[3:]]

    def questions(self, x: Tensor, index: int) -> Questions:
        history: deque[Tensor] = deque(maxlen=4)
        base = total = x
        for k, t in enumerate(self.times[index:]):
            output = yield x, t
            if k < self.staged:
                stage = k % 4
                if stage == 0:
                    base, total = x, torch.zeros_like(x)
                    history.appendleft(output)
                total = total + RK4.weights[stage] * output
                there = t - self.half if stage in (0, 2) else t
                x = self._move(base, total if stage == 3 else output, self.times[k - stage], there)
            elif k == 1:
                x = self._move(base, (output + history[0]) / 2, t + self.stride, t)
            else:
                history.appendleft(output)
                x = self._move(x, combine(ADAMS_BASHFORTH[len(history)], list(history)), t, t - self.stride)
        return x

    def _move(self, x: Tensor, output: Tensor, t: float, s: float) -> Tensor:
        """Formula 9 of the paper, as it stands there."""
        here, there = self.alpha_bar(t), self.alpha_bar(s)
        eps = to_eps(self.predicts, output, x, here**0.5, (1 - here) ** 0.5)
        below = here * (1 - there) ** 0.5 + (here * (1 - here) * there) ** 0.5
        return (there / here) ** 0.5 * x - (there - here) * eps / below


THEIRS = {"plms": ("PNDMScheduler", TheirPNDM), "ddim": ("DDIMScheduler", TheirDDIM)}
