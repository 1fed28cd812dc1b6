"""A small image classifier whose penultimate features are the space in which `frechet_features` measures distance.

It is trained by this project (experiments/training/classifier.py), so that the metric needs no download. It is shipped
folded: the batch normalisation is multiplied into the convolutions, which leaves only convolutions, SiLU and one
dense layer, and makes an image's features independent of the batch it is in.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pndm.errors import OptionError
from pndm.metrics.folding import FoldingUnit, as_input, check_architecture, folded
from pndm.metrics.whitened import WhitenedClassifier, WhitenedConfig

# The metadata's one key (several come out in any order): which of our networks, and its configuration.
KIND, WHITENED = "pndm.classifier", "pndm.whitened_classifier"


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture of a `Classifier`. The defaults are Fashion-MNIST's."""

    channels: int = 1
    size: int = 28
    classes: int = 10
    widths: tuple[int, ...] = (24, 48, 96)  # channels a level; each level after the first halves the resolution
    blocks: int = 1  # residual blocks in each level after the first

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # a list when it comes from JSON
        numbers = {"channels": self.channels, "size": self.size, "classes": self.classes, "blocks": self.blocks}
        check_architecture(numbers, self.widths)

    @property
    def features(self) -> int:
        """Dimension of the penultimate features."""
        return self.widths[-1]


class ConvUnit(FoldingUnit):
    """3×3 convolution, batch normalisation, SiLU. Smooth, so that features move smoothly with the image."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """x + two convolution units of x."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = ConvUnit(width, width), ConvUnit(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Classifier(nn.Module):
    """Residual CNN: (B, channels, size, size) in [-1, 1] -> features (B, config.features) -> logits (B, classes)."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [ConvUnit(config.channels, config.widths[0])]
        for before, width in zip(config.widths, config.widths[1:], strict=False):
            layers.append(ConvUnit(before, width, stride=2))
            layers += [ResidualBlock(width) for _ in range(config.blocks)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(config.features, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: the last feature map averaged over its pixels, (B, config.features)."""
        return self.body(as_input(x, self.config)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def fold(self) -> Classifier:
        """This network, in evaluation mode, with every batch normalisation folded into its convolution (in place)."""
        return folded(self)


Network = Classifier | WhitenedClassifier


def dump_classifier(model: Network) -> bytes:
    """A folded classifier as a safetensors file: half-precision weights, its configuration in the metadata."""
    kind = KIND if isinstance(model, Classifier) else WHITENED
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    return save(weights, {kind: json.dumps(dataclasses.asdict(model.config))})


def load_classifier(path: str | Path) -> Network:
    """Read a file of `dump_classifier`: float32, evaluation mode, no gradients. Never a pickle.

    Raises OptionError for a file that is missing, truncated, not safetensors, or of another network.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, not a dict
    except FileNotFoundError:
        raise OptionError(f"classifier file {str(path)!r} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise OptionError(
            f"classifier file {str(path)!r} cannot be read as safetensors, the only format accepted ({error})"
        ) from None
    if KIND not in metadata and WHITENED not in metadata:
        raise OptionError(
            f"classifier file {str(path)!r} holds another network: {KIND!r} and {WHITENED!r} are accepted"
        )
    try:
        if KIND in metadata:
            model: Network = Classifier(ClassifierConfig(**json.loads(metadata[KIND]))).fold()
        else:
            model = WhitenedClassifier(WhitenedConfig(**json.loads(metadata[WHITENED]))).fold()
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(f"classifier file {str(path)!r} does not match its own configuration ({reason})") from None
    return model.requires_grad_(False)
