"""Random shifts and mirror images of whole batches of 8-bit images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) moved by up to `shift` pixels (background comes in) and mirrored by chance."""
    count = len(images)
    corners = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5) if flip else torch.zeros(count, 1, dtype=torch.bool)
    return cropped(nn.functional.pad(images, (shift,) * 4), corners, mirrored, shift)


def cropped(padded: Tensor, corners: Tensor, mirrored: Tensor, shift: int) -> Tensor:
    """From images padded by `shift` on every side, the windows of the original size at `corners` (2, B, 1), 0 to
    2 shift, mirrored where `mirrored` (B, 1)."""
    count, _, height, width = padded.shape
    rows, columns = torch.arange(height - 2 * shift) + corners[0], torch.arange(width - 2 * shift) + corners[1]
    columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    device = padded.device
    picked = padded[which.to(device), :, rows[:, :, None].to(device), columns[:, None, :].to(device)]
    return picked.permute(0, 3, 1, 2)


def reflected(images: Tensor, shift: int) -> Tensor:
    """Images (N, C, H, W) padded on every side by `shift` pixels of their own reflection."""
    parts = [nn.functional.pad(part.float(), (shift,) * 4, mode="reflect") for part in images.split(5000)]
    return torch.cat([part.to(images.dtype) for part in parts])
