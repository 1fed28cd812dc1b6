"""Paired error: how far samples are from the reference solution that starts from the same noise.

It measures the solver and nothing else: what the network leaves to be desired is in both. A distance between
distributions needs thousands of samples to tell two solvers apart; here some tens are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from pndm.data import to_uint8
from pndm.metrics.estimate import Estimate, Means, Resampling, check_enough, estimate, share

LEAST_SQUARE = 1e-14  # mean squares below it are float32's rounding, and count as this much: 146 dB


class PairedError:
    """RMSE and PSNR to a reference solution, and the share of samples whose class it changes.

    reference: the true states (B, *shape) of the samples with the given indices. classify: labels (B,) of 8-bit images,
    if there is a classifier. floor: the error of the reference itself, asked when all is done. Of more than `most`
    samples the first are taken, by index.
    """

    least = 1

    def __init__(
        self,
        reference: Callable[[Sequence[int]], Tensor],
        classify: Callable[[Tensor], Tensor] | None = None,
        floor: Callable[[], float] | None = None,
        *,
        most: int | None = None,
        bootstrap: int = 200,
        seed: int = 0,
    ):
        self.reference, self.classify, self.floor, self.most = reference, classify, floor, most
        self.means = Means(3, Resampling(bootstrap, seed))

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add states (B, *shape), where images lie in [-1, 1]."""
        rows = [row for row, index in enumerate(indices) if self.most is None or index < self.most]
        if not rows:
            return
        indices = [indices[row] for row in rows]
        x, truth = features[rows].cpu(), self.reference(indices).cpu()
        squares = (x.double() - truth.double()).square().flatten(1).mean(1)
        psnr = 10 * (4 / squares.clamp_min(LEAST_SQUARE)).log10()  # the range of pixels, 2, squared
        changed = torch.zeros(len(rows))
        if self.classify is not None:
            changed = (self.classify(to_uint8(x)) != self.classify(to_uint8(truth))).cpu().double()
        self.means.update(torch.stack([squares, psnr, changed], 1), indices)

    def merge(self, other: Self) -> None:
        """Add the samples behind `other`."""
        self.means.merge(other.means)

    def compute(self) -> dict[str, Estimate]:
        """paired_rmse; paired_psnr, the mean over samples in dB; and, with a classifier, paired_label_changes."""
        n = self.means.n
        check_enough("paired", n, self.least)
        mean, resampled = self.means.mean(), self.means.resampled()
        rmse = estimate(mean[0].sqrt().item(), n, resampled[:, 0].sqrt(), least=0.0)
        found = {
            "paired_rmse": replace(rmse, floor=None if self.floor is None else self.floor()),
            "paired_psnr": estimate(mean[1].item(), n, resampled[:, 1]),
            "paired_label_changes": share(mean[2].item(), n, resampled[:, 2]),
        }
        if self.classify is None:
            del found["paired_label_changes"]
        return found
