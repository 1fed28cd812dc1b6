"""Kernel distance: against torchmetrics and scikit-style sums, unbiased, with an honest standard error."""

import pytest
import torch

from pndm.errors import OptionError
from pndm.metrics import kernel
from pndm.metrics.kernel import KernelDistance


def rows(n: int, seed: int, mean: float = 0.0, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def measured(x: torch.Tensor, real: torch.Tensor, bootstrap: int = 0, seed: int = 0):
    metric = KernelDistance(real, bootstrap=bootstrap, seed=seed)
    for start in range(0, len(x), 64):
        batch = x[start : start + 64]
        metric.update(batch, range(start, start + len(batch)))
    return metric.compute()["kid"]


def by_loops(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased estimator as its formula is written."""

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (torch.dot(a, b).item() / len(a) + 1) ** 3

    def within(z: torch.Tensor) -> float:
        n = len(z)
        return sum(k(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_equals_the_formula():
    x, y = rows(20, 1, 0.3), rows(30, 2)
    assert measured(x, y).value == pytest.approx(by_loops(x, y), rel=1e-10)


def test_agrees_with_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = rows(400, 1, 0.2, d=32), rows(400, 2, d=32)
    assert measured(x, y).value == pytest.approx(kid.poly_mmd(x, y).item(), rel=1e-8)


def test_unbiased_and_its_error_is_the_spread_of_repetitions(monkeypatch):
    """Of one distribution the mean is 0; the printed error is the deviation over fresh samples, real ones given."""
    monkeypatch.setattr(kernel, "BLOCK", 50)  # so that there are several
    real = rows(2000, 0)
    found = [measured(rows(170, 10 + k), real, bootstrap=60, seed=k) for k in range(60)]
    values = torch.tensor([each.value for each in found])
    assert abs(values.mean()) < 4 * values.std() / 60**0.5 + 0.02
    assert sum(each.error for each in found) / 60 == pytest.approx(values.std().item(), rel=0.3)
    assert {each.n for each in found} == {170}


def test_merging_workers_equals_one(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", 40)
    real, x = rows(100, 0), rows(120, 1, 0.5)
    whole, first, second = (KernelDistance(real, bootstrap=5) for _ in range(3))
    whole.update(x, range(120))
    first.update(x[:40], range(40))
    second.update(x[40:], range(40, 120))
    first.merge(second)
    assert first.compute()["kid"].value == pytest.approx(whole.compute()["kid"].value, rel=1e-12)
    assert first.compute() == first.compute()  # asking changes nothing


def test_too_few_real_images():
    """One has no pair: the mean over pairs would be 0 / 0."""
    for count in (0, 1):
        with pytest.raises(OptionError, match=f"kid: real={count} images are too few: it needs at least 2"):
            KernelDistance(torch.ones(count, 3))


def test_too_few():
    with pytest.raises(OptionError, match="samples=1 is too few for the metric kid: it needs at least 2"):
        measured(rows(1, 1), rows(10, 2))
