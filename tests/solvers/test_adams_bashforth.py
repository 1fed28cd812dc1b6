"""Multistep methods: against hand-written ones, start-ups and their cost, the order of every combination."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pndm import OptionError, grids, schedules, solve, solvers

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
TIMES = np.linspace(0.9, 0.1, 9).tolist()


def alpha(t):
    return math.exp(-0.25 * 19.9 * t**2 - 0.05 * t)


def sigma(t):
    return math.sqrt(1 - alpha(t) ** 2)


def phi(x, e, t, s):
    """The paper's transfer, formula 11."""
    at, as_ = alpha(t) ** 2, alpha(s) ** 2
    denominator = math.sqrt(at) * (math.sqrt((1 - as_) * at) + math.sqrt((1 - at) * as_))
    return math.sqrt(as_ / at) * x - (as_ - at) / denominator * e


def straight(x, d, t, s):
    return x + (s - t) * d


def written(move, direction, order, x, times):
    """The paper's Algorithm 2, with a Runge-Kutta start-up of the same order, for any transfer and direction."""
    history = []
    for k, (t, s) in enumerate(pairwise(times)):
        e1 = direction(x, t)
        history.append(e1)
        if k < order - 1 and order == 4:
            mid = (t + s) / 2
            e2 = direction(move(x, e1, t, mid), mid)
            e3 = direction(move(x, e2, t, mid), mid)
            e4 = direction(move(x, e3, t, s), s)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif k < order - 1:
            e = (e1 + direction(move(x, e1, t, s), s)) / 2
        elif order == 2:
            e = (3 * history[-1] - history[-2]) / 2
        else:
            e = (55 * history[-1] - 59 * history[-2] + 37 * history[-3] - 9 * history[-4]) / 24
        x = move(x, e, t, s)
    return x


@pytest.mark.parametrize(("name", "order"), [("s_pndm", 2), ("plms", 4), ("fon", 4)])
def test_equals_the_papers_algorithm(name, order, mixture, noise):
    def eps(x, t):
        return mixture(x, torch.full((len(x),), t, dtype=x.dtype))

    def slope(x, t):
        return -0.5 * (0.1 + 19.9 * t) * (x - eps(x, t) / sigma(t))

    move, direction = (straight, slope) if name == "fon" else (phi, eps)
    wanted = written(move, direction, order, noise, TIMES)
    torch.testing.assert_close(
        solve(mixture, noise, solver=name, schedule=VP, grid=TIMES).x, wanted, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize(
    ("startup", "order", "extra"),
    [
        ("rk", 1, 0), ("rk", 2, 1), ("rk", 3, 6), ("rk", 4, 9), ("heun", 1, 0), ("heun", 2, 1), ("heun", 4, 1),
        ("low_order", 2, 0), ("low_order", 4, 0),
    ],
)  # fmt: skip
def test_cost_of_each_startup(startup, order, extra, mixture, noise):
    solver = solvers.create("adams_bashforth", order=order, startup=startup)
    assert solve(mixture, noise, solver=solver, steps=20, schedule=VP).nfe == 20 + extra


@pytest.mark.parametrize("startup", ["rk", "heun", "low_order"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("transfer", "clock"), [("manifold", "steps"), ("manifold", "t"), ("manifold", "rho"),
                                                 ("data", "lam")])  # fmt: skip
def test_one_data_point_is_reached_in_any_number_of_steps(transfer, clock, order, startup, noise):
    point = torch.tensor([1.5, -0.5], dtype=torch.float64)

    def model(x, t):
        return (x - LINEAR.alpha(t)[:, None] * point) / LINEAR.sigma(t)[:, None]

    solver = solvers.create("adams_bashforth", order=order, transfer=transfer, clock=clock, startup=startup)
    for steps in (1, 2, 3, 6):
        x = solve(model, noise, solver=solver, steps=steps).x
        torch.testing.assert_close(x, point.expand(6, 2), rtol=0, atol=1e-9)


def measured(solver, model, x, exact, steps, grid="uniform"):
    errors = [
        (solve(model, x, solver=solver, steps=n, schedule=VP, grid=grid, t_start=0.3, t_end=0.02).x - exact).norm()
        for n in steps
    ]
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


LAWS = [
    # transfer, order, startup, the order that comes of them with the weights of equal steps
    ("linear", 1, "rk", 1), ("linear", 2, "rk", 2), ("linear", 3, "rk", 3), ("linear", 4, "rk", 4),
    ("linear", 3, "heun", 3), ("linear", 4, "heun", 3), ("linear", 4, "low_order", 2),
    ("manifold", 1, "rk", 1), ("manifold", 3, "rk", 2), ("manifold", 4, "heun", 2), ("manifold", 4, "low_order", 2),
]  # fmt: skip


@pytest.mark.parametrize(("transfer", "order", "startup", "law"), LAWS)
def test_order_of_combinations_on_equal_steps(transfer, order, startup, law, mixture, reference, noise):
    solver = solvers.create("adams_bashforth", transfer=transfer, order=order, startup=startup)
    assert solver.order == law
    exact = reference(noise, alpha(0.3) ** 2, alpha(0.02) ** 2)
    found = measured(solver, mixture, noise, exact, (160, 320, 640))
    assert abs(found - law) < 0.15, f"measured order {found:.3f}"


@pytest.mark.parametrize("grid", ["karras", "logsnr"])
@pytest.mark.parametrize(
    ("transfer", "clock", "order"), [("manifold", "rho", 4), ("manifold", "t", 3), ("manifold", "lam", 3),
                                     ("data", "lam", 2), ("data", "lam", 3), ("linear", "t", 3)]
)  # fmt: skip
def test_a_clock_keeps_the_order_on_any_grid(transfer, clock, order, grid, mixture, reference, noise):
    solver = solvers.create("adams_bashforth", transfer=transfer, clock=clock, order=order)
    assert solver.order == order
    exact = reference(noise, alpha(0.3) ** 2, alpha(0.02) ** 2)
    found = measured(solver, mixture, noise, exact, (80, 160, 320), grid)
    assert abs(found - order) < 0.15, f"measured order {found:.3f}"


@pytest.mark.parametrize("name", ["plms", "fon"])
def test_without_a_clock_unequal_steps_lower_the_order(name, mixture, reference, noise):
    """To 2 where neighbouring steps come to be equal in the limit, to 1 where every other one stays twice as long."""

    class Limping(grids.Grid):
        def place(self, steps, schedule, start, end):
            lengths = np.where(np.arange(steps) % 2, 2.0, 1.0)
            return start + (end - start) * np.concatenate([[0], lengths.cumsum()]) / lengths.sum()

    exact = reference(noise, alpha(0.3) ** 2, alpha(0.02) ** 2)
    for grid, law in (("karras", 2), (Limping(), 1)):
        found = measured(name, mixture, noise, exact, (160, 320, 640), grid)
        assert abs(found - law) < 0.15, f"measured order {found:.3f} on {grid}"
    kept = solvers.create("adams_bashforth", clock="rho")
    found = measured(kept, mixture, noise, exact, (160, 320, 640), Limping())
    assert abs(found - 4) < 0.15, f"with the clock rho: measured order {found:.3f}"


def test_final_order_lowers_the_last_steps_only(mixture, noise):
    """With final order 1 the last step is the transfer along one evaluation."""
    solver = solvers.create("deis", order=3, final_order=1)
    lowered = solve(mixture, noise, solver=solver, schedule=VP, grid=TIMES, trajectory=True).trajectory
    usual = solve(mixture, noise, solver="deis", schedule=VP, grid=TIMES, trajectory=True).trajectory
    torch.testing.assert_close(lowered[:-2], usual[:-2], rtol=0, atol=1e-14)
    assert (lowered[-2] - usual[-2]).abs().max() > 1e-6
    last = mixture(lowered[-2], torch.full((6,), TIMES[-2], dtype=torch.float64))
    torch.testing.assert_close(lowered[-1], phi(lowered[-2], last, *TIMES[-2:]), rtol=0, atol=1e-12)


BAD = [
    ({"order": 0}, "order=0 must be one of 1, 2, 3, 4"),
    ({"order": 5}, "order=5 must be one of 1, 2, 3, 4"),
    ({"startup": "rk4"}, "unknown startup 'rk4': did you mean 'rk'"),
    ({"transfer": "manifolds"}, "unknown transfer 'manifolds': did you mean 'manifold'"),
    ({"clock": "lamda"}, "unknown clock 'lamda': did you mean 'lam'"),
    ({"final_order": 5}, r"final_order=5 must lie between 0 \(no limit\) and order=4"),
    ({"eta": 1.0}, "solver 'adams_bashforth' has no option 'eta'"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solvers.create("adams_bashforth", **options)
