"""Shared by the metric tests: the real test images through the shipped classifier, computed once."""

import pytest
import torch
from torch import Tensor

from pndm.data import load
from pndm.errors import OptionError
from pndm.metrics.frechet import feature_batches, load_feature_space


@pytest.fixture(scope="session")
def real_test_set() -> tuple[Tensor, Tensor]:
    """Features (10000, d) and labels of Fashion-MNIST's test split."""
    try:
        data = load("fashion-mnist", split="test")
    except OptionError as error:
        pytest.skip(f"the data files are absent: {error}")
    return torch.cat(list(feature_batches(data.images, load_feature_space().classifier))), data.labels
