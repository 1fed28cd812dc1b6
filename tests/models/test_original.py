"""Original DDIM and PNDM checkpoints: the same outputs to 1e-5 as an independent network of their layout."""

import pytest
import torch

from pndm import OptionError
from pndm.models.original import load_original
from pndm.models.unet import UNet, UNetConfig
from tests.models.original_unet import evaluate, random_weights


def inputs(size, channels=3):
    draws = torch.Generator().manual_seed(7)
    return torch.randn(2, channels, size, size, generator=draws), torch.tensor([3.0, 812.0])


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 32),
        ({"multiples": (1, 2, 2), "attends": (2,), "blocks": 1}, 64),
        ({"multiples": (1, 1, 2), "attends": (0,), "channels": 1}, 16),
    ],
)
def test_outputs_are_those_of_the_original(options, size, tmp_path):
    weights = random_weights(**options)
    torch.save(weights, tmp_path / "ema.ckpt")
    network, averaged = load_original(tmp_path / "ema.ckpt")
    assert network.config.image_size == size
    assert not averaged
    assert not network.training
    x, t = inputs(16, weights["conv_in.weight"].shape[1])  # the network is convolutional; small is quick
    expected = evaluate(weights, x, t)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x, t), expected, rtol=0, atol=1e-5)
    assert (network(x, t) - network(x, t + 1)).abs().max() > 1e-3  # time is felt


def test_the_cifar10_network_of_the_repositories(tmp_path):
    """ch 128, ch_mult 1 2 2 2, attention at 16x16: UNetConfig's defaults, and 35.7 M parameters."""
    weights = {k: torch.zeros(v.shape, dtype=torch.half) for k, v in random_weights(128, (1, 2, 2, 2)).items()}
    torch.save(weights, tmp_path / "cifar10.ckpt")
    network, _ = load_original(tmp_path / "cifar10.ckpt")
    assert network.config == UNetConfig()
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_run(ema, prefix, zipped, tmp_path):
    """[state dictionary, optimizer, epoch, iteration, averaged weights], from DataParallel or not, any torch's."""
    trained, means = random_weights(seed=1), random_weights(seed=2)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=2e-4)
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    saved = [{prefix + k: v for k, v in trained.items()}, optimizer.state_dict(), 3, 5000, *([means] if ema else [])]
    torch.save(saved, tmp_path / "ckpt.pth", _use_new_zipfile_serialization=zipped)
    network, averaged = load_original(tmp_path / "ckpt.pth")
    assert averaged == ema
    x, t = inputs(16)
    torch.testing.assert_close(network(x, t), evaluate(means if ema else trained, x, t), rtol=0, atol=1e-5)


def test_attention_elsewhere_needs_the_size_said(tmp_path):
    torch.save(random_weights(multiples=(1, 1, 1), attends=(1, 2), blocks=1), tmp_path / "a.ckpt")
    with pytest.raises(
        OptionError, match=r"has attention at 2 levels, so the size of its images cannot .* give image_"
    ):
        load_original(tmp_path / "a.ckpt")
    network, _ = load_original(tmp_path / "a.ckpt", image_size=28)
    assert (network.config.image_size, network.config.attention) == (28, (False, True, True))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def _without(name):
    return {k: v for k, v in random_weights().items() if k != name}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"weights": Trap()}, "holds more than tensors and plain values, which could run code .*: refused"),
        ([random_weights(), Trap()], "holds more than tensors and plain values"),
        (UNet(UNetConfig(image_size=8, channels=(8,), attention=(False,), groups=4)), "holds more than tensors"),
        (torch.zeros(3), "is neither a state dictionary nor a list that begins with one"),
        ([], "is neither a state dictionary"),
        ([random_weights(), {}, 1, 2, 3], "is neither a state dictionary"),
        ({"state_dict": random_weights()}, "is neither a state dictionary"),
        ({"input_blocks.0.0.weight": torch.zeros(3)}, "has no tensor conv_in.weight, so it is not of the DDIM U-Net"),
        (_without("temb.dense.0.weight"), "has no tensor temb.dense.0.weight"),
        (_without("up.1.attn.2.k.bias"), r"tensor up_blocks.0.attentions.2.to_k.bias \(64,\) .* is missing"),
        ({**random_weights(), "logvar": torch.zeros(1000)}, r"tensor logvar \(1000,\) is not in its architecture"),
        (
            {**random_weights(), "conv_out.weight": torch.zeros(6, 32, 3, 3)},
            "conv_out.weight has shape .6, 32, 3, 3., b",
        ),
        ({**random_weights(), "down.999999999.x": torch.zeros(1)}, "has no tensor down.2.block.0.conv1.weight"),
        (
            {**random_weights(), f"up.{'9' * 5000}.x": torch.zeros(1)},
            r"tensor up\.9*\.x \(1,\) is not in its architecture",
        ),
        ({**random_weights(), "down.1.block.0.conv1.weight": torch.tensor(1.0)}, "has no tensor down.1.block.0.conv1"),
        (random_weights(width=16), r"channels=\(16, 32\): 16 is not a multiple of groups=32"),
    ],
)
def test_refusals(content, sentence, tmp_path):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(OptionError, match=sentence):
        load_original(tmp_path / "a.ckpt")


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.ckpt"
    with pytest.raises(OptionError, match=r"original checkpoint .*a.ckpt: there is no such file"):
        load_original(path)
    torch.save(random_weights(), path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(OptionError, match="is truncated or damaged"):
        load_original(path)
    for data in (b"", b"\0" * 100, b"PK\x03\x04nothing", b"{}"):
        path.write_bytes(data)
        with pytest.raises(OptionError, match=r"refused|truncated"):
            load_original(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:TypedStorage is deprecated")
def test_damaged_files_of_old_torch(tmp_path):
    """Pickles that are no archive: a damaged byte is another instruction, and IndexError, TypeError or struct.error."""
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    failures = set()
    for place in range(len(whole)):
        for byte in b"qR":
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            with pytest.raises(OptionError, match=r"original checkpoint .*a.ckpt: ") as refused:
                load_original(path)
            failures.add(type(refused.value.__cause__))
    assert {IndexError, TypeError, AssertionError} <= failures
