"""Schedules: against diffusers' tables, closed forms and finite differences; their inverses; every refused option."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pndm import OptionError, schedules
from pndm.schedules import Schedule

LINEAR, SCALED, COSINE, VP = (schedules.create(n) for n in ("linear", "scaled_linear", "cosine", "vp_linear"))
DISCRETE = [LINEAR, SCALED, COSINE]
ALL = [*DISCRETE, VP]
DIFFUSERS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
FUNCTIONS = ("log_alpha", "dlog_alpha", "alpha", "sigma", "rho", "lam")

by_name = pytest.mark.parametrize("schedule", ALL, ids=lambda s: s.name)
discrete = pytest.mark.parametrize("schedule", DISCRETE, ids=lambda s: s.name)


def dense(schedule: Schedule, n: int = 20001) -> np.ndarray:
    """Times all over the schedule, integers and others, without the noiseless end."""
    return np.linspace(schedule.t_clean, schedule.t_noise, n)[1:]


@discrete
@pytest.mark.parametrize("train_steps", [100, 1000])
def test_discrete_schedules_are_those_of_diffusers(schedule, train_steps):
    theirs = DDPMScheduler(num_train_timesteps=train_steps, **DIFFUSERS[schedule.name])
    ours = schedules.create(schedule.name, train_steps=train_steps)
    alphas_cumprod = ours.alpha(np.arange(float(train_steps))) ** 2
    betas = theirs.betas.double().numpy()
    rounding = np.cumsum(2.0**-22 * betas / (1 - betas))  # what two units in the last place of their float32 betas do
    assert np.all(np.abs(alphas_cumprod / np.cumprod(1 - betas) - 1) < rounding)
    # Their own table is a product in float32.
    assert np.all(np.abs(alphas_cumprod / theirs.alphas_cumprod.double().numpy() - 1) < rounding + 2e-5)


def test_linear_is_the_product_of_its_betas():
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(LINEAR.alpha(np.arange(1000.0)) ** 2, alphas_cumprod, rtol=1e-12)


def test_table_is_the_given_table():
    table = DDPMScheduler().alphas_cumprod
    schedule = schedules.create("table", alphas_cumprod=table)
    np.testing.assert_allclose(schedule.alpha(np.arange(1000.0)) ** 2, table.double().numpy(), rtol=1e-13)
    assert schedule.train_steps == 1000
    assert schedule.t_noise == 999


def test_vp_linear_is_the_integral_of_beta():
    for t in (0.0, 0.01, 0.3, 1.0):
        integral = 0.1 * t + (20 - 0.1) * t**2 / 2
        assert VP.alpha(t) == pytest.approx(math.exp(-integral / 2), rel=1e-14)
        assert VP.sigma(t) == pytest.approx(math.sqrt(1 - math.exp(-integral)), rel=1e-12)


@by_name
def test_alpha_and_sigma_are_variance_preserving(schedule):
    t = dense(schedule)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-14)
    np.testing.assert_allclose(schedule.rho(t), schedule.sigma(t) / schedule.alpha(t), rtol=1e-12)
    np.testing.assert_allclose(schedule.lam(t), np.log(schedule.alpha(t) / schedule.sigma(t)), rtol=1e-12, atol=1e-13)


@discrete
def test_minus_one_is_the_clean_end(schedule):
    assert schedule.t_clean == -1
    assert schedule.alpha(-1.0) == 1
    assert schedule.sigma(-1.0) == 0
    assert schedule.rho(-1.0) == 0
    assert schedule.lam(-1.0) == math.inf
    assert schedule.t_of_lam(math.inf) == -1
    assert schedule.sigma(-1 + 1e-9) > 0


@by_name
def test_noise_grows_with_time_between_the_integers_too(schedule):
    assert np.all(np.diff(schedule.log_alpha(dense(schedule, 100_001))) < 0)


SPARSE = {
    **{f"linear of {n}": {"name": "linear", "train_steps": n} for n in (6, 10, 50, 100)},
    **{f"cosine of {n}": {"name": "cosine", "train_steps": n} for n in (6, 10, 50)},
    **{f"scaled_linear of {n}": {"name": "scaled_linear", "train_steps": n} for n in (6, 50)},
    **{
        f"every {n}th of linear": {"name": "table", "alphas_cumprod": LINEAR.alpha(np.arange(0.0, 1000.0, n)) ** 2}
        for n in (10, 50, 100)
    },
    "uneven": {"name": "table", "alphas_cumprod": [0.9, 0.89, 0.5, 0.49, 0.1, 0.09, 0.01]},
}


@pytest.mark.parametrize("options", SPARSE.values(), ids=SPARSE.keys())
def test_noise_grows_with_time_in_a_sparse_table(options):
    schedule = schedules.create(**options)
    t = dense(schedule, 5001)
    assert np.all(np.diff(schedule.log_alpha(t)) < 0)
    assert np.all(schedule.dlog_alpha(t) <= 0)
    np.testing.assert_allclose(schedule.t_of_lam(schedule.lam(t)), t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", ["log_alpha", "rho", "lam"])
@by_name
@given(share=st.floats(0, 1))
def test_inverses(schedule, way, share):
    t = schedule.t_clean + share * (schedule.t_noise - schedule.t_clean)
    back = getattr(schedule, f"t_of_{way}")(getattr(schedule, way)(t))
    assert isinstance(back, float)
    assert back == pytest.approx(t, rel=0, abs=1e-9)


@by_name
def test_inverses_take_arrays_and_tensors(schedule):
    t = dense(schedule, 1001)
    for way in ("log_alpha", "rho", "lam"):
        level, invert = getattr(schedule, way)(t), getattr(schedule, f"t_of_{way}")
        assert isinstance(invert(level), np.ndarray)
        np.testing.assert_allclose(invert(level), t, rtol=0, atol=1e-9)
        back = invert(torch.from_numpy(level))
        assert back.dtype == torch.float64
        np.testing.assert_allclose(back.numpy(), t, rtol=0, atol=1e-9)


@by_name
def test_inverse_is_clamped_to_the_ends_of_time(schedule):
    beyond = 2 * schedule.log_alpha(schedule.t_noise)
    assert schedule.t_of_log_alpha(beyond) == schedule.t_noise
    assert schedule.t_of_log_alpha(np.array([beyond]))[0] == schedule.t_noise
    assert schedule.t_of_log_alpha(torch.tensor([beyond]))[0] == schedule.t_noise


@pytest.mark.parametrize("function", FUNCTIONS)
@by_name
def test_floats_arrays_and_tensors_agree(schedule, function):
    t, f = dense(schedule, 401), getattr(schedule, function)
    floats, array, tensor = [f(float(u)) for u in t], f(t), f(torch.from_numpy(t))
    assert isinstance(floats[0], float)
    assert isinstance(array, np.ndarray)
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(array, floats, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(tensor.numpy(), floats, rtol=1e-12, atol=1e-13)


@by_name
def test_shape_of_times_is_kept(schedule):
    t = dense(schedule, 7).reshape(2, 3)
    for function in FUNCTIONS:
        assert getattr(schedule, function)(t).shape == (2, 3)
        assert getattr(schedule, function)(torch.from_numpy(t)).shape == (2, 3)
    assert schedule.t_of_lam(schedule.lam(torch.from_numpy(t))).shape == (2, 3)


@by_name
def test_derivative(schedule):
    h = 1e-4 * (1 if schedule.train_steps else 1e-2)
    t = dense(schedule, 5003)[:-1]
    t = t[(t > schedule.t_clean + h) & (t < schedule.t_noise - h)]
    slope = (schedule.log_alpha(t + h) - schedule.log_alpha(t - h)) / (2 * h)
    np.testing.assert_allclose(schedule.dlog_alpha(t), slope, rtol=1e-5)


@discrete
def test_path_is_smooth_across_the_integers(schedule):
    """The one-sided third differences agree: a kink in any derivative up to the third would show."""
    h = 1e-2
    for k in (0.0, 1.0, 17.0, 500.0):
        after = np.diff(schedule.log_alpha(k + h * np.arange(4)), 3)[0]
        before = np.diff(schedule.log_alpha(k + h * np.arange(-3, 1)), 3)[0]
        size = abs(schedule.log_alpha(k + 1) - schedule.log_alpha(k))
        assert abs(after - before) < 1e-3 * h**3 * size + 1e-14


def test_equal_options_are_the_same_path():
    assert LINEAR.same_path(schedules.create("linear"))
    assert not LINEAR.same_path(schedules.create("linear", beta_end=0.03))
    assert not LINEAR.same_path(SCALED)
    assert not VP.same_path(schedules.create("vp_linear", beta_max=10.0))


FALLING = np.linspace(0.99, 0.01, 10)
BAD = [
    ("linear", {"beta_start": 0.0}, "linear: beta_start=0.0 and beta_end=0.02 must satisfy 0 < start <= end < 1"),
    ("linear", {"beta_end": 1.0}, "linear: beta_start=0.0001 and beta_end=1.0 must satisfy"),
    ("linear", {"beta_start": 0.1}, "linear: beta_start=0.1 and beta_end=0.02 must satisfy"),
    ("linear", {"beta_end": math.nan}, "beta_end=nan must satisfy"),
    ("linear", {"train_steps": 5}, "linear: train_steps=5 must be at least 6"),
    ("scaled_linear", {"beta_start": -1.0}, "scaled_linear: beta_start=-1.0 and beta_end=0.012 must satisfy"),
    ("scaled_linear", {"train_steps": 0}, "scaled_linear: train_steps=0 must be at least 6"),
    ("cosine", {"offset": -0.1}, "cosine: offset=-0.1, max_beta=0.999, train_steps=1000 must satisfy offset >= 0"),
    ("cosine", {"max_beta": 1.0}, "cosine: .*max_beta=1.0.* 0 < max_beta < 1"),
    ("cosine", {"train_steps": 3}, "cosine: .*train_steps=3 must satisfy .*train_steps >= 6"),
    ("vp_linear", {"beta_min": 0.0}, "vp_linear: beta_min=0.0, beta_max=20.0 must satisfy 0 < min < max"),
    ("vp_linear", {"beta_max": 0.1}, "vp_linear: beta_min=0.1, beta_max=0.1 must satisfy 0 < min < max"),
    (
        "vp_linear",
        {"beta_max": 3000.0},
        "vp_linear: beta_min=0.1, beta_max=3000.0 must have a mean of at most 690.8, or",
    ),
    (
        "vp_linear",
        {"beta_max": math.inf},
        "vp_linear: beta_min=0.1, beta_max=inf must have a mean of at most 690.8, or",
    ),
    ("vp_linear", {"t_clean": -0.1}, "vp_linear: t_clean=-0.1 must be at least 0 and below 1"),
    ("vp_linear", {"t_clean": 1.0}, "vp_linear: t_clean=1.0 must be at least 0 and below 1"),
    ("table", {"alphas_cumprod": FALLING[:5]}, r"at least 6 numbers, not of shape \(5,\)"),
    ("table", {"alphas_cumprod": FALLING[None]}, r"at least 6 numbers, not of shape \(1, 10\)"),
    ("table", {"alphas_cumprod": FALLING[::-1]}, "must decrease strictly from below 1 to above 0"),
    ("table", {"alphas_cumprod": [*FALLING, 0.0]}, "must decrease strictly from below 1 to above 0"),
    (
        "table",
        {"alphas_cumprod": [*FALLING, 1e-310]},
        "ends at 1e-310 and must stay at or above 1e-300, or rho overflows",
    ),
    ("table", {"alphas_cumprod": [1.0, *FALLING]}, "must decrease strictly from below 1 to above 0"),
    ("table", {"alphas_cumprod": [*FALLING, math.nan]}, "must decrease strictly from below 1 to above 0"),
    ("linear", {"beta": 1.0}, "schedule 'linear' has no option 'beta': its options are beta_start, beta_end"),
    ("cosin", {}, "unknown schedule 'cosin': did you mean 'cosine'?"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), BAD)
def test_refused(name, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        schedules.create(name, **options)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.create("vp_linear", beta_max=1381.0),
        schedules.create("table", alphas_cumprod=np.logspace(-3, -299.9, 100)),
    ],
    ids=lambda s: s.name,
)
def test_the_most_noise_that_is_accepted_is_still_a_number(schedule):
    t = schedule.t_noise
    assert schedule.alpha(t) == pytest.approx(1e-150, rel=0.2)
    assert schedule.rho(t) == pytest.approx(1 / schedule.alpha(t), rel=1e-9)
    assert schedule.t_of_rho(schedule.rho(t)) == pytest.approx(t, rel=1e-9)
