"""The recipe for colour images: it learns, continues with the same bits, and mirrors every image in turn."""

import dataclasses

import pytest
import torch

from experiments.config.training import ClassifierTrainConfig
from experiments.training import checkpoints, whitened
from experiments.training.whitened import fit_whitened, look_ahead, triangle
from pndm.data import Dataset, to_model
from pndm.errors import OptionError
from pndm.metrics.classifier import dump_classifier

CPU = torch.device("cpu")
TINY = ClassifierTrainConfig(
    architecture="whitened", widths=(6, 8), epochs=6, batch=20, lr=0.1, momentum=0.85, shift=1, bf16=False
)


@pytest.fixture
def stripes():
    """An easy data set of colour images: horizontal or vertical stripes under noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (200,), generator=generator)
    bars = (torch.arange(9) % 4 < 2).float() * 150
    pattern = torch.where(labels[:, None, None] == 0, bars[:, None], bars[None, :])
    noise = torch.rand(200, 3, 9, 9, generator=generator) * 100
    return Dataset((pattern[:, None] + noise).to(torch.uint8), labels, "stripes", ("rows", "columns"))


def test_learns(tmp_path, stripes):
    model, losses, seconds = fit_whitened(TINY, stripes, tmp_path, CPU)
    reached = (model(to_model(stripes.images)).argmax(1) == stripes.labels).float().mean()
    assert reached > 0.95
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    assert seconds > 0


@pytest.mark.parametrize("bf16", [False, True])
def test_stopped_run_continues_bit_equal(tmp_path, stripes, monkeypatch, bf16):
    config = dataclasses.replace(TINY, bf16=bf16)
    whole, losses, _ = fit_whitened(config, stripes, tmp_path / "whole", CPU)
    save = checkpoints.save

    def save_and_stop(out, groups, state):
        save(out, groups, state)
        if state["iteration"] == 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit_whitened(config, stripes, tmp_path / "parts", CPU)
    parts, continued, _ = fit_whitened(config, stripes, tmp_path / "parts", CPU)
    assert dump_classifier(parts) == dump_classifier(whole)
    assert continued == losses


def test_another_configuration_is_refused(tmp_path, stripes):
    fit_whitened(dataclasses.replace(TINY, epochs=1), stripes, tmp_path, CPU)
    with pytest.raises(OptionError, match=r"batch 25 is not the 20 .* another output folder"):
        fit_whitened(dataclasses.replace(TINY, epochs=1, batch=25), stripes, tmp_path, CPU)


def test_divergence_is_named(tmp_path, stripes):
    with pytest.raises(OptionError, match=r"lr is 1e[+]30: the loss is no longer finite"):
        fit_whitened(dataclasses.replace(TINY, lr=1e30), stripes, tmp_path, CPU)
    assert checkpoints.latest(tmp_path) is None


def test_every_image_is_mirrored_in_every_second_epoch(tmp_path, stripes, monkeypatch):
    seen = []
    cropped = whitened.cropped

    def noted(padded, corners, mirrored, shift):
        pixels = padded.flatten(1).long()
        seen.append(((pixels * torch.arange(1, pixels.shape[1] + 1)).sum(1), mirrored[:, 0]))
        return cropped(padded, corners, mirrored, shift)

    monkeypatch.setattr(whitened, "cropped", noted)
    fit_whitened(dataclasses.replace(TINY, epochs=3), stripes, tmp_path, CPU)
    epochs = [seen[start : start + 10] for start in (0, 10, 20)]
    sides = []
    for parts in epochs:
        keys, mirrored = (torch.cat(columns) for columns in zip(*parts, strict=True))
        sides.append(mirrored[keys.argsort()])
    assert torch.cat([keys for keys, _ in epochs[0]]).unique().numel() == 200  # so that a key tells one from another
    assert torch.equal(sides[0], ~sides[1])
    assert torch.equal(sides[0], sides[2])
    assert 0.3 < sides[0].float().mean() < 0.7


def test_learning_rate_is_a_triangle():
    assert [triangle(p) for p in (0.0, 0.115, 0.23, 0.615, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 0.535, 0.07])


def test_look_ahead():
    weights, slow = {"w": torch.tensor([2.0])}, {"w": torch.tensor([0.0])}
    look_ahead(weights, slow, 0.75)
    assert weights["w"] == slow["w"] == 0.5
    weights["w"].fill_(7.0)
    look_ahead(weights, slow, 1.0)
    assert weights["w"] == slow["w"] == 0.5
