"""A data set as the mixture of its points: against brute force, against a mixture, and in its costs."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models import points as module
from pndm.models.mixture import GaussianMixture
from pndm.models.points import Points

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def noisy(model: Points, n: int, t: float, seed: int = 3) -> tuple[Tensor, Tensor]:
    """States where the model will be asked: noisy data at time t."""
    time = torch.full((n,), t, dtype=F64)
    clean = model.sample(n, torch.Generator().manual_seed(seed))
    alpha, sigma = model.path(clean, time)
    return alpha * clean + sigma * random(*clean.shape, seed=seed), time


@pytest.mark.parametrize("deviation", [0.0, 0.3])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_equals_the_mixture_of_the_points(deviation: float, t: float):
    model = Points(random(40, 6), deviation)
    mixture = GaussianMixture(
        torch.ones(40, dtype=F64), model.points, torch.full((40,), deviation, dtype=F64), "vp_linear"
    )
    x, time = noisy(model, 20, t)
    assert torch.allclose(model(x, time), mixture(x, time), rtol=1e-9, atol=1e-10)
    assert torch.allclose(model.log_density(x, time), mixture.log_density(x, time), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(256, 2048), (3, 7), (1, 1)])
def test_blocks_change_nothing(monkeypatch, rows: int, columns: int):
    expected_model = Points(random(50, 6))
    x, t = noisy(expected_model, 11, 0.05)
    expected = expected_model(x, t)
    monkeypatch.setattr(module, "COLUMNS", columns)
    model = Points(random(50, 6))
    model.part = rows
    assert torch.allclose(model(x, t), expected, rtol=1e-11, atol=1e-12)


def test_eps_is_the_gradient_of_the_density(vp):
    model = Points(random(30, 8), 0.1)
    x, t = noisy(model, 5, 0.2)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(model.log_density(x, t).sum(), x)
    assert torch.allclose(model(x, t), -vp.sigma(0.2) * slope, rtol=1e-10, atol=1e-12)


def test_float32_keeps_to_float64_at_image_size():
    model = Points(random(500, 784) * 0.5)
    for t in (0.1, 0.5, 1.0):
        x, time = noisy(model, 32, t)
        difference = model(x.float(), time).double() - model(x, time)
        assert difference.square().mean().sqrt() < 2e-5, f"at t={t}"


def test_far_states_do_not_overflow():
    model = Points(random(30, 8))
    x, t = 1e4 * random(3, 8), torch.full((3,), 0.01, dtype=F64)
    for state in (x, x.float()):
        assert torch.isfinite(model(state, t)).all()


def test_little_noise_points_to_the_nearest(vp):
    model = Points(random(30, 8))
    t = torch.full((30,), 1e-3, dtype=F64)
    x = vp.alpha(1e-3) * model.points + 1e-3 * random(30, 8, seed=5)
    assert torch.allclose((x - vp.sigma(1e-3) * model(x, t)) / vp.alpha(1e-3), model.points, atol=1e-12)


def test_distance_is_to_the_nearest_point():
    model = Points(random(30, 8))
    assert model.distance(model.points).max() == 0
    x = random(300, 8, seed=9)
    brute = (x[:, None] - model.points).norm(dim=2).amin(1)
    assert torch.allclose(model.distance(x), brute, atol=1e-12)


@pytest.mark.parametrize(
    ("points", "deviation", "said"),
    [
        (torch.zeros(3), 0.0, "points must be of shape"),
        (torch.zeros(0, 3), 0.0, "K at least 1"),
        (torch.zeros(2, 3), -0.1, "deviation=-0.1 must be at least 0"),
        (torch.zeros(2, 3), float("nan"), "deviation=nan must be at least 0"),
    ],
)
def test_bad_input(points: Tensor, deviation: float, said: str):
    with pytest.raises(OptionError, match=said):
        Points(points, deviation)


def best_of(call: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of some calls."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def test_costs_little_more_than_its_two_matrix_products():
    centres, x = random(2000, 784).float(), random(256, 784, seed=1).float()
    model, t = Points(centres), torch.full((256,), 0.3)
    products = best_of(lambda: (x @ centres.T) @ centres, 7)
    assert best_of(lambda: model(x, t), 7) < 1.5 * products  # measured: 1.1


def test_memory_does_not_grow_with_states_or_points():
    """The largest tensor made on the way is watched."""
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(each.numel() for each in torch.utils._pytree.tree_leaves(out) if isinstance(each, Tensor))
            return out

    model = Points(random(9000, 4))
    x, t = random(3000, 4), torch.full((3000,), 0.3, dtype=F64)
    model(x[:1], t[:1])
    with Watch():
        model(x, t)
    assert max(sizes) <= max(module.ROWS * module.COLUMNS, model.points.numel())
