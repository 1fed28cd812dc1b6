"""What is checked before anything runs, for every point of a sweep, so that no run begins before a mistake is found."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config import build, training
from experiments.config.composing import composed, first_swept, points
from experiments.measuring import metrics
from experiments.runs import processes, tensorboard
from pndm.errors import OptionError
from pndm.models import pretrained

ROOM = 2**20  # bytes on the disk, below which no run begins
PLUGINS = {"ray": "hydra_plugins.hydra_ray_launcher", "slurm": "hydra_plugins.hydra_submitit_launcher"}
STUDIES = ("convergence", "work_precision", "trajectory", "which_solver")

_AT_ONCE = "samples=16, which are carried together"
_SOLVERS, _GRIDS = "experiment.solvers=[plms]", "experiment.grids=[uniform]"
_STUDY = {"solver": _SOLVERS, "batch": _AT_ONCE, "metric": "", "speed": ""}
_SAMPLING = ("steps", "samples", "solver", "grid", "metric", "speed", "budget", "denoise", "t_start", "t_end", "dtype")
_TRAINING = dict.fromkeys(_SAMPLING, "") | {"batch": "experiment.batch=128"}
UNUSED: dict[str, dict[str, str]] = {
    "sample": {"budget": "steps=10"},
    "convergence": {**_STUDY, "steps": "experiment.steps=[10,20,40]", "budget": "",
                    "denoise": "experiment=work_precision to measure what it gains"},
    "work_precision": {**_STUDY, "grid": _GRIDS, "steps": "experiment.evaluations=[10,20,50]",
                       "budget": "experiment.evaluations=[10]"},
    "trajectory": {**_STUDY, "budget": "", "denoise": "experiment=work_precision to measure what it gains"},
    "which_solver": {**_STUDY, "grid": _GRIDS, "steps": "budget=10"},
    "train": {**_TRAINING, "steps": "experiment.iterations=40000", "dtype": "experiment.amp=bf16"},
    "train_classifier": {**_TRAINING, "steps": "experiment.epochs=11", "dtype": "experiment.bf16=true", "schedule": ""},
    "convert": {**_TRAINING, "batch": "", "seed": "", "device": ""},
}  # fmt: skip
"""Options that an experiment does not look at, each with what to give instead, where there is something."""


def check_all(arguments: Sequence[str], swept: bool) -> None:
    """Check every point that the arguments describe. swept: whether -m was given.

    Raises OptionError for the first thing that cannot be used.
    """
    for argument in arguments:
        if argument.startswith("hydra/launcher="):
            _check_launcher(argument.partition("=")[2])
    for number, point in enumerate(points(arguments)):
        cfg = composed(point)
        sweep = swept or cfg.hydra.mode == RunMode.MULTIRUN  # as some experiments are by themselves
        if number and not sweep:
            several = first_swept(arguments)
            raise OptionError(f"{several} is a sweep: add -m, as in python run.py -m {several}")
        if sweep and any(argument.startswith("output=") for argument in point):
            raise OptionError(
                "output= has no effect in a sweep, whose runs have a folder each: use hydra.sweep.dir=FOLDER"
            )
        check(cfg, point)


def check(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Make everything cheap that a configuration names. Raises OptionError for the first thing that cannot be used."""
    name = cfg.experiment.name
    for key in (override.lstrip("+~").split("=")[0].split(".")[0] for override in overrides):
        if key in UNUSED[name]:
            instead = UNUSED[name][key]
            raise OptionError(
                f"{key}= has no effect in experiment={name}: {f'use {instead}' if instead else 'leave it out'}"
            )
    build.check(cfg)
    if name in ("train", "train_classifier"):
        _check_training(cfg)
    elif name != "convert" and cfg.problem.name == "none":
        _check_model(cfg)
    if not cfg.output.strip():
        raise OptionError(f"output={cfg.output!r} names no folder: give one, or output=. for the one you are in")
    _check_writable(Path(cfg.output))
    if cfg.tensorboard:
        if name not in ("sample", "train"):
            raise OptionError(f"tensorboard=true is for experiment=sample and train, and not for {name}")
        tensorboard.check()
    if processes.size() > 1 and name != "sample":
        raise OptionError(f"experiment={name} runs in one process: torchrun shares out only experiment=sample")
    if processes.size() > 1 and cfg.batch == "auto":
        raise OptionError("batch=auto is for one process: torchrun's must draw the same batches, so give a number")
    if name in STUDIES:
        module(name).check(cfg)
    elif cfg.problem.name != "none":
        raise OptionError(f"experiment={name} draws from a network: problem={cfg.problem.name} is for experiment="
                          f"{', '.join(study for study in STUDIES if study != 'which_solver')}")  # fmt: skip
    if name == "sample":
        metrics.check(cfg)


def module(name: str) -> ModuleType:
    """Where an experiment that is named after its module is: by itself, or among the studies of solvers."""
    return importlib.import_module(f"experiments.studies.{name}" if name in STUDIES else f"experiments.{name}")


def _check_model(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg.model, "weights"):
        raise OptionError("model=file says of no file: give model=PATH, or model.weights=PATH with it")
    if not cfg.model.weights:
        raise OptionError("model= is empty: give the name of a model, a .safetensors file or a pipeline folder")
    pretrained.existing(cfg.model.weights)


def _check_training(cfg: DictConfig) -> None:
    """Make the options of a training, which check themselves."""
    from pndm.models.unet import UNetConfig

    options = cast(Any, OmegaConf.to_object(cfg.experiment))
    if cfg.experiment.name == "train":
        training.check(options, build.device(cfg))
        UNetConfig.from_dict(cast(dict[str, Any], OmegaConf.to_object(cfg.model.architecture)))


def _check_launcher(name: str) -> None:
    """Raise OptionError for a launcher that is not here; let its errors come to the command line, not a traceback."""
    try:
        importlib.import_module(PLUGINS.get(name, "hydra"))
    except ImportError:
        raise OptionError(f"hydra/launcher={name} is not installed: pip install 'pndm[{name}]'") from None
    if name == "slurm" and not shutil.which("srun"):
        raise OptionError("hydra/launcher=slurm needs Slurm, and this machine has no srun: start it on a login node")
    if name != "basic":
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _check_writable(folder: Path) -> None:
    """Raise OptionError unless the folder, or the nearest one above it that exists, can be written and has room."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OptionError(f"output={folder} cannot be written: {there} is not a folder that this user may write to")
    if (left := shutil.disk_usage(there).free) < ROOM:
        raise OptionError(f"output={folder} cannot be written: the disk is full: {left} bytes are left")
