"""The closed-form models: against torch's own densities by automatic differentiation, and their limits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pndm import schedules
from pndm.models.mixture import GaussianMixture

VP, LINEAR = schedules.create("vp_linear"), schedules.create("linear")
TIMES = {"vp_linear": [1e-3, 0.05, 0.4, 1.0], "linear": [0.0, 17.5, 400.0, 999.0]}


def blurred(mixture: GaussianMixture, path, t: float) -> MixtureSameFamily:
    """The density of alpha x0 + sigma eps, from torch.distributions."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    deviations = ((alpha * mixture.deviations.double()) ** 2 + sigma**2).sqrt()
    means = alpha * mixture.means
    parts = Independent(Normal(means, deviations[:, None].expand_as(means)), 1)
    return MixtureSameFamily(Categorical(mixture.weights.double()), parts)


def full(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, dtype=x.dtype)


@pytest.mark.parametrize("path", [VP, LINEAR], ids=lambda s: s.name)
def test_eps_is_the_score_of_the_blurred_density(mixture, noise, path):
    model = replace(mixture, schedule=path)
    for t in TIMES[path.name]:
        x = (path.alpha(t) * noise).requires_grad_()
        (score,) = torch.autograd.grad(blurred(mixture, path, t).log_prob(x).sum(), x)
        torch.testing.assert_close(model(x.detach(), full(x, t)), -path.sigma(t) * score, rtol=1e-9, atol=1e-11)


def test_eps_in_many_dimensions():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(9, 50, dtype=torch.float64, generator=generator)
    mixture = GaussianMixture(torch.rand(9, generator=generator), means, torch.rand(9, generator=generator) + 0.1)
    x = torch.randn(5, 50, dtype=torch.float64, generator=generator).requires_grad_()
    (score,) = torch.autograd.grad(blurred(mixture, VP, 0.2).log_prob(x).sum(), x)
    torch.testing.assert_close(mixture(x.detach(), full(x, 0.2)), -VP.sigma(0.2) * score, rtol=1e-9, atol=1e-11)


def test_log_density(mixture, noise):
    for t in TIMES["vp_linear"]:
        wanted = blurred(mixture, VP, t).log_prob(noise)
        torch.testing.assert_close(mixture.log_density(noise, full(noise, t)), wanted, rtol=1e-10, atol=1e-10)


def test_each_sample_has_its_own_time(mixture, noise):
    t = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    together = mixture(noise, t)
    for i in range(6):
        torch.testing.assert_close(mixture(noise[i : i + 1], t[i : i + 1])[0], together[i], rtol=0, atol=1e-14)


def test_far_from_all_data_it_points_back_and_is_finite(mixture):
    """Every component's density underflows there; their shares do not."""
    x = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    eps = mixture(x, full(x, 0.05))
    assert eps.isfinite().all()
    assert torch.all(eps.sign() == x.sign())


def test_weights_need_not_sum_to_one(mixture, noise):
    scaled = replace(mixture, weights=7 * mixture.weights)
    t = full(noise, 0.1)
    torch.testing.assert_close(scaled(noise, t), mixture(noise, t), rtol=0, atol=1e-14)
    torch.testing.assert_close(scaled.log_density(noise, t), mixture.log_density(noise, t), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_in_the_precision_of_the_state(mixture, noise, dtype):
    eps = mixture(noise.to(dtype), torch.full((6,), 0.3))
    assert eps.dtype == dtype
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(eps.double(), mixture(noise, full(noise, 0.3)), rtol=0, atol=30 * unit)


def test_samples_have_the_mixtures_moments(mixture):
    x = mixture.sample(20_000, torch.Generator().manual_seed(0))
    weights = mixture.weights.double()
    mean = weights @ mixture.means
    second = weights @ (mixture.means.square() + mixture.deviations.double()[:, None] ** 2)
    deviation = (second - mean.square()).sqrt()
    assert torch.all((x.mean(0) - mean).abs() < 4 * deviation / 20_000**0.5)
    torch.testing.assert_close(x.var(0), deviation.square(), rtol=0.05, atol=0)
