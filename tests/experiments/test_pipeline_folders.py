"""run.py model=<folder>: networks from pipeline folders that diffusers itself wrote."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from pndm import schedules, solve
from pndm.denoisers import denoiser, retimed
from pndm.noise import SampleNoise
from tests.experiments.conftest import run_main

ARCHITECTURE = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**ARCHITECTURE).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def written(folder: Path, network, kind="DDPM", **options) -> Path:
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    getattr(diffusers, f"{kind}Pipeline")(network, scheduler).save_pretrained(folder)
    return folder


def drawn(folder: Path) -> torch.Tensor:
    return load_file(folder / "samples.safetensors")["x"]


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "PNDM"])
def test_samples_are_those_of_the_network(monkeypatch, tmp_path, network, kind):
    folder, out = written(tmp_path / "a model = mine (it's)", network, kind), tmp_path / "out"
    options = ("solver=plms", "steps=6", "samples=3", "dtype=float64", "progress=false")
    assert run_main(monkeypatch, f"model={folder}", *options, f"output={out}") == 0

    def eps(x, t):
        return network.double()(x, t).sample

    x = SampleNoise(0, range(3)).draw((3, 8, 8), torch.float64)
    torch.testing.assert_close(drawn(out), solve(eps, x, solver="plms", steps=6).x, rtol=1e-6, atol=1e-6)
    record = json.loads((out / "record.json").read_text())
    assert record["model"]["weights"] == str(folder)
    assert record["model"]["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["nfe"] == 15


def test_a_network_of_v_on_another_path(monkeypatch, tmp_path, network):
    """Its own path and prediction are read from the folder, and looked up on the path of the run."""
    options = {"beta_schedule": "scaled_linear", "beta_end": 0.015, "prediction_type": "v_prediction"}
    folder, out = written(tmp_path / "v", network, **options), tmp_path / "out"
    arguments = (f"model={folder}", "solver=ddim", "steps=6", "samples=2", "dtype=float64", "progress=false")
    assert run_main(monkeypatch, *arguments, f"output={out}") == 0
    trained = schedules.create("scaled_linear", beta_start=1e-4, beta_end=0.015)
    own = denoiser(lambda x, t: network.double()(x, t).sample, "v", trained)
    model = retimed(own, trained, schedules.create("linear"))
    x = SampleNoise(0, range(2)).draw((3, 8, 8), torch.float64)
    torch.testing.assert_close(drawn(out), solve(model, x, solver="ddim", steps=6).x, rtol=1e-6, atol=1e-6)


def test_a_folder_by_its_bare_name(monkeypatch, tmp_path, network):
    written(tmp_path / "here", network)
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "model=here", "solver=ddim", "steps=2", "samples=1", "progress=false") == 0
    (record,) = tmp_path.glob("outputs/sample/*/record.json")
    assert json.loads(record.read_text())["model"]["weights"] == "here"


def _without_index(folder):
    (folder / "model_index.json").unlink()


def _of_another_class(folder):
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


def _with_an_unknown_field(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_shedule": "linear"}')


def _pickled(folder):
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_without_index, "there is no model_index.json"),
        (_of_another_class, "class 'StableDiffusionPipeline' is not known; known are DDPMPipeline"),
        (_with_an_unknown_field, "field 'beta_shedule' (value 'linear') is not known"),
        (_pickled, "is a pickle, which can run code when it is opened, and is refused"),
    ],
)
def test_a_folder_that_cannot_be_used(monkeypatch, capsys, tmp_path, network, harm, said):
    folder = written(tmp_path / "folder", network)
    harm(folder)
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, f"model={folder}", "progress=false", f"output={tmp_path / 'out'}")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_name_on_the_hub(monkeypatch, tmp_path, network):
    import huggingface_hub

    folder, asked = written(tmp_path / "folder", network), []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or folder)
    arguments = ("model=google/ddpm-cifar10-32", "solver=ddim", "steps=2", "samples=1", "progress=false")
    assert run_main(monkeypatch, *arguments, f"output={tmp_path / 'out'}") == 0
    assert set(asked) == {"google/ddpm-cifar10-32"}  # for the key of the run, and to load it
