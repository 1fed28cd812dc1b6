"""Precision and recall by nearest neighbours: against a search tree, on cases whose answer is known."""

import pytest
import torch
from scipy.spatial import KDTree

from pndm.errors import OptionError
from pndm.metrics import precision_recall
from pndm.metrics.precision_recall import PrecisionRecall, covered, radii


def rows(n: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def measured(x: torch.Tensor, real: torch.Tensor, **options: int):
    metric = PrecisionRecall(real, **options)
    metric.update(x, range(len(x)))
    return metric.compute()


def test_radii_and_coverage_are_those_of_a_search_tree(monkeypatch):
    monkeypatch.setattr(precision_recall, "BLOCK", 17)
    real, x = rows(100, 0), rows(60, 1, 0.7)
    distances, _ = KDTree(real).query(real, k=4)  # itself, and three others
    assert torch.allclose(radii(real, 3), torch.from_numpy(distances[:, 3]), rtol=1e-10)
    inside = [any(torch.dist(point, centre) <= reach for centre, reach in zip(real, distances[:, 3], strict=True))
              for point in x]  # fmt: skip
    assert covered(x, real, radii(real, 3)).tolist() == inside
    assert measured(x, real)["precision"].value == pytest.approx(sum(inside) / 60)


def test_the_same_distribution_has_both_and_a_far_one_neither():
    real = rows(500, 0)
    same, far, narrow = (measured(x, real) for x in (rows(500, 1), rows(500, 1, 50.0), 0.1 * rows(500, 1)))
    assert same["precision"].value > 0.8
    assert same["recall"].value > 0.8
    assert far["precision"].value == far["recall"].value == 0
    assert far["precision"].high < 0.01
    assert narrow["precision"].value > 0.99  # good images ...
    assert narrow["recall"].value < 0.1  # ... of few kinds


def test_at_most_as_many_as_real_ones_are_kept():
    metric = PrecisionRecall(rows(50, 0), bootstrap=0)
    for start in range(0, 200, 20):
        metric.update(rows(20, start), range(start, start + 20))
    assert metric.compute()["precision"].n == 50
    other = PrecisionRecall(rows(50, 0), bootstrap=0)
    other.merge(metric)
    assert other.compute() == metric.compute()


@pytest.mark.parametrize("neighbours", [0, -1])
def test_refused_neighbours(neighbours):
    with pytest.raises(OptionError, match=f"precision_recall: neighbours={neighbours} must be at least 1"):
        PrecisionRecall(rows(10, 0), neighbours=neighbours)


def test_too_few():
    with pytest.raises(OptionError, match="samples=3 is too few for the metric precision_recall: it needs at least 4"):
        measured(rows(3, 1), rows(10, 0))
