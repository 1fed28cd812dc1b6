"""DDIM and DDPM: exactness on one data point, the posterior of the DDPM paper, their agreement, and their noise."""

import math

import pytest
import torch

from pndm import OptionError, schedules, solve, solvers

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
POINT = torch.tensor([1.5, -0.5], dtype=torch.float64)


def point(schedule):
    """The exact eps when all data are one point."""

    def eps(x, t):
        return (x - schedule.alpha(t)[:, None] * POINT) / schedule.sigma(t)[:, None]

    return eps


class Recorded:
    """Noise that keeps what it drew."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.drawn = []

    def __call__(self, x):
        self.drawn.append(torch.randn(x.shape, dtype=x.dtype, generator=self.generator))
        return self.drawn[-1]


@pytest.mark.parametrize("steps", [1, 2, 17])
@pytest.mark.parametrize("solver", ["ddim", "ddpm", solvers.create("ddim", eta=0.5)])
def test_one_data_point_is_reached_in_any_number_of_steps(solver, steps, noise):
    x = solve(point(LINEAR), noise, solver=solver, steps=steps, generator=torch.Generator().manual_seed(0)).x
    torch.testing.assert_close(x, POINT.expand(6, 2), rtol=0, atol=1e-10)


def test_deterministic_ddim_is_pseudo_euler(mixture, noise):
    runs = [solve(mixture, noise, solver=name, steps=9, schedule=VP).x for name in ("ddim", "pseudo_euler")]
    assert torch.equal(*runs)


def test_ddim_of_eta_1_is_ddpm_of_small_variance(mixture, noise):
    runs = [
        solve(mixture, noise, solver=s, steps=30, schedule=VP, generator=torch.Generator().manual_seed(0)).x
        for s in (solvers.create("ddim", eta=1.0), "ddpm")
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_ddpm_step_is_a_draw_from_the_posterior(variance, noise):
    """Ho et al. 2020, equation 7, with the true x0, between neighbouring times where beta_t is the schedule's own."""
    beta = 1e-4 + (0.02 - 1e-4) * 400 / 999
    alpha_bar_t, alpha_bar_s = LINEAR.alpha(400.0) ** 2, LINEAR.alpha(399.0) ** 2
    mean = (
        math.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t) * POINT
        + math.sqrt(1 - beta) * (1 - alpha_bar_s) / (1 - alpha_bar_t) * noise
    )
    spread = {"small": (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta, "large": beta}[variance]
    recorded = Recorded()
    solver = solvers.create("ddpm", variance=variance)
    x = solve(point(LINEAR), noise, solver=solver, grid=[400, 399], generator=recorded).x
    torch.testing.assert_close(x, mean + math.sqrt(spread) * recorded.drawn[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_a_ddim_step_is_equation_12_with_the_spread_of_equation_16(eta, noise):
    """Song, Meng & Ermon 2021."""
    t, s = 400.0, 350.0
    alpha_t, alpha_s = LINEAR.alpha(t) ** 2, LINEAR.alpha(s) ** 2  # their alpha
    spread = eta * math.sqrt((1 - alpha_s) / (1 - alpha_t)) * math.sqrt(1 - alpha_t / alpha_s)
    e = torch.cos(noise)
    x0 = (noise - math.sqrt(1 - alpha_t) * e) / math.sqrt(alpha_t)
    recorded = Recorded()
    solver = solvers.create("ddim", eta=eta)
    x = solve(lambda x, t: torch.cos(x), noise, solver=solver, grid=[t, s], generator=recorded).x
    wanted = math.sqrt(alpha_s) * x0 + math.sqrt(1 - alpha_s - spread**2) * e + spread * recorded.drawn[0]
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["ddpm", solvers.create("ddim", eta=1.0)])
@pytest.mark.parametrize(("schedule", "draws"), [(LINEAR, 9), (VP, 10)])
def test_a_step_into_the_clean_end_draws_no_noise(solver, schedule, draws, noise):
    recorded = Recorded()
    solve(point(schedule), noise, solver=solver, steps=10, schedule=schedule, generator=recorded)
    assert len(recorded.drawn) == draws


def test_deterministic_ddim_draws_nothing(noise):
    def forbidden(x):
        raise AssertionError("drew noise")

    solve(point(LINEAR), noise, solver="ddim", steps=5, generator=forbidden)


def test_eta_decides_whether_it_is_stochastic():
    deterministic, stochastic = solvers.create("ddim"), solvers.create("ddim", eta=0.1)
    assert (deterministic.stochastic, deterministic.order) == (False, 1)
    assert (stochastic.stochastic, stochastic.order) == (True, 0)


BAD = [
    ("ddim", {"eta": -0.1}, r"eta=-0.1 must lie between 0 \(deterministic\) and 1 \(DDPM\)"),
    ("ddim", {"eta": 1.5}, "eta=1.5 must lie between 0"),
    ("ddim", {"eta": math.nan}, "eta=nan must lie between 0"),
    ("ddim", {"etta": 1.0}, "solver 'ddim' has no option 'etta': its options are eta"),
    ("ddpm", {"variance": "smal"}, "unknown variance 'smal': did you mean 'small'"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), BAD)
def test_refused(name, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solvers.create(name, **options)
