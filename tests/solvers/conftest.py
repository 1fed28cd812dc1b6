"""Reference solutions of the probability flow of the mixture, by scipy and numpy alone."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from pndm.models.mixture import GaussianMixture


@pytest.fixture(scope="session")
def reference(mixture: GaussianMixture) -> Callable[[Tensor, float, float, float, float], Tensor]:
    """(x, ᾱ and ᾱ at the end) -> x at the end, to 1e-12.

    In y = x/alpha and rho = sigma/alpha the flow is dy/drho = -rho grad log p_rho(y), with p_rho the data blurred by
    rho: neither a schedule nor pndm is in it. Dormand and Prince's method of order 8 in the variable ln rho.
    """
    weights, means, deviations = (v.double().numpy() for v in (mixture.weights, mixture.means, mixture.deviations))

    def slope(log_rho: float, flat: np.ndarray) -> np.ndarray:
        rho = math.exp(log_rho)
        variance = deviations**2 + rho**2
        offset = flat.reshape(-1, 1, 2) - means
        density = weights / variance * np.exp(-(offset**2).sum(-1) / (2 * variance))
        share = density / density.sum(1, keepdims=True)
        eps = rho * (share[..., None] * offset / variance[:, None]).sum(1)
        return (rho * eps).ravel()  # d rho = rho d ln rho

    @cache
    def solved(flat: tuple[float, ...], start: float, end: float) -> np.ndarray:
        alpha_start, alpha_end = math.sqrt(start), math.sqrt(end)
        ends = [0.5 * math.log((1 - a) / a) for a in (start, end)]
        found = solve_ivp(slope, ends, np.array(flat) / alpha_start, method="DOP853", rtol=1e-12, atol=1e-12)
        assert found.success
        return found.y[:, -1] * alpha_end

    def exact(x: Tensor, alphas_cumprod_start: float, alphas_cumprod_end: float) -> Tensor:
        flat = tuple(x.flatten().tolist())
        return torch.from_numpy(solved(flat, alphas_cumprod_start, alphas_cumprod_end)).view_as(x)

    return exact
