"""A small untrained network on disk, for experiments in miniature."""

import sys
from pathlib import Path

import pytest
import torch

from experiments import command_line
from pndm.models.checkpoint import save_checkpoint
from pndm.models.unet import UNet, UNetConfig
from pndm.reference import self_converged

SMALL = UNetConfig(
    image_size=28, in_channels=1, channels=(8, 16), attention=(False, False), blocks=1, patch=2, groups=4
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = UNet(SMALL)
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)  # it starts at zero, where all solvers agree
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, network, half=False, schedule="linear", predicts="eps", data="fashion-mnist")
    return path


@pytest.fixture
def short_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-converged references that begin with few steps."""
    monkeypatch.setitem(self_converged.__wrapped__.__kwdefaults__, "first", 20)  # beneath torch.no_grad


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """run.py in this process: its exit code."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return command_line.main()
