"""Grids: every name on every schedule, the spacings that they promise, diffusers' timesteps, every refused choice."""

import numpy as np
import pytest
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pndm import OptionError, grids, schedules
from pndm.schedules import Schedule

SCHEDULES = {name: schedules.create(name) for name in ("linear", "scaled_linear", "cosine", "vp_linear")}
INTEGER = ("leading", "trailing", "linspace")
PAIRS = [(g, s) for g in grids.names() for s in SCHEDULES if not (g in INTEGER and s == "vp_linear")]
LINEAR, VP = SCHEDULES["linear"], SCHEDULES["vp_linear"]


@pytest.mark.parametrize(("grid", "schedule"), PAIRS)
@given(steps=st.integers(1, 1000))
def test_times_fall_strictly_between_the_ends(grid, schedule, steps):
    path = SCHEDULES[schedule]
    times = grids.times(grid, steps, path)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float64
    assert np.all(np.diff(times) < 0)
    assert times[-1] == path.t_clean
    if grid == "leading":
        assert times[0] == (steps - 1) * (path.train_steps // steps)
    elif grid == "linspace" and steps == 1:
        assert times[0] == 0  # as numpy's and diffusers' linspace of one number
    else:
        assert times[0] == path.t_noise


@pytest.mark.parametrize("grid", [g for g in grids.names() if g not in INTEGER])
@given(ends=st.tuples(st.floats(0.002, 1), st.floats(0.002, 1)).filter(lambda e: abs(e[0] - e[1]) > 1e-6))
def test_given_ends_are_kept(grid, ends):
    start, end = max(ends), min(ends)
    times = grids.times(grid, 7, VP, start, end)
    assert (times[0], times[-1]) == (start, end)
    assert np.all(np.diff(times) < 0)


def assert_equal_steps(values: np.ndarray) -> None:
    np.testing.assert_allclose(np.diff(values), np.diff(values).mean(), rtol=1e-7)


def without_last_step(times: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Where the end has no noise its lambda is infinite: the rule holds down to the least noise of the network."""
    if schedule.sigma(times[-1]) > 0:
        return times
    assert times[-2] == schedule.t_least
    return times[:-1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_promised_spacing(name):
    path = SCHEDULES[name]
    assert_equal_steps(grids.times("uniform", 20, path))
    assert_equal_steps(np.sqrt(grids.times("quadratic", 20, path) - path.t_clean))
    cubic = grids.times(grids.create("quadratic", power=3.0), 20, path)
    assert_equal_steps(np.cbrt(cubic - path.t_clean))
    assert_equal_steps(path.lam(without_last_step(grids.times("logsnr", 20, path), path)))
    assert_equal_steps(path.rho(without_last_step(grids.times("karras", 20, path), path)) ** (1 / 7))
    by_power = grids.times(grids.create("karras", power=3.0), 20, path)
    assert_equal_steps(path.rho(without_last_step(by_power, path)) ** (1 / 3))


def test_karras_is_equation_5_of_the_paper():
    """Karras et al. 2022: sigma_i = (max^(1/7) + i / (N - 1) (min^(1/7) - max^(1/7)))^7, their sigma being our rho."""
    high, low, n = VP.rho(1.0), VP.rho(0.01), 10
    sigma = (high ** (1 / 7) + np.arange(n) / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(VP.rho(grids.times("karras", n - 1, VP, t_end=0.01)), sigma, rtol=1e-9)


def test_the_least_power_of_karras_still_gives_equal_steps():
    path, power = LINEAR, 0.1
    times = grids.times(grids.create("karras", power=power), 5, path)
    assert_equal_steps(path.rho(without_last_step(times, path)) ** (1 / power))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 300, 999, 1000])
@pytest.mark.parametrize("grid", INTEGER)
def test_integer_grids_ask_at_diffusers_timesteps(grid, steps):
    scheduler = DDIMScheduler(timestep_spacing=grid)
    scheduler.set_timesteps(steps)
    times = grids.times(grid, steps, LINEAR)
    np.testing.assert_array_equal(times[:-1], scheduler.timesteps.numpy())
    assert times[-1] == -1


def test_leading_offset_is_diffusers_steps_offset():
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(50)
    times = grids.times(grids.create("leading", offset=1), 50, LINEAR)
    np.testing.assert_array_equal(times[:-1], scheduler.timesteps.numpy())


@pytest.mark.parametrize("given_times", [[1, 0.5, 0.01], np.array([1.0, 0.5, 0.01]), (1.0, 0.5, 0.01)], ids=type)
def test_a_grid_can_be_the_times_themselves(given_times):
    times = grids.times(given_times, steps=99, schedule=VP)
    assert times.dtype == np.float64
    assert times.tolist() == [1.0, 0.5, 0.01]


def test_a_grid_can_be_an_object():
    class Halves(grids.Grid):
        def place(self, steps, schedule, start, end):
            return np.array([start, (start + end) / 2, end])

    assert grids.times(Halves(), 2, VP, 1.0, 0.5).tolist() == [1.0, 0.75, 0.5]


NAN, INF = float("nan"), float("inf")
BAD = [
    ("uniform", 0, {}, "steps=0 must be a whole number of at least 1"),
    ("uniform", -3, {}, "steps=-3 must be a whole number of at least 1"),
    ("uniform", 2.5, {}, "steps=2.5 must be a whole number of at least 1"),
    ("uniform", True, {}, "steps=True must be a whole number of at least 1"),
    ("uniform", "ten", {}, "steps=.?ten.? must be a whole number of at least 1"),
    ("uniform", None, {}, "steps=None must be a whole number of at least 1"),
    ("uniform", NAN, {}, "steps=nan must be a whole number of at least 1"),
    ("uniform", INF, {}, "steps=inf must be a whole number of at least 1"),
    ("uniform", 1001, {}, "steps=1001 is more than the 1000 that the schedule has"),
    ("uniform", 5, {"t_start": 10, "t_end": 20}, r"t_start=10 must be later \(noisier\) than t_end=20"),
    ("uniform", 5, {"t_start": 10, "t_end": 10}, "t_start=10 must be later"),
    ("uniform", 5, {"t_start": NAN}, "t_start=nan must be later"),
    ("uniform", 5, {"t_start": 1200}, r"times must lie in \[-1, 999\], not 1200 to -1"),
    ("uniform", 5, {"t_end": -2}, r"times must lie in \[-1, 999\], not 999 to -2"),
    ("logsnr", 5, {"t_start": 1200}, r"\[-1, 999\].* 1200"),
    ("logsnr", 5, {"t_end": -2}, r"\[-1, 999\].* -2"),
    ("karras", 5, {"t_end": -2}, r"\[-1, 999\].* -2"),
    ("leading", 10, {"t_start": 5}, "must decrease strictly, but 0 is followed by 0"),
    ("unifrom", 5, {}, "unknown grid 'unifrom': did you mean 'uniform'"),
    ([999.0, 5.0, 5.0], 5, {}, "the given times: times must decrease strictly, but 5 is followed by 5"),
    ([999.0, 5.0, NAN], 5, {}, "times must decrease strictly, but 5 is followed by nan"),
    ([999.0], 5, {}, r"at least two times in one list, not shape \(1,\)"),
    ([], 5, {}, r"at least two times in one list, not shape \(0,\)"),
    ([[999.0, 5.0]], 5, {}, r"at least two times in one list, not shape \(1, 2\)"),
    ([1000.0, 5.0], 5, {}, r"the given times: times must lie in \[-1, 999\], not 1000 to 5"),
    ([999.0, -1.5], 5, {}, r"the given times: times must lie in \[-1, 999\], not 999 to -1.5"),
    (grids.create("quadratic", power=0.0), 5, {}, "grid 'quadratic': power=0.0 must be positive"),
    (grids.create("karras", power=-1.0), 5, {}, "grid 'karras': power=-1.0 must be positive"),
    (
        grids.create("karras", power=0.001),
        5,
        {},
        "power=0.001 must be above 0.00723 here, where rho reaches 157",
    ),
    (grids.create("karras", power=1e-310), 5, {}, "grid 'karras': power=1e-310 must be above 0.00723"),
    (grids.create("leading", offset=1), 1000, {}, r"times must lie in \[-1, 999\], not 1000"),
]


@pytest.mark.parametrize(("grid", "steps", "ends", "sentence"), BAD)
def test_refused(grid, steps, ends, sentence):
    with pytest.raises(OptionError, match=sentence):
        grids.times(grid, steps, LINEAR, **ends)


@pytest.mark.parametrize("grid", INTEGER)
def test_integer_grids_refuse_a_continuous_schedule(grid):
    with pytest.raises(OptionError, match=f"grid '{grid}' needs a schedule with training steps; use 'uniform'"):
        grids.times(grid, 5, VP)


def test_continuous_schedule_refuses_times_outside_it():
    with pytest.raises(OptionError, match=r"times must lie in \[0, 1\], not 1.5 to 0.001"):
        grids.times("uniform", 5, VP, t_start=1.5)
    with pytest.raises(OptionError, match=r"times must lie in \[0, 1\], not 1 to -0.1"):
        grids.times("uniform", 5, VP, t_end=-0.1)
