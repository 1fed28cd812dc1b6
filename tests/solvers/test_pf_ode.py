"""The adaptive probability flow: where it asks, what it costs, how it ends, and when it gives up."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from pndm import ModelError, OptionError, schedules, solve, solvers
from pndm.models.memory import Alive

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")


class Counting:
    def __init__(self, model):
        self.model, self.times = model, []

    def __call__(self, x, t):
        self.times.append(t[0].item())
        return self.model(x, t)


def test_evaluations_grow_with_the_tolerance_and_not_with_steps(mixture, noise):
    nfe = [
        solve(mixture, noise, solver=solvers.create("pf_ode", rtol=tol, atol=tol), schedule=VP).nfe
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    assert nfe[0] < nfe[1] < nfe[2]
    assert solve(mixture, noise, solver="pf_ode", steps=2, schedule=VP).nfe == nfe[0]


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_states_and_evaluations_are_those_of_scipys_solve_ivp(mixture, noise, steps):
    """At every time of the grid, however many of them fall into one of its steps."""

    def slope(t, flat):
        x = torch.from_numpy(flat).view(6, 2)
        eps = mixture(x, torch.full((6,), t, dtype=torch.float64))
        return VP.dlog_alpha(t) * (x - eps / VP.sigma(t)).flatten().numpy()

    solver = solvers.create("pf_ode", rtol=1e-6, atol=1e-6)
    solution = solve(mixture, noise, solver=solver, steps=steps, schedule=VP, t_end=0.01, trajectory=True)
    found = solve_ivp(slope, (1.0, 0.01), noise.flatten().numpy(), t_eval=solution.times, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(solution.trajectory.flatten(1).numpy(), found.y.T, rtol=0, atol=1e-10)
    assert torch.equal(solution.trajectory[-1], solution.x)
    assert solution.nfe == found.nfev


@pytest.mark.parametrize("schedule", [VP, LINEAR], ids=["to some noise", "to none"])
def test_few_states_are_held_however_many_times_are_asked_for(schedule):
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    with Alive() as alive:
        solve(lambda x, t: torch.tanh(x), x, solver="pf_ode", steps=200, schedule=schedule)
    assert alive.peak <= 8 * x.numel() * x.element_size()


def test_the_last_stretch_to_a_clean_end_is_one_manifold_step(noise):
    """Below the least noise of the network there is nothing to ask: one data point is then met exactly."""
    point = torch.tensor([1.5, -0.5], dtype=torch.float64)

    def eps(x, t):
        return (x - LINEAR.alpha(t)[:, None] * point) / LINEAR.sigma(t)[:, None]

    model = Counting(eps)
    solution = solve(model, noise, solver=solvers.create("pf_ode", rtol=1e-6, atol=1e-6))
    assert min(model.times) == model.times[-1] == 0.0
    torch.testing.assert_close(solution.x, point.expand(6, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scipys_float64_does_not_leak(mixture, noise, dtype):
    seen = []

    def model(x, t):
        seen.append(x.dtype)
        return mixture(x, t)

    assert solve(model, noise.to(dtype), solver="pf_ode", schedule=VP).x.dtype == dtype
    assert set(seen) == {dtype}


def test_samples_agree_between_batches_to_the_tolerance(mixture, noise):
    solver = solvers.create("pf_ode", rtol=1e-6, atol=1e-6)
    together = solve(mixture, noise, solver=solver, schedule=VP).x
    alone = torch.cat([solve(mixture, each[None], solver=solver, schedule=VP).x for each in noise])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


def test_an_integration_that_stops_early_is_an_error():
    """The flow of this model reaches infinity in finite time: scipy gives up on the way."""
    with pytest.raises(ModelError, match=r"pf_ode.* t = 0\.9999"):
        solve(lambda x, t: -1e3 * x**3, torch.ones(2, 3, dtype=torch.float64), solver="pf_ode", schedule=VP)


def test_it_cannot_be_driven_step_by_step():
    with pytest.raises(OptionError, match="solver 'pf_ode' chooses its own steps"):
        solvers.create("pf_ode").step(torch.zeros(1, 2), 1.0, 0.5)


@pytest.mark.parametrize("option", ["rtol", "atol"])
@pytest.mark.parametrize("value", [0.0, -1e-3, float("nan")])
def test_refused(option, value):
    with pytest.raises(OptionError, match=f"solver 'pf_ode': {option}={value} must be positive"):
        solvers.create("pf_ode", **{option: value})
