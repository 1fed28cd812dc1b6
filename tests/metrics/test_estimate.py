"""The streaming bootstrap: against closed forms, whatever the batches, and for differences of paired runs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pndm.errors import OptionError
from pndm.metrics.estimate import Means, Resampling, check_enough, differ, estimate, share
from pndm.noise import SampleNoise


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_error_is_that_of_a_mean():
    values = 3 + 2 * normal(1000, 0)
    means = Means(1, Resampling(400)).update(values, range(1000))
    found = estimate(means.mean().item(), means.n, means.resampled()[:, 0])
    assert found.value == pytest.approx(values.mean().item(), rel=1e-12)
    assert found.error == pytest.approx(values.std().item() / 1000**0.5, rel=0.1)
    assert found.high - found.value == pytest.approx(1.966 * found.error, rel=1e-3)  # Student's, 399 degrees of freedom


def test_intervals_cover():
    covered = 0
    for k in range(200):
        means = Means(1, Resampling(50, k)).update(normal(100, k), range(100))
        found = estimate(means.mean().item(), 100, means.resampled()[:, 0])
        covered += found.low <= 0 <= found.high
    assert 180 <= covered <= 199  # 190 are expected


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_batches_and_workers_do_not_matter(sizes, seed):
    n = sum(sizes)
    values, whole = normal(n, seed), Means(1, Resampling(7, seed))
    whole.update(values, range(n))
    parts, merged, start = Means(1, Resampling(7, seed)), Means(1, Resampling(7, seed)), 0
    for size in sizes:
        batch, indices = values[start : start + size], range(start, start + size)
        parts.update(batch, indices)
        merged.merge(Means(1, Resampling(7, seed)).update(batch, indices))
        start += size
    for other in (parts, merged):
        assert other.n == n
        assert torch.allclose(other.mean(), whole.mean(), rtol=1e-12, atol=1e-12)
        assert torch.allclose(other.resampled(), whole.resampled(), rtol=1e-9, atol=1e-12)


def test_paired_runs_are_told_apart_where_their_own_intervals_overlap():
    noise = normal(50, 0)
    better, worse, other = noise, noise + 0.05 + 0.01 * normal(50, 1), normal(50, 2)

    def run(values: torch.Tensor, seed: int) -> tuple[float, tuple[float, ...]]:
        means = Means(1, Resampling(200, seed)).update(values, range(50))
        found = estimate(means.mean().item(), 50, means.resampled()[:, 0])
        return found.value, found.resamples

    assert differ(run(better, 0), run(worse, 0))
    assert not differ(run(better, 0), run(other, 1))
    assert not differ(run(better, 0), run(better, 0))
    assert differ((1.0, ()), (2.0, ())) is None


def test_false_alarms_are_as_rare_as_promised():
    def run(k: int) -> tuple[float, tuple[float, ...]]:
        means = Means(1, Resampling(60, k)).update(normal(100, k), range(100))
        return means.mean().item(), tuple(means.resampled()[:, 0].tolist())

    runs = [run(k) for k in range(200)]
    alarms = sum(bool(differ(a, b)) for a, b in zip(runs[::2], runs[1::2], strict=True))
    assert alarms <= 12  # 5 of 100 are expected


def test_a_share_of_nothing_has_an_interval():
    """Wilson's: 0 of 20 reaches to z² / (n + z²)."""
    found = share(0.0, 20, torch.zeros(10))
    assert found.low == 0
    assert found.high == pytest.approx(1.96**2 / (20 + 1.96**2), rel=1e-4)


def test_weights_are_not_the_sampling_noise():
    weights = Resampling(1000, 5).weights([3])[:, 0]
    noise = SampleNoise(5, [3]).draw((1000,), torch.float64)[0]
    assert weights.mean() == pytest.approx(1, abs=0.1)
    assert weights.var() == pytest.approx(1, abs=0.15)
    assert abs(np.corrcoef(weights, noise)[0, 1]) < 0.1


def test_too_few_samples_says_how_many():
    with pytest.raises(OptionError, match="samples=3 is too few for the metric precision_recall: it needs at least 4"):
        check_enough("precision_recall", 3, 4)
