"""The classifier for colour images: a plain convolutional network behind a fixed whitening layer.

The architecture is airbench94's (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"), chosen because it
learns CIFAR-10 in the fewest operations known. Its normalisation has no scale and comes after the pooling; a positive
factor commutes with a maximum, so it folds into the convolution before it all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pndm.errors import OptionError
from pndm.metrics.folding import FoldingUnit, as_input, check_architecture, folded

WHITENING_FLOOR = 1.2e-4  # added to the variances of patches in [-1, 1]: rare directions would be noise, amplified


@dataclass(frozen=True)
class WhitenedConfig:
    """Architecture of a `WhitenedClassifier`: the defaults are airbench94's for CIFAR-10."""

    channels: int = 3
    size: int = 32
    classes: int = 10
    widths: tuple[int, ...] = (64, 256, 256)  # one entry a block; each block halves the resolution

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # a list when it comes from JSON
        check_architecture({"channels": self.channels, "classes": self.classes}, self.widths)
        if not isinstance(self.size, int) or (self.size - 1) >> len(self.widths) < 1:
            raise OptionError(
                f"classifier option size is {self.size!r}: {len(self.widths)} blocks need at least "
                f"{2 ** len(self.widths) + 1} pixels"
            )

    @property
    def features(self) -> int:
        """Dimension of the penultimate features."""
        return self.widths[-1]


class PooledUnit(FoldingUnit):
    """3×3 convolution, 2×2 maximum when `pool`, normalisation with a bias only, GELU."""

    def __init__(self, width_in: int, width_out: int, pool: bool):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        nn.init.dirac_(self.conv.weight.data[:width_in])  # starts by passing on what comes in
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm: nn.Module = nn.BatchNorm2d(width_out, momentum=0.6)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.norm(self.pool(self.conv(x))))


class WhitenedClassifier(nn.Module):
    """(B, channels, size, size) in [-1, 1] -> features (B, config.features) -> logits (B, classes)."""

    def __init__(self, config: WhitenedConfig):
        super().__init__()
        self.config = config
        patch = 4 * config.channels
        self.whitening = nn.Conv2d(config.channels, 2 * patch, 2)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]
        widths = (2 * patch, *config.widths)
        self.body = nn.Sequential(
            *(
                unit
                for before, width in zip(widths, config.widths, strict=False)
                for unit in (PooledUnit(before, width, pool=True), PooledUnit(width, width, pool=False))
            )
        )
        self.head = nn.Linear(config.features, config.classes, bias=False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the principal directions of 2×2 patches of `images`, each at unit variance, and their
        negatives (of which the activation keeps the other half)."""
        patches = nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1).double()
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        rows = (directions / (variances + WHITENING_FLOOR).sqrt()).T.flip(0).unflatten(1, (-1, 2, 2))
        self.whitening.weight.copy_(torch.cat((rows, -rows)))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: the maximum of the last feature map over its pixels, (B, config.features)."""
        x = self.whitening(as_input(x, self.config))
        return self.body(nn.functional.gelu(x)).amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) / 9

    def fold(self) -> WhitenedClassifier:
        """This network, in evaluation mode, with every normalisation folded into its convolution (in place)."""
        return folded(self)
