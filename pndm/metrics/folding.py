"""What the classifiers have in common: normalisation that folds into the convolution before it, and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pndm.errors import OptionError

M = TypeVar("M", bound=nn.Module)


class Accepts(Protocol):
    """The part of a configuration that says which images a network takes."""

    @property
    def channels(self) -> int: ...

    @property
    def size(self) -> int: ...


class FoldingUnit(nn.Module):
    """A convolution `conv` and, at some later place that a positive factor passes through, its normalisation `norm`."""

    conv: nn.Conv2d
    norm: nn.Module

    def fold(self) -> None:
        """Multiply the normalisation into the convolution (evaluation mode only)."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


def folded(network: M) -> M:
    """The network itself, in evaluation mode, with every normalisation folded into its convolution (in place)."""
    network.eval()
    for module in network.modules():
        if isinstance(module, FoldingUnit):
            module.fold()
    return network


def as_input(x: Tensor, config: Accepts) -> Tensor:
    """Images (B, C, H, W) in channels-last memory. Raises OptionError for those of another shape than accepted."""
    expected = (config.channels, config.size, config.size)
    if tuple(x.shape[1:]) != expected:
        raise OptionError(f"images have shape {tuple(x.shape[1:])}: this classifier accepts {expected}")
    return x.contiguous(memory_format=torch.channels_last)


def check_architecture(numbers: Mapping[str, object], widths: tuple[int, ...]) -> None:
    """Raise OptionError for a number or width that is not whole and positive, and where there is no width."""
    for name, value in {**numbers, **{f"widths[{i}]": width for i, width in enumerate(widths)}}.items():
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"classifier option {name} is {value!r}: a whole number of at least 1 is accepted")
    if not widths:
        raise OptionError("classifier option widths is empty: at least one number of channels is accepted")
