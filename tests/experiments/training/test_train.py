"""Training: it learns, a killed run continues with the same bits, and mistakes are refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.config.training import TrainConfig, learning_rate, wants_bf16, wants_channels_last
from experiments.runs import records
from experiments.training import checkpoints, loss_curve
from experiments.training.train import Trainer, train
from pndm.errors import ModelError, OptionError
from pndm.models.checkpoint import load_checkpoint
from pndm.models.unet import UNetConfig
from tests.experiments.runs.test_tensorboard import read_events

ARCHITECTURE = UNetConfig(
    image_size=28, in_channels=1, channels=(8, 16), attention=(False, True), blocks=1, patch=2, groups=8
)
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for MNIST of the right size: bright rectangles, whose place is their class."""
    folder = tmp_path_factory.mktemp("mnist")
    pixels = np.zeros((10, 28, 28), dtype=np.uint8)
    for label in range(10):
        pixels[label, 4 + label : 14 + label, 6:22] = 200 + label
    for stem, count, zeros in (("train", 60000, 5923), ("t10k", 10000, 980)):
        labels = np.concatenate([np.zeros(zeros), np.arange(count - zeros) % 9 + 1]).astype(np.uint8)
        labels = labels[np.random.default_rng(0).permutation(count)]
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(
            bytes((0, 0, 8, 3)) + struct.pack(">3I", count, 28, 28) + pixels[labels].tobytes()
        )
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(
            bytes((0, 0, 8, 1)) + struct.pack(">I", count) + labels.tobytes()
        )
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network gains nothing from a second thread, and waits for it when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_figure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs do: only the test that looks at the figure has it drawn."""
    if request.function is not test_learns_and_leaves_everything:
        monkeypatch.setattr(loss_curve, "plot", lambda out, record: None)


@pytest.fixture
def config(data_folder: Path) -> TrainConfig:
    return TrainConfig(
        data="mnist", data_folder=str(data_folder), batch=8, iterations=30, lr=2e-3, warmup=5, limit=70, amp="none",
        checkpoint_minutes=1000, validate_every=12, validate_images=16, progress=False,
    )  # fmt: skip


def contents(out: Path) -> dict[str, Any]:
    """The newest checkpoint, less what differs between two equal runs, and the model's bytes."""
    checkpoint = checkpoints.latest(out)
    assert checkpoint is not None
    state = checkpoints.read_state(checkpoint)
    for key in ("seconds", "continued_from", "config"):
        del state[key]
    pieces = {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}
    return {"name": checkpoint.name, "state": state, **pieces, "model": (out / "model.safetensors").read_bytes()}


def assert_tidy(out: Path) -> None:
    """One checkpoint, and nothing half-written."""
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []
    assert len(list(out.glob("checkpoint-*"))) == 1


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal during an iteration, once."""
    step, sent = Trainer._step, []

    def step_and_signal(self: Trainer) -> None:
        step(self)
        if self.iteration == iteration and not sent:
            sent.append(number)
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "_step", step_and_signal)


def test_learns_and_leaves_everything(tmp_path: Path, config: TrainConfig) -> None:
    record = train(dataclasses.replace(config, iterations=120, batch=16), ARCHITECTURE, tmp_path)
    assert record["loss"][-1][1] < 0.6 * record["loss"][0][1]
    assert record["validation_loss"][-1][1] < 0.6 * record["validation_loss"][0][1]
    assert [point[0] for point in record["loss"]] == [20, 40, 60, 80, 100, 120]
    assert [point[0] for point in record["validation_loss"]] == list(range(12, 121, 12))
    assert record["finished"]
    assert record["images_seen"] == 1920
    assert record["seconds"] > 0
    assert record["architecture"]["channels"] == [8, 16]
    assert record["versions"]["torch"] == torch.__version__
    assert records.read_record(tmp_path / "record.json") == record
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (tmp_path / "loss.svg").read_bytes()
    model, metadata = load_checkpoint(tmp_path / "model.safetensors")
    assert model.config == ARCHITECTURE
    assert {"schedule": "linear", "predicts": "eps", "data": "mnist"}.items() <= metadata.items()
    assert_tidy(tmp_path)

    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    stored = load_file(checkpoint / "piece-0000.safetensors")
    for name, weight in model.named_parameters():  # the model is the averaged weights, not the live ones
        assert torch.equal(weight, stored[f"ema/{name}@0"].view(weight.shape).half().float())
    assert not torch.equal(stored["ema/conv_out.weight@0"], stored["weights/conv_out.weight@0"])


@pytest.mark.parametrize("mode", [{}, {"amp": "bf16"}, {"channels_last": True, "flip": True, "weight_decay": 0.01}])
def test_stopped_run_continues_bit_equal(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    config = dataclasses.replace(config, **mode)
    train(config, ARCHITECTURE, tmp_path / "whole")
    stop_at(monkeypatch, 16)
    before = signal.getsignal(signal.SIGTERM)
    record = train(config, ARCHITECTURE, tmp_path / "parts")
    assert signal.getsignal(signal.SIGTERM) is before
    assert (record["iteration"], record["finished"], record["stopped_by"]) == (17, False, "SIGTERM")
    record = train(config, ARCHITECTURE, tmp_path / "parts")
    assert (record["iteration"], record["finished"], record["continued_from"]) == (30, True, [17])
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    assert_tidy(tmp_path / "parts")


def test_dropout_continues_bit_equal(tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = dataclasses.replace(ARCHITECTURE, dropout=0.3)
    train(config, architecture, tmp_path / "whole")
    stop_at(monkeypatch, 9, signal.SIGINT)
    assert train(config, architecture, tmp_path / "parts")["stopped_by"] == "SIGINT"
    torch.randn(7)  # whatever else used the global generator meanwhile
    train(config, architecture, tmp_path / "parts")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


CHILD = """
import json, sys
from pathlib import Path
import torch
from experiments.config.training import TrainConfig
from experiments.training.train import train
from pndm.models.unet import UNetConfig
config, architecture, out = sys.argv[1:]
torch.set_num_threads(1)
train(TrainConfig(**json.loads(config)), UNetConfig.from_dict(json.loads(architecture)), Path(out))
"""


def test_killed_run_continues_bit_equal(tmp_path: Path, config: TrainConfig) -> None:
    """SIGKILL, at whatever moment it falls, of a process that writes a checkpoint after every iteration."""
    config = dataclasses.replace(config, iterations=60, validate_every=50)
    out = tmp_path / "killed"
    eager = dataclasses.replace(config, checkpoint_minutes=0)
    arguments = [json.dumps(dataclasses.asdict(eager)), json.dumps(ARCHITECTURE.to_dict()), str(out)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while (checkpoints.latest(out) or out / "checkpoint-0").name < "checkpoint-00000004":
        assert child.poll() is None, child.communicate()[1].decode()
        assert time.monotonic() < deadline, "no checkpoint after two minutes"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    record = train(config, ARCHITECTURE, out)
    assert 4 <= record["continued_from"][0] < 60
    train(config, ARCHITECTURE, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert_tidy(out)


def test_finished_run_is_left_as_it_is_and_can_be_extended(tmp_path: Path, config: TrainConfig) -> None:
    train(config, ARCHITECTURE, tmp_path)
    first = contents(tmp_path)
    train(config, ARCHITECTURE, tmp_path)
    assert contents(tmp_path) == first
    record = train(dataclasses.replace(config, iterations=40), ARCHITECTURE, tmp_path)
    assert record["iteration"] == 40
    assert record["finished"]
    assert_tidy(tmp_path)
    with pytest.raises(OptionError, match="iterations 20 is below the 40"):
        train(dataclasses.replace(config, iterations=20), ARCHITECTURE, tmp_path)


def test_resume_from_another_folder(tmp_path: Path, config: TrainConfig) -> None:
    train(config, ARCHITECTURE, tmp_path / "first")
    longer = dataclasses.replace(config, iterations=35, resume=str(tmp_path / "first"))
    assert train(longer, ARCHITECTURE, tmp_path / "second")["continued_from"] == [30]
    assert contents(tmp_path / "first")["name"] == "checkpoint-00000030"
    with pytest.raises(OptionError, match=r"resume .* has no checkpoint"):
        train(dataclasses.replace(config, resume=str(tmp_path / "none")), ARCHITECTURE, tmp_path / "third")


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"batch": 4}, {"seed": 1}, {"ema": 0.9}, {"schedule": "cosine"}])
def test_another_configuration_is_refused(tmp_path: Path, config: TrainConfig, change: dict[str, Any]) -> None:
    config = dataclasses.replace(config, iterations=2)
    train(config, ARCHITECTURE, tmp_path)
    ((name, value),) = change.items()
    with pytest.raises(
        OptionError, match=f"{name} {value!r} is not the {getattr(config, name)!r}.*another output folder"
    ):
        train(dataclasses.replace(config, **change), ARCHITECTURE, tmp_path)


def test_another_architecture_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    config = dataclasses.replace(config, iterations=2)
    train(config, ARCHITECTURE, tmp_path)
    with pytest.raises(OptionError, match=r"channels \[16, 16\] is not the \[8, 16\]"):
        train(config, dataclasses.replace(ARCHITECTURE, channels=(16, 16)), tmp_path)


def test_where_and_how_fast_may_change(tmp_path: Path, config: TrainConfig) -> None:
    train(dataclasses.replace(config, iterations=2), ARCHITECTURE, tmp_path)
    other = dataclasses.replace(config, iterations=4, amp="bf16", channels_last=True, validate_every=0)
    assert train(other, ARCHITECTURE, tmp_path)["iteration"] == 4


@pytest.mark.parametrize("how", ["truncated", "missing", "no state", "not JSON"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, config: TrainConfig, how: str) -> None:
    train(dataclasses.replace(config, iterations=2), ARCHITECTURE, tmp_path)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    piece = checkpoint / "piece-0000.safetensors"
    if how == "truncated":
        piece.write_bytes(piece.read_bytes()[:-10])
    elif how == "missing":
        piece.unlink()
    elif how == "no state":
        (checkpoint / "state.json").unlink()
    else:
        (checkpoint / "state.json").write_text("{")
    with pytest.raises(OptionError, match=r"checkpoint .* cannot be read .*remove that folder"):
        train(config, ARCHITECTURE, tmp_path)


def test_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataclasses.replace(config, iterations=2), ARCHITECTURE, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(OptionError, match="No space left"):
            train(config, ARCHITECTURE, tmp_path)
    latest = checkpoints.latest(tmp_path)
    assert latest is not None
    assert latest.name == "checkpoint-00000002"
    assert_tidy(tmp_path)
    (tmp_path / ".checkpoint-00000007.part").mkdir()  # what a kill in the middle of writing leaves
    (tmp_path / ".checkpoint-00000007.part" / "piece-0000.safetensors").write_bytes(b"half")
    train(config, ARCHITECTURE, tmp_path)
    assert_tidy(tmp_path)


def test_pieces_are_small_and_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PIECE_BYTES", checkpoints._HEADER_BYTES + 1000)
    saved = {"a": {"w": torch.randn(40, 33), "b": torch.randn(3)}, "b": {"w": torch.randn(40, 33)}}
    checkpoint = checkpoints.save(tmp_path, saved, {"iteration": 1})
    pieces = list(checkpoint.glob("*.safetensors"))
    assert len(pieces) > 10
    assert max(path.stat().st_size for path in pieces) < 1600
    read = {group: {name: torch.zeros_like(tensor) for name, tensor in names.items()} for group, names in saved.items()}
    checkpoints.load(checkpoint, read)
    assert all(torch.equal(read[group][name], saved[group][name]) for group in saved for name in saved[group])
    with pytest.raises(OptionError, match="lacks tensor c/w"):
        checkpoints.load(checkpoint, {**read, "c": {"w": torch.zeros(3)}})


def test_divergence_is_named_and_not_saved(tmp_path: Path, config: TrainConfig) -> None:
    with pytest.raises(ModelError, match=r"training has diverged.*lower lr"):
        train(dataclasses.replace(config, lr=1e30, warmup=0, grad_clip=0), ARCHITECTURE, tmp_path)
    assert checkpoints.latest(tmp_path) is None
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"batch": 71}, "batch 71 is more than the 70 training images"),
        ({"iterations": 0}, "iterations 0"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"ema": 1.0}, "ema 1.0"),
        ({"warmup": -1}, "warmup -1"),
        ({"limit": 0}, "limit 0"),
        ({"amp": "bf61"}, "did you mean 'bf16'"),
        ({"data": "mnits"}, "did you mean 'mnist'"),
        ({"schedule": "liner"}, "did you mean 'linear'"),
        ({"schedule": "vp_linear"}, "no discrete training steps"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, config: TrainConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train(dataclasses.replace(config, **change), ARCHITECTURE, tmp_path)


def test_compile_without_a_compiler_is_refused(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(OptionError, match=r"C\+\+ compiler"):
        train(dataclasses.replace(config, compile=True), ARCHITECTURE, tmp_path)


def test_output_folder_that_cannot_be_made(tmp_path: Path, config: TrainConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"output folder .* cannot be made"):
        train(config, ARCHITECTURE, tmp_path / "file" / "out")


def test_batches(tmp_path: Path, config: TrainConfig) -> None:
    """Antithetic times, every image once in an epoch, and batches that depend on (seed, iteration) alone."""
    trainer = Trainer(config, ARCHITECTURE, tmp_path, CPU)
    x0, t, noise = trainer._batch(11)
    assert torch.equal(t[:4] + t[4:], torch.full((4,), 999))
    assert x0.shape == noise.shape == (8, 1, 28, 28)
    trainer._batch(3)
    for mine, again in zip((x0, t, noise), trainer._batch(11), strict=True):
        assert torch.equal(mine, again)
    assert not torch.equal(noise, trainer._batch(12)[2])
    odd = Trainer(dataclasses.replace(config, batch=7), ARCHITECTURE, tmp_path, CPU)
    assert odd._batch(0)[1].shape == (7,)
    trainer.images = torch.arange(70, dtype=torch.uint8).view(-1, 1, 1, 1)
    seen = torch.cat([trainer._batch(i)[0].flatten() for i in range(8, 16)])  # the second epoch
    assert seen.unique().numel() == 64


def test_learning_rate() -> None:
    config = TrainConfig(lr=1.0, warmup=10, iterations=1010)
    rates = [learning_rate(config, i) for i in range(1010)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert rates[510] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5


def test_amp() -> None:
    assert wants_bf16("bf16", CPU)
    assert not wants_bf16("none", CPU)
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    assert wants_bf16("auto", CPU) == ("avx512_bf16" in flags or "amx_bf16" in flags)


def test_memory_layout() -> None:
    cuda = torch.device("cuda")
    assert [wants_channels_last(TrainConfig(compile=c), d) for c in (False, True) for d in (CPU, cuda)] == [
        False, True, True, True,
    ]  # fmt: skip
    assert wants_channels_last(TrainConfig(channels_last=True), CPU)
    assert not wants_channels_last(TrainConfig(channels_last=False), cuda)


def test_curves_are_thinned() -> None:
    curve = [[float(i), 1.0 if i % 2 else 3.0] for i in range(1, 1401)]
    thinned = loss_curve.thin(curve)
    assert len(thinned) <= 500
    assert thinned[-1][0] == 1400
    assert loss_curve.thin(curve[:500]) == curve[:500]
    assert loss_curve.tail_mean(curve) == 2.0
    assert loss_curve.tail_mean([]) is None


def test_curves_in_tensorboard(tmp_path: Path, config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    for iterations in (20, 40):  # a run that goes on: one file, with all of it
        told = dataclasses.replace(config, tensorboard=True, iterations=iterations)
        record = train(told, ARCHITECTURE, tmp_path)
        scalars, _ = read_events(tmp_path)
        for tag, name in (("loss/training", "loss"), ("loss/held_out", "validation_loss")):
            assert scalars[tag] == [(step, pytest.approx(value)) for step, value in record[name]]
    assert len(scalars["loss/training"]) == 2
