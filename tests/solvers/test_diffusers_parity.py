"""Whole runs equal to those of diffusers' schedulers, driven as its pipelines drive them."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from pndm import schedules, solve, solvers

SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}
DDIM = {"clip_sample": False, "set_alpha_to_one": True}
PNDM = {"set_alpha_to_one": True}
DDPM = {"clip_sample": False, "variance_type": "fixed_small"}

PAIRS = {
    "ddim": ("ddim", {}, DDIMScheduler, DDIM, {}),
    "ddim of eta 1": ("ddim", {"eta": 1.0}, DDIMScheduler, DDIM, {"eta": 1.0}),
    "ddim of eta 0.3": ("ddim", {"eta": 0.3}, DDIMScheduler, DDIM, {"eta": 0.3}),
    "plms, rk": ("plms", {"startup": "rk"}, PNDMScheduler, {**PNDM, "skip_prk_steps": False}, {}),
    "plms, heun": ("plms", {"startup": "heun"}, PNDMScheduler, {**PNDM, "skip_prk_steps": True}, {}),
    "ddpm": ("ddpm", {}, DDPMScheduler, DDPM, {}),
    "ddpm of large variance": (
        "ddpm", {"variance": "large"}, DDPMScheduler, {**DDPM, "variance_type": "fixed_large"}, {}
    ),
}  # fmt: skip
# With a last timestep other than 0, diffusers adds noise of large variance to the clean sample.
CASES = [(pair, grid) for pair in PAIRS for grid in ("leading", "trailing")]
CASES.remove(("ddpm of large variance", "trailing"))


def theirs(scheduler, steps, model, x, **options):
    """The loop of diffusers' pipelines."""
    scheduler.set_timesteps(steps)
    evaluations = 0
    for t in scheduler.timesteps:
        model_output = model(x, t.expand(len(x)))
        evaluations += 1
        x = scheduler.step(model_output, t, x, **options).prev_sample
    return x, evaluations


@pytest.mark.parametrize("precision", ["their float32 tables", "float64"])
@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("betas", SCHEDULES)
@pytest.mark.parametrize(("pair", "grid"), CASES)
def test_whole_run(pair, grid, betas, steps, precision, mixture, noise):
    ours, ours_options, scheduler_class, configuration, step_options = PAIRS[pair]
    scheduler = scheduler_class(timestep_spacing=grid, **SCHEDULES[betas], **configuration)
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    if precision == "float64":  # the same table, but their coefficients in double precision too
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    model = replace(mixture, schedule=schedule)
    if not isinstance(scheduler, PNDMScheduler):
        step_options = {**step_options, "generator": torch.Generator().manual_seed(1)}
    wanted, evaluations = theirs(scheduler, steps, model, noise, **step_options)
    solution = solve(
        model,
        noise,
        solver=solvers.create(ours, **ours_options),
        steps=steps,
        schedule=schedule,
        grid=grid,
        generator=torch.Generator().manual_seed(1),
    )
    assert solution.x.std() > 0.3
    # Their DDPM replaces a variance of 0 by 1e-20, so its samples carry a last noise of 1e-10.
    torch.testing.assert_close(solution.x, wanted, rtol=0, atol=1e-9 if precision == "float64" else 1e-5)
    # Their Runge-Kutta start-up spends 9 evaluations more than steps, skipping it 1 more: so do we.
    assert solution.nfe == evaluations
