"""Paired error to given reference states: formulas, classes, the first samples only, and streaming."""

import math

import pytest
import torch

from pndm.data import to_uint8
from pndm.metrics.measurement import Measurement, as_they_are
from pndm.metrics.paired import PairedError

TRUTH = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5


def bright(images: torch.Tensor) -> torch.Tensor:
    return (images.float().mean((1, 2, 3)) > 127.5).long()


def reference(indices):
    return TRUTH[list(indices)].double()


def test_rmse_psnr_and_classes():
    x = TRUTH.clone()
    x[:3] += 0.1
    x[3] = -x[3] + 0.9  # another class
    metric = PairedError(reference, bright, lambda: 1e-3, bootstrap=20)
    metric.update(x, range(12))
    found = metric.compute()
    squares = (x - TRUTH).double().square().flatten(1).mean(1)
    assert found["paired_rmse"].value == pytest.approx(math.sqrt(squares.mean()), rel=1e-6)
    assert found["paired_rmse"].floor == 1e-3
    psnr = [min(10 * math.log10(4 / each), 146.02) if each else 146.02 for each in squares.tolist()]
    assert found["paired_psnr"].value == pytest.approx(sum(psnr) / 12, rel=1e-3)
    changed = (bright(to_uint8(x)) != bright(to_uint8(TRUTH))).double().mean().item()
    assert changed > 0
    assert found["paired_label_changes"].value == pytest.approx(changed)


def test_without_a_classifier_there_are_no_classes():
    metric = PairedError(reference, bootstrap=0)
    metric.update(TRUTH, range(12))
    assert set(metric.compute()) == {"paired_rmse", "paired_psnr"}
    assert metric.compute()["paired_rmse"].value == 0


def test_the_first_samples_in_any_batches():
    asked = []

    def only_asked(indices):
        asked.extend(indices)
        return reference(indices)

    x = TRUTH + 0.1 * torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(1))
    whole, parts = PairedError(reference, most=7), PairedError(only_asked, most=7)
    whole.update(x[:7], range(7))
    first = Measurement([(as_they_are, [parts])])
    second = Measurement([(as_they_are, [PairedError(only_asked, most=7)])])
    second.update(x[5:], range(5, 12))
    first.update(x[:5], range(5))
    first.merge(second)
    assert sorted(asked) == list(range(7))
    assert parts.means.n == 7
    assert first.compute()["paired_rmse"].value == pytest.approx(whole.compute()["paired_rmse"].value, rel=1e-12)
