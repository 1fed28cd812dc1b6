"""Exact networks on diffusers' usual paths, and a small one of its own class."""

import pytest
import torch
from diffusers import UNet2DModel
from their_loops import small_unet

from pndm import schedules
from pndm.models.mixture import GaussianMixture


@pytest.fixture(scope="session")
def latent() -> GaussianMixture:
    """Three Gaussians in the plane, in the time of Stable Diffusion's path."""
    means = torch.tensor([[1.2, 0.6], [-0.9, 0.5], [0.1, -1.1]], dtype=torch.float64)
    path = schedules.create("scaled_linear")
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), means, torch.tensor([0.3, 0.4, 0.25]), path)


@pytest.fixture(scope="session")
def pixels() -> GaussianMixture:
    """The same in the time of DDPM's path."""
    means = torch.tensor([[1.2, 0.6], [-0.9, 0.5], [0.1, -1.1]], dtype=torch.float64)
    return GaussianMixture(
        torch.tensor([0.3, 0.5, 0.2]), means, torch.tensor([0.3, 0.4, 0.25]), schedules.create("linear")
    )


@pytest.fixture(scope="session")
def unet() -> UNet2DModel:
    return small_unet()
