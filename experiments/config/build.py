"""From a configuration to the objects that it names."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import DictConfig

import pndm
from experiments.config.schema import GROUPS, create
from pndm.errors import OptionError, unknown_name
from pndm.grids import Grid, times
from pndm.models.memory import largest_batch
from pndm.models.pretrained import Pretrained
from pndm.schedules import Schedule
from pndm.solvers import Solver

SPEEDS = ("exact", "fast")
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


@dataclass(frozen=True)
class Method:
    """The numerical side of a run: everything but the model and the noise."""

    solver: Solver
    schedule: Schedule
    grid: Grid
    times: np.ndarray


def method(cfg: DictConfig) -> Method:
    """Solver, schedule and grid of a configuration, and the times that they make. Raises OptionError."""
    solver, schedule, grid = (create(GROUPS[group], cfg[group]) for group in ("solver", "schedule", "grid"))
    return Method(solver, schedule, grid, times(grid, cfg.steps, schedule, cfg.t_start, cfg.t_end))


def check_denoise(cfg: DictConfig, schedule: Schedule, placed: np.ndarray) -> None:
    """Raise OptionError for denoise=true on times that end without noise already."""
    if cfg.denoise and schedule.sigma(float(placed[-1])) == 0:
        raise OptionError(
            f"denoise=true has nothing to do: the run ends without noise, at t = {placed[-1]:g}; set t_end above it"
        )


def dtype(cfg: DictConfig) -> torch.dtype:
    """The floating-point type of states and weights."""
    if cfg.dtype not in DTYPES:
        raise unknown_name("dtype", cfg.dtype, DTYPES)
    return DTYPES[cfg.dtype]


def device(cfg: DictConfig) -> torch.device:
    """The device that `device` names; auto is a GPU where there is one."""
    if cfg.device == "auto":
        own = os.environ.get("LOCAL_RANK", "0")  # of a process of torchrun: each has a GPU of its own
        return torch.device(f"cuda:{own}" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(cfg.device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise OptionError(f"device={cfg.device} is not a device to run on: auto, cpu, cuda or cuda:N are accepted")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device={cfg.device} is not here: this machine has {torch.cuda.device_count()} CUDA devices")
    return found


def with_batch(cfg: DictConfig, trained: Pretrained, begun: int | None) -> DictConfig:
    """The configuration with batch=auto replaced by the number that fits the memory there is.

    begun: the batch of a run that goes on, which keeps its own, as the memory there is may have changed.
    """
    if cfg.batch != "auto":
        return cfg
    cfg = cfg.copy()
    cfg.batch = begun or min(largest_batch(trained.network, trained.shape), cfg.samples)
    return cfg


def check(cfg: DictConfig) -> None:
    """Make all that is cheap to make. Raises OptionError for the first thing that cannot be used."""
    chosen = method(cfg)
    check_denoise(cfg, chosen.schedule, chosen.times)
    dtype(cfg)
    device(cfg)
    if cfg.samples < 1:
        raise OptionError(f"samples={cfg.samples} must be at least 1")
    if cfg.batch != "auto" and (isinstance(cfg.batch, bool) or not isinstance(cfg.batch, int) or cfg.batch < 1):
        raise OptionError(f"batch={cfg.batch} must be a whole number of at least 1, or auto")
    if cfg.speed not in SPEEDS:
        raise unknown_name("speed", cfg.speed, SPEEDS)
    pndm.noise.SampleNoise(cfg.seed, ())
