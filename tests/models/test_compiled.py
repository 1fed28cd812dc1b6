"""Networks compiled ahead of time: what they answer, and that a later process finds them."""

import pytest
import torch

from pndm import schedules, solve
from pndm.models import compiled, pretrained
from pndm.models.compiled import Halved, ahead_of_time, example, folder
from pndm.models.fast import fast, has_compiler
from pndm.models.unet import UNet, UNetConfig
from pndm.noise import SampleNoise

LINEAR = schedules.create("linear")
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = UNet(UNetConfig(8, 1, (8, 16), 1, (False, True), groups=4)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)  # zero at the start of a training
    return network


def key(network, *arguments):
    return compiled._key(network, *arguments)


def test_everything_that_a_package_depends_on_changes_its_name(network, monkeypatch):
    names = {key(network, 2, SHAPE), key(network, 3, SHAPE), key(Halved(network), 2, SHAPE)}
    names.add(key(network.double(), 2, SHAPE))
    network.float()
    assert key(network, 2, SHAPE) in names
    with torch.no_grad():
        network.conv_out.weight[0, 0, 0, 0] += 1
    names.add(key(network, 2, SHAPE))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    names.add(key(network, 2, SHAPE))
    monkeypatch.setattr(compiled, "_processor", lambda: "another")
    names.add(key(network, 2, SHAPE))
    assert len(names) == 7


def test_memory_layout_does_not_change_it(network):
    there = key(network, 2, SHAPE)
    assert key(network.to(memory_format=torch.channels_last), 2, SHAPE) == there


def test_a_damaged_package_is_an_error_once_and_then_gone(network):
    package = folder() / f"{key(network, 2, SHAPE)}.pt2"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"not a package")
    with pytest.raises(RuntimeError):
        ahead_of_time(network, 2, SHAPE)
    assert not package.exists()


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_its_answers_are_the_network_s_and_a_second_call_compiles_nothing(network, monkeypatch):
    x, t = (torch.randn_like(part) for part in example(network, 2, SHAPE))
    first = ahead_of_time(network, 2, SHAPE)(x, 500 + t)
    torch.testing.assert_close(first, network(x, 500 + t), rtol=0, atol=1e-5)
    assert [path.suffix for path in folder().iterdir()] == [".pt2"]  # and nothing half-written
    assert folder().stat().st_mode & 0o077 == 0
    monkeypatch.setattr(torch.export, "export", lambda *_: pytest.fail("compiled again"))
    assert torch.equal(ahead_of_time(network, 2, SHAPE)(x, 500 + t), first)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_fast_images_of_the_default_network():
    trained = pretrained.load("default")
    found = fast(trained, LINEAR, batch=4)
    assert found.compiled
    assert found.compile_seconds > 0
    x = SampleNoise(0, range(3)).draw(trained.shape)
    exact, quick = (solve(model, x, solver="plms", steps=10).x for model in (trained.eps(LINEAR), found.model))
    assert (quick - exact).square().mean().sqrt() < 0.05
