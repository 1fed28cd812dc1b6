"""The typed configuration of run.py: what may be set, of which type, with which default.

Solvers, schedules and grids are not listed here: each registered one becomes a choice of its Hydra group, with its
constructor's parameters as typed options. So a solver that a third-party package registers is on the command line too.
Configuration is data: names that registries know, and plain values. It never names code to import.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import pndm
from experiments.config.metrics import Metrics
from experiments.config.training import ClassifierTrainConfig, TrainConfig
from pndm.models.problems import problems
from pndm.registry import Registry

GROUPS: dict[str, Registry[Any]] = {
    "solver": pndm.solvers.solvers,
    "schedule": pndm.schedules.schedules,
    "grid": pndm.grids.grids,
}


@dataclass
class ModelConfig:
    """A network: its weights, and the architecture and data with which `experiment=train` makes them."""

    name: str = MISSING
    weights: str = MISSING  # a name that ships, a .safetensors file, a pipeline folder, or a hub name
    data: str = "fashion-mnist"
    predicts: str = "eps"  # what experiment=train trains the output to be
    flip: bool = False  # whether experiment=train mirrors images at random: for data that look the same from both sides
    architecture: dict[str, Any] = field(default_factory=dict)  # the fields of pndm.models.unet.UNetConfig


@dataclass
class SampleExperiment:
    """Draw samples and measure them."""

    name: str = "sample"


@dataclass
class TrainExperiment(TrainConfig):
    """Train the network of `model`."""

    name: str = "train"


@dataclass
class ClassifierExperiment(ClassifierTrainConfig):
    """Train the classifier of frechet_features."""

    name: str = "train_classifier"


@dataclass
class Study:
    """What experiments that measure solvers against a reference solution have in common."""

    name: str = MISSING
    solvers: list[Any] = MISSING  # names, or names with options as in {name: rho_ab, order: 3}
    tolerance: float | None = None  # of the reference solution; null: 1e-12 for exact problems, 1e-4 for networks
    cache: str | None = "outputs/.references"  # where reference solutions are kept; null: nowhere


@dataclass
class ConvergenceExperiment(Study):
    """Measure the order of solvers."""

    name: str = "convergence"
    steps: list[int] = MISSING
    local: bool = True  # also the error of a single step


@dataclass
class WorkPrecisionExperiment(Study):
    """Measure what solvers on grids achieve for their cost."""

    name: str = "work_precision"
    grids: list[Any] = MISSING  # names, or names with options as in {name: karras, power: 5}
    evaluations: list[int] = MISSING  # budgets
    tolerances: list[float] = MISSING  # of solvers that choose their own steps
    repeats: int = 5  # the seconds are those of the fastest of so many runs, or fewer where they take long


@dataclass
class WhichSolverExperiment(Study):
    """Find the best solver and grid for `budget` evaluations."""

    name: str = "which_solver"
    grids: list[Any] = MISSING


@dataclass
class TrajectoryExperiment(Study):
    """Follow solvers along their paths."""

    name: str = "trajectory"
    pair: list[str] = MISSING  # the two of `solvers` that are shown side by side


@dataclass
class ConvertExperiment:
    """Make a pipeline folder of an original checkpoint."""

    name: str = "convert"
    source: str | None = None  # the .ckpt file
    image_size: int | None = None  # null: as the level with attention says, which is at 16x16


EXPERIMENTS: dict[str, type] = {
    "sample": SampleExperiment,
    "convergence": ConvergenceExperiment,
    "work_precision": WorkPrecisionExperiment,
    "trajectory": TrajectoryExperiment,
    "which_solver": WhichSolverExperiment,
    "train": TrainExperiment,
    "train_classifier": ClassifierExperiment,
    "convert": ConvertExperiment,
}


@dataclass
class Config:
    """Everything that run.py reads."""

    solver: Any = MISSING
    schedule: Any = MISSING
    grid: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    metric: Metrics = field(default_factory=Metrics)
    problem: Any = MISSING
    experiment: Any = MISSING
    steps: int = 50
    budget: int = 10
    samples: int = 64
    batch: Any = 64  # a number, or auto
    seed: int = 0
    t_start: float | None = None
    t_end: float | None = None
    denoise: bool = False
    device: str = "auto"
    dtype: str = "float32"
    speed: str = "exact"
    progress: bool = True
    force: bool = False
    tensorboard: bool = False
    output: str = MISSING


def register() -> None:
    """Put the schema, and a choice for everything that is registered, where Hydra finds them."""
    # A plugin's schema bears the name that people type, as conf/hydra/launcher/ray.yaml does, and is to check that.
    warnings.filterwarnings("ignore", r"\s*'hydra/launcher/ray' is validated against ConfigStore schema")
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in EXPERIMENTS.items():
        store.store(group="experiment_schema", name=name, node=node)
    for name in problems.names():
        store.store(group="problem_schema", name=name, node=choice(problems, name))
    for group, registry in GROUPS.items():
        for name in registry.names():
            store.store(group=group, name=name, node=choice(registry, name))


def choice(registry: Registry[Any], name: str) -> type:
    """A dataclass with the name and the typed options of one registered thing."""
    fields: list[Any] = [("name", str, field(default=name))]
    for option, (kind, default) in registry.options(name).items():
        fields.append((option, kind, MISSING if default is inspect.Parameter.empty else field(default=default)))
    return make_dataclass(name, fields)


def create(registry: Registry[Any], chosen: DictConfig) -> Any:
    """The object that a choice stands for. Raises OptionError for values that it refuses."""
    options = {str(key): value for key, value in OmegaConf.to_container(chosen, resolve=True).items()}  # type: ignore[union-attr]
    return registry.create(options.pop("name"), **options)
