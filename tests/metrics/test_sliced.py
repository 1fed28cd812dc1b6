"""Sliced Wasserstein distance: against scipy along every direction, streaming, and its bootstrap."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from pndm.errors import OptionError
from pndm.metrics.sliced import SlicedWasserstein


def images(n: int, seed: int, brighter: float = 0.0) -> torch.Tensor:
    drawn = torch.rand(n, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.8 * (2 * drawn - 1) + brighter).clamp(-1, 1)


def measured(x: torch.Tensor, real: torch.Tensor, **options: int):
    metric = SlicedWasserstein(real, **options)
    for start in range(0, len(x), 50):
        metric.update(x[start : start + 50], range(start, min(start + 50, len(x))))
    return metric, metric.compute()["sliced_wasserstein"]


@pytest.mark.parametrize("brighter", [0.0, 0.05, 0.2])
def test_equals_scipy_along_every_direction(brighter):
    x, real = images(400, 1, brighter), images(500, 2)
    metric, found = measured(x, real, directions=16)
    exact = [wasserstein_distance(x @ theta, real @ theta) for theta in metric.directions.T]
    assert found.value == pytest.approx(sum(exact) / 16, rel=0.02)  # bins are 0.008 wide


def test_zero_for_the_same_images_and_merging_is_adding():
    real = images(300, 0)
    _, found = measured(real, real, bootstrap=0)
    assert found.value == pytest.approx(0, abs=1e-6)
    whole, _ = measured(images(100, 1), real, bootstrap=10)
    first, second = (SlicedWasserstein(real, bootstrap=10) for _ in range(2))
    first.update(images(100, 1)[:30], range(30))
    second.update(images(100, 1)[30:], range(30, 100))
    first.merge(second)
    assert first.compute()["sliced_wasserstein"].value == whole.compute()["sliced_wasserstein"].value


def test_error_is_the_spread_of_repetitions():
    real = images(2000, 0)
    found = [measured(images(100, 10 + k, 0.1), real, bootstrap=30, seed=k)[1] for k in range(30)]
    values = torch.tensor([each.value for each in found])
    assert sum(each.error for each in found) / 30 == pytest.approx(values.std().item(), rel=0.35)


def test_resamples_that_drew_nothing_have_the_value_itself():
    """Of the same image twice every resample has the value; 13.5 % of them draw neither."""
    x, real = images(1, 1, 0.1).repeat(2, 1), images(50, 2)
    _, found = measured(x, real, bootstrap=200)
    assert found.resamples == pytest.approx([found.value] * 200, rel=1e-6)
    assert found.low == pytest.approx(found.high, rel=1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(number):
    x, real = images(4, 1), images(10, 2)
    metric = SlicedWasserstein(real)
    spoilt = x.clone()
    spoilt[2, 3] = number
    for refused in (lambda: metric.update(spoilt, range(4)), lambda: SlicedWasserstein(spoilt)):
        with pytest.raises(OptionError, match="images hold NaN or infinity: only finite numbers are accepted"):
            refused()
    metric.update(x, range(4))
    assert metric.compute()["sliced_wasserstein"] == measured(x, real)[1]  # nothing was left of those


def test_too_few():
    with pytest.raises(OptionError, match="samples=1 is too few for the metric sliced_wasserstein"):
        measured(images(1, 0), images(10, 1))
