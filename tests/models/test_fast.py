"""Fast evaluations: what they may change, and that they fall back where the machine lacks something."""

import pytest
import torch

from pndm import schedules, solve
from pndm.errors import OptionError
from pndm.models import fast as module
from pndm.models import pretrained
from pndm.models.fast import fast
from pndm.noise import SampleNoise

LINEAR = schedules.create("linear")


@pytest.fixture(scope="module")
def trained():
    return pretrained.load("default")


def noise(n, trained):
    return SampleNoise(0, range(n)).draw(trained.shape)


def test_without_compiler_and_bfloat16_it_is_the_exact_model(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        found = fast(trained, LINEAR, batch=2)
    assert not found.compiled
    assert not found.bfloat16
    x, t = noise(2, trained), torch.tensor([900.0, 20.0])
    assert torch.equal(found.model(x, t), trained.eps(LINEAR)(x, t))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])  # cosine: another time and scale than it was trained in
def test_a_smaller_batch_is_filled_up_and_cut_again(trained, monkeypatch, schedule):
    path = schedules.create(schedule)
    seen = []

    def made(network, batch, shape):
        return lambda x, t: seen.append((len(x), len(t), x.is_contiguous())) or network(x, t)

    monkeypatch.setattr(module, "ahead_of_time", made)
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    found = fast(trained, path, batch=5)
    assert found.compiled
    x, t = noise(3, trained).to(memory_format=torch.channels_last), torch.tensor([900.0, 500.0, 20.0])
    torch.testing.assert_close(found.model(x, t), trained.eps(path)(x, t), rtol=0, atol=2e-5)
    assert set(seen) == {(5, 5, True)}


@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (2, 1, 32, 32)])
def test_what_it_was_not_compiled_for_is_refused(trained, monkeypatch, shape):
    monkeypatch.setattr(module, "ahead_of_time", lambda network, *_: network)
    found = fast(trained, LINEAR, batch=5)
    with pytest.raises(OptionError, match=r"compiled for \(1, 28, 28\), and at most 5 at once"):
        found.model(torch.zeros(shape), torch.full(shape[:1], 500.0))


@pytest.mark.parametrize("error", [RuntimeError("no such thing"), OSError("no such thing")])
def test_when_compiling_fails_it_runs_uncompiled(trained, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(module, "ahead_of_time", fails)
    with pytest.warns(UserWarning, match="runs uncompiled, as compiling it failed: no such thing"):
        found = fast(trained, LINEAR, batch=2)
    assert not found.compiled
    assert found.model(noise(2, trained), torch.tensor([900.0, 20.0])).isfinite().all()


def test_bfloat16_is_inside_the_network_only(trained, monkeypatch):
    monkeypatch.setattr(module, "has_compiler", lambda device: False)
    monkeypatch.setattr(module, "has_bfloat16", lambda device: True)
    with pytest.warns(UserWarning, match="uncompiled"):
        found = fast(trained, LINEAR, batch=4)
    x = noise(4, trained)
    exact, half = (solve(model, x, solver="plms", steps=10).x for model in (trained.eps(LINEAR), found.model))
    assert half.dtype == torch.float32
    apart = (half - exact).square().mean().sqrt()
    assert 1e-4 < apart < 0.05  # felt, and small beside the images' own deviation of 0.7
