"""The clock: weights against scipy's quadrature of the Lagrange polynomials, and the methods that they reproduce."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from pndm import schedules
from pndm.clocks import CLOCKS, between, polynomial_weights
from pndm.gradient import ADAMS_BASHFORTH

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
by_path = pytest.mark.parametrize("path", [LINEAR, VP], ids=lambda s: s.name)
MEASURES = ("t", "rho", "snr")


def read(path, clock, t):
    return {"t": t, "rho": path.rho(t), "lam": -math.log(path.rho(t)), "snr": 1 / path.rho(t)}[clock]


def integrated(path, clock, measure, asked, t, s):
    """Integrals of the Lagrange polynomials in the clock over the measure, as shares of its whole length.

    By scipy, in the variable lam, where every measure is an analytic density; t through the chain rule.
    """
    known = [read(path, clock, u) for u in asked]

    def mass(u):  # d measure / d t
        slope = path.dlog_alpha(u)
        rho = path.rho(u)
        d_rho = -slope * (1 + rho**2) / rho
        return {"t": 1.0, "rho": d_rho, "snr": -d_rho / rho**2}[measure]

    def basis(u, j):
        own = read(path, clock, u)
        return math.prod((own - other) / (known[j] - other) for i, other in enumerate(known) if i != j)

    breaks = [u for u in np.arange(math.floor(t), math.ceil(s) - 1, -1.0) if s < u < t][:40] or None
    options = {"epsabs": 0, "epsrel": 1e-11, "limit": 400, "points": breaks}
    whole = quad(mass, t, s, **options)[0]
    return [quad(lambda u, j=j: mass(u) * basis(u, j), t, s, **options)[0] / whole for j in range(len(asked))]


@by_path
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("clock", ["t", "rho", "lam"])
def test_weights_are_the_integrals_of_lagrange_polynomials(path, clock, measure):
    for shares in ([0.9, 1.0, 0.8], [0.5, 0.55, 0.47], [0.1, 0.15, 0.2, 0.08], [0.4, 0.5, 0.6, 0.7, 0.37]):
        *asked, s = (share * path.t_noise for share in shares)
        asked = sorted(asked)
        asked = asked if path.train_steps is None else [*asked[:-1], asked[-1]]
        t = asked[0]
        weights = polynomial_weights(path, clock, measure, asked, t, s)
        wanted = integrated(path, clock, measure, asked, t, s)
        np.testing.assert_allclose(weights, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("clock", "measure"), [("rho", "rho"), ("t", "t")])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_equal_steps_in_the_own_clock_give_adams_bashforth(clock, measure, order):
    values = np.linspace(read(VP, clock, 0.9), read(VP, clock, 0.1), 20)
    times = values if clock == "t" else VP.t_of_rho(values)
    k = 10
    weights = polynomial_weights(VP, clock, measure, times[k : k - order : -1].tolist(), times[k], times[k + 1])
    np.testing.assert_allclose(weights, ADAMS_BASHFORTH[order], rtol=1e-9)


@by_path
@given(
    clock=st.sampled_from(["t", "rho", "lam"]),
    measure=st.sampled_from(MEASURES),
    shares=st.lists(st.integers(1, 100), min_size=3, max_size=5, unique=True),
)
@settings(max_examples=60)
def test_weights_sum_to_one(path, clock, measure, shares):
    *asked, s = (path.t_noise * share / 100 for share in sorted(shares, reverse=True))
    weights = polynomial_weights(path, clock, measure, asked[::-1], asked[-1], s)
    assert sum(weights) == pytest.approx(1, abs=1e-9 * max(map(abs, weights)))


@pytest.mark.parametrize(("clock", "measure"), [("t", "rho"), ("rho", "rho"), ("lam", "rho"), ("t", "t"), ("rho", "t")])
def test_a_step_into_the_clean_end_is_the_limit_of_steps_towards_it(clock, measure):
    asked = [40.0, 90.0, 140.0]
    at_the_end = polynomial_weights(LINEAR, clock, measure, asked, 40.0, -1.0)
    near = polynomial_weights(LINEAR, clock, measure, asked, 40.0, -1.0 + 1e-9)
    np.testing.assert_allclose(at_the_end, near, rtol=2e-3)


@by_path
@pytest.mark.parametrize("clock", ["rho", "lam"])
def test_a_linear_step_into_the_clean_end_integrates_over_time(path, clock):
    """By scipy over v with u = end + v^4, in which the clock's root or logarithm at the end is tame."""
    asked = [0.05 * path.t_noise, 0.1 * path.t_noise, 0.15 * path.t_noise]
    t, end = asked[0], path.t_data
    known = [read(path, clock, u) for u in asked]

    def basis(u, j):
        own = read(path, clock, u)
        return math.prod((own - other) / (known[j] - other) for i, other in enumerate(known) if i != j)

    knots = [n**0.25 for n in range(1, math.ceil(t - end))]
    options = {"epsabs": 0, "epsrel": 1e-11, "limit": 1000, "points": knots or None}
    wanted = [
        quad(lambda v, j=j: 4 * v**3 * basis(end + v**4, j), 0, (t - end) ** 0.25, **options)[0] / (t - end)
        for j in range(3)
    ]
    np.testing.assert_allclose(polynomial_weights(path, clock, "t", asked, t, end), wanted, rtol=1e-9)


@pytest.mark.parametrize("clock", ["t", "rho"])
@by_path
def test_x0_of_a_step_into_the_clean_end_is_the_one_at_that_end(path, clock):
    """1/rho is infinite there, so the whole measure lies at the end: the weights extrapolate to it."""
    asked = [0.05 * path.t_noise, 0.1 * path.t_noise, 0.15 * path.t_noise]
    known, own = [read(path, clock, u) for u in asked], 0.0 if clock == "rho" else path.t_data
    wanted = [
        math.prod((own - other) / (known[j] - other) for i, other in enumerate(known) if i != j) for j in range(3)
    ]
    np.testing.assert_allclose(polynomial_weights(path, clock, "snr", asked, asked[0], path.t_data), wanted, rtol=1e-12)


@pytest.mark.parametrize(("clock", "measure"), [("t", "rho"), ("rho", "t"), ("lam", "t"), ("t", "snr")])
def test_a_continuous_path_is_integrated_in_pieces(clock, measure):
    """One step over nearly all of time, on which one piece of 16 places is not enough."""
    asked, s = [1.0, 0.9, 0.8], 1e-4
    path = schedules.create("vp_linear", beta_max=60.0)
    weights = polynomial_weights(path, clock, measure, asked, 1.0, s)
    np.testing.assert_allclose(weights, integrated(path, clock, measure, asked, 1.0, s), rtol=1e-8)


def test_one_evaluation_has_the_weight_one():
    assert polynomial_weights(VP, "t", "rho", [0.5], 0.5, 0.4) == [1.0]


@by_path
@pytest.mark.parametrize("clock", CLOCKS)
def test_between_counts_by_the_clock(path, clock):
    t, s = 0.7 * path.t_noise, 0.2 * path.t_noise
    for share in (0.0, 0.25, 0.5, 1.0):
        start, end = read(path, clock, t), read(path, clock, s)
        there = between(path, clock, t, s, share)
        assert read(path, clock, there) == pytest.approx(start + share * (end - start), rel=1e-9)
