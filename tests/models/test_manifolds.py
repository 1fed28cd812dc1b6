"""Data on a circle and a torus in many dimensions: the densities, the embedding, and the exact distance."""

import math

import pytest
import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models import manifolds
from pndm.models.manifolds import Circle, Embedded, Torus, orthonormal_rows

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


SURFACES = [Circle(1.3), Torus(1.5, 0.6)]


def on_surface(surface: Circle | Torus, n: int) -> Tensor:
    u, v = (2 * math.pi * torch.rand(2, n, dtype=F64, generator=torch.Generator().manual_seed(4))).unbind()
    if isinstance(surface, Circle):
        return surface.radius * torch.stack([u.cos(), u.sin()], dim=1)
    reach = surface.ring + surface.tube * v.cos()
    return torch.stack([reach * u.cos(), reach * u.sin(), surface.tube * v.sin()], dim=1)


@pytest.mark.parametrize("surface", SURFACES)
def test_distance_is_that_to_the_nearest_of_very_many_points(surface):
    basis = orthonormal_rows(surface.plane, 7, seed=2)
    x = random(20, 7)
    nearest = torch.cdist(x, on_surface(surface, 200_000) @ basis).amin(1)
    found = manifolds.distance(surface, basis, x)
    assert (found <= nearest + 1e-6).all(), "no point of the manifold is nearer than the distance to it"
    assert torch.allclose(found, nearest, atol=5e-3)
    assert manifolds.distance(surface, basis, on_surface(surface, 100) @ basis).max() < 1e-12


@pytest.mark.parametrize(("surface", "near", "patches"), [(SURFACES[0], 1.5e-3, 256), (SURFACES[1], 0.08, 1500)])
def test_data_lie_on_the_manifold_and_all_along_it(surface, near: float, patches: int):
    data = surface.patches(patches, "vp_linear").sample(5000, torch.Generator().manual_seed(0))
    assert surface.distance(data).max() < near
    assert surface.distance(data).mean() < near / 8
    angles = torch.atan2(data[:, 1], data[:, 0])
    counts = torch.histc(angles, 20, -math.pi, math.pi)
    assert counts.min() > 0.7 * counts.mean(), "evenly around"


@pytest.mark.parametrize("surface", SURFACES)
def test_axes_are_orthonormal_and_lie_along_the_surface(surface):
    patches = surface.patches(200, "vp_linear")
    dimension = surface.plane
    assert torch.allclose(patches.axes @ patches.axes.mT, torch.eye(dimension, dtype=F64).expand_as(patches.axes))
    assert surface.distance(patches.centres).max() < 1e-12
    for axis in range(dimension - 1):
        assert surface.distance(patches.centres + 1e-5 * patches.axes[:, axis]).max() < 1e-9, "a tangent"
        assert (patches.deviations[:, axis] > 0).all()
    assert surface.distance(patches.centres + 1e-5 * patches.axes[:, -1]).min() > 0.99e-5, "the normal"
    assert (patches.deviations[:, -1] == 0).all()


def test_density_around_the_circle_is_even(vp):
    """With noise far below the spacing of the patches, so that it does not smooth them."""
    radius, count = 1.0, 64
    patches = Circle(radius).patches(count, vp)
    angle = torch.linspace(0, 2 * math.pi / count, 50, dtype=F64)
    t = torch.full((50,), vp.t_of_rho(1e-2), dtype=F64)
    x = vp.alpha(float(t[0])) * radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    density = patches.log_density(x, t)
    assert density.max() - density.min() < 0.08


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("t", [0.01, 0.5])
def test_embedded_eps_is_the_gradient_of_its_density(surface, t: float, vp):
    basis = orthonormal_rows(surface.plane, 9, seed=0)
    model = Embedded(surface.patches(60, vp), basis)
    clean = model.sample(5, torch.Generator().manual_seed(0))
    x = (vp.alpha(t) * clean + vp.sigma(t) * random(5, 9)).requires_grad_()
    time = torch.full((5,), t, dtype=F64)
    (slope,) = torch.autograd.grad(model.log_density(x, time).sum(), x)
    assert torch.allclose(model(x, time), -vp.sigma(t) * slope, rtol=1e-9, atol=1e-10)


def test_embedding_turns_the_answer_with_the_data(vp):
    """In the plane and across it: what the inner model says there, and x / sigma."""
    inner = Circle(1.0).patches(40, vp)
    basis = orthonormal_rows(2, 5, seed=1)
    x, t = random(6, 5), torch.full((6,), 0.4, dtype=F64)
    answer = Embedded(inner, basis)(x, t)
    within = x @ basis.T
    assert torch.allclose(answer @ basis.T, inner(within, t), atol=1e-13)
    across = x - within @ basis
    assert torch.allclose(answer - (answer @ basis.T) @ basis, across / vp.sigma(0.4), atol=1e-13)


def test_orthonormal_rows():
    rows = orthonormal_rows(3, 64, seed=5)
    assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=F64), atol=1e-14)
    assert torch.equal(rows, orthonormal_rows(3, 64, seed=5))
    assert not torch.allclose(rows, orthonormal_rows(3, 64, seed=6))
    with pytest.raises(OptionError, match="dimension=2 must be at least 3"):
        orthonormal_rows(3, 2, seed=0)
