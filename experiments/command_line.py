"""From the command line to an experiment: what run.py calls.

Hydra composes the configuration. Before it does, everything chosen is checked here for every point of a sweep, so that
a mistake is one sentence and exit code 2, and comes before the first job and not in the middle.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.config import build, schema
from experiments.measuring import metrics
from experiments.runs import claim, identity, processes, tensorboard
from pndm.errors import ModelError, OptionError, unknown_name
from pndm.models.diffusers_folder import FILES
from pndm.registry import Registry

CONF = Path(__file__).parent.parent / "conf"
HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # the launcher that runs one point after another
PLUGINS = {"ray": "hydra_plugins.hydra_ray_launcher", "slurm": "hydra_plugins.hydra_submitit_launcher"}
ROOM = 2**20  # bytes on the disk, below which no run begins
FILE_GROUPS = ("model", "metric", "problem", "experiment")
ON_PROBLEMS = (
    "convergence",
    "work_precision",
    "trajectory",
    "which_solver",
)  # the experiments that can take a problem in place of a network
DEFAULTS = {key: value for entry in OmegaConf.load(CONF / "config.yaml").defaults if entry not in ("schema", "_self_")
            for key, value in entry.items()}  # fmt: skip


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
            for point in points(overrides):
                check(point)
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
    cfg = _composed(overrides)
    template = Template(cfg.hydra.help.template)
    with open_dict(cfg):
        del cfg["hydra"]
    return template.safe_substitute(CONFIG=OmegaConf.to_yaml(cfg)).rstrip()


def choices(group: str) -> list[str]:
    """What a configuration group offers."""
    if group in schema.GROUPS:
        return schema.GROUPS[group].names()
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


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


def points(arguments: list[str]) -> Iterator[list[str]]:
    """The overrides of every point of the sweep that the arguments describe (one point without a sweep)."""
    for argument in arguments:
        if "=" not in argument and not argument.startswith("~"):
            raise OptionError(f"{argument!r} is not an option: write option=value, as in steps=50")
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
    except HydraException as error:
        raise OptionError(_reason(error)) from None
    axes = []
    for override in overrides:
        key = override.key_or_group
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else None
        if key in (*schema.GROUPS, *FILE_GROUPS):
            for value in values if values is not None else [override.value()]:
                for name in _listed(value):
                    if name not in choices(key):
                        raise unknown_name(key, name, choices(key))
        elif key == "hydra/launcher":
            _check_launcher(str(override.value()))
        elif "." not in key and "/" not in key and key not in schema.Config.__dataclass_fields__ and key != "hydra":
            raise unknown_name("option", key, schema.Config.__dataclass_fields__)
        line = override.input_line or ""
        axes.append([line] if values is None else [f"{line.split('=', 1)[0]}={value}" for value in values])
    for point in itertools.product(*axes):
        _check_options(list(point))
        yield list(point)


def _listed(value: Any) -> list[str]:
    """The names that the value of a group stands for: one, or several as in metric=[paired,kid]."""
    if isinstance(value, str) and value.startswith("["):  # of a sweep, as text
        value = [name.strip() for name in value.strip("[]").split(",")]
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _check_launcher(name: str) -> None:
    """Raise OptionError for a launcher that is not here; let its errors come to `main` in place of a traceback."""
    try:
        importlib.import_module(PLUGINS.get(name, "hydra"))
    except ImportError:
        raise OptionError(f"hydra/launcher={name} is not installed: pip install 'pndm[{name}]'") from None
    if name == "slurm" and not shutil.which("srun"):
        raise OptionError("hydra/launcher=slurm needs Slurm, and this machine has no srun: start it on a login node")
    if name != "basic":
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _check_options(point: list[str]) -> None:
    """Raise OptionError for an option that the chosen solver, schedule or grid does not have."""
    chosen = dict(argument.split("=", 1) for argument in point if "=" in argument)
    for key in chosen:
        group, _, option = key.lstrip("+~").partition(".")
        if group in schema.GROUPS and option:
            name = chosen.get(group, DEFAULTS[group])
            if option not in (accepted := schema.GROUPS[group].options(name)):
                raise unknown_name(f"option of {group} {name}", option, accepted)


def _composed(overrides: list[str]) -> DictConfig:
    """The configuration of one point, Hydra's own part with it. Raises OptionError where it cannot be made."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", overrides, return_hydra_config=True)
        OmegaConf.resolve(cfg.experiment)
    except (HydraException, OmegaConfBaseException) as error:
        raise OptionError(_reason(error)) from None
    return cfg


def check(overrides: list[str]) -> None:
    """Compose one point and make everything it names. Raises OptionError for the first thing that cannot be used."""
    cfg = _composed(overrides)
    build.check(cfg)
    if not cfg.output.strip():
        raise OptionError(f"output={cfg.output!r} names no folder: give one, or output=. for the one you are in")
    _check_writable(Path(cfg.output))
    name = cfg.experiment.name
    if cfg.tensorboard:
        if name not in ("sample", "train"):
            raise OptionError(f"tensorboard=true is for experiment=sample and train, and not for {name}")
        tensorboard.check()
    if processes.size() > 1 and name != "sample":
        raise OptionError(f"experiment={name} runs in one process: torchrun shares out only experiment=sample")
    if processes.size() > 1 and cfg.batch == "auto":
        raise OptionError("batch=auto is for one process: torchrun's must draw the same batches, so give a number")
    if name not in ON_PROBLEMS:
        if cfg.problem.name != "none":
            raise OptionError(f"experiment={name} draws from a network: problem={cfg.problem.name} is for experiment="
                              f"{', '.join(ON_PROBLEMS)}")  # fmt: skip
        if name == "sample":
            metrics.check(cfg)
        return
    study = _module(name)
    for key in (override.lstrip("+~").split("=")[0].split(".")[0] for override in overrides):
        if key in study.UNUSED:
            raise OptionError(f"{key}= has no effect in experiment={name}: use {study.UNUSED[key]}")
    study.check(cfg)


def _check_writable(folder: Path) -> None:
    """Raise OptionError unless the folder, or the nearest one above it that exists, can be written and has room."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OptionError(f"output={folder} cannot be written: {there} is not a folder that this user may write to")
    if (left := shutil.disk_usage(there).free) < ROOM:
        raise OptionError(f"output={folder} cannot be written: the disk is full: {left} bytes are left")


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


def _reason(error: Exception) -> str:
    """What Hydra says, as one sentence: which override, and why not."""
    first = str(error).strip().splitlines()[0]
    missing = re.match(r"Could not override '(.+)'", first)
    if missing:
        return f"there is no option {missing[1]!r}: `python run.py --help` shows all of them"
    cause = str(error.__cause__ or "").strip().splitlines()
    return f"{first.replace('Error merging override ', '')}: {cause[0]}" if cause else first


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
    getattr(_module(cfg.experiment.name), cfg.experiment.name)(cfg, out)


def _module(name: str) -> ModuleType:
    """Where an experiment that is named after its module is: by itself, or among the studies of solvers."""
    folder = "experiments" if name in ("sample", "convert") else "experiments.studies"
    return importlib.import_module(f"{folder}.{name}")


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
