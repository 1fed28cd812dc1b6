"""The transfer part: the manifold on the true path and in the paper's own formula, the linear one as a derivative."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pndm import schedules
from pndm.gradient import combine
from pndm.transfer import TRANSFERS, Linear, Manifold

LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
GENERATOR = torch.Generator().manual_seed(0)
X0, EPS = torch.randn(2, 5, 3, dtype=torch.float64, generator=GENERATOR)

by_schedule = pytest.mark.parametrize("schedule", [LINEAR, VP], ids=lambda s: s.name)
shares = st.floats(0, 1)


def time(schedule, share):
    low = -1.0 if schedule.train_steps else 0.0
    return low + share * (schedule.t_noise - low)


def on_path(schedule, t):
    return schedule.alpha(t) * X0 + schedule.sigma(t) * EPS


@by_schedule
@given(start=shares, end=shares)
def test_manifold_is_exact_for_the_true_noise(schedule, start, end):
    t, s = time(schedule, start), time(schedule, end)
    landed = Manifold(schedule)(on_path(schedule, t), EPS, t, s)
    growth = max(1.0, schedule.alpha(s) / schedule.alpha(t))  # of the rounding of x
    torch.testing.assert_close(landed, on_path(schedule, s), rtol=0, atol=1e-14 * growth)


@by_schedule
@given(start=shares, middle=shares, end=shares)
def test_manifold_composes(schedule, start, middle, end):
    """With one direction, t -> u -> s is t -> s."""
    t, u, s = (time(schedule, share) for share in (start, middle, end))
    transfer = Manifold(schedule)
    x, e = X0 + 1, torch.cos(EPS)  # not on the path
    growth = max(schedule.alpha(a) / schedule.alpha(b) for a in (t, u, s) for b in (t, u, s))
    twice = transfer(transfer(x, e, t, u), e, u, s)
    torch.testing.assert_close(twice, transfer(x, e, t, s), rtol=0, atol=1e-14 * growth**2)


@by_schedule
@given(start=st.floats(0.01, 1), end=st.floats(0.01, 1))  # nearer to the clean end 1 - alpha-bar loses its digits
def test_manifold_is_formula_11_of_the_paper(schedule, start, end):
    t, s = time(schedule, start), time(schedule, end)
    at, as_ = schedule.alpha(t) ** 2, schedule.alpha(s) ** 2  # the paper's alpha-bar at t and at t - delta
    denominator = math.sqrt(at) * (math.sqrt((1 - as_) * at) + math.sqrt((1 - at) * as_))
    x = X0 + 1
    written = math.sqrt(as_) / math.sqrt(at) * x - (as_ - at) / denominator * EPS
    growth = max(1.0, schedule.alpha(s) / schedule.alpha(t))
    torch.testing.assert_close(Manifold(schedule)(x, EPS, t, s), written, rtol=0, atol=1e-11 * growth)


def test_manifold_direction_is_eps():
    assert Manifold(VP).direction(X0, 0.5, EPS) is EPS


@pytest.mark.parametrize("t", [0.01, 0.1, 0.5, 0.9])
def test_linear_direction_is_the_derivative_of_the_probability_flow(t):
    """Data N(m, d^2): the flow is x(t) = alpha m + sqrt(alpha^2 d^2 + sigma^2) z with z constant."""
    m, d, z = 0.7, 0.4, X0

    def alpha(t):
        return math.exp(-0.25 * 19.9 * t**2 - 0.05 * t)

    def scale(t):
        return math.sqrt(alpha(t) ** 2 * d**2 + 1 - alpha(t) ** 2)

    def x(t):
        return alpha(t) * m + scale(t) * z

    eps = math.sqrt(1 - alpha(t) ** 2) / scale(t) * z  # -sigma grad log p
    h = 1e-5
    slope = (8 * (x(t + h) - x(t - h)) - (x(t + 2 * h) - x(t - 2 * h))) / (12 * h)
    torch.testing.assert_close(Linear(VP).direction(x(t), t, eps), slope, rtol=1e-8, atol=1e-8)


def test_linear_goes_straight():
    landed = Linear(LINEAR)(X0, EPS, 400.0, 390.5)
    torch.testing.assert_close(landed, X0 - 9.5 * EPS, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", TRANSFERS)
def test_arguments_are_left_alone_and_dtype_kept(name):
    transfer = TRANSFERS[name](VP)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, eps = X0.to(dtype), EPS.to(dtype)
        e = transfer.direction(x, 0.5, eps)
        landed = transfer(x, e, 0.5, 0.4)
        assert e.dtype == landed.dtype == dtype
        assert torch.equal(x, X0.to(dtype))
        assert torch.equal(eps, EPS.to(dtype))


@pytest.mark.parametrize("name", TRANSFERS)
def test_two_schedules_do_not_share_coefficients(name):
    a, b = TRANSFERS[name](VP), TRANSFERS[name](schedules.create("vp_linear", beta_max=10.0))
    for transfer in (a, b, a):
        x = transfer(X0, transfer.direction(X0, 0.5, EPS), 0.5, 0.4)
        fresh = TRANSFERS[name](transfer.schedule)
        assert torch.equal(x, fresh(X0, fresh.direction(X0, 0.5, EPS), 0.5, 0.4))
    assert not torch.equal(a(X0, a.direction(X0, 0.5, EPS), 0.5, 0.4), b(X0, b.direction(X0, 0.5, EPS), 0.5, 0.4))


@pytest.mark.parametrize("kind", TRANSFERS)
def test_along_is_the_transfer_along_the_combination(kind):
    transfer = TRANSFERS[kind](LINEAR)
    x, *directions = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = transfer(x, combine((2.0, -1.5, 0.5), directions), 700.0, 650.0)
    before = [tensor.clone() for tensor in (x, *directions)]
    found = transfer.along(x, (2.0, -1.5, 0.5), directions, 700.0, 650.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    unread = torch.full_like(x, torch.nan)
    longer = transfer.along(x, (2.0, 0.0, -1.5, 0.5), [directions[0], unread, *directions[1:], unread], 700.0, 650.0)
    assert torch.equal(longer, found)
    assert all(torch.equal(a, b) for a, b in zip((x, *directions), before, strict=True))
