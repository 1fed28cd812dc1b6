"""What a run is: the key of everything that determines its result, and the folder name that follows from it.

Two runs with the same key have the same result, so one that is done need not be done again, and one that was killed
can be taken up where it stopped. Where results lie, how they are shown and which machine or launcher makes them are no
part of the key.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

import pndm
from experiments.config import build
from experiments.config.schema import GROUPS, create
from experiments.runs import records
from pndm.errors import OptionError
from pndm.models import pretrained

WITHOUT_EFFECT = ("output", "progress", "force", "tensorboard")  # and of an experiment's own: cache, progress
DIGITS = 10  # of the key in a folder's name; the record holds all of it


def key(cfg: DictConfig) -> str:
    """The sha256 of all that determines a run's result. Raises OptionError for a device that is not here.

    In place of the model's path stand its weights, in place of `auto` the kind of device, and beside the version of
    the package its source, as a solver that is being worked on keeps its name.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.masked_copy(cfg, _options(cfg)), resolve=True))
    experiment = {name: value for name, value in config["experiment"].items() if name not in ("cache", "progress")}
    if experiment.get("source"):  # of experiment=convert
        experiment["source"] = _weights(experiment["source"]) or experiment["source"]
    on_network = config["problem"]["name"] == "none" and experiment["name"] != "train_classifier"
    chosen = {str(inspect.getsourcefile(type(create(GROUPS[group], cfg[group])))) for group in GROUPS}
    everything = {
        **config,
        "experiment": experiment,
        "model": (_weights(config["model"]["weights"]) or config["model"]) if on_network else None,
        "device": build.device(cfg).type,
        "version": pndm.__version__,
        "source": _source(tuple(sorted(chosen))),
    }
    return hashlib.sha256(records.canonical(everything)).hexdigest()


def head(cfg: DictConfig, device: torch.device) -> dict[str, Any]:
    """What every record begins with."""
    return {
        "schema": records.SCHEMA,
        "key": key(cfg),
        "experiment": cfg.experiment.name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": OmegaConf.to_container(cfg, resolve=True),
        "dtype": cfg.dtype,
        **records.environment(device),
    }


def folder_name(cfg: DictConfig) -> str:
    """The name of a run's folder, such as plms-50-3fa9c1d2e8: what people look for, then the key."""
    if cfg.experiment.name == "sample":
        about = f"{cfg.solver.name}-{cfg.steps}"
    elif cfg.experiment.name == "convert":
        about = Path(cfg.experiment.source or "").stem
    elif cfg.problem.name != "none":
        about = cfg.problem.name
    else:
        about = Path(cfg.model.weights).stem
    return f"{about}-{key(cfg)[:DIGITS]}"


def sweep_folder(arguments: Sequence[str]) -> str:
    """Where a sweep with these overrides goes when it is not told: the same command, in any order, the same folder."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    names = sorted(f"{name}={value}" for name, value in given.items()
                   if name not in WITHOUT_EFFECT and not name.startswith("hydra"))  # fmt: skip
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:DIGITS]
    return f"multirun/{given.get('experiment', 'sample')}-{digest}"


def _options(cfg: DictConfig) -> list[str]:
    return [str(name) for name in cfg if name not in (*WITHOUT_EFFECT, "hydra")]


def _weights(name: str) -> str | None:
    """The sha256 of a model's files; None where there are none, which loading them will say more clearly."""
    try:
        path = pretrained.path(name)
    except OptionError:
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [_digest(file, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else None


@cache
def _digest(path: Path, changed: int) -> str:
    """The sha256 of a file, read once as long as it does not change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _source(others: tuple[str, ...]) -> str:
    """The sha256 of the package's source, and of other files where a third party's solver is defined."""
    files = {*Path(pndm.__file__).parent.rglob("*.py"), *map(Path, others)}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


OmegaConf.register_new_resolver("folder_name", lambda *, _root_: folder_name(_root_), replace=True)
