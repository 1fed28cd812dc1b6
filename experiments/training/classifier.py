"""Train the classifier of `frechet_features`, and write it with its statistics and its sanity rows.

    python run.py experiment=train_classifier              Fashion-MNIST
    python run.py experiment=train_classifier_cifar10

It is run once for a data set, and its three files are committed (pndm/metrics/data/<data>, weights/features/<data>).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.config.training import ClassifierTrainConfig
from experiments.runs import records
from experiments.training import report
from experiments.training.augmentation import augment
from experiments.training.whitened import fit_whitened
from pndm.data import Dataset, load, to_model, to_uint8
from pndm.errors import OptionError
from pndm.metrics.classifier import Classifier, ClassifierConfig, Network, dump_classifier, load_classifier
from pndm.metrics.frechet import (
    CLASSIFIER,
    STATISTICS,
    GaussianStatistics,
    feature_batches,
    frechet_distance,
)

FAR_IMAGES = 2000  # of sets so far from the training set that few images measure the distance


def fit_residual(
    config: ClassifierTrainConfig, train: Dataset, device: torch.device
) -> tuple[Classifier, list[float], float]:
    """The trained network, folded, with the mean loss of each epoch and the seconds.

    SGD with Nesterov momentum; one learning-rate cycle (Smith, 2018).
    """
    started, losses = time.perf_counter(), []
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
            losses.append(running.item() / batches)
            bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.4f}")
            if not math.isfinite(losses[-1]):
                raise OptionError(
                    f"lr is {config.lr}: the loss is no longer finite in epoch {epoch + 1}, take a lower one"
                )
    return model.fold(), losses, time.perf_counter() - started


@torch.inference_mode()
def features_of(images: Tensor, model: Network) -> Tensor:
    """Features (N, d) of all `images`, on the CPU."""
    return torch.cat([features.cpu() for features in feature_batches(images, model)])


@torch.inference_mode()
def accuracy(features: Tensor, labels: Tensor, model: Network) -> float:
    """Share of images whose most likely class is their label."""
    logits = model.head(features.to(model.head.weight.device))
    return (logits.argmax(1).cpu() == labels).double().mean().item()


def noise_images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """What a sampler starts from, as it would be saved: standard normal noise, clamped and quantised."""
    return to_uint8(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def sanity_features(test: Dataset, features: Tensor, model: Network) -> dict[str, Tensor]:
    """Features of image sets whose distance to the training set shows what a value of the metric means.

    `features` are those of the test images.
    """
    few = test.images[:FAR_IMAGES]
    blurred = nn.functional.avg_pool2d(few.float(), 3, 1, 1).round().to(torch.uint8)
    return {
        "test": features,
        "test_half": features[: len(features) // 2],
        "test_without_class_0": features[test.labels != 0],
        "test_blurred_3x3": features_of(blurred, model),
        "noise": features_of(noise_images(tuple(few.shape)), model),
    }


def train_classifier(
    config: ClassifierTrainConfig,
    out: Path,
    device: str | torch.device = "cpu",
    head: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, test, and write classifier, statistics and record (which is returned) into the folder `out`.

    head: what the record begins with, of the command that asks for it (`experiments.runs.identity.head`).
    Everything after training uses the classifier as read back from its half-precision file, so that the statistics
    belong to the features that users will compute. The record comes last and holds the hashes of the other two.
    """
    device = torch.device(device)
    train, test = (load(config.data, config.folder, split, config.limit or None) for split in ("train", "test"))
    out.mkdir(parents=True, exist_ok=True)
    trained: Network
    if config.architecture == "whitened":
        trained, losses, seconds = fit_whitened(config, train, out, device)
    else:
        trained, losses, seconds = fit_residual(config, train, device)
    started = time.perf_counter()
    records.write(out / CLASSIFIER, dump_classifier(trained))

    shipped = load_classifier(out / CLASSIFIER).to(device)
    features = {"train": features_of(train.images, shipped), "test": features_of(test.images, shipped)}
    halves = [GaussianStatistics.of(part) for part in features["train"].chunk(2)]
    between_halves = frechet_distance(*halves)
    reference = halves[0].merge(halves[1])
    records.write(out / STATISTICS, reference.dump())
    sanity = {
        name: {"n": len(rows), "frechet_features": frechet_distance(GaussianStatistics.of(rows), reference)}
        for name, rows in sanity_features(test, features["test"], shipped).items()
    }
    sanity["train_half_to_other_half"] = {"n": len(train) // 2, "frechet_features": between_halves}
    an_epoch = max(len(train) // config.batch, 1) * min(config.batch, len(train))
    record = {
        **(head or _head(config, device)),
        "architecture": dataclasses.asdict(shipped.config),
        "parameters": sum(p.numel() for p in shipped.parameters()),
        "accuracy": {
            "test": accuracy(features["test"], test.labels, shipped),
            "train": accuracy(features["train"], train.labels, shipped),
            "n_test": len(test),
        },
        "sanity": sanity,
        "seeds": {"training": config.seed, "noise": 0},
        "files": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (CLASSIFIER, STATISTICS)},
        "loss": losses,
        "seconds": {"training": seconds, "measuring": time.perf_counter() - started},
        "images_per_second": round(config.epochs * an_epoch / seconds, 2),
    }
    records.write_record(out, record)
    print(report.of_classifier(record, out))
    return record


def _head(config: ClassifierTrainConfig, device: torch.device) -> dict[str, Any]:
    """What the record of a training begins with that no command asked for, and that so has no key."""
    return {
        "schema": records.SCHEMA,
        "experiment": "train_classifier",
        "config": dataclasses.asdict(config),
        **records.environment(device),
    }
