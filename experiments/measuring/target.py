"""What solvers are measured on: an exact problem (`problem=circle`), or the network of `model` (`problem=none`).

Also what the studies of solvers share: lists of solvers and grids, the starting noise, the reference solution.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

import pndm
from experiments.config import build
from experiments.config.schema import GROUPS, create
from experiments.measuring.reference_cache import Cache
from experiments.runs import identity
from pndm import Solution, grids, reference
from pndm.denoisers import Model
from pndm.errors import OptionError
from pndm.models import pretrained
from pndm.models.problems import Problem, problems
from pndm.noise import SampleNoise
from pndm.reference import Reference
from pndm.registry import Registry
from pndm.schedules import Schedule
from pndm.solvers import Solver


@dataclass(frozen=True)
class Target:
    """A model of eps on a schedule, between two times; `identity` is all that determines its answers."""

    name: str
    model: Model
    shape: tuple[int, ...]
    schedule: Schedule
    start: float
    end: float
    dtype: torch.dtype
    device: torch.device
    identity: dict[str, Any]
    problem: Problem | None
    data: str  # the data set of a network
    denoise: bool  # whether a run goes on from `end` to the data by a denoising step

    @property
    def ends(self) -> np.ndarray:
        """The two times between which a run is judged."""
        return np.array([self.start, self.schedule.t_data if self.denoise else self.end])

    def noise(self, seed: int, indices: Sequence[int]) -> Tensor:
        """The starting states of the samples with these indices, the same that a sampling run has."""
        return SampleNoise(seed, indices).draw(self.shape, self.dtype, self.device)

    def reference(self, x: Tensor, times: np.ndarray, tolerance: float | None, folder: str | Path | None) -> Reference:
        """The true solution through x at times[0]; from the cache in `folder` if it is there. None: the tolerance that
        the method has by itself, and no cache."""
        make = reference.exact if self.problem else reference.self_converged
        options = {} if tolerance is None else {"tolerance": tolerance}
        cache = Cache(None if folder is None else Path(folder))
        return cache.get(make, self.model, x, self.schedule, times, identity=self.identity, **options)

    def solve(self, x: Tensor, solver: Solver, times: np.ndarray) -> Solution:
        """A run of a solver over the times, and on to the data where the target wants that."""
        return pndm.solve(self.model, x, solver=solver, schedule=self.schedule, grid=times, denoise=self.denoise)


def make(cfg: DictConfig) -> Target:
    """The target of a configuration. Raises OptionError for a problem or checkpoint that cannot be used."""
    schedule: Schedule = create(GROUPS["schedule"], cfg.schedule)
    start = schedule.t_noise if cfg.t_start is None else cfg.t_start
    end = schedule.t_clean if cfg.t_end is None else cfg.t_end
    dtype, device = build.dtype(cfg), build.device(cfg)
    problem = make_problem(cfg)
    if problem is not None:
        name, model, shape, own = problem.name, problem.eps(schedule), problem.shape, problem.identity()
    else:
        trained = pretrained.load(cfg.model.weights, dtype=dtype, device=device)
        name, model, shape = Path(cfg.model.weights).stem, trained.eps(schedule), trained.shape
        own = {"weights": digest(trained.network.state_dict()), "predicts": trained.predicts}
    of = "" if problem is not None else trained.data
    return Target(name, model, shape, schedule, start, end, dtype, device, own, problem, of, cfg.denoise)


def head(cfg: DictConfig, goal: Target, truth: Reference) -> dict[str, Any]:
    """What the record of every study begins with."""
    return {
        **identity.head(cfg, goal.device),
        "target": {"name": goal.name, **goal.identity},
        "samples": len(truth.x),
        "dimension": math.prod(goal.shape),
        "t_start": goal.start,
        "t_end": goal.end,
        "reference": {
            "method": truth.method,
            "tolerance": truth.tolerance,
            "difference": truth.difference,
            "converged": truth.converged,
            "nfe": truth.nfe,
        },
    }


def make_problem(cfg: DictConfig) -> Problem | None:
    """The chosen problem; None for problem=none."""
    return None if cfg.problem.name == "none" else create(problems, cfg.problem)


def chosen(registry: Registry[Any], wanted: ListConfig) -> dict[str, Any]:
    """Objects by label from a list of names, or of names with options as in {name: rho_ab, order: 3}.

    The label is the name, followed by the options that were given.
    """
    made: dict[str, Any] = {}
    for one in cast(list[Any], OmegaConf.to_container(wanted)):
        options = dict(one) if isinstance(one, dict) else {"name": one}
        if not isinstance(options.get("name"), str):
            raise OptionError(f"{registry.kind} {one!r} must be a name, or options with a name as in "
                              f"{{name: {registry.names()[0]}, ...}}")  # fmt: skip
        name = options.pop("name")
        label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        if label in made:
            raise OptionError(f"{registry.kind} {label!r} is listed twice")
        made[label] = registry.create(name, **options)
    if not made:
        raise OptionError(f"give at least one {registry.kind}")
    return made


def refuse_stochastic(solvers: dict[str, Solver]) -> None:
    """Raise OptionError for a solver whose result the starting noise does not determine."""
    for label, solver in solvers.items():
        if solver.stochastic:
            raise OptionError(f"solver {label!r} draws noise on the way, so it has no error against a reference "
                              "solution: leave it out")  # fmt: skip


def refuse_own_steps(solvers: dict[str, Solver], so: str) -> None:
    """Raise OptionError for a solver that chooses its own steps; `so` says what follows from that, and what to do."""
    for label, solver in solvers.items():
        if solver.evaluations_per_step is None:
            raise OptionError(f"solver {label!r} chooses its own steps, so {so}")


def check_grids(cfg: DictConfig, steps: int) -> None:
    """Raise OptionError for a grid of the study that cannot place so many steps, and for a denoising step in vain."""
    schedule = create(GROUPS["schedule"], cfg.schedule)
    for grid in chosen(GROUPS["grid"], cfg.experiment.grids).values():
        build.check_denoise(cfg, schedule, grids.times(grid, steps, schedule, cfg.t_start, cfg.t_end))


def check_common(cfg: DictConfig) -> None:
    """What all studies check before they start."""
    if cfg.experiment.tolerance is not None and not cfg.experiment.tolerance > 0:
        raise OptionError(f"experiment.tolerance={cfg.experiment.tolerance} must be positive")
    problem = make_problem(cfg)
    if problem is not None and cfg.dtype in ("bfloat16", "float16"):
        raise OptionError(f"dtype={cfg.dtype} is not for exact problems: use float64, or float32 to see its rounding")


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of tensors with their names, types and shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
