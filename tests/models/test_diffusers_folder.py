"""Folders in diffusers' layout: what comes back from those that diffusers writes, old ones too, and every refusal."""

import json
import shutil
import sys

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pndm import OptionError, schedules, solve
from pndm.models import diffusers_folder
from pndm.models.diffusers_folder import is_pipeline, load_network, save_network, to_diffusers
from pndm.models.pretrained import load
from pndm.models.unet import UNet, UNetConfig

OPTIONS = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


def written(folder, kind="DDPM", architecture=None, **options):
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**{**OPTIONS, **(architecture or {})}).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    getattr(diffusers, f"{kind}Pipeline")(network, scheduler).save_pretrained(folder)
    return network


@pytest.fixture
def folder(tmp_path):
    written(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "PNDM"])
def test_loads_what_diffusers_wrote(kind, tmp_path):
    network = written(tmp_path, kind, beta_schedule="scaled_linear", prediction_type="v_prediction", beta_end=0.015)
    loaded = load(tmp_path)
    assert (loaded.shape, loaded.predicts, loaded.data) == ((3, 8, 8), "v", "unknown")
    assert loaded.schedule.same_path(schedules.create("scaled_linear", beta_start=1e-4, beta_end=0.015))
    assert loaded.metadata["pipeline"] == f"{kind}Pipeline"
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 812.5])
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, t), network(x, t).sample, rtol=0, atol=1e-5)
    assert solve(loaded.eps(loaded.schedule), x, steps=2, schedule=loaded.schedule).x.isfinite().all()


def test_the_layout_of_the_oldest_pipelines(folder):
    """google/ddpm-cifar10-32: all files in one folder, and attention under its old names."""
    expected = load(folder).network.state_dict()
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            shutil.move(file, folder / file.name)
        (folder / part).rmdir()
    tensors = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    save_file(tensors, folder / WEIGHTS)
    loaded = load(folder).network.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("fields", "predicts"),
    [
        ({"tensor_format": "pt", "timestep_values": None, "trained_betas": None}, "eps"),
        ({"predict_epsilon": True}, "eps"),
        ({"predict_epsilon": False}, "x0"),
    ],
)
def test_scheduler_fields_of_old_diffusers(fields, predicts, folder):
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(fields))
    loaded = load(folder)
    assert loaded.predicts == predicts
    assert loaded.schedule.same_path(schedules.create("linear"))


@pytest.mark.parametrize(
    ("size", "channels", "attends", "parameters"),
    [(32, (128, 256, 256, 256), 1, 35_746_307), (256, (128, 128, 256, 256, 512, 512), 4, 113_673_219)],
    ids=["google/ddpm-cifar10-32", "google/ddpm-cat-256"],
)
def test_public_configurations(size, channels, attends, parameters):
    """unet/config.json as it lies on the hub (docs/checkpoints.md): the same tensors as diffusers makes of it."""
    levels = range(len(channels))
    config = {
        "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
        "block_out_channels": list(channels), "center_input_sample": False,
        "down_block_types": ["AttnDownBlock2D" if k == attends else "DownBlock2D" for k in levels],
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": size,
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D" if k == attends else "UpBlock2D" for k in reversed(levels)],
    }  # fmt: skip
    with torch.device("meta"):
        ours = UNet(UNetConfig.from_diffusers(config)).state_dict()
        theirs = diffusers.UNet2DModel.from_config(config).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {k: tensor.shape for k, tensor in theirs.items()}
    assert sum(tensor.numel() for tensor in ours.values()) == parameters
    if size == 32:
        assert UNetConfig.from_diffusers(config) == UNetConfig()


def test_networks_that_ours_cannot_be_are_diffusers_own(tmp_path, monkeypatch):
    options = {
        "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet",
        "sample_size": (8, 16), "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    }  # fmt: skip
    network = written(tmp_path, architecture=options)
    loaded = load(tmp_path)
    assert loaded.shape == (3, 8, 16)
    x, t = torch.randn(2, 3, 8, 16), torch.tensor([3.0, 812.5])
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, t), network(x, t).sample, rtol=0, atol=1e-6)
    assert solve(loaded.eps(loaded.schedule), x, steps=2, schedule=loaded.schedule).x.isfinite().all()
    assert load(tmp_path, dtype=torch.float64).network(x.double(), t.double()).dtype == torch.float64
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        OptionError, match=r"up_block_types must have .*; diffusers' own network may: pip install 'pndm"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ({"num_class_embeds": 10}, "the network wants a class, and only unconditional ones are known"),
        ({"out_channels": 6}, "out_channels=6 must be in_channels=3"),
        ({"sample_size": None}, "sample_size=None given"),
    ],
)
def test_networks_that_cannot_be_sampled_from(architecture, sentence, tmp_path):
    written(tmp_path, architecture=architecture)
    with pytest.raises(OptionError, match=sentence):
        load(tmp_path)


def test_dtype_and_memory_layout(folder):
    loaded = load(folder, dtype=torch.float64)
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float64}
    assert loaded.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert load(folder, channels_last=False).network.conv_in.weight.is_contiguous()


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(image_size=8, channels=(8, 16), blocks=1, attention=(False, True), groups=4),
        UNetConfig(image_size=16, in_channels=1, channels=(8, 16, 24), attention=(True, False, True), groups=2,
                   attention_head_dim=8, dropout=0.1, eps=1e-5, flip_sin_to_cos=True, freq_shift=0,
                   downsample_padding=1),
    ],
)  # fmt: skip
def test_networks_that_diffusers_reads_back(config, tmp_path):
    network = UNet(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert UNetConfig.from_diffusers(to_diffusers(config)) == config
    assert save_network(network, tmp_path) == ["diffusers", "UNet2DModel"]
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet").eval()
    x, t = torch.randn(2, config.in_channels, config.image_size, config.image_size), torch.tensor([3.0, 812.5])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), theirs(x, t).sample, rtol=0, atol=1e-5)


def test_a_network_that_only_ours_can_hold(tmp_path):
    config = UNetConfig(
        image_size=8, in_channels=1, channels=(8, 16), blocks=1, attention=(False, True), groups=4, patch=2
    )
    network = UNet(config)
    assert save_network(network, tmp_path) == ["pndm.models.unet", "UNet"]
    (tmp_path / "model_index.json").write_text('{"_class_name": "PNDMPipeline", "unet": ["pndm.models.unet", "UNet"]}')
    loaded = load_network(tmp_path)
    assert loaded.config == config
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))


def test_names_on_the_hub(folder, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or folder
    )
    assert load("google/ddpm-cifar10-32").shape == (3, 8, 8)
    assert diffusers_folder.local_folder("a/b", revision="v1") == folder
    patterns = {"allow_patterns": ["*.json", "*.safetensors"]}
    assert asked == [("google/ddpm-cifar10-32", patterns), ("a/b", {**patterns, "revision": "v1"})]

    def fails(name, **options):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(OptionError, match=r"pipeline a/b: .* the hub did not give it .ConnectionError: no network.$"):
        load("a/b")


def test_what_is_a_pipeline(folder):
    assert is_pipeline(folder)
    assert is_pipeline("google/ddpm-cifar10-32")
    for name in (
        "default",
        "runs/model.safetensors",
        "runs/model.ckpt",
        "./runs",
        "a/b/c",
        str(folder / "unet" / WEIGHTS),
    ):
        assert not is_pipeline(name)


def _edit(file, **changes):
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def _pickled(folder):
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")


def _smaller(folder):
    tensors = load_file(folder / "unet" / WEIGHTS)
    del tensors["conv_in.bias"]
    save_file(tensors, folder / "unet" / WEIGHTS)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda f: (f / "model_index.json").unlink(),
            "there is no model_index.json, so it is not a diffusers pipeline",
        ),
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json: cannot be read as JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json: holds a list where an object"),
        (
            lambda f: _edit(f / "model_index.json", _class_name="LDMPipeline"),
            "class 'LDMPipeline' is not known; known are DDPMPipeline, DDIMPipeline, PNDMPipeline",
        ),
        (lambda f: _edit(f / "model_index.json", _class_name=...), "class None is not known"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "there is no scheduler/scheduler_config.json"),
        (
            lambda f: _edit(f / "scheduler" / "scheduler_config.json", sigma_min=0.1),
            "scheduler configuration: field 'sigma_min' .value 0.1. is not known; known are beta_end, beta_schedule",
        ),
        (
            lambda f: _edit(f / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid"),
            "unknown beta_schedule 'sigmoid'",
        ),
        (lambda f: (f / "unet" / "config.json").unlink(), "there is no unet/config.json"),
        (
            lambda f: _edit(f / "model_index.json", unet=["diffusers", "UNet1DModel"]),
            "its unet is ..diffusers., .UNet1DModel.., not a UNet2DModel of diffusers",
        ),
        (lambda f: _edit(f / "model_index.json", unet=...), "its unet is None, not a UNet2DModel of diffusers"),
        (
            lambda f: _edit(f / "unet" / "config.json", act_fn="other"),
            "diffusers unet config: act_fn=.other.*; nor can diffusers load it .ValueError",
        ),
        (lambda f: (f / "unet" / WEIGHTS).unlink(), f"there is no unet/{WEIGHTS}"),
        (
            lambda f: (f / "unet" / WEIGHTS).rename(f / "unet" / "diffusion_pytorch_model.fp16.safetensors"),
            f"there is no unet/{WEIGHTS}, only diffusion_pytorch_model.fp16.safetensors",
        ),
        (_pickled, "unet/diffusion_pytorch_model.bin is a pickle, which can run code .* refused; .*save_pretrained"),
        (_smaller, f"{WEIGHTS} does not fit its config.json: Missing key.*conv_in.bias"),
        (lambda f: (f / "unet" / WEIGHTS).write_bytes(b"\x08" + bytes(40)), f"{WEIGHTS} is truncated or damaged"),
    ],
)
def test_refusals(harm, sentence, folder):
    harm(folder)
    with pytest.raises(OptionError, match=sentence):
        load(folder)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./nowhere"])
def test_no_folder(name):
    with pytest.raises(OptionError, match=f"pipeline {name}: there is no such folder, and a name on the hub has the f"):
        diffusers_folder.local_folder(name)
    with pytest.raises(OptionError, match=f"model {name}: there is no such file or folder; give a .safetensors file"):
        load(name)


def test_the_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OptionError, match="a name on the hub needs: pip install 'pndm\\[diffusers\\]'"):
        load("google/ddpm-cifar10-32")
