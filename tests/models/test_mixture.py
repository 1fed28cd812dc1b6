"""Gaussians and mixtures: eps against the gradient of a density written out by hand, and samples against moments."""

import math

import pytest
import torch
from torch import Tensor

from pndm import schedules
from pndm.models import mixture as mixtures
from pndm.models.mixture import Gaussian, GaussianMixture, OrientedMixture
from pndm.schedules import Schedule

F64 = torch.float64
GENERATOR = torch.Generator().manual_seed(1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=GENERATOR)


def rotations(count: int, dimension: int) -> Tensor:
    return torch.linalg.qr(random(count, dimension, dimension)).Q


def gaussian() -> Gaussian:
    factor = random(4, 4)
    return Gaussian(random(4), factor @ factor.T + 0.1 * torch.eye(4, dtype=F64))


def round_mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), random(3, 4), random(3).abs())


def oriented() -> OrientedMixture:
    return OrientedMixture(random(5, 3), rotations(5, 3), random(5, 3).abs())


def components(model) -> list[tuple[float, Tensor, Tensor]]:
    """Weight, mean and covariance of each Gaussian of a model."""
    if isinstance(model, Gaussian):
        return [(1.0, model.mean, model.covariance)]
    if isinstance(model, GaussianMixture):
        unit = torch.eye(model.means.shape[1], dtype=F64)
        return [
            (float(w), m, s**2 * unit) for w, m, s in zip(model.weights, model.means, model.deviations, strict=True)
        ]
    covariances = model.axes.mT @ torch.diag_embed(model.deviations**2) @ model.axes
    return [(1 / len(covariances), m, c) for m, c in zip(model.centres, covariances, strict=True)]


def brute_log_density(model, x: Tensor, alpha: float, sigma: float) -> Tensor:
    total = torch.zeros(len(x), dtype=F64)
    for weight, mean, covariance in components(model):
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=F64)
        density = torch.distributions.MultivariateNormal(alpha * mean, noisy)
        total = total + weight * density.log_prob(x).exp()
    return total.log()


@pytest.mark.parametrize("make", [gaussian, round_mixture, oriented])
@pytest.mark.parametrize("t", [0.02, 0.4, 1.0])
def test_density_and_eps_are_those_of_the_written_out_density(make, t: float, vp: Schedule):
    model = make()
    dimension = components(model)[0][1].numel()
    x = (vp.alpha(t) * model.sample(6, GENERATOR) + vp.sigma(t) * random(6, dimension)).requires_grad_()
    expected = brute_log_density(model, x, vp.alpha(t), vp.sigma(t))
    (slope,) = torch.autograd.grad(expected.sum(), x)
    time = torch.full((6,), t, dtype=F64)
    with torch.no_grad():
        assert torch.allclose(model.log_density(x, time), expected, rtol=1e-10, atol=1e-10)
        assert torch.allclose(model(x, time), -vp.sigma(t) * slope, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [gaussian, round_mixture, oriented])
def test_samples_have_the_moments(make):
    model = make()
    x = model.sample(100_000, torch.Generator().manual_seed(0))
    mean = sum(w * m for w, m, _ in components(model))
    second = sum(w * (c + torch.outer(m, m)) for w, m, c in components(model))
    deviation = second.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * deviation / math.sqrt(len(x))).all()
    assert torch.allclose(x.T @ x / len(x), second, atol=0.05 * float(second.diagonal().max()))
    squares = x.square().sum(1)
    expected_mean, expected_variance = model.norm_moments()
    assert abs(float(squares.mean()) - expected_mean) < 5 * math.sqrt(expected_variance / len(x))
    assert float(squares.var()) == pytest.approx(expected_variance, rel=0.05)


def test_gaussian_flow_solves_the_ode(vp: Schedule):
    model = gaussian()
    x, t = random(3, 4), 0.6

    def along(s: float) -> Tensor:
        return model.flow(x, t, s)

    assert torch.allclose(along(t), x, atol=1e-14)
    step = 1e-5  # dx/ds = (d ln alpha / ds) (x - eps / sigma), by central differences at another time
    for s in (0.9, 0.3, 0.05):
        eps = model(along(s), torch.full((3,), s, dtype=F64))
        expected = vp.dlog_alpha(s) * (along(s) - eps / vp.sigma(s))
        assert torch.allclose((along(s + step) - along(s - step)) / (2 * step), expected, rtol=1e-6, atol=1e-7)
    assert torch.allclose(model.flow(along(0.2), 0.2, t), x, atol=1e-12), "back to where it came from"


def test_one_oriented_component_is_a_gaussian(vp: Schedule):
    axes, deviations, centre = rotations(1, 3), random(1, 3).abs(), random(1, 3)
    one = OrientedMixture(centre, axes, deviations)
    full = Gaussian(centre[0], axes[0].T @ torch.diag(deviations[0] ** 2) @ axes[0])
    x, t = random(7, 3), torch.linspace(0.05, 1, 7, dtype=F64)
    assert torch.allclose(one(x, t), full(x, t), atol=1e-13)
    assert torch.allclose(one.log_density(x, t), full.log_density(x, t), atol=1e-12)


@pytest.mark.parametrize("make", [gaussian, round_mixture, oriented])
def test_a_long_batch_is_answered_in_parts_with_the_same_answer(make):
    model = make()
    dimension = components(model)[0][1].numel()
    x, t = random(50, dimension), torch.linspace(0.05, 1, 50, dtype=F64)
    whole = model(x, t)
    model.part = 7
    assert torch.allclose(model(x, t), whole, atol=1e-13)


def test_memory_of_intermediate_tensors_is_bounded():
    model = GaussianMixture(torch.ones(100), random(100, 50), torch.ones(100))
    assert model.part * model.means.numel() <= mixtures.BLOCK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_in_the_precision_of_the_state(dtype: torch.dtype):
    for model in (gaussian(), round_mixture(), oriented()):
        dimension = components(model)[0][1].numel()
        x, t = random(4, dimension), torch.full((4,), 0.3, dtype=F64)
        assert model(x.to(dtype), t).dtype == dtype
        assert torch.allclose(model(x.to(dtype), t).double(), model(x, t), atol=1e-4)


def test_unnormalised_weights_are_shares():
    means, deviations = random(2, 3), torch.tensor([0.2, 0.3], dtype=F64)
    x, t = random(4, 3), torch.full((4,), 0.3, dtype=F64)
    one = GaussianMixture(torch.tensor([0.25, 0.75], dtype=F64), means, deviations)
    other = GaussianMixture(torch.tensor([1.0, 3.0], dtype=F64), means, deviations, schedules.create("vp_linear"))
    assert torch.allclose(one(x, t), other(x, t), atol=1e-14)
    assert torch.allclose(one.log_density(x, t), other.log_density(x, t), atol=1e-14)


def test_eps_on_a_discrete_schedule():
    path, model = schedules.create("linear"), round_mixture()
    model.schedule = path
    for t in (0.0, 17.5, 400.0, 999.0):
        x = random(5, 4).requires_grad_()
        expected = brute_log_density(model, x, path.alpha(t), path.sigma(t))
        (slope,) = torch.autograd.grad(expected.sum(), x)
        eps = model(x.detach(), torch.full((5,), t, dtype=F64))
        assert torch.allclose(eps, -path.sigma(t) * slope, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [gaussian, round_mixture, oriented])
def test_far_from_all_data_eps_is_finite_and_points_away(make):
    """Every component's density underflows there; their shares do not."""
    model = make()
    x = 1e4 * torch.sign(random(5, components(model)[0][1].numel()))
    eps = model(x, torch.full((5,), 0.3, dtype=F64))
    assert eps.isfinite().all()
    assert torch.all((eps * x).sum(1) > 0)
