"""A Gaussian mixture's exact eps: a model without network error, for measuring solvers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pndm.schedules import Schedule, schedules


@dataclass(frozen=True)
class GaussianMixture:
    """Data from isotropic Gaussians: weights (K,), means (K, D), one deviation each (K,).

    As a model: eps(x, t) = -sigma(t) grad log p_t(x), in the precision of x, for x of shape (B, D) and t of shape (B,).
    """

    weights: Tensor
    means: Tensor
    deviations: Tensor
    schedule: str | Schedule = "vp_linear"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        path = schedules.resolve(self.schedule)
        alpha, sigma = path.alpha(t.double())[:, None].to(x), path.sigma(t.double())[:, None].to(x)
        variance = (alpha * self.deviations.to(x)) ** 2 + sigma**2  # (B, K): of component k at time t
        offset = x[:, None, :] - alpha[:, :, None] * self.means.to(x)  # (B, K, D)
        log_weight = self.weights.to(x).log() - 0.5 * x.shape[1] * variance.log()
        share = torch.softmax(log_weight - 0.5 * offset.square().sum(-1) / variance, dim=1)
        return sigma * (share[:, :, None] * offset / variance[:, :, None]).sum(1)
