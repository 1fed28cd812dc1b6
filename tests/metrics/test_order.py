"""The fitted order: exact on exact powers, and by its rule on everything else."""

import math

import numpy as np
import pytest

from pndm.metrics.order import measure_order

STEPS = [10, 20, 40, 80, 160, 320]


def test_an_exact_power_has_its_order_and_no_doubt():
    found = measure_order(STEPS, [3.0 * n**-2.5 for n in STEPS])
    assert found is not None
    assert found.value == pytest.approx(2.5, abs=1e-12)
    assert found.low == pytest.approx(2.5, abs=1e-9)
    assert found.high == pytest.approx(2.5, abs=1e-9)
    assert found.steps == tuple(STEPS)
    assert found.asymptotic


def test_the_order_of_the_input_does_not_matter():
    pairs = [(n, 1 / n) for n in reversed(STEPS)]
    assert measure_order(*zip(*pairs, strict=True)).value == pytest.approx(1.0)


def test_the_coarse_part_is_left_out():
    found = measure_order(STEPS, [5.0, 4.0, *(n**-4.0 for n in STEPS[2:])])
    assert found.steps == (40, 80, 160, 320)
    assert found.value == pytest.approx(4.0)


def test_points_at_the_floor_are_left_out():
    errors = [n**-4.0 for n in STEPS[:4]] + [3e-9, 2e-9]
    found = measure_order(STEPS, errors, floor=1e-9)
    assert found.steps == (10, 20, 40, 80)
    assert found.value == pytest.approx(4.0)


def test_a_run_that_blew_up_is_left_out():
    found = measure_order(STEPS, [math.inf, math.nan, *(n**-1.0 for n in STEPS[2:])])
    assert found.steps == (40, 80, 160, 320)


def test_a_bending_line_is_marked():
    found = measure_order(STEPS, [math.exp(-0.02 * n) for n in STEPS])
    assert not found.asymptotic
    assert len(found.steps) == 3
    assert found.low < found.value < found.high


@pytest.mark.parametrize("errors", [[0.1, 0.01], [1e-15] * 3, [0.0] * 3, [math.inf] * 3])
def test_too_few_points(errors: list[float]):
    assert measure_order(STEPS[: len(errors)], errors, floor=1e-14) is None


def test_the_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        errors = np.array(STEPS, dtype=float) ** -2.0 * np.exp(0.02 * random.standard_normal(len(STEPS)))
        found = measure_order(STEPS, errors.tolist())
        covered += found.low <= 2.0 <= found.high
    assert 0.92 < covered / 400 < 0.98
