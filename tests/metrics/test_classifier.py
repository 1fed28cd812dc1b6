"""The feature classifier: shapes, folding, its file, and what the shipped one reaches."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pndm.errors import OptionError
from pndm.metrics import classifier
from pndm.metrics.classifier import KIND, Classifier, ClassifierConfig, dump_classifier, load_classifier

PACKAGED = Path(classifier.__file__).parent / "data" / "fashion-mnist"
TINY = ClassifierConfig(channels=1, size=8, classes=3, widths=(4, 6))


def written(path: Path, config: ClassifierConfig = TINY) -> Path:
    torch.manual_seed(0)
    path.write_bytes(dump_classifier(Classifier(config).fold()))
    return path


@pytest.mark.parametrize(
    "config", [ClassifierConfig(), ClassifierConfig(channels=3, size=32, widths=(16, 32, 64), blocks=2), TINY]
)
def test_shapes(config):
    model = Classifier(config).eval()
    x = torch.randn(2, config.channels, config.size, config.size)
    assert model.features(x).shape == (2, config.features)
    assert torch.equal(model(x), model.head(model.features(x)))


def test_folding_changes_nothing():
    torch.manual_seed(0)
    model = Classifier(TINY)
    x = torch.randn(64, 1, 8, 8)
    for _ in range(3):
        model(x)  # so that the normalisation has statistics other than 0 and 1
    before = model.eval()(x)
    assert torch.allclose(model.fold()(x), before, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_features_do_not_depend_on_the_batch():
    model = load_classifier(PACKAGED / "classifier.safetensors")
    x = torch.rand(9, 1, 28, 28) * 2 - 1
    assert torch.allclose(model.features(x)[3:4], model.features(x[3:4]), atol=1e-5)


def test_features_are_smooth():
    """A step of the input by δ changes the features by their derivative times δ (no kinks, unlike ReLU)."""
    model = load_classifier(PACKAGED / "classifier.safetensors").double()
    generator = torch.Generator().manual_seed(0)
    x, move = torch.randn(2, 1, 1, 28, 28, generator=generator, dtype=torch.float64)
    _, slope = torch.autograd.functional.jvp(model.features, x, move)
    moved = (model.features(x + 1e-4 * move) - model.features(x - 1e-4 * move)) / 2e-4
    assert (moved - slope).norm() <= 1e-5 * slope.norm()


def test_round_trip(tmp_path):
    model = load_classifier(written(tmp_path / "c.safetensors"))
    again = tmp_path / "again.safetensors"
    again.write_bytes(dump_classifier(model))
    assert again.read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    assert model.config == TINY
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())


def test_wrong_image_shape_is_named():
    with pytest.raises(OptionError, match=r"\(3, 32, 32\): this classifier accepts \(1, 8, 8\)"):
        Classifier(TINY).features(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("option", [{"widths": ()}, {"widths": (8, 0)}, {"blocks": 0}, {"channels": "3"}])
def test_bad_architecture(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        ClassifierConfig(**option)


def test_missing_file(tmp_path):
    with pytest.raises(OptionError, match="does not exist"):
        load_classifier(tmp_path / "none.safetensors")


def test_truncated_file(tmp_path):
    path = written(tmp_path / "c.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OptionError, match="cannot be read as safetensors"):
        load_classifier(path)


def test_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    path = tmp_path / "c.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(OptionError, match="cannot be read as safetensors, the only format accepted"):
        load_classifier(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "holds another network"),
        ({KIND: "{"}, "configuration"),
        ({KIND: json.dumps({"depth": 3})}, "configuration"),
        ({KIND: json.dumps({"widths": [4, 6]})}, "configuration"),
    ],
)
def test_file_of_another_network(tmp_path, metadata, reason):
    path = tmp_path / "c.safetensors"
    save_file({"head.weight": torch.zeros(3, 5)}, path, metadata)
    with pytest.raises(OptionError, match=reason):
        load_classifier(path)


def test_another_network_is_not_called_a_wrong_configuration(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"head.weight": torch.zeros(3, 5)}, path)
    sentence = "c.safetensors' holds another network: 'pndm.classifier' and 'pndm.whitened_classifier' are accepted$"
    with pytest.raises(OptionError, match=sentence):
        load_classifier(path)


def test_shipped_files_are_small():
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) < 1_000_000


def test_shipped_accuracy(real_test_set):
    features, labels = real_test_set
    model = load_classifier(PACKAGED / "classifier.safetensors")
    record = json.loads((PACKAGED / "record.json").read_text())
    reached = (model.head(features).argmax(1) == labels).double().mean().item()
    assert reached >= 0.92
    assert reached == pytest.approx(record["accuracy"]["test"], abs=5e-4)
