"""What an evaluation takes, against networks whose memory is known, and the batch that follows from it."""

import pytest
import torch
from torch import nn

from pndm.models import memory
from pndm.models.memory import Alive, bytes_per_sample, largest_batch


class Known(nn.Module):
    """Holds `states` tensors of the shape of x at its peak."""

    def __init__(self, states):
        super().__init__()
        self.states = states
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x, t):
        return torch.stack([x * k for k in range(self.states // 2)]).sum(0)


@pytest.mark.parametrize("states", [4, 10])
def test_bytes_per_sample(states):
    found = bytes_per_sample(Known(states), (3, 16, 16))
    assert found / (3 * 16 * 16 * 4) == pytest.approx(states + memory.STATES, abs=1.1)


def test_what_is_let_go_does_not_count():
    with Alive() as alive:
        for _ in range(5):
            torch.zeros(1000)
    assert alive.peak == 4000


@pytest.mark.parametrize(("free", "batch"), [(0, 1), (3_500, 1), (200_000, 8), (10**12, memory.LARGEST)])
def test_largest_batch(monkeypatch, free, batch):
    monkeypatch.setattr(memory, "total_bytes", lambda device: free)
    monkeypatch.setattr(memory, "bytes_per_sample", lambda network, shape: 5_000)
    assert largest_batch(Known(4), (1,)) == batch
    assert batch == 1 or batch == memory.LARGEST or batch * 5_000 <= free * memory.SHARE < 2 * batch * 5_000


def test_total_bytes_of_this_machine():
    assert 0 < memory.total_bytes(torch.device("cpu")) < 2**50
