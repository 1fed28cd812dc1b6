"""The U-Net: equality with diffusers' UNet2DModel, precision, the folded stem, and every refused configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pndm.errors import OptionError
from pndm.models.unet import Attention, UNet, UNetConfig

SMALL = UNetConfig(image_size=16, in_channels=2, channels=(8, 16), blocks=1, attention=(False, True), groups=4)


def randomised(config: UNetConfig, seed: int = 0) -> UNet:
    """A network in which no weight is zero, so that every branch shows in the output."""
    torch.manual_seed(seed)
    model = UNet(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 2, 16, 16, generator=generator), torch.tensor([0.0, 417.25, 999.0])


# ---- diffusers

# The layout of google/ddpm-cifar10-32's unet/config.json, in full size.
CIFAR10 = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256], "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "out_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-6, "norm_num_groups": 32, "sample_size": 32,
    "time_embedding_type": "positional",
}  # fmt: skip
NARROW = {**CIFAR10, "block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8}
DIFFUSERS: dict[str, dict[str, Any]] = {
    "cifar10": NARROW,
    "library defaults": {"sample_size": 16, "block_out_channels": [32, 64, 64, 64]},
    "many heads": {**NARROW, "attention_head_dim": 4, "dropout": 0.1},
    "one level, one channel": {
        "sample_size": 7, "in_channels": 1, "out_channels": 1, "block_out_channels": [16], "layers_per_block": 1,
        "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "norm_num_groups": 4,
    },
    "attention everywhere": {
        "sample_size": [8, 8], "block_out_channels": [8, 24], "layers_per_block": 3, "norm_num_groups": 2,
        "down_block_types": ["AttnDownBlock2D"] * 2, "up_block_types": ["AttnUpBlock2D"] * 2, "freq_shift": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFUSERS)
def test_equals_diffusers_on_the_same_weights(name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    values = {k: v for k, v in DIFFUSERS[name].items() if not k.startswith("_")}
    theirs = diffusers.UNet2DModel(**values).eval()
    ours = UNet(UNetConfig.from_diffusers(json.loads(theirs.to_json_string()))).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, ours.config.in_channels, ours.config.image_size, ours.config.image_size)
    t = torch.tensor([3.0, 812.5])
    with torch.no_grad():
        expected = theirs(x, t).sample
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(x, t), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(x, t[1]), theirs(x, t[1]).sample, rtol=0, atol=1e-5)  # one time for all


def test_absent_keys_mean_what_they_mean_in_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(sample_size=32, block_out_channels=(32, 64, 64, 64))
    full = UNetConfig.from_diffusers(json.loads(theirs.to_json_string()))
    assert UNetConfig.from_diffusers({"sample_size": 32, "block_out_channels": [32, 64, 64, 64]}) == full


def test_reads_the_attention_names_of_old_diffusers() -> None:
    model = randomised(SMALL)
    old = {}
    for name, tensor in model.state_dict().items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert any("proj_attn" in name for name in old)
    other = UNet(SMALL)
    other.load_state_dict(old)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_cifar10_model_has_the_papers_size() -> None:
    with torch.device("meta"):
        model = UNet(UNetConfig.from_diffusers(CIFAR10))
    assert model.config == UNetConfig()
    assert sum(p.numel() for p in model.parameters()) == 35_746_307


# ---- numbers


def test_float64_is_float32_to_rounding(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = inputs
    model = randomised(SMALL)
    with torch.no_grad():
        single = model(x, t)
        double = model.double()(x.double(), t)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3 * double.std().item())


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_is_near_and_keeps_the_dtype_of_x(inputs: tuple[torch.Tensor, torch.Tensor], how: str) -> None:
    x, t = inputs
    model = randomised(SMALL)
    with torch.no_grad():
        exact = model(x, t)
        if how == "weights":
            near = model.bfloat16()(x, t)
        else:
            with torch.autocast("cpu", torch.bfloat16):
                near = model(x, t)
    assert near.dtype == torch.float32
    assert (near - exact).std() < 0.05 * exact.std()


def test_channels_last_changes_nothing(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = inputs
    model = randomised(SMALL)
    with torch.no_grad():
        expected = model(x, t)
        actual = model.to(memory_format=torch.channels_last)(x, t)  # type: ignore[call-overload]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def test_images_do_not_depend_on_their_batch(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = inputs
    model = randomised(SMALL).double()
    with torch.no_grad():
        together = model(x.double(), t)
        for i in range(len(x)):
            torch.testing.assert_close(model(x[i : i + 1].double(), t[i : i + 1])[0], together[i], rtol=0, atol=1e-9)


def test_time_is_a_real_number(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Between integers the output goes on smoothly; integer dtypes are taken too."""
    x, _ = inputs
    model = randomised(SMALL).double()
    x = x.double()
    with torch.no_grad():
        at = {t: model(x, torch.full((3,), t, dtype=torch.float64)) for t in (500.0, 500.001, 500.002)}
        whole = model(x, torch.full((3,), 500))
    first, second = at[500.001] - at[500.0], at[500.002] - at[500.001]
    assert 0 < first.norm() < 1e-2 * at[500.0].norm()
    torch.testing.assert_close(first, second, rtol=0.05, atol=0.05 * first.abs().max().item())
    torch.testing.assert_close(whole, at[500.0])


def test_folded_stem_is_a_network_on_folded_images(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = inputs
    folded = UNetConfig(image_size=16, in_channels=2, channels=(8, 16), blocks=1, attention=(True, False),
                        groups=4, patch=2)  # fmt: skip
    plain = UNetConfig(image_size=8, in_channels=8, channels=(8, 16), blocks=1, attention=(True, False), groups=4)
    a, b = randomised(folded), randomised(plain)
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        out = a(x, t)
        assert out.shape == x.shape
        inner = b(torch.nn.functional.pixel_unshuffle(x, 2), t)
        torch.testing.assert_close(out, torch.nn.functional.pixel_shuffle(inner, 2))


def test_a_new_network_answers_zero_and_learns(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = inputs
    torch.manual_seed(0)
    model = UNet(SMALL)
    assert not model(x, t).any()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = (model(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n != "to_k.bias")


def test_heads() -> None:
    config = UNetConfig(image_size=16, channels=(16,), attention=(True,), groups=4, attention_head_dim=4)
    assert {m.heads for m in UNet(config).modules() if isinstance(m, Attention)} == {4}


def test_config_is_json() -> None:
    assert UNetConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": 31}, "multiple of 8"),
        ({"image_size": 32, "patch": 3}, "multiple of 24"),
        ({"in_channels": -1}, "in_channels=-1"),
        ({"blocks": 1.5}, "blocks=1.5"),
        ({"patch": True}, "patch=True"),
        ({"channels": ()}, "at least one level"),
        ({"channels": 128}, "channels=128: give a list"),
        ({"channels": (128, 0, 256, 256)}, "positive whole number"),
        ({"channels": (128, 200, 256, 256)}, "200 is not a multiple of groups=32"),
        ({"channels": (3,), "attention": (True,), "groups": 1}, "must be even"),
        ({"channels": (2,), "attention": (True,), "groups": 1}, "at least 4"),
        ({"attention": (True,)}, "true or false for each of the 4 levels"),
        ({"attention": (0, 1, 0, 0)}, "true or false"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": "none"}, "dropout='none'"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"downsample_padding": 2}, "downsample_padding=2"),
        ({"attention_head_dim": 0}, "attention_head_dim=0"),
        ({"attention_head_dim": 48}, "does not divide"),
        ({"depth": 3}, "option 'depth' does not exist"),
    ],
)
def test_refused_configurations(change: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(").replace(")", r"\)")):
        UNetConfig.from_dict({**UNetConfig().to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D", "UpBlock2D"]}, "ResnetUpsampleBlock2D"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "attention at the same levels"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"out_channels": 6}, "out_channels=6"),
        ({"time_embedding_dim": 7}, "time_embedding_dim=7"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"add_attention": False}, "add_attention=False"),
        ({"sample_size": None}, "image_size=None"),
        ({"sample_size": [32, 16]}, "image_size"),
        ({"encoder_hid_dim": 3}, "option 'encoder_hid_dim' is not known"),
    ],
)
def test_refused_diffusers_configurations(change: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        UNetConfig.from_diffusers({**CIFAR10, **change})


@pytest.mark.parametrize("shape", [(3, 3, 16, 16), (3, 2, 16, 15), (2, 16, 16)])
def test_refused_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"give \(batch, 2, height, width\)"):
        UNet(SMALL)(torch.zeros(shape), torch.zeros(shape[0]))
