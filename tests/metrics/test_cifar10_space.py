"""The feature space of CIFAR-10 in the repository's weights/."""

import pytest
import torch

from experiments.training.classifier import noise_images
from pndm.data import load
from pndm.errors import OptionError
from pndm.metrics.frechet import feature_batches, frechet_features, load_feature_space, shipped
from pndm.metrics.whitened import WhitenedClassifier


@pytest.fixture(scope="module")
def space():
    if "cifar10" not in shipped():
        pytest.skip("pndm is installed without its repository's weights/")
    return load_feature_space("cifar10")


def test_is_what_the_record_says(space):
    assert isinstance(space.classifier, WhitenedClassifier)
    assert space.reference.n == 50000
    assert space.reference.dimension == space.classifier.config.features == 256
    config = space.record["config"]
    assert config.get("experiment", config)["data"] == "cifar10"  # of one that run.py made, or of one from before
    assert space.record["accuracy"]["n_test"] == 10000
    rows = {name: row["frechet_features"] for name, row in space.record["sanity"].items()}
    assert rows["test"] < rows["test_half"] < rows["test_without_class_0"] < rows["test_blurred_3x3"] < rows["noise"]


def test_noise_is_as_far_as_recorded(space):
    row = space.record["sanity"]["noise"]["frechet_features"]
    assert frechet_features(noise_images((400, 3, 32, 32)), "cifar10").value == pytest.approx(row, rel=0.1)


@pytest.mark.slow
def test_accuracy_is_reached_again(space):
    try:
        data = load("cifar10", split="test")
    except OptionError as error:
        pytest.skip(f"the data files are absent: {error}")
    features = torch.cat(list(feature_batches(data.images, space.classifier)))
    reached = (space.classifier.head(features).argmax(1) == data.labels).double().mean().item()
    assert reached == pytest.approx(space.record["accuracy"]["test"], abs=5e-4)
