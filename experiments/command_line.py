"""From the command line to an experiment: what run.py calls.

Hydra composes the configuration. Before it does, everything chosen is checked for every point of a sweep, so that a
mistake is one sentence and exit code 2, and comes before the first job and not in the middle.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from string import Template
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments import checks
from experiments.config import build, schema
from experiments.config.composing import CONF, FILE_GROUPS, choices, composed
from experiments.runs import claim, identity, processes, tensorboard
from pndm.errors import ModelError, OptionError
from pndm.models.diffusers_folder import FILES
from pndm.registry import Registry

HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # the launcher that runs one point after another


def main() -> int:
    """Run what sys.argv asks for; returns the exit code."""
    schema.register()
    try:
        if "--list" in sys.argv[1:]:
            print(listing())
            return 0
        sys.argv[1:] = [argument for given in sys.argv[1:] for argument in _in_hydras_terms(given)]
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
            print(helped(overrides))
            return 0
        if not any(argument in ("--hydra-help", "--version") for argument in sys.argv[1:]):
            checks.check_all(overrides, swept=any(argument in ("-m", "--multirun") for argument in sys.argv[1:]))
        if not any(argument.startswith("hydra.sweep.dir=") for argument in overrides):
            sys.argv.append(f"hydra.sweep.dir={identity.sweep_folder(overrides)}")
        with processes.joined():
            _hydra_main()
    except (OptionError, ModelError) as error:
        if not processes.rank():
            print(f"run.py: {error}", file=sys.stderr)
        return 2
    return 0


def helped(overrides: list[str]) -> str:
    """The help of conf/config.yaml for these choices. Hydra's own lists every group first, which takes two seconds."""
    cfg = composed(overrides)
    template = Template(cfg.hydra.help.template)
    with open_dict(cfg):
        del cfg["hydra"]
    return template.safe_substitute(CONFIG=OmegaConf.to_yaml(cfg)).rstrip()


def listing() -> str:
    """Every choice of every group, one line each."""
    lines = []
    for group, registry in schema.GROUPS.items():
        lines += [f"{group}:"] + [f"  {name:16} {described(registry, name)}" for name in registry.names()] + [""]
    for group in FILE_GROUPS:
        lines.append(f"{group}:")
        for name in choices(group):
            comments = [
                line for line in (CONF / group / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")
            ]
            about = next((line[2:] for line in comments if not line.startswith("# @")), "")
            lines.append(f"  {name:16} {about}")
        lines.append("")
    return "\n".join(lines).rstrip()


def described(registry: Registry[Any], name: str) -> str:
    """What `name` is, in a line; of a solver also its order and its evaluations a step."""
    if registry is not schema.GROUPS["solver"]:
        return registry.about(name)
    solver = registry.create(name)
    order = "stochastic" if solver.stochastic else f"order {solver.order}"
    if getattr(solver, "running_order", solver.order) > solver.order:
        order = f"order {solver.running_order} (start-up {solver.order})"
    cost = "adaptive" if solver.evaluations_per_step is None else f"{solver.evaluations_per_step}/step"
    return f"{order:20}  {cost:8}  {registry.about(name)}"


def _in_hydras_terms(argument: str) -> list[str]:
    """In Hydra's terms: `--force` as an option, and `model=` with a file, a folder or owner/name as `file` with its
    weights."""
    if argument == "--force":
        return ["force=true"]
    key, _, value = argument.partition("=")
    if (
        key == "model"
        and value not in choices("model")
        and ("/" in value or os.sep in value or Path(value).suffix in FILES or Path(value).is_dir())
    ):
        # Quoted, so that '=' and '(' may be there; a comma separates the points of a sweep.
        quoted = ",".join("'" + one.replace("'", r"\'") + "'" for one in value.split(","))
        return ["model=file", f"model.weights={quoted}"]
    return [argument]


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    """One job. Errors of the user or the model end the program here, before Hydra makes a traceback of them."""
    out, elsewhere = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().launcher._target_ != HERE
    try:
        with claim.claimed(out):
            run = {"train": _train, "train_classifier": _train_classifier}.get(cfg.experiment.name, _by_name)
            if run is _train or not claim.is_done(cfg, out):  # that training goes on by itself from where it is
                run(cfg, out)
            if cfg.tensorboard and cfg.experiment.name == "sample" and not processes.rank():
                tensorboard.write(out)
            processes.wait_for_all()
    except (OptionError, ModelError) as error:
        if elsewhere:  # a worker: the other points go on, and the process that waits for all of them ends with this
            raise
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)


def _by_name(cfg: DictConfig, out: Path) -> None:
    """The function that has the name of its module and of the experiment."""
    getattr(checks.module(cfg.experiment.name), cfg.experiment.name)(cfg, out)


def _train(cfg: DictConfig, out: Path) -> None:
    from experiments.config.training import TrainConfig
    from experiments.training.train import train
    from pndm.models.unet import UNetConfig

    architecture = UNetConfig.from_dict(cast(dict[str, Any], OmegaConf.to_object(cfg.model.architecture)))
    train(cast(TrainConfig, OmegaConf.to_object(cfg.experiment)), architecture, out, build.device(cfg))


def _train_classifier(cfg: DictConfig, out: Path) -> None:
    from experiments.config.training import ClassifierTrainConfig
    from experiments.training import checkpoints
    from experiments.training.classifier import train_classifier

    if cfg.force:
        checkpoints.remove(out)
    config, device = cast(ClassifierTrainConfig, OmegaConf.to_object(cfg.experiment)), build.device(cfg)
    train_classifier(config, out, device, identity.head(cfg, device))
