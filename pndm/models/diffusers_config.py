"""What diffusers' scheduler configurations say, in our words: the noise path, the prediction, and absent fields.

diffusers                                       pndm
beta_schedule linear, beta_start, beta_end      schedule linear of the same options
beta_schedule scaled_linear, the same           schedule scaled_linear
beta_schedule squaredcos_cap_v2                 schedule cosine (beta_start and beta_end mean nothing there)
trained_betas                                   schedule table, ᾱ = the running product of 1 - beta
num_train_timesteps                             train_steps
prediction_type epsilon, sample, v_prediction   predicts eps, x0, v
predict_epsilon true, false (diffusers < 0.10)  predicts eps, x0
timestep_spacing leading, trailing, linspace    the grids of these names
set_alpha_to_one                                t_end = -1 (ᾱ = 1), else 0 (the ᾱ of index 0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pndm.errors import OptionError, unknown_name
from pndm.schedules import Linear, ScaledLinear, Schedule, schedules

PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}

COMMON: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
_CLIPPING: dict[str, Any] = {
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "rescale_betas_zero_snr": False,
}
# What a field that is absent from a scheduler_config.json means to the class that wrote it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**COMMON, **_CLIPPING, "variance_type": "fixed_small"},
    "DDIMScheduler": {**COMMON, **_CLIPPING, "set_alpha_to_one": True},
    "PNDMScheduler": {**COMMON, "skip_prk_steps": False, "set_alpha_to_one": False},
}
# Fields of diffusers below 0.10 that say nothing of a noise path; predict_epsilon is read.
OLD_FIELDS = ("tensor_format", "timestep_values", "predict_epsilon")
# The fields that our own scheduler adds.
OWN_FIELDS = ("solver", "solver_options", "grid_options", "compat")
FIELDS = frozenset(OWN_FIELDS).union(*DEFAULTS.values())


def filled(config: Mapping[str, Any], extra_fields: Iterable[str] = ()) -> dict[str, Any]:
    """`config` with the defaults of the class that wrote it, and without private entries and `extra_fields`.

    extra_fields: further known fields, which mean nothing here. Raises OptionError for a field that nobody knows.
    """
    passed_over = {*extra_fields, *OLD_FIELDS} - FIELDS
    if config.get("use_flow_sigmas"):
        raise OptionError(
            "scheduler configuration: use_flow_sigmas=True is a path that preserves no variance; only False"
        )
    for name in config:
        if not name.startswith("_") and name not in FIELDS and name not in passed_over:
            raise OptionError(
                f"scheduler configuration: field {name!r} (value {config[name]!r}) is not known; known are "
                f"{', '.join(sorted(FIELDS))}"
            )
    given = {name: value for name, value in config.items() if name in FIELDS}
    if config.get("predict_epsilon") is False:
        given.setdefault("prediction_type", "sample")
    return {**DEFAULTS.get(config.get("_class_name", ""), {}), **given}


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """The noise path of a filled configuration. Raises OptionError for one that has no counterpart here."""
    if config.get("rescale_betas_zero_snr"):
        raise OptionError(
            "scheduler configuration: rescale_betas_zero_snr=True makes ᾱ = 0 at the noise end, where eps says nothing "
            "about x0; only False is supported"
        )
    steps = config["num_train_timesteps"]
    if config.get("trained_betas") is not None:
        try:
            betas = np.asarray(config["trained_betas"], dtype=np.float64)
        except (TypeError, ValueError):
            betas = np.empty(())
        if betas.ndim != 1 or not np.all((betas > 0) & (betas < 1)):
            raise OptionError("scheduler configuration: trained_betas must be a list of numbers between 0 and 1")
        return schedules.create("table", alphas_cumprod=np.exp(np.cumsum(np.log1p(-betas))))
    kind = config["beta_schedule"]
    if kind not in BETA_SCHEDULES:
        raise unknown_name("beta_schedule", kind, BETA_SCHEDULES)
    ends = {} if kind == "squaredcos_cap_v2" else {name: config[name] for name in ("beta_start", "beta_end")}
    return schedules.create(BETA_SCHEDULES[kind], train_steps=steps, **ends)


def config_of(schedule: Schedule, predicts: str) -> dict[str, Any]:
    """The entries that say this: the inverse of `schedule_of` and `predicts_of`, for a discrete schedule."""
    if schedule.train_steps is None:
        raise OptionError(
            f"schedule {schedule.name!r} has no discrete training steps, as diffusers' configurations need"
        )
    kind = next((theirs for theirs, ours in PREDICTS.items() if ours == predicts), predicts)
    entries = {"num_train_timesteps": schedule.train_steps, "prediction_type": kind}
    if isinstance(schedule, (Linear, ScaledLinear)):
        ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
        return {**entries, **ends, "beta_schedule": schedule.name}
    table = schedule.alpha(np.arange(-1.0, schedule.train_steps)) ** 2
    return {**entries, "trained_betas": (1 - table[1:] / table[:-1]).tolist()}


def predicts_of(config: Mapping[str, Any]) -> str:
    """eps, x0 or v. Raises OptionError for a prediction type that does not exist."""
    kind = config["prediction_type"]
    if kind not in PREDICTS:
        raise unknown_name("prediction_type", kind, PREDICTS)
    return PREDICTS[kind]
