"""The order of every registered solver, measured; a new one is tested against its own `order` without a line here."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pndm import schedules, solve, solvers
from pndm.models.mixture import GaussianMixture

CREATED = {name: solvers.create(name) for name in solvers.names()}
STOCHASTIC = [name for name, solver in CREATED.items() if solver.stochastic]
ADAPTIVE = [name for name, solver in CREATED.items() if solver.evaluations_per_step is None]
FIXED = [name for name in CREATED if name not in STOCHASTIC + ADAPTIVE]


def measured_order(errors, steps) -> float:
    """Minus the slope of ln error against ln steps."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def alphas_cumprod(t: float) -> float:
    """Of vp_linear with beta from 0.1 to 20."""
    return math.exp(-0.1 * t - 19.9 * t**2 / 2)


def error(solver, model, x, exact, **options) -> float:
    return (solve(model, x, solver=solver, **options).x - exact).square().mean().sqrt().item()


@pytest.mark.parametrize("name", FIXED)
def test_order(name, mixture, reference, noise, vp):
    """DESIGN section 1: vp_linear 0.1 to 20, uniform steps from t = 1 to 0.01.

    A start-up of low order is measured from 0.3 to 0.02: near t = 1 the flow is so nearly straight that the error of
    the first steps, which decides the order, is drowned by that of the later ones until thousands of steps.
    """
    solver = CREATED[name]
    start, end = (0.3, 0.02) if getattr(solver, "startup", "") == "low_order" else (1.0, 0.01)
    steps = (160, 320, 640) if solver.evaluations_per_step == 1 else (80, 160, 320)
    exact = reference(noise, alphas_cumprod(start), alphas_cumprod(end))
    errors = [error(solver, mixture, noise, exact, steps=n, schedule=vp, t_start=start, t_end=end) for n in steps]
    order = measured_order(errors, steps)
    assert min(errors) > 1e-11, f"{name}: errors {errors} reach the reference's own"
    assert abs(order - solver.order) < 0.15, f"{name}: measured order {order:.3f}, errors {errors} at {steps} steps"


DESIGN = {
    "ddim": 1, "pseudo_euler": 1, "pseudo_heun": 2, "prk": 2, "s_pndm": 2, "plms": 2, "fon": 4, "rk4": 4, "euler": 1,
    "heun": 2,
}  # fmt: skip


@pytest.mark.parametrize(("name", "order"), DESIGN.items())
def test_documented_order_is_designs(name, order):
    assert CREATED[name].order == order


@pytest.mark.parametrize("name", ["ddim", "pseudo_heun", "plms", "fon", "rk4"])
def test_order_between_the_integers_of_a_discrete_schedule(name, mixture, reference, noise):
    """Steps that are no whole numbers, through the spline of ᾱ."""
    solver, steps = CREATED[name], (150, 300, 600)
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    exact = reference(noise, table[900], table[20])
    model = replace(mixture, schedule=schedules.create("linear"))
    errors = [error(solver, model, noise, exact, steps=n, schedule="linear", t_start=900, t_end=20) for n in steps]
    order = measured_order(errors, steps)
    assert abs(order - solver.order) < 0.15, f"{name}: measured order {order:.3f}, errors {errors} at {steps} steps"


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_error_follows_the_tolerance(name, mixture, reference, noise, vp):
    exact = reference(noise, alphas_cumprod(1.0), alphas_cumprod(0.01))
    options, previous = solvers.solvers.options(name), math.inf
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        solver = solvers.create(name, **{o: tolerance for o in ("rtol", "atol", "tol") if o in options})
        achieved = error(solver, mixture, noise, exact, schedule=vp, t_end=0.01)
        assert achieved < min(10 * tolerance, previous / 10), f"{name}: error {achieved:.2e} at tolerance {tolerance}"
        previous = achieved


MEAN, DEVIATION = torch.tensor([1.5, -0.5], dtype=torch.float64), 0.6


NOISY = {
    **{name: CREATED[name] for name in STOCHASTIC},
    "ddpm of large variance": solvers.create("ddpm", variance="large"),
    "ddim of eta 1": solvers.create("ddim", eta=1.0),
}


@pytest.mark.parametrize("solver", NOISY.values(), ids=NOISY.keys())
def test_stochastic_solver_reaches_the_data(solver):
    """Mean and covariance of Gaussian data from 10 000 samples, within four standard errors."""
    n = 10_000
    model = GaussianMixture(torch.ones(1), MEAN[None], torch.tensor([DEVIATION]), schedules.create("linear"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    x = solve(model, x, solver=solver, steps=1000, generator=generator).x
    mean_error = DEVIATION / math.sqrt(n)
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=4 * mean_error)
    covariance_error = DEVIATION**2 * torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64).sqrt() / math.sqrt(n)
    off = (torch.cov(x.T) - DEVIATION**2 * torch.eye(2, dtype=torch.float64)).abs()
    assert torch.all(off < 4 * covariance_error), f"{solver.name}: covariance {torch.cov(x.T).tolist()}"
