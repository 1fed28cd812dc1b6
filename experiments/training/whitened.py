"""The recipe that trains a `WhitenedClassifier`: airbench94's (Jordan 2024), in our own words.

What makes it quick: the whitening layer, identity-like initial convolutions, normalisation biases that learn 64 times
faster, every image mirrored in every second epoch (and not by chance), and Lookahead: every fifth step the weights
return to an average of themselves, which the last step leaves behind.

A run that was killed continues from its last whole epoch, with the same result.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.config.training import ClassifierTrainConfig
from experiments.training import checkpoints
from experiments.training.augmentation import cropped, reflected
from pndm.data import Dataset, to_model
from pndm.errors import OptionError
from pndm.metrics.whitened import PooledUnit, WhitenedClassifier, WhitenedConfig

BIAS_FACTOR = 64
LOOKAHEAD_EVERY = 5
WHITENING_EPOCHS = 3  # in which the first layer's bias learns; after them nothing flows back into it
WHITENING_IMAGES = 5000


def fit_whitened(
    config: ClassifierTrainConfig, train: Dataset, out: Path, device: torch.device
) -> tuple[WhitenedClassifier, list[float], float]:
    """The trained network, folded, with the mean loss of each epoch and the seconds. `out` holds its checkpoints."""
    torch.manual_seed(config.seed)  # initial weights
    channels, size = train.images.shape[1:3]
    model = WhitenedClassifier(WhitenedConfig(channels, size, len(train.classes), config.widths)).to(device)
    model.whiten(to_model(train.images[:WHITENING_IMAGES].to(device)))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    padded, labels = reflected(train.images, config.shift).to(device), train.labels.to(device)
    mirrored = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(config.seed)) < 0.5

    optimizer = _optimizer(model, config)
    weights = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    slow = {name: value.clone() for name, value in weights.items()}
    momenta = {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters() if p.requires_grad}
    groups = {"weights": weights, "slow": slow, "momenta": momenta}
    batches = max(len(labels) // config.batch, 1)
    total, first, losses, seconds = config.epochs * batches, 0, [], 0.0
    if found := checkpoints.latest(out):
        state = checkpoints.read_state(found)
        _check_same(config, state["config"], found)
        checkpoints.load(found, groups)
        first, losses, seconds = state["iteration"] // batches, state["losses"], state["seconds"]

    model.train()
    with tqdm(total=total, initial=first * batches, desc="training classifier", mininterval=1.0) as bar:
        for epoch in range(first, config.epochs):
            began = time.perf_counter()
            model.whitening.bias.requires_grad_(epoch < WHITENING_EPOCHS)  # type: ignore[union-attr]
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch + 1)
            order = torch.randperm(len(labels), generator=generator)
            running = torch.zeros((), device=device)
            for i, chosen in enumerate(order.split(config.batch)[:batches], start=epoch * batches):
                corners = torch.randint(2 * config.shift + 1, (2, len(chosen), 1), generator=generator)
                flipped = (mirrored[chosen] ^ (epoch % 2 == 1)) & config.flip
                there = chosen.to(device)
                x = to_model(cropped(padded[there], corners, flipped, config.shift))
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    logits = model(x)
                loss = nn.functional.cross_entropy(
                    logits.float(), labels[there], label_smoothing=config.label_smoothing
                )
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * triangle(i / total)
                optimizer.step()
                optimizer.zero_grad()
                running += loss.detach()
                if (i + 1) % LOOKAHEAD_EVERY == 0:
                    look_ahead(weights, slow, 0.95**LOOKAHEAD_EVERY * ((i + 1) / total) ** 3)
                bar.update()
            losses.append(running.item() / batches)
            seconds += time.perf_counter() - began
            bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.4f}")
            if not math.isfinite(losses[-1]):
                raise OptionError(
                    f"lr is {config.lr}: the loss is no longer finite in epoch {epoch + 1}, take a lower one"
                )
            progress = {"iteration": (epoch + 1) * batches, "losses": losses, "seconds": seconds}
            checkpoints.save(out, groups, {**progress, "config": _plain(config)})
    look_ahead(weights, slow, 1.0)
    return model.fold(), losses, seconds


def _check_same(config: ClassifierTrainConfig, stored: dict[str, Any], checkpoint: Path) -> None:
    """Raise OptionError where a run would be continued with another configuration than it was started with."""
    for key, value in _plain(config).items():
        if key != "folder" and stored.get(key, value) != value:  # an option newer than the run is not there
            raise OptionError(
                f"{key} {value!r} is not the {stored[key]!r} with which the run in {checkpoint.parent} was started: "
                f"give that value, or another output folder"
            )


def _plain(config: ClassifierTrainConfig) -> dict[str, Any]:
    """As JSON gives it back (tuples as lists), so that it can be compared with a stored one."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _optimizer(model: WhitenedClassifier, config: ClassifierTrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum. The decay per step is the same for all weights, whatever their learning rate."""
    biases = [unit.norm.bias for unit in model.modules() if isinstance(unit, PooledUnit)]
    others = [p for p in model.parameters() if p.requires_grad and not any(p is bias for bias in biases)]
    groups = [
        {"params": biases, "peak": config.lr * BIAS_FACTOR, "weight_decay": config.weight_decay / BIAS_FACTOR},
        {"params": others, "peak": config.lr, "weight_decay": config.weight_decay},
    ]
    optimizer = torch.optim.SGD(groups, config.lr, config.momentum, nesterov=True)
    for (
        group
    ) in optimizer.param_groups:  # made here and not at the first step, so that a continued run is no special case
        for p in group["params"]:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def triangle(progress: float) -> float:
    """The learning rate's share of its peak: 0.2 at the start, 1 at 23 % of the run, 0.07 at its end."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 1 - 0.93 * (progress - 0.23) / 0.77


@torch.no_grad()
def look_ahead(weights: dict[str, Tensor], slow: dict[str, Tensor], decay: float) -> None:
    """Move the slow weights towards the weights, by all but `decay`, and the weights to them."""
    for name, value in slow.items():
        value.lerp_(weights[name], 1 - decay)
        weights[name].copy_(value)
