"""Training the feature classifier, in miniature."""

import json

import pytest
import torch

from experiments.config.training import ClassifierTrainConfig
from experiments.training import classifier as module
from experiments.training.augmentation import augment
from experiments.training.classifier import noise_images, train_classifier
from pndm.data import Dataset
from pndm.errors import OptionError
from pndm.metrics.frechet import GaussianStatistics, feature_batches, frechet_distance, load_feature_space

TINY = ClassifierTrainConfig(widths=(6, 8), epochs=4, batch=25, shift=1, bf16=False)


@pytest.fixture(autouse=True)
def stripes(monkeypatch):
    """An easy data set of colour images: horizontal or vertical stripes under noise."""

    def load(name, folder=None, split="train", limit=None):
        generator = torch.Generator().manual_seed(int(split == "train"))
        labels = torch.randint(2, (200,), generator=generator)
        bars = (torch.arange(8) % 4 < 2).float() * 150
        pattern = torch.where(labels[:, None, None] == 0, bars[:, None], bars[None, :])
        noise = torch.rand(200, 3, 8, 8, generator=generator) * 100
        images = (pattern[:, None] + noise).to(torch.uint8)
        return Dataset(images[:limit], labels[:limit], name, ("rows", "columns"))

    monkeypatch.setattr(module, "load", load)
    return load


def test_writes_a_feature_space_that_the_metric_reads(tmp_path, stripes):
    record = train_classifier(TINY, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "classifier.safetensors", "record.json", "statistics.safetensors",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == json.loads(json.dumps(record))
    assert record["accuracy"]["test"] > 0.9
    assert record["accuracy"]["n_test"] == 200
    assert record["config"]["epochs"] == 4
    assert record["seconds"]["training"] > 0
    assert record["seconds"]["measuring"] > 0
    assert len(record["loss"]) == 4
    assert record["loss"][-1] < record["loss"][0]

    space = load_feature_space(str(tmp_path / "out"))
    features = torch.cat(list(feature_batches(stripes("x").images, space.classifier)))
    assert space.reference.n == 200
    assert torch.allclose(space.reference.mean, features.double().mean(0), atol=1e-6)
    assert torch.allclose(space.reference.covariance, features.double().T.cov(), atol=1e-6)
    test = GaussianStatistics(8)
    for part in feature_batches(stripes("x", split="test").images, space.classifier):
        test.update(part)
    rows = {name: row["frechet_features"] for name, row in record["sanity"].items()}
    assert frechet_distance(test, space.reference) == pytest.approx(rows["test"], rel=1e-4, abs=1e-7)
    assert rows["test"] < rows["noise"]


def test_same_seed_same_files(tmp_path):
    quick = ClassifierTrainConfig(widths=(4, 6), epochs=1, batch=50, bf16=False, limit=100)
    one, two = (train_classifier(quick, tmp_path / name) for name in ("one", "two"))
    assert one["sha256"] == two["sha256"]
    assert one["accuracy"]["n_test"] == 100


def test_a_diverging_run_stops_and_says_so(tmp_path):
    config = ClassifierTrainConfig(widths=(4, 6), epochs=3, batch=50, lr=1e30, bf16=False)
    with pytest.raises(OptionError, match=r"lr is 1e[+]30: the loss is no longer finite"):
        train_classifier(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_augmentation_moves_and_mirrors():
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(300, 2, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 3] = torch.tensor([7, 9], dtype=torch.uint8)
    assert torch.equal(augment(image, 0, False, generator), image)
    mirrored = augment(image, 0, True, generator)
    assert {"same", "mirror"} == {
        "same" if torch.equal(m, image[0]) else "mirror" if torch.equal(m, image[0].flip(2)) else "?" for m in mirrored
    }
    moved = augment(image, 2, True, generator)
    assert moved.shape == image.shape
    assert moved.dtype == torch.uint8
    assert torch.equal(moved.sum((2, 3)), image.sum((2, 3)))  # the dot never leaves, and channels move together
    rows = {int(m[0].argmax()) // 9 for m in moved}
    assert rows == {2, 3, 4, 5, 6}


def test_noise_images_are_reproducible_8_bit():
    images = noise_images((100, 1, 8, 8), seed=1)
    assert images.dtype == torch.uint8
    assert torch.equal(images, noise_images((100, 1, 8, 8), seed=1))
    assert (images == 0).float().mean().item() == pytest.approx(0.159, abs=0.02)  # what clamping collects, P(x < −1)


@pytest.mark.parametrize(("option", "value"), [("epochs", 0), ("batch", -1), ("lr", -0.1), ("shift", -1)])
def test_bad_options(option, value):
    with pytest.raises(OptionError, match=f"{option} is {value}"):
        ClassifierTrainConfig(**{option: value})
