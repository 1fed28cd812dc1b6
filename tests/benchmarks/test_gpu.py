"""The benchmark for a GPU, in miniature on a CPU."""

import pytest
import torch

from pndm.models import fast as module
from tests.benchmarks import gpu
from tests.benchmarks.bench import CIFAR, both

SMALL = {**CIFAR, "sample_size": 16, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}


@pytest.mark.filterwarnings("ignore:no C")
def test_every_contender_is_timed_at_every_batch(monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(gpu, "has_compiler", lambda device: False)
    monkeypatch.setattr(module, "has_compiler", lambda device: False)
    theirs, trained = both(SMALL)
    found = gpu.measure(theirs, trained, batches=(1, 3), steps=4, rounds=1)
    assert set(found["batches"]) == {1, 3}
    for rows in found["batches"].values():
        assert set(rows) == {"diffusers", "diffusers, bfloat16", "exact", "fast"}
        assert rows["exact"]["seconds_of_diffusers"] < 1  # 4 evaluations against 59
        assert 0 < rows["fast"]["share_of_matrix_peak"] < 1
    by_hand = 2 * 32 * 3 * 9 * 16 * 16  # of the first convolution
    assert found["operations_per_evaluation"] > 10 * by_hand


def test_both_networks_are_one():
    pytest.importorskip("diffusers")
    theirs, trained = both(SMALL)
    x, t = torch.randn(2, *trained.shape), torch.tensor([900.0, 3.0])
    torch.testing.assert_close(trained.network(x, t), theirs(x, t).sample, rtol=0, atol=1e-5)
