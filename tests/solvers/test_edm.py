"""EDM's Heun: pseudo_heun without churn; with churn Algorithm 2 of its paper, and the distribution of the data."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from their_runs import BETAS

from pndm import OptionError, grids, schedules, solve, solvers
from pndm.models.mixture import GaussianMixture


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_without_churn_it_is_pseudo_heun_and_diffusers_heun(steps, mixture, noise):
    scheduler = HeunDiscreteScheduler(**BETAS)
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule)
    rho = torch.tensor([schedule.rho(t) for t in times.tolist()], dtype=torch.float64)
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.cat([rho[:1], rho[1:-1].repeat_interleave(2), rho[-1:]])
    asked = torch.from_numpy(times[:-1].copy())
    scheduler.timesteps = torch.cat([asked[:1], asked[1:].repeat_interleave(2)])
    scheduler.set_begin_index(0)
    y = noise / schedule.alpha(times[0])  # their state is x / alpha
    for t in scheduler.timesteps:
        y = scheduler.step(model(y * schedule.alpha(t), t.expand(len(y))), t, y).prev_sample
    solution = solve(model, noise, solver="edm_heun", schedule=schedule, grid=times)
    torch.testing.assert_close(solution.x, y, rtol=0, atol=1e-11)
    assert solution.nfe == len(scheduler.timesteps)
    assert torch.equal(solution.x, solve(model, noise, solver="pseudo_heun", schedule=schedule, grid=times).x)


def test_with_churn_it_is_algorithm_2(mixture, noise, vp):
    """Written out in the paper's variables, with the same noise."""
    churn, low, high, spread, steps = 8.0, 0.05, 30.0, 1.01, 20
    times = grids.times("uniform", steps, vp, 1.0, 0.01)
    drawn = torch.randn(steps, *noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    unused = iter(drawn)
    solver = solvers.create("edm_heun", s_churn=churn, s_tmin=low, s_tmax=high, s_noise=spread)
    x = solve(mixture, noise, solver=solver, schedule=vp, grid=times, generator=lambda state: next(unused)).x

    def denoised(y, sigma):
        t, alpha = vp.t_of_rho(sigma), 1 / math.sqrt(1 + sigma**2)
        return y - sigma * mixture(y * alpha, torch.full((len(y),), t, dtype=y.dtype))

    draws = iter(drawn)
    sigmas = [vp.rho(t) for t in times.tolist()]
    y = noise / vp.alpha(1.0)
    for sigma, following in pairwise(sigmas):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= sigma <= high else 0.0
        raised = sigma + gamma * sigma
        if gamma:
            y = y + math.sqrt(raised**2 - sigma**2) * spread * next(draws)
        slope = (y - denoised(y, raised)) / raised
        euler = y + (following - raised) * slope
        y = y + (following - raised) * (slope + (euler - denoised(euler, following)) / following) / 2
    torch.testing.assert_close(x, y * vp.alpha(0.01), rtol=0, atol=1e-10)
    assert next(unused, None) is not None  # the first steps lie above s_tmax and draw nothing


def test_noise_is_never_raised_above_the_noise_end(noise):
    asked = []

    def model(x, t):
        asked.append(float(t[0]))
        return x

    solve(model, noise, solver=solvers.create("edm_heun", s_churn=40.0), steps=10, schedule="linear")
    assert asked[0] == 999.0
    assert max(asked) <= 999.0
    assert len(asked) == 19


@pytest.mark.parametrize("churn", [5.0, 40.0])
def test_churn_reaches_the_data(churn):
    """Mean and covariance of Gaussian data from 10 000 samples, within four standard errors."""
    n, deviation, mean = 10_000, 0.6, torch.tensor([1.5, -0.5], dtype=torch.float64)
    model = GaussianMixture(torch.ones(1), mean[None], torch.tensor([deviation]), schedules.create("linear"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    solver = solvers.create("edm_heun", s_churn=churn)
    x = solve(model, x, solver=solver, steps=100, grid="karras", generator=generator).x
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=4 * deviation / math.sqrt(n))
    off = (torch.cov(x.T) - deviation**2 * torch.eye(2, dtype=torch.float64)).abs() / (deviation**2 / math.sqrt(n))
    assert torch.all(off < 4 * torch.tensor([[2.0, 1.0], [1.0, 2.0]]).sqrt())


def test_order_and_stochastic_follow_the_churn():
    assert (solvers.create("edm_heun").order, solvers.create("edm_heun").stochastic) == (2, False)
    assert (solvers.create("edm_heun", s_churn=1.0).order, solvers.create("edm_heun", s_churn=1.0).stochastic) == (
        0,
        True,
    )


@pytest.mark.parametrize(
    "options", [{"s_churn": -1.0}, {"s_churn": np.nan}, {"s_tmin": 2.0, "s_tmax": 1.0}, {"s_noise": -1.0}]
)
def test_bad_options(options):
    with pytest.raises(OptionError, match="solver 'edm_heun': s_"):
        solvers.create("edm_heun", **options)
