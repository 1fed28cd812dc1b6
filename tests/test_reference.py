"""Reference solutions: against the closed form, against each other, and honest about how far they came."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pndm import reference, schedules
from pndm.errors import ModelError, OptionError
from pndm.models import problems
from pndm.models.mixture import Gaussian
from pndm.reference import exact, refined, rmse, self_converged
from pndm.schedules import Schedule

F64 = torch.float64


@pytest.fixture(scope="module")
def start() -> Tensor:
    return torch.randn(5, 8, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", ["vp_linear", "linear", "cosine"])
def test_exact_equals_the_closed_form_of_a_gaussian(start, schedule: str):
    path = schedules.create(schedule)
    problem = problems.create("gaussian")
    model: Gaussian = problem.build(path)
    times = np.array([path.t_noise, path.t_of_rho(2.0), path.t_of_rho(0.3), path.t_of_rho(0.02)])
    found = exact(model, start, path, times)
    for t, state in zip(times, found.states, strict=True):
        assert (state - model.flow(start, times[0], float(t))).abs().max() < 1e-10
    assert found.difference < 1e-10
    assert (found.converged, found.tolerance) == (True, 1e-12)
    assert torch.equal(found.x, found.states[-1])
    assert torch.allclose(found.states[0], start, atol=1e-14)


def test_exact_into_a_time_without_noise(start):
    path = schedules.create("linear")
    model = problems.create("gaussian", smallest=0.2).build(path)
    found = exact(model, start, path, np.array([999.0, -1.0]))
    along = (start - path.alpha(999.0) * model.mean) @ model.axes
    scaled = along * (model.variances / (path.alpha(999.0) ** 2 * model.variances + path.sigma(999.0) ** 2)).sqrt()
    assert (found.x - (model.mean + scaled @ model.axes.T)).abs().max() < 1e-9


def test_states_on_the_way_do_not_depend_on_how_many_are_asked_for(vp, mixture, noise):
    few = exact(mixture, noise, vp, np.array([1.0, 0.3, 0.01]))
    many = exact(mixture, noise, vp, np.sort(np.append(np.linspace(1.0, 0.01, 100), 0.3))[::-1])
    at = int(np.argmin(np.abs(many.times - 0.3)))
    assert (many.states[at] - few.states[1]).abs().max() < 1e-11
    assert (many.x - few.x).abs().max() < 1e-11


def test_difference_tells_the_error(vp, mixture, noise):
    true = exact(mixture, noise, vp, np.array([1.0, 0.01])).x
    for tolerance in (1e-4, 1e-6, 1e-8):
        found = exact(mixture, noise, vp, np.array([1.0, 0.01]), tolerance=tolerance)
        assert rmse(found.x, true) < found.difference < 1e4 * tolerance


def test_self_converged_comes_to_the_exact_solution(vp, mixture, noise):
    times = np.array([1.0, 0.5, 0.01])
    true = exact(mixture, noise, vp, times)
    for tolerance in (1e-4, 1e-6):
        found = self_converged(mixture, noise, vp, times, tolerance=tolerance, first=20)
        assert found.converged
        assert found.difference <= tolerance
        for state, expected in zip(found.states, true.states, strict=True):
            assert rmse(state, expected) < tolerance
    assert found.nfe > 40


def test_self_converged_says_when_it_did_not(vp, mixture, noise):
    found = self_converged(mixture, noise, vp, np.array([1.0, 0.01]), tolerance=1e-12, first=10, most=40)
    assert not found.converged
    assert found.difference > 1e-12
    assert found.nfe == 40 + 6, "the Runge-Kutta start-up of order 3 costs six more"


def test_self_converged_keeps_the_precision_of_the_state(vp, mixture, noise):
    found = self_converged(mixture, noise.float(), vp, np.array([1.0, 0.01]), tolerance=1e-4, first=50)
    assert found.states.dtype == F64
    assert 1e-8 < rmse(found.x, exact(mixture, noise, vp, np.array([1.0, 0.01])).x) < 1e-4


def test_last_step_of_a_network_goes_straight_from_the_least_trained_noise(mixture, noise):
    path = schedules.create("linear")
    asked = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t[0]))
        return problems.create("mixture").eps(path)(x, t)

    self_converged(network, noise, path, np.array([999.0, -1.0]), tolerance=0.1, first=10)
    assert min(asked) == 0.0


@pytest.mark.parametrize("times", [[500.0, -1.0], [500.0, 20.0, -1.0], [500.0, 20.0, 0.0, -1.0]])
def test_the_straight_step_lands_on_the_predicted_data(noise, times):
    path = schedules.create("linear")
    eps = problems.create("mixture").eps(path)
    options = {"tolerance": 1e-12, "first": 10, "most": 20}
    found = self_converged(eps, noise, path, np.array(times), **options)
    before = self_converged(eps, noise, path, np.array([*(t for t in times if t > 0), 0.0]), **options)
    x0 = (before.x - path.sigma(0.0) * eps(before.x, torch.zeros(6, dtype=F64))) / path.alpha(0.0)
    torch.testing.assert_close(found.x, x0, rtol=0, atol=1e-12)
    assert len(found.states) == len(times)
    assert found.nfe == before.nfe + 1


def test_a_network_that_fails_in_the_straight_step_is_an_error(noise):
    with pytest.raises(ModelError, match=r"the model returned NaN or infinity: .* at t = 0$"):
        self_converged(
            lambda x, t: x / 0 if float(t[0]) == 0 else x, noise, schedules.create("linear"), np.array([500.0, -1.0])
        )


def test_the_straight_step_is_asked_for_at_a_time_that_half_precision_cannot_round(noise):
    asked = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t.dtype)
        return torch.tanh(x)

    self_converged(network, noise.half(), schedules.create("linear"), np.array([500.0, -1.0]), first=10, most=20)
    assert set(asked) == {torch.float32}


@pytest.mark.parametrize("times", [[1.0, 0.01], [1.0, 0.8, 0.79, 0.01]])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_refined_times_hold_the_given_ones(vp: Schedule, times: list[float], steps: int):
    grid, places = refined(vp, times, steps)
    assert np.all(np.diff(grid) < 0)
    assert grid[0] == times[0]
    assert [grid[k] for k in sorted(places)] == times[1:]
    assert abs(len(grid) - steps) <= len(times) + 1
    if steps == 100 and len(times) == 2:
        gaps = np.diff([vp.lam(float(t)) for t in grid])
        assert np.allclose(gaps, gaps[0])


@pytest.mark.parametrize("make", [exact, self_converged])
@pytest.mark.parametrize("tolerance", [0.0, -1e-3, math.nan])
def test_tolerance_must_be_positive(vp, mixture, noise, make, tolerance: float):
    with pytest.raises(OptionError, match=r"the reference's tolerance=.* must be positive"):
        make(mixture, noise, vp, np.array([1.0, 0.01]), tolerance=tolerance)


@pytest.mark.parametrize("first", [0, -5])
def test_first_below_one_step(vp, mixture, noise, first):
    """Twice nothing is nothing: two equal answers would count as converged."""
    with pytest.raises(OptionError, match=f"the reference's first={first} must be at least 1"):
        self_converged(mixture, noise, vp, np.array([1.0, 0.01]), first=first)


def test_most_below_two_runs(vp, mixture, noise):
    with pytest.raises(OptionError, match="most=15 must be at least twice first=10"):
        self_converged(mixture, noise, vp, np.array([1.0, 0.01]), first=10, most=15)


@pytest.mark.parametrize("make", [exact, self_converged])
def test_a_model_that_returns_nan(vp, noise, make):
    def model(x: Tensor, t: Tensor) -> Tensor:
        return x / 0 if float(t[0]) < 0.5 else x

    with pytest.raises(ModelError, match="the model returned NaN or infinity"):
        make(model, noise, vp, np.array([1.0, 0.01]))


@pytest.mark.parametrize("make", [exact, self_converged])
def test_a_model_that_answers_in_another_shape(vp, noise, make):
    with pytest.raises(ModelError, match=r"the model's answer has shape \(6, 1\) where \(6, 2\) was expected"):
        make(lambda x, t: x[:, :1], noise, vp, np.array([1.0, 0.01]))


def test_methods_are_named():
    assert set(reference.METHODS) == {"exact", "self_converged"}
