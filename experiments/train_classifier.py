"""Train the classifier of `frechet_features`, and write it with its statistics and its sanity rows.

    python run.py experiment=train_classifier

It is run once for a data set, and its three files are committed with the package (pndm/metrics/data/<data>).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments import records
from pndm.data import Dataset, load, to_model, to_uint8
from pndm.errors import OptionError
from pndm.metrics.classifier import Classifier, ClassifierConfig, dump_classifier, load_classifier
from pndm.metrics.frechet import (
    CLASSIFIER,
    RECORD,
    STATISTICS,
    GaussianStatistics,
    feature_batches,
    frechet_distance,
)


@dataclass
class ClassifierTrainConfig:
    """How the classifier is trained. The defaults reach 93 % on Fashion-MNIST in minutes on two cores."""

    data: str = "fashion-mnist"
    folder: str | None = None  # of the data files; None searches the usual places
    widths: tuple[int, ...] = (24, 48, 96)
    blocks: int = 1
    epochs: int = 15
    batch: int = 256
    lr: float = 0.15  # the peak of the one-cycle schedule
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    shift: int = 2  # random translation by up to this many pixels
    flip: bool = True  # random mirror images
    bf16: bool = True  # autocast; half the time on processors that have it
    seed: int = 0
    limit: int = 0  # use only the first so many images of each split (0: all), for tests

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}: a whole number of at least 1 is accepted")
        for name in ("lr", "shift", "limit", "weight_decay"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}: a number of at least 0 is accepted")


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) moved by up to `shift` pixels (background comes in) and mirrored by chance."""
    count, _, height, width = images.shape
    dy, dx = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5) if flip else torch.zeros(count, 1, dtype=torch.bool)
    rows, columns = torch.arange(height) + dy, torch.arange(width) + dx
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = nn.functional.pad(images, (shift,) * 4)
    which = torch.arange(count)[:, None, None]
    device = images.device
    picked = padded[which.to(device), :, rows[:, :, None].to(device), columns[:, None, :].to(device)]
    return picked.permute(0, 3, 1, 2)


def fit(config: ClassifierTrainConfig, train: Dataset, device: torch.device) -> Classifier:
    """The trained network, folded. SGD with Nesterov momentum; one learning-rate cycle (Smith, 2018)."""
    torch.manual_seed(config.seed)  # initial weights
    generator = torch.Generator().manual_seed(config.seed)  # order and augmentation
    channels, size = train.images.shape[1:3]
    architecture = ClassifierConfig(channels, size, len(train.classes), config.widths, config.blocks)
    model = Classifier(architecture).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    images, labels = train.images.to(device), train.labels.to(device)
    batches = max(len(images) // config.batch, 1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * batches + 1)
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    with tqdm(total=config.epochs * batches, desc="training classifier", mininterval=1.0) as bar:
        for epoch in range(config.epochs):
            order = torch.randperm(len(images), generator=generator).to(device)
            running = torch.zeros((), device=device)
            for chosen in order.split(config.batch)[:batches]:
                x = to_model(augment(images[chosen], config.shift, config.flip, generator))
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    loss = loss_function(model(x), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
                running += loss.detach()
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{running.item() / batches:.4f}")
            if not math.isfinite(running.item()):
                raise OptionError(
                    f"lr is {config.lr}: the loss is no longer finite in epoch {epoch + 1}, take a lower one"
                )
    return model.fold()


@torch.inference_mode()
def accuracy(model: Classifier, data: Dataset, batch: int = 250) -> float:
    """Share of images whose most likely class is their label."""
    device = next(model.parameters()).device
    parts = zip(data.images.split(batch), data.labels.split(batch), strict=True)
    correct = sum((model(to_model(x.to(device))).argmax(1).cpu() == y).sum().item() for x, y in parts)
    return correct / len(data)


def noise_images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """What a sampler starts from, as it would be saved: standard normal noise, clamped and quantised."""
    return to_uint8(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def sanity_images(test: Dataset) -> dict[str, Tensor]:
    """Image sets whose distance to the training set shows what a value of the metric means."""
    images, labels = test.images, test.labels
    blurred = nn.functional.avg_pool2d(images.float(), 3, 1, 1).round().to(torch.uint8)
    return {
        "test": images,
        "test_half": images[: len(images) // 2],
        "test_without_class_0": images[labels != 0],
        "test_blurred_3x3": blurred,
        "noise": noise_images(tuple(images.shape)),
    }


def statistics_of(images: Tensor, model: Classifier) -> GaussianStatistics:
    """Statistics of the features of all `images`, streamed."""
    statistics = GaussianStatistics(model.config.features)
    for features in feature_batches(images, model):
        statistics.update(features)
    return statistics


def train_classifier(config: ClassifierTrainConfig, out: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Train, test, and write classifier, statistics and record (which is returned) into the folder `out`.

    Everything after training uses the classifier as read back from its half-precision file, so that the statistics
    belong to the features that users will compute. The record comes last and holds the hashes of the other two.
    """
    started = time.perf_counter()
    device = torch.device(device)
    train, test = (_limited(load(config.data, config.folder, split), config.limit) for split in ("train", "test"))
    out.mkdir(parents=True, exist_ok=True)
    trained = fit(config, train, device)
    seconds_training = time.perf_counter() - started
    records.write(out / CLASSIFIER, dump_classifier(trained))

    shipped = load_classifier(out / CLASSIFIER).to(device)
    halves = [statistics_of(part, shipped) for part in train.images.chunk(2)]
    between_halves = frechet_distance(*halves)
    reference = halves[0].merge(halves[1])
    records.write(out / STATISTICS, reference.dump())
    sanity = {
        name: {"n": len(images), "frechet_features": frechet_distance(statistics_of(images, shipped), reference)}
        for name, images in sanity_images(test).items()
    }
    sanity["train_half_to_other_half"] = {"n": len(train) // 2, "frechet_features": between_halves}
    record = {
        "kind": "classifier",
        "config": dataclasses.asdict(config),
        "architecture": dataclasses.asdict(shipped.config),
        "parameters": sum(p.numel() for p in shipped.parameters()),
        "accuracy": {
            "test": accuracy(shipped, test),
            "test_before_rounding": accuracy(trained, test),
            "train": accuracy(shipped, train),
            "n_test": len(test),
        },
        "sanity": sanity,
        "seeds": {"training": config.seed, "noise": 0},
        "sha256": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (CLASSIFIER, STATISTICS)},
        "seconds": {"training": seconds_training, "total": time.perf_counter() - started},
        "device": str(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    records.write(out / RECORD, json.dumps(record, indent=2) + "\n")
    return record


def _limited(data: Dataset, limit: int) -> Dataset:
    """The first `limit` images, or all."""
    return dataclasses.replace(data, images=data.images[:limit], labels=data.labels[:limit]) if limit else data
