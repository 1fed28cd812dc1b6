"""The adaptive solver keeps its promise, reports its steps, and fails with a sentence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from their_runs import alphas_cumprod

from pndm import ModelError, OptionError, schedules, solve, solvers
from pndm.models.mixture import GaussianMixture
from pndm.noise import as_noise
from pndm.solvers.adaptive import PAIRS
from pndm.solvers.base import drive

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def worst(difference) -> float:
    """What is promised: the largest of the samples' root mean squares."""
    return difference.square().flatten(1).mean(1).sqrt().max().item()


@pytest.fixture(scope="module")
def many():
    return torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tol", TOLERANCES)
@pytest.mark.parametrize("pair", PAIRS)
def test_promise_on_the_mixture(pair, tol, mixture, many, reference, vp):
    exact = reference(many, alphas_cumprod(vp, 1.0), alphas_cumprod(vp, 0.01))
    solution = solve(mixture, many, solver=solvers.create("adaptive", tol=tol, pair=pair), schedule=vp, t_end=0.01)
    assert tol / 10 < worst(solution.x - exact) < 10 * tol


@pytest.mark.parametrize("tol", TOLERANCES)
@pytest.mark.parametrize("deviation", [0.1, 0.5, 1.0])
def test_promise_on_a_gaussian(deviation, tol, many, vp):
    """Whose flow is known: (x - alpha mean) / sqrt(alpha^2 c^2 + sigma^2) does not change."""
    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    model = GaussianMixture(torch.ones(1), mean[None], torch.tensor([deviation], dtype=torch.float64), vp)

    def spread(t):
        return ((vp.alpha(t) * deviation) ** 2 + vp.sigma(t) ** 2) ** 0.5

    exact = (many - vp.alpha(1.0) * mean) * (spread(0.01) / spread(1.0)) + vp.alpha(0.01) * mean
    error = worst(solve(model, many, solver=solvers.create("adaptive", tol=tol), schedule=vp, t_end=0.01).x - exact)
    assert tol / 10 < error < 10 * tol


@pytest.mark.parametrize("start", [0.9, 0.4, 0.1])
def test_promise_from_the_middle(start, mixture, many, reference, vp):
    exact = reference(many, alphas_cumprod(vp, start), alphas_cumprod(vp, 0.01))
    options = {"schedule": vp, "t_start": start, "t_end": 0.01}
    error = worst(solve(mixture, many, solver=solvers.create("adaptive", tol=1e-4), **options).x - exact)
    assert error < 1e-3


@pytest.mark.parametrize("name", ["linear", "cosine", "scaled_linear"])
def test_discrete_schedules(name, mixture, many, reference):
    """Between the integers, and to a whole one."""
    schedule = schedules.create(name)
    start = schedule.t_of_lam(-4.5)
    exact = reference(many, alphas_cumprod(schedule, start), alphas_cumprod(schedule, 10.0))
    options = {"schedule": schedule, "t_start": start, "t_end": 10.0}
    model = replace(mixture, schedule=schedule)
    error = worst(solve(model, many, solver=solvers.create("adaptive", tol=1e-5), **options).x - exact)
    assert 1e-6 < error < 1e-4


@pytest.mark.parametrize("pair", PAIRS)
def test_report(pair, mixture, noise, vp):
    """Accepted steps are the solution's times; evaluations are accounted for; callbacks see each accepted step."""
    run = solvers.create("adaptive", pair=pair, tol=1e-4).begin(vp, np.array([1.0, 0.5, 0.01]), as_noise(None))
    seen, asked = [], []

    def evaluate(x, t):
        asked.append(t)
        return mixture(x, torch.full((len(x),), t, dtype=x.dtype))

    x = run.integrate(noise, evaluate, lambda k, t, state: seen.append((k, t)))
    stages = {"bs32": 3, "dp54": 6}[pair]
    assert len(asked) == run.asked == 1 + stages * (run.accepted + run.rejected)
    assert run.rejected > 0
    assert seen == list(enumerate(run.times.tolist()))[1:]
    assert len(run.times) == run.accepted + 1
    assert (run.times[0], run.times[-1]) == (1.0, 0.01)
    assert 0.5 not in run.times  # the grid gives only the ends
    solution = solve(
        mixture,
        noise,
        solver=solvers.create("adaptive", pair=pair, tol=1e-4),
        schedule=vp,
        steps=3,
        t_end=0.01,
        trajectory=True,
    )
    assert torch.equal(solution.x, x)
    assert np.array_equal(solution.times, run.times)
    assert len(solution.trajectory) == len(run.times)
    assert solution.nfe == len(asked)


def test_step_goes_the_whole_way(mixture, noise, vp):
    """Driven as a generator from t to s it makes the same steps."""
    run = solvers.create("adaptive").begin(vp, np.array([1.0, 0.01]), as_noise(None))
    x = drive(run.ask(noise, 1.0, 0.01), lambda x, t: mixture(x, torch.full((len(x),), t, dtype=x.dtype)))
    assert torch.equal(x, solve(mixture, noise, solver="adaptive", schedule=vp, t_end=0.01).x)


def test_to_the_clean_end(mixture, noise):
    """To the least noise that the network knows, and on by Euler along the direction that is known there."""
    model = replace(mixture, schedule="linear")
    asked = []

    def noted(x, t):
        asked.append(float(t[0]))
        return model(x, t)

    whole = solve(noted, noise, solver="adaptive", schedule="linear")
    assert min(asked) == 0.0
    assert whole.times[-1] == -1.0
    to_least = solve(model, noise, solver="adaptive", schedule="linear", t_end=0.0)
    last = solve(model, to_least.x, solver="ddim", schedule="linear", grid=[0.0, -1.0])
    torch.testing.assert_close(whole.x, last.x, rtol=0, atol=1e-14)
    assert whole.nfe == to_least.nfe


def test_a_sample_depends_on_its_batch_by_no_more_than_the_tolerance(mixture, many, vp):
    solver = solvers.create("adaptive", tol=1e-4)
    together = solve(mixture, many, solver=solver, schedule=vp, t_end=0.01).x
    alone = torch.cat([solve(mixture, x[None], solver=solver, schedule=vp, t_end=0.01).x for x in many[:8]])
    assert 0 < worst(alone - together[:8]) < 1e-3


def test_twice_the_batch_is_the_same(mixture, many, vp):
    """The norm is a maximum over samples: copies change nothing."""
    once = solve(mixture, many[:4], solver="adaptive", schedule=vp, t_end=0.01)
    twice = solve(mixture, many[:4].repeat(2, 1), solver="adaptive", schedule=vp, t_end=0.01)
    assert once.nfe == twice.nfe
    torch.testing.assert_close(twice.x, once.x.repeat(2, 1), rtol=0, atol=1e-12)


def test_float32_keeps_its_dtype(mixture, many, reference, vp):
    exact = reference(many, alphas_cumprod(vp, 1.0), alphas_cumprod(vp, 0.01))
    solution = solve(mixture, many.float(), solver=solvers.create("adaptive", tol=1e-4), schedule=vp, t_end=0.01)
    assert solution.x.dtype == torch.float32
    assert worst(solution.x - exact) < 1e-3


def test_a_tolerance_below_the_rounding_gives_up(mixture, many, vp):
    solver = solvers.create("adaptive", tol=1e-9, max_evaluations=500)
    with pytest.raises(OptionError, match=r"max_evaluations=500 took it only to t = .* rounding of torch.float32"):
        solve(mixture, many.float(), solver=solver, schedule=vp, t_end=0.01)


def test_a_model_that_fails_is_named(noise, vp):
    def model(x, t):
        return x * (float("nan") if t[0] < 0.5 else 1.0)

    with pytest.raises(ModelError, match=r"solver adaptive, evaluation \d+, at t = 0"):
        solve(model, noise, solver="adaptive", schedule=vp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "tol=0.0 must be positive"),
        ({"tol": -1.0}, "tol=-1.0 must be positive"),
        ({"tol": float("nan")}, "tol=nan must be positive"),
        ({"pair": "dp45"}, "did you mean 'dp54'"),
        ({"safety": 0.0}, "safety=0.0"),
        ({"safety": 1.5}, "safety=1.5"),
        ({"max_evaluations": 0}, "max_evaluations=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        solvers.create("adaptive", **options)
