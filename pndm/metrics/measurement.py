"""Several metrics on the same samples: every batch goes once through each network that they look through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pndm.data import to_model, to_uint8
from pndm.metrics.classifier import Network
from pndm.metrics.estimate import Estimate, Metric

Look = Callable[[Tensor], Tensor]  # from states (B, C, H, W), images in [-1, 1], to what metrics are fed


def as_they_are(x: Tensor) -> Tensor:
    """The states themselves, for the paired error."""
    return x


def pixels(x: Tensor) -> Tensor:
    """The numbers of the 8-bit images that would be saved, as rows in [-1, 1]."""
    return to_model(to_uint8(x)).flatten(1)


def features_of(classifier: Network, device: torch.device) -> Look:
    """A classifier's penultimate features of the 8-bit images that would be saved."""
    classifier.to(device)
    return lambda x: classifier.features(to_model(to_uint8(x).to(device)))


def labels_of(classifier: Network, device: torch.device) -> Look:
    """The classes that a classifier sees in 8-bit images, (B,)."""
    classifier.to(device)
    return lambda images: classifier(to_model(images.to(device))).argmax(1)


@dataclass(frozen=True)
class Measurement:
    """Metrics by what they look at."""

    parts: Sequence[tuple[Look, Sequence[Metric]]]

    @torch.no_grad()
    def update(self, x: Tensor, indices: Sequence[int]) -> None:
        """Add samples (B, C, H, W), images in [-1, 1], with their indices in the run."""
        for look, metrics in self.parts:
            seen = look(x)
            for metric in metrics:
                metric.update(seen, indices)

    def merge(self, other: Self) -> None:
        """Add the samples behind another worker's measurement with the same metrics."""
        for (_, mine), (_, theirs) in zip(self.parts, other.parts, strict=True):
            for metric, same in zip(mine, theirs, strict=True):
                metric.merge(same)

    @torch.no_grad()
    def compute(self) -> dict[str, Estimate]:
        """What all metrics have found, by name."""
        return {
            name: found for _, metrics in self.parts for metric in metrics for name, found in metric.compute().items()
        }
