"""SDE-DPM-Solver++(2M): equal to diffusers' with the same noise, and reaching the data's distribution."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from scipy.integrate import solve_ivp
from their_runs import BETAS, rms, run_theirs, slope

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


def test_drift_has_order_2(mixture, noise, vp):
    """With the noise left out: dx/dt = f x + g^2 eps / sigma, with f = d ln alpha / dt and g^2 = -2 f."""
    start, end, steps = 0.3, 0.02, (80, 160, 320)

    def drift(t, flat):
        x, f = torch.from_numpy(flat).view_as(noise), vp.dlog_alpha(t)
        eps = mixture(x, torch.full((len(x),), t, dtype=x.dtype))
        return (f * x - 2 * f / vp.sigma(t) * eps).numpy().ravel()

    found = solve_ivp(drift, (start, end), noise.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-10)
    exact = torch.from_numpy(found.y[:, -1]).view_as(noise)
    for variant in ("midpoint", "heun"):
        solver = solvers.create("sde_dpmpp_2m", variant=variant)
        options = {"solver": solver, "schedule": vp, "t_start": start, "t_end": end, "generator": torch.zeros_like}
        errors = [rms(solve(mixture, noise, steps=n, **options).x - exact) for n in steps]
        assert abs(slope(errors, steps) - 2) < 0.15, (variant, errors)


def test_mean_of_gaussian_data_is_exact(noise):
    """On the mean path of the reverse SDE x0 does not change, so any number of steps follows it: mean * v / alpha."""
    vp, c = schedules.create("vp_linear"), 0.6

    def variance(t):
        return (vp.alpha(t) * c) ** 2 + vp.sigma(t) ** 2

    def model(x, t):
        return x * (vp.sigma(float(t[0])) / variance(float(t[0])))

    x = solve(model, noise, solver="sde_dpmpp_2m", steps=3, schedule=vp, t_end=0.02, generator=torch.zeros_like).x
    exact = noise * (variance(0.02) / variance(1.0)) * (vp.alpha(1.0) / vp.alpha(0.02))
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-12)


def test_bad_option():
    with pytest.raises(OptionError, match="unknown variant 'middle'"):
        solvers.create("sde_dpmpp_2m", variant="middle")
