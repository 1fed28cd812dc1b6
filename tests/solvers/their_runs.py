"""What the tests of single families share: whole runs of diffusers' schedulers over our times, and sizes of errors."""

import numpy as np
import torch

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def run_theirs(scheduler, schedule, times, model, x, *, exact=(), step_options=lambda k: {}):
    """Their loop, with the sigmas and timesteps that they would have chosen replaced by ours, in float64.

    exact: states at the first times, to go on from in place of their own.
    step_options: of step k, what is given to `step` besides the usual.
    """
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = torch.tensor([schedule.rho(float(t)) for t in times], dtype=torch.float64)
    scheduler.timesteps = torch.as_tensor(times[:-1], dtype=torch.float64)
    scheduler.set_begin_index(0)
    for k, t in enumerate(scheduler.timesteps):
        x = exact[k] if k < len(exact) else x
        x = scheduler.step(model(x, t.expand(len(x))), t, x, **step_options(k)).prev_sample
    return x


def rms(difference) -> float:
    return difference.square().mean().sqrt().item()


def slope(errors, steps) -> float:
    """The measured order: minus the slope of ln error against ln steps."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def alphas_cumprod(schedule, t: float) -> float:
    return schedule.alpha(t) ** 2
