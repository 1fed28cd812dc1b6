"""Between 8-bit pixels and what a network sees."""

from __future__ import annotations

import torch
from torch import Tensor


def to_model(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels 0..255 as floats in [-1, 1]."""
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [-1, 1] as pixels 0..255, rounded to the nearest and clamped."""
    x = x if x.dtype == torch.float64 else x.float()  # bfloat16 cannot count to 255 in steps of a half
    return x.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
