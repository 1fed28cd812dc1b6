"""Single-step methods: against hand-written ones, on one data point, the order of every pair, the clean end."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pndm import OptionError, schedules, solve, solvers

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
TIMES = [0.9, 0.6, 0.35, 0.1, 0.02]


def alpha(t):
    return math.exp(-0.25 * 19.9 * t**2 - 0.05 * t)


def sigma(t):
    return math.sqrt(1 - alpha(t) ** 2)


def phi(x, e, t, s):
    """The paper's transfer, formula 11."""
    at, as_ = alpha(t) ** 2, alpha(s) ** 2
    denominator = math.sqrt(at) * (math.sqrt((1 - as_) * at) + math.sqrt((1 - at) * as_))
    return math.sqrt(as_ / at) * x - (as_ - at) / denominator * e


def slope(model):
    """dx/dt of Song et al. 2021: -beta/2 (x - eps / sigma)."""

    def f(t, x):
        return -0.5 * (0.1 + 19.9 * t) * (x - model(x, torch.full((len(x),), t, dtype=x.dtype)) / sigma(t))

    return f


def written(name, model):
    """One step of each method as its source writes it."""
    f = slope(model)

    def eps(x, t):
        return model(x, torch.full((len(x),), t, dtype=x.dtype))

    def euler(x, t, s):
        return x + (s - t) * f(t, x)

    def heun(x, t, s):
        k1 = f(t, x)
        return x + (s - t) / 2 * (k1 + f(s, x + (s - t) * k1))

    def rk4(x, t, s):
        h, mid = s - t, (t + s) / 2
        k1 = f(t, x)
        k2 = f(mid, x + h / 2 * k1)
        k3 = f(mid, x + h / 2 * k2)
        k4 = f(s, x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def pseudo_euler(x, t, s):
        return phi(x, eps(x, t), t, s)

    def pseudo_heun(x, t, s):
        e1 = eps(x, t)
        e2 = eps(phi(x, e1, t, s), s)
        return phi(x, (e1 + e2) / 2, t, s)

    def prk(x, t, s):  # the paper's Algorithm 2
        mid = (t + s) / 2
        e1 = eps(x, t)
        e2 = eps(phi(x, e1, t, mid), mid)
        e3 = eps(phi(x, e2, t, mid), mid)
        e4 = eps(phi(x, e3, t, s), s)
        return phi(x, (e1 + 2 * e2 + 2 * e3 + e4) / 6, t, s)

    return locals()[name]


@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "pseudo_euler", "pseudo_heun", "prk"])
def test_equals_the_method_as_written(name, mixture, noise):
    x, step = noise, written(name, mixture)
    for t, s in pairwise(TIMES):
        x = step(x, t, s)
    torch.testing.assert_close(solve(mixture, noise, solver=name, schedule=VP, grid=TIMES).x, x, rtol=0, atol=1e-11)


def test_names_are_pairs_of_a_tableau_and_a_transfer(mixture, noise):
    pairs = {
        "pseudo_heun": {"tableau": "heun", "transfer": "manifold"},
        "prk": {"tableau": "rk4", "transfer": "manifold"},
        "heun": {"tableau": "heun", "transfer": "linear"},
        "rk4": {"tableau": "rk4", "transfer": "linear"},
    }
    for name, options in pairs.items():
        runs = [
            solve(mixture, noise, solver=s, schedule=VP, grid=TIMES).x
            for s in (name, solvers.create("runge_kutta", **options))
        ]
        assert torch.equal(*runs)


OWN = {"linear": "t", "manifold": "rho", "data": "snr"}
ORDERS = [
    *((tableau, transfer, clock) for tableau in ("midpoint", "heun", "rk4") for transfer, clock in OWN.items()),
    ("rk4", "manifold", "t"),
    ("rk4", "manifold", "lam"),
    ("rk4", "data", "lam"),
    ("rk4", "linear", "rho"),
    ("midpoint", "manifold", "t"),
]


@pytest.mark.parametrize(("tableau", "transfer", "clock"), ORDERS)
def test_order_of_pairs(tableau, transfer, clock, mixture, reference, noise):
    """The tableau's own when the stages are placed in the variable over which the transfer integrates; else 2."""
    solver = solvers.create("runge_kutta", tableau=tableau, transfer=transfer, clock=clock)
    assert solver.order == (4 if tableau == "rk4" and clock == OWN[transfer] else 2)
    steps = (40, 80, 160) if tableau == "rk4" else (160, 320, 640)
    exact = reference(noise, alpha(0.3) ** 2, alpha(0.02) ** 2)
    errors = [
        (solve(mixture, noise, solver=solver, steps=n, schedule=VP, t_start=0.3, t_end=0.02).x - exact).norm()
        for n in steps
    ]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - solver.order) < 0.15, f"measured order {order:.3f}, errors {errors} at {steps} steps"


@pytest.mark.parametrize("tableau", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("transfer", ["manifold", "data"])
def test_one_data_point_is_reached_in_any_number_of_steps(tableau, transfer, noise):
    """Along its one noise direction the manifold is exact, whatever the method."""
    point = torch.tensor([1.5, -0.5], dtype=torch.float64)

    def model(x, t):
        return (x - LINEAR.alpha(t)[:, None] * point) / LINEAR.sigma(t)[:, None]

    solver = solvers.create("runge_kutta", tableau=tableau, transfer=transfer)
    for steps in (1, 2, 5):
        x = solve(model, noise, solver=solver, steps=steps).x
        torch.testing.assert_close(x, point.expand(6, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("pseudo_euler", [900, 400]),
        ("pseudo_heun", [900, 400, 400]),  # Heun, then Euler into the clean end
        ("heun", [900, 400, 400]),
        ("prk", [900, 650, 650, 400, 400, 199.5]),  # RK4, then the midpoint rule
        ("rk4", [900, 650, 650, 400, 400, 199.5]),
    ],
)
def test_a_step_into_the_clean_end_is_made_by_the_open_relative(name, asked):
    seen = []

    def model(x, t):
        seen.append(t[0].item())
        return x

    solution = solve(model, torch.ones(1, 1, dtype=torch.float64), solver=name, grid=[900, 400, -1])
    assert seen == asked
    assert solution.nfe == len(asked)


BAD = [
    ({"tableau": "rk5"}, "unknown tableau 'rk5': did you mean 'rk4'.* known names are euler, heun, midpoint, rk4"),
    ({"transfer": "manfold"}, "unknown transfer 'manfold': did you mean 'manifold'"),
    ({"clock": "tt"}, "unknown clock 'tt'"),
    ({"order": 4}, "solver 'runge_kutta' has no option 'order': its options are tableau, transfer, clock"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solvers.create("runge_kutta", **options)
