"""CIFAR-10 in miniature, through run.py: trained, continued from half-precision moments, sampled."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.config.training import TrainConfig
from experiments.training import checkpoints, loss_curve
from experiments.training.train import Trainer, train
from pndm import data
from pndm.models.unet import UNet, UNetConfig
from tests.experiments.conftest import run_main

COUNT = 40
MINIATURE = UNetConfig(channels=(8, 16), attention=(False, True), blocks=1, patch=4, groups=4)  # runs at 8×8 and 4×4
OPTIONS = ["model.architecture.channels=[8,16]", "model.architecture.attention=[false,true]",
           "model.architecture.blocks=1", "+model.architecture.patch=4", "model.architecture.groups=4"]  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A CIFAR-10 of 40 images, each of one colour, as binary files; and no figures."""
    few, first = {"train": COUNT, "test": COUNT}, {"train": COUNT // 10, "test": COUNT // 10}
    monkeypatch.setitem(
        data.SOURCES, "cifar10", dataclasses.replace(data.SOURCES["cifar10"], counts=few, first_class=first)
    )
    monkeypatch.setattr(loss_curve, "plot", lambda out, record: None)
    table = np.zeros((COUNT, 3073), dtype=np.uint8)
    table[:, 0] = np.arange(COUNT) % 10
    table[:, 1:] = np.repeat(np.random.default_rng(0).integers(0, 256, (COUNT, 3), dtype=np.uint8), 1024, axis=1)
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(table.tobytes())
    for i, rows in enumerate(np.split(table, 5), start=1):
        (folder / f"data_batch_{i}.bin").write_bytes(rows.tobytes())
    return folder


@pytest.fixture
def config(small: Path) -> TrainConfig:
    return TrainConfig(
        data="cifar10", data_folder=str(small), batch=8, iterations=60, lr=2e-3, warmup=5, flip=True, amp="none",
        checkpoint_minutes=1000, validate_every=0, progress=False,
    )  # fmt: skip


def test_trains_resumes_and_samples(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["experiment=train", "model=cifar10", f"experiment.data_folder={small}", *OPTIONS, "progress=false",
               "experiment.batch=8", "experiment.lr=2e-3", "experiment.warmup=5", "experiment.moments=bfloat16",
               f"output={tmp_path / 'run'}"]  # fmt: skip
    assert run_main(monkeypatch, *command, "experiment.iterations=30") == 0
    assert run_main(monkeypatch, *command, "experiment.iterations=60") == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["continued_from"] == [30]
    assert record["config"]["flip"] is True
    assert record["loss"][-1][1] < 0.97 * record["loss"][0][1]
    for schedule in ("linear", "cosine"):
        out = tmp_path / schedule
        drawn = ["solver=plms", "steps=5", "samples=3", f"schedule={schedule}", f"output={out}", "progress=false"]
        assert run_main(monkeypatch, f"model={tmp_path / 'run' / 'model.safetensors'}", *drawn) == 0
        x = load_file(out / "samples.safetensors")["x"]
        assert x.shape == (3, 3, 32, 32)
        assert x.isfinite().all()


def test_shipped_choice_is_below_20_million() -> None:
    from omegaconf import OmegaConf

    chosen = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[3] / "conf" / "model" / "cifar10.yaml"))
    with torch.device("meta"):
        network = UNet(UNetConfig.from_dict(chosen["architecture"]))  # type: ignore[index, call-overload]
    assert sum(p.numel() for p in network.parameters()) < 20e6


def test_half_precision_moments_cost_no_jump(tmp_path: Path, config: TrainConfig) -> None:
    """A run continued from rounded moments stays beside the one that was not stopped, and its checkpoint is smaller."""
    halfway = dataclasses.replace(config, iterations=40)  # the learning rate's cosine is another for 60
    train(halfway, MINIATURE, tmp_path / "exact")
    train(dataclasses.replace(halfway, moments="bfloat16"), MINIATURE, tmp_path / "rounded")
    size = {
        name: sum(f.stat().st_size for f in (tmp_path / name).glob("checkpoint-*/*")) for name in ("exact", "rounded")
    }
    assert size["rounded"] < 0.8 * size["exact"]
    stored = load_file(next((tmp_path / "rounded").glob("checkpoint-*/piece-0000.safetensors")))
    kinds = {key.partition("/")[0]: value.dtype for key, value in stored.items()}
    assert kinds == {"weights": torch.float32, "ema": torch.float32, "exp_avg": torch.bfloat16,
                     "exp_avg_sq": torch.bfloat16}  # fmt: skip
    longer = {
        name: train(dataclasses.replace(config, moments=moments), MINIATURE, tmp_path / name)
        for name, moments in (("exact", "float32"), ("rounded", "bfloat16"))
    }
    exact, rounded = (dict(longer[name]["loss"]) for name in ("exact", "rounded"))
    assert exact[40] == rounded[40]
    assert rounded[60] == pytest.approx(exact[60], rel=0.01)
    assert exact[60] < exact[20]


def test_images_are_mirrored_half_of_the_time(tmp_path: Path, config: TrainConfig) -> None:
    trainer = Trainer(config, MINIATURE, tmp_path, torch.device("cpu"))
    trainer.images = torch.zeros(COUNT, 3, 32, 32, dtype=torch.uint8)
    trainer.images[..., :16] = 255
    left = torch.cat([trainer._batch(i)[0][:, 0, 0, 0] for i in range(50)])
    assert set(left.tolist()) == {-1.0, 1.0}
    assert 0.4 < (left == 1).float().mean() < 0.6


def test_checkpoint_of_the_whole_network_is_in_pieces_of_16_mb(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(5_000_000), "b": torch.zeros(3, dtype=torch.bfloat16)}
    checkpoint = checkpoints.save(tmp_path, {"weights": tensors}, {"iteration": 1})
    assert max(path.stat().st_size for path in checkpoint.iterdir()) <= 16e6
