"""Training the feature classifier, in miniature."""

import json

import pytest
import torch

from experiments.config.training import ClassifierTrainConfig
from experiments.runs import records
from experiments.training import checkpoints
from experiments.training import classifier as module
from experiments.training.augmentation import augment
from experiments.training.classifier import noise_images, train_classifier
from pndm.data import Dataset
from pndm.errors import OptionError
from pndm.metrics.frechet import GaussianStatistics, feature_batches, frechet_distance, load_feature_space
from tests.experiments.conftest import run_main

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
    assert records.read_record(tmp_path / "out" / "record.json") == json.loads(json.dumps(record))
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
    assert one["files"] == two["files"]
    assert one["accuracy"]["n_test"] == 100


@pytest.fixture(params=["residual", "whitened"])
def command(request, tmp_path):
    """run.py for either architecture, in a moment."""
    return ["experiment=train_classifier", f"experiment.architecture={request.param}", "experiment.widths=[4,6]",
            "experiment.epochs=1", "experiment.batch=50", "experiment.bf16=false", "experiment.shift=1",
            "experiment.limit=100", f"output={tmp_path}"]  # fmt: skip


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_done_is_made_again_only_when_forced(monkeypatch, capsys, tmp_path, command):
    assert run_main(monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    for said in ("% of 100 test images", "in the last of 1", "images/s", f"wrote      {tmp_path}/statistics"):
        assert said in printed
    before, loss = contents(tmp_path), records.read_record(tmp_path / "record.json")["loss"]
    assert run_main(monkeypatch, *command) == 0
    assert capsys.readouterr().out.startswith(f"done already: {tmp_path}")
    assert contents(tmp_path) == before
    assert run_main(monkeypatch, *command, "experiment.seed=1", "--force") == 0
    assert records.read_record(tmp_path / "record.json")["loss"] != loss
    if "experiment.architecture=whitened" in command:
        assert checkpoints.read_state(checkpoints.latest(tmp_path))["config"]["seed"] == 1


def test_the_result_of_another_run_is_refused(monkeypatch, capsys, tmp_path, command):
    assert run_main(monkeypatch, *command) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch, *command, "experiment.seed=3")
    assert stop.value.code == 2
    assert "holds the result of another run, with other experiment.seed: choose another" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_record_of_before_is_not_replaced_and_still_read(monkeypatch, capsys, tmp_path, command):
    assert run_main(monkeypatch, *command) == 0
    path = tmp_path / "record.json"
    record = json.loads(path.read_text())
    record["sha256"] = record.pop("files")
    del record["schema"]
    path.write_text(json.dumps(record))
    load_feature_space.cache_clear()
    assert load_feature_space(str(tmp_path)).reference.n == 100
    before = contents(tmp_path)
    with pytest.raises(SystemExit):
        run_main(monkeypatch, *command)
    assert "has schema None" in capsys.readouterr().err
    assert contents(tmp_path) == before


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
