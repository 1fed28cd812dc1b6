"""Checkpoints: what comes back, that files appear whole or not at all, and every refused file."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pndm.errors import OptionError
from pndm.models import checkpoint, pretrained
from pndm.models.checkpoint import load_checkpoint, save_checkpoint
from pndm.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(image_size=8, in_channels=1, channels=(8, 16), blocks=1, attention=(False, True), groups=4, patch=2)
WORDS = {"schedule": {"name": "linear", "steps": 1000}, "prediction": "eps", "note": "ᾱ"}


@pytest.fixture
def model() -> UNet:
    torch.manual_seed(0)
    model = UNet(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def path(tmp_path: Path, model: UNet) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, half=False, **WORDS)
    return path


def test_a_schedule_that_is_not_a_name_is_refused(tmp_path: Path, model: UNet) -> None:
    """Such a checkpoint is not ours: training writes the name of the schedule."""
    path = tmp_path / "theirs.safetensors"
    save_checkpoint(path, model, half=False, schedule={"name": "linear"}, predicts="eps", data="mnist")
    with pytest.raises(
        OptionError, match=r"theirs\.safetensors: its metadata have no usable schedule: unknown schedule"
    ):
        pretrained.load(path)


def test_round_trip_is_exact(path: Path, model: UNet) -> None:
    loaded, metadata = load_checkpoint(path)
    assert loaded.config == CONFIG
    assert not loaded.training
    for (name, a), (other, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert {key: metadata[key] for key in WORDS} == WORDS
    assert metadata["architecture"] == CONFIG.to_dict()
    assert all(p.requires_grad for p in loaded.parameters())


def test_half_precision_halves_the_file(path: Path, model: UNet) -> None:
    half = path.with_name("half.safetensors")
    save_checkpoint(half, model, half=True)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    loaded, _ = load_checkpoint(half)
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loads_in_any_dtype(path: Path, dtype: torch.dtype) -> None:
    loaded, _ = load_checkpoint(path, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_saves_compiled_and_channels_last_networks(path: Path, model: UNet) -> None:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_checkpoint(path, torch.compile(model), half=False)  # type: ignore[arg-type]
    loaded, _ = load_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_creates_the_folder(tmp_path: Path, model: UNet) -> None:
    save_checkpoint(tmp_path / "a" / "b" / "model.safetensors", model, half=True)
    load_checkpoint(tmp_path / "a" / "b" / "model.safetensors")


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


class FullDisk(io.FileIO):
    """A file that takes 100 bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")

    def write(self, data: bytes) -> int:  # type: ignore[override]
        super().write(data[:100])
        fail()
        return 0


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    path: Path, model: UNet, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = path.read_bytes()

    if broken == "write":
        monkeypatch.setattr(checkpoint, "open", lambda path, mode: FullDisk(path), raising=False)
    else:
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OptionError, match=r"cannot be written .No space left on device"):
        save_checkpoint(path, model, half=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ---- what is refused


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such file"):
        load_checkpoint(tmp_path / "nothing.safetensors")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 5000, -1])
def test_truncated(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OptionError, match="truncated or damaged"):
        load_checkpoint(path)


def test_damaged_tensors(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(OptionError, match="checksum"):
        load_checkpoint(path)


def test_damaged_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[12] ^= 255
    path.write_bytes(data)
    with pytest.raises(OptionError, match="truncated or damaged"):
        load_checkpoint(path)


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os._exit, (13,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_pickles_are_refused_unopened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.ckpt"
    if kind == "bare":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"bomb": Bomb()}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(OptionError, match=r"is a pickle .* convert it to safetensors"):
        load_checkpoint(path)


def test_other_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(OptionError, match="not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"pndm": "{"}, {"pndm": "[]"}, {"pndm": "{}"}])
def test_metadata_missing(path: Path, model: UNet, metadata: dict | None) -> None:
    safetensors.torch.save_file(model.state_dict(), path, metadata=metadata)
    with pytest.raises(OptionError, match="architecture is unknown"):
        load_checkpoint(path)


def rewrite(path: Path, tensors: dict | None = None, **changes: object) -> None:
    """The same checkpoint with other tensors or other metadata."""
    with safetensors.safe_open(path, framework="pt") as file:
        entry = json.loads(file.metadata()["pndm"])
    tensors = tensors or safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={"pndm": json.dumps({**entry, **changes})})


def test_other_format(path: Path) -> None:
    rewrite(path, format=2)
    with pytest.raises(OptionError, match=r"has format 2.*reads format 1"):
        load_checkpoint(path)


@pytest.mark.parametrize("architecture", [{"depth": 3}, {"channels": [7]}, "unet", None])
def test_architecture_not_valid(path: Path, architecture: object) -> None:
    rewrite(path, architecture=architecture)
    with pytest.raises(OptionError, match="architecture entry is not valid"):
        load_checkpoint(path)


def test_architecture_of_another_network(path: Path) -> None:
    rewrite(path, architecture={**CONFIG.to_dict(), "channels": [8, 24]})
    with pytest.raises(
        OptionError, match=r"down_blocks.1.resnets.0.conv1.weight has shape \(16, 8, 3, 3\).*\(24, 8, 3, 3\)"
    ):
        load_checkpoint(path)


def test_tensor_missing_and_tensor_too_many(path: Path, model: UNet) -> None:
    tensors = dict(model.state_dict())
    extra = {**tensors, "extra.weight": torch.zeros(2)}
    del tensors["conv_out.bias"]
    rewrite(path, tensors)
    with pytest.raises(OptionError, match=r"conv_out.bias \(4,\) .*is missing"):
        load_checkpoint(path)
    rewrite(path, extra)
    with pytest.raises(OptionError, match=r"extra.weight \(2,\) is not in its architecture"):
        load_checkpoint(path)


def test_unwritable(tmp_path: Path, model: UNet) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.safetensors", model, half=False)


def test_weight_beyond_half_precision(tmp_path: Path, model: UNet) -> None:
    with torch.no_grad():
        model.conv_in.weight[0] = 1e6
    with pytest.raises(OptionError, match=r"conv_in.weight does not fit half precision"):
        save_checkpoint(tmp_path / "model.safetensors", model, half=True)
    assert not list(tmp_path.iterdir())
