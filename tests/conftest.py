"""Shared by all tests: one thread, and problems whose answer is known."""

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from pndm import schedules
from pndm.models.mixture import GaussianMixture
from pndm.schedules import Schedule

torch.set_num_threads(1)
# The same examples every time, no folder of past ones, and no clock on a loaded machine.
settings.register_profile("pndm", derandomize=True, database=None, deadline=None)
settings.load_profile("pndm")


@pytest.fixture(scope="session")
def vp() -> Schedule:
    return schedules.create("vp_linear")


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Three Gaussians in the plane, in the time of vp_linear."""
    means = torch.tensor([[1.2, 0.6], [-0.9, 0.5], [0.1, -1.1]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), means, torch.tensor([0.3, 0.4, 0.25]), "vp_linear")


@pytest.fixture
def noise() -> Tensor:
    """Six starting states in the plane, float64."""
    return torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
