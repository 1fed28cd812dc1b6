"""SDE-DPM-Solver++(2M): equal to diffusers' with the same noise, and reaching the data's distribution."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from their_runs import BETAS, run_theirs

from pndm import OptionError, grids, schedules, solve, solvers
from pndm.models.mixture import GaussianMixture


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(("final", "end"), [("sigma_min", 0.0), ("zero", -1.0)])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_whole_run_is_theirs(variant, final, end, steps, mixture, noise):
    """They round every state to float32."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_type=variant,
        lower_order_final=False,
        final_sigmas_type=final,
        **BETAS,
    )
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule, t_end=end)
    drawn = torch.randn(steps, *noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = run_theirs(scheduler, schedule, times, model, noise, step_options=lambda k: {"variance_noise": drawn[k]})
    draws = iter(drawn)
    solver = solvers.create("sde_dpmpp_2m", variant=variant)
    solution = solve(model, noise, solver=solver, schedule=schedule, grid=times, generator=lambda x: next(draws))
    torch.testing.assert_close(solution.x, wanted, rtol=0, atol=1e-5)
    assert solution.nfe == steps


@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_it_reaches_the_data(variant):
    """Mean and covariance of Gaussian data from 10 000 samples, within four standard errors."""
    n, deviation, mean = 10_000, 0.6, torch.tensor([1.5, -0.5], dtype=torch.float64)
    model = GaussianMixture(torch.ones(1), mean[None], torch.tensor([deviation]), schedules.create("linear"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    solver = solvers.create("sde_dpmpp_2m", variant=variant)
    x = solve(model, x, solver=solver, steps=200, grid="logsnr", generator=generator).x
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=4 * deviation / math.sqrt(n))
    off = (torch.cov(x.T) - deviation**2 * torch.eye(2, dtype=torch.float64)).abs() / (deviation**2 / math.sqrt(n))
    assert torch.all(off < 4 * torch.tensor([[2.0, 1.0], [1.0, 2.0]]).sqrt())


def test_drift_has_order_2(noise):
    """With the noise left out, on data N(0, c^2), where the mean of the reverse SDE is known.

    dx = (f x - g^2 score) dt with f = d ln alpha / dt and score = -x / v; dv/dt = 2 f v + g^2. So d ln m = d ln v - f dt.
    """
    vp, c, start, end = schedules.create("vp_linear"), 0.6, 0.5, 0.02

    def variance(t):
        return (vp.alpha(t) * c) ** 2 + vp.sigma(t) ** 2

    def model(x, t):
        at = float(t[0])
        return x * (vp.sigma(at) / variance(at))

    exact = noise * (variance(end) / variance(start)) * (vp.alpha(start) / vp.alpha(end))
    for variant in ("midpoint", "heun"):
        solver, errors = solvers.create("sde_dpmpp_2m", variant=variant), []
        for n in (80, 160):
            x = solve(
                model, noise, solver=solver, steps=n, schedule=vp, t_start=start, t_end=end, generator=torch.zeros_like
            ).x
            errors.append((x - exact).norm().item())
        assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.15, (variant, errors)


def test_bad_option():
    with pytest.raises(OptionError, match="unknown variant 'middle'"):
        solvers.create("sde_dpmpp_2m", variant="middle")
