"""The classifier for colour images: whitening, folding, its file."""

from pathlib import Path

import pytest
import torch

from pndm.errors import OptionError
from pndm.metrics.classifier import dump_classifier, load_classifier
from pndm.metrics.whitened import WhitenedClassifier, WhitenedConfig

TINY = WhitenedConfig(size=9, classes=4, widths=(6, 8))


def trained() -> WhitenedClassifier:
    """A tiny network whose normalisation has statistics other than 0 and 1."""
    torch.manual_seed(0)
    model = WhitenedClassifier(TINY)
    model.whiten(torch.randn(50, 3, 9, 9))
    for unit in model.body:
        torch.nn.init.normal_(unit.norm.bias)
    for _ in range(3):
        model(2 * torch.randn(64, 3, 9, 9) + 0.3)
    return model


def test_airbench94_has_its_size():
    model = WhitenedClassifier(WhitenedConfig())
    assert sum(p.numel() for p in model.parameters() if p.ndim == 4) == 288 + 9 * (
        24 * 64 + 64**2 + 64 * 256 + 3 * 256**2
    )
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 256)


def test_patches_come_out_white():
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(200, 3, 5, 5, generator=generator), 9, mode="bilinear")
    model = WhitenedClassifier(TINY)
    model.whiten(images)
    out = model.whitening(images).double().permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(out[:, :12], -out[:, 12:])
    second = out[:, :12].T @ out[:, :12] / len(out)
    largest = second[:6, :6]  # of the small ones the floor takes its share
    assert torch.allclose(largest, torch.eye(6, dtype=torch.float64), atol=0.02)
    assert (second - second.diag().diag()).abs().max() < 1e-3


def test_first_units_pass_on_what_comes_in():
    unit = WhitenedClassifier(TINY).body[1]
    x = torch.randn(3, 6, 4, 4)
    assert torch.allclose(unit.conv(x)[:, :6], x)


def test_folding_changes_nothing():
    model, x = trained().eval(), torch.randn(16, 3, 9, 9)
    before, features = model(x), model.features(x)
    assert model.fold() is model
    assert torch.allclose(model(x), before, atol=1e-5)
    assert torch.equal(model(x), model.head(model.features(x)) / 9)
    assert torch.allclose(model.features(x), features, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_round_trip(tmp_path):
    path: Path = tmp_path / "c.safetensors"
    model = trained().fold()
    path.write_bytes(dump_classifier(model))
    read = load_classifier(path)
    assert isinstance(read, WhitenedClassifier)
    assert read.config == TINY
    assert not read.training
    assert dump_classifier(read) == path.read_bytes()
    x = torch.randn(4, 3, 9, 9)
    assert torch.allclose(read(x), model(x), rtol=1e-2, atol=1e-2)


def test_wrong_image_shape_is_named():
    with pytest.raises(OptionError, match=r"\(1, 28, 28\): this classifier accepts \(3, 9, 9\)"):
        WhitenedClassifier(TINY).features(torch.zeros(2, 1, 28, 28))


@pytest.mark.parametrize("option", [{"widths": ()}, {"widths": (8, 0)}, {"classes": 0}, {"channels": "3"}, {"size": 4}])
def test_bad_architecture(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        WhitenedConfig(**{"widths": (4, 6), **option})
