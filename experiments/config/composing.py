"""From the options that were typed to configurations, one for each point of the sweep that they describe.

Hydra does the composing. What it would answer in many lines, or with a traceback, is one sentence here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import schema
from pndm.errors import OptionError, unknown_name

CONF = Path(__file__).parents[2] / "conf"
FILE_GROUPS = ("model", "metric", "problem", "experiment")
DEFAULTS = {key: value for entry in OmegaConf.load(CONF / "config.yaml").defaults if entry not in ("schema", "_self_")
            for key, value in entry.items()}  # fmt: skip


def choices(group: str) -> list[str]:
    """What a configuration group offers."""
    if group in schema.GROUPS:
        return schema.GROUPS[group].names()
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def points(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of every point of the sweep that the arguments describe (one point without a sweep).

    Raises OptionError for what is not an option, and for a name that its group does not have.
    """
    axes = []
    for argument in arguments:
        override, values = _parsed(argument)
        key = override.key_or_group
        if key in (*schema.GROUPS, *FILE_GROUPS):
            for value in values if values is not None else [override.value()]:
                _check_names(key, value)
        elif "." not in key and "/" not in key and key not in schema.Config.__dataclass_fields__ and key != "hydra":
            raise unknown_name("option", key, schema.Config.__dataclass_fields__)
        line = override.input_line or ""
        axes.append([line] if values is None else [f"{line.split('=', 1)[0]}={value}" for value in values])
    for point in itertools.product(*axes):
        _check_options(list(point))
        yield list(point)


def first_swept(arguments: Sequence[str]) -> str:
    """The first argument that stands for several values."""
    return next(argument for argument in arguments if _parsed(argument)[1] is not None)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one point, Hydra's own part with it. Raises OptionError where it cannot be made."""
    _check_metric_options(overrides)
    cfg = _composed(overrides)
    try:
        OmegaConf.resolve(cfg.experiment)
    except OmegaConfBaseException as error:
        raise OptionError(_reason(error)) from None
    return cfg


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise OptionError(_reason(error)) from None


def _parsed(argument: str) -> tuple[Override, list[str] | None]:
    """An argument in Hydra's terms, and the values of a sweep over it."""
    if "=" not in argument and not argument.startswith("~"):
        raise OptionError(f"{argument!r} is not an option: write option=value, as in steps=50")
    try:
        override = OverridesParser.create().parse_override(argument)
        return override, list(override.sweep_string_iterator()) if override.is_sweep_override() else None
    except HydraException:
        key, _, value = argument.partition("=")
        raise OptionError(
            f"{key}={value} cannot be read: a value with brackets, commas, quotes or = in it must be quoted twice, "
            f"as in \"{key}='...'\""
        ) from None


def _check_names(group: str, value: Any) -> None:
    """Raise OptionError for a name that the group does not have, and for several where one is meant."""
    names = _listed(value)
    if len(names) > 1 and group != "metric":
        raise OptionError(f"{group}=[{','.join(names)}] is a list, and {group} takes one name: "
                          f"{group}={','.join(names)} with -m is a sweep over them")  # fmt: skip
    for name in names:
        if name not in choices(group):
            raise unknown_name(group, name, choices(group))


def _listed(value: Any) -> list[str]:
    """The names that the value of a group stands for: one, or several as in metric=[paired,kid]."""
    if isinstance(value, str) and value.startswith("["):  # of a sweep, as text
        value = [name.strip() for name in value.strip("[]").split(",")]
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _check_options(point: list[str]) -> None:
    """Raise OptionError for an option that the chosen solver, schedule or grid does not have."""
    chosen = dict(argument.split("=", 1) for argument in point if "=" in argument)
    for key in chosen:
        group, _, option = key.lstrip("+~").partition(".")
        if group in schema.GROUPS and option:
            name = chosen.get(group, DEFAULTS[group])
            if option not in (accepted := schema.GROUPS[group].options(name)):
                raise unknown_name(f"option of {group} {name}", option, accepted)


def _check_metric_options(overrides: Sequence[str]) -> None:
    """Raise OptionError for an option of a metric that is not chosen, which Hydra answers with an AssertionError."""
    keys = [override.lstrip("+~").partition("=")[0].split(".") for override in overrides]
    wanted = dict.fromkeys(key[1] for key in keys if key[0] == "metric" and len(key) > 2)
    if not wanted:
        return
    rest = [override for override, key in zip(overrides, keys, strict=True) if key[0] != "metric" or len(key) < 2]
    chosen = _composed(rest).metric
    for name in wanted:
        if name not in chosen:
            raise unknown_name("metric", name, [str(each) for each in chosen])
        if chosen[name] is None:
            raise OptionError(f"metric.{name}. has an option, and the metric {name} is not chosen: add metric={name}")


def _reason(error: Exception) -> str:
    """What Hydra says, as one sentence: which override, and why not."""
    first = str(error).strip().splitlines()[0]
    missing = re.match(r"Could not override '(.+)'", first)
    if missing:
        return f"there is no option {missing[1]!r}: `python run.py --help` shows all of them"
    cause = str(error.__cause__ or "").strip().splitlines()
    return f"{first.replace('Error merging override ', '')}: {cause[0]}" if cause else first
