"""The registered problems: each is whole, exact on every schedule, and says what is wrong with its options."""

import math

import pytest
import torch

from pndm import schedules
from pndm.errors import OptionError
from pndm.models import problems

NAMES = [name for name in problems.names() if name != "dataset"]
F64 = torch.float64


def small(name: str) -> problems.Problem:
    if name == "dataset":
        pytest.importorskip("pndm.data")
        try:
            return problems.create("dataset", count=50)
        except OptionError as error:
            pytest.skip(str(error))
    return problems.create(name)


def test_the_five_are_there():
    assert set(problems.names()) >= {"gaussian", "mixture", "circle", "surface", "dataset"}


@pytest.mark.parametrize("name", problems.names())
@pytest.mark.parametrize("schedule", ["vp_linear", "cosine"])
def test_eps_is_exact_in_the_time_of_the_schedule(name: str, schedule: str):
    problem, path = small(name), schedules.create(schedule)
    t = path.t_of_rho(0.7)
    clean = problem.data(4, seed=1)
    noise = torch.randn(clean.shape, dtype=F64, generator=torch.Generator().manual_seed(2))
    x = (path.alpha(t) * clean + path.sigma(t) * noise).requires_grad_()
    time = torch.full((4,), t, dtype=F64)
    (slope,) = torch.autograd.grad(problem.build(path).log_density(x, time).sum(), x)
    assert torch.allclose(problem.eps(path)(x, time), -path.sigma(t) * slope, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", problems.names())
@pytest.mark.parametrize("t", [0.05, 0.5])
def test_norm_moments_are_those_of_noisy_samples(name: str, t: float, vp):
    problem = small(name)
    clean = problem.data(4000, seed=3)
    noise = torch.randn(clean.shape, dtype=F64, generator=torch.Generator().manual_seed(4))
    squares = (vp.alpha(t) * clean + vp.sigma(t) * noise).square().sum(1)
    mean, variance = problem.norm_moments(vp, t)
    assert abs(float(squares.mean()) - mean) < 5 * math.sqrt(variance / len(squares))
    assert float(squares.var()) == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("name", problems.names())
def test_data_shape_distance_and_plane(name: str):
    problem = small(name)
    data = problem.data(30)
    assert data.dtype == F64
    assert data.shape == (30, *problem.shape)
    assert torch.equal(data, problem.data(30)), "the same for the same seed"
    assert not torch.equal(data, problem.data(30, seed=1))
    assert problem.plane(data).shape == (30, 2)
    distance = problem.distance(data)
    if name in ("gaussian", "mixture"):
        assert distance is None
    else:
        assert distance is not None
        assert distance.max() < 0.1


@pytest.mark.parametrize("name", problems.names())
def test_identity_tells_problems_apart(name: str):
    problem = small(name)
    assert problem.identity() == small(name).identity()
    assert problem.identity()["problem"] == name
    if name in ("gaussian", "circle", "surface"):
        assert problem.identity() != problems.create(name, dimension=17).identity()
    if name == "dataset":
        assert problem.identity()["points"] != problems.create("dataset", count=51).identity()["points"]


def test_dimension_is_an_option():
    assert problems.create("circle", dimension=12).shape == (12,)
    assert problems.create("surface", dimension=3).shape == (3,)
    assert problems.create("gaussian", dimension=1).shape == (1,)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("torus", {}, "unknown problem 'torus'"),
        ("circel", {}, "did you mean 'circle'"),
        ("circle", {"dim": 3}, "has no option 'dim'"),
        ("circle", {"dimension": 1}, "dimension=1 must be at least 2"),
        ("circle", {"radius": 0.0}, "radius=0.0 must be positive"),
        ("circle", {"patches": 3}, "patches=3 must be at least 16"),
        ("surface", {"tube": 2.0}, "0 < tube < ring"),
        ("gaussian", {"smallest": 2.0}, "0 <= smallest <= largest"),
        ("dataset", {"source": "fashion"}, "did you mean 'fashion-mnist'"),
        ("dataset", {"folder": "/nowhere"}, "not found in /nowhere"),
    ],
)
def test_bad_input(name: str, options: dict, said: str):
    with pytest.raises(OptionError, match=said):
        problems.create(name, **options)


def test_dataset_count_beyond_the_images():
    small("dataset")
    with pytest.raises(OptionError, match="count=70000 must lie between 1 and 60000"):
        problems.create("dataset", count=70000)
