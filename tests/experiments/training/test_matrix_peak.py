"""The share of the matrix peak: operations counted by hand, and a peak that products can be held to."""

import time

import pytest
import torch
from torch import nn

from experiments.training.matrix_peak import matrix_peak, operations, throughput
from pndm.models.unet import UNet, UNetConfig

CPU = torch.device("cpu")


class TwoLayers(nn.Module):
    """A convolution and a dense layer, of images 3×8×8."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5 * 64, 7)

    def forward(self, x, t):
        return self.dense(self.conv(x).flatten(1))


def test_operations_are_those_counted_by_hand():
    network = TwoLayers()
    conv, dense = 2 * 8 * 8 * 5 * 3 * 9, 2 * 5 * 64 * 7
    # forwards; backwards to the weights of both, and through the dense layer (nothing asks for the image's gradient)
    assert operations(network, torch.zeros(1, 3, 8, 8), training=True) == 2 * conv + 3 * dense
    assert operations(network, torch.zeros(1, 3, 8, 8), training=False) == conv + dense
    assert all(parameter.grad is None for parameter in network.parameters())


def test_unet_costs_three_times_its_forward_pass():
    network = UNet(UNetConfig(image_size=8, channels=(8, 16), attention=(False, True), blocks=1, groups=4))
    forward, both = (operations(network, torch.zeros(1, 3, 8, 8), training=training) for training in (False, True))
    assert 2.7 * forward < both <= 3.3 * forward


def test_peak_is_not_below_a_product():
    peak = matrix_peak(CPU, torch.float32)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    a @ b
    fastest = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        fastest = min(fastest, time.perf_counter() - began)
    assert peak > 0.2 * 2 * 512**3 / fastest  # on a machine that does other things too


def test_share(monkeypatch):
    monkeypatch.setattr("experiments.training.matrix_peak.matrix_peak", lambda device, dtype: 1e6)
    network = TwoLayers()
    found = throughput(network, torch.zeros(1, 3, 8, 8), False, 50, 10.0)
    assert found["images_per_second"] == 5
    assert found["operations_per_image"] == 2 * 17280 + 3 * 4480
    assert found["share_of_matrix_peak"] == pytest.approx(5 * 48000 / 1e6)
