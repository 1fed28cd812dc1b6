"""experiment=convert: an original checkpoint becomes a pipeline folder that run.py, pndm and diffusers sample from."""

import hashlib
import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pndm
from pndm import schedules
from pndm.models import pretrained
from pndm.noise import SampleNoise
from tests.experiments.conftest import run_main
from tests.models.original_unet import evaluate, random_weights


@pytest.fixture(scope="module")
def weights():
    return random_weights(32, (1, 1), blocks=1, attends=(0,))


@pytest.fixture
def source(weights, tmp_path):
    path = tmp_path / "ema_tiny.ckpt"
    torch.save(weights, path)
    return path


def convert(monkeypatch, source, folder, *options):
    return run_main(monkeypatch, "experiment=convert", f"experiment.source={source}", f"output={folder}", *options)


def test_what_is_converted_samples_as_the_original_does(monkeypatch, capsys, tmp_path, source, weights):
    folder, out = tmp_path / "converted", tmp_path / "out"
    assert convert(monkeypatch, source, folder) == 0
    assert f"python run.py model={folder} solver=plms steps=50" in capsys.readouterr().out
    options = ("solver=ddim", "steps=3", "samples=2", "progress=false", f"output={out}")
    assert run_main(monkeypatch, f"model={folder}", *options) == 0
    x = SampleNoise(0, range(2)).draw((3, 16, 16))
    expected = pndm.solve(lambda x, t: evaluate(weights, x, t), x, solver="ddim", steps=3).x
    scale = expected.abs().max()
    torch.testing.assert_close(load_file(out / "samples.safetensors")["x"] / scale, expected / scale, rtol=0, atol=1e-5)
    record = json.loads((folder / "record.json").read_text())
    assert record["source"] == {"path": str(source), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert record["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert record["weights"] == "as saved"


def test_a_changed_file_is_converted_again(monkeypatch, capsys, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    arguments = ("experiment=convert", f"experiment.source={source}")
    for _ in range(2):
        assert run_main(monkeypatch, *arguments) == 0
    assert "done already" in capsys.readouterr().out
    torch.save(random_weights(32, (1, 1), blocks=1, attends=(0,), seed=1), source)
    assert run_main(monkeypatch, *arguments) == 0
    assert "done already" not in capsys.readouterr().out
    first, second = sorted((tmp_path / "outputs" / "convert").glob("ema_tiny-*"))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (first / weights).read_bytes() != (second / weights).read_bytes()


def test_diffusers_and_pndm_load_the_folder(monkeypatch, tmp_path, source, weights):
    folder = tmp_path / "converted"
    assert convert(monkeypatch, source, folder) == 0
    theirs = diffusers.DDPMPipeline.from_pretrained(folder)
    assert isinstance(theirs.unet, diffusers.UNet2DModel)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 812])
    with torch.no_grad():
        torch.testing.assert_close(theirs.unet(x, t).sample, evaluate(weights, x, t), rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.scheduler.alphas_cumprod[[0, 999]], [0.9999, 4.0358e-05], rtol=1e-4)
    pipe = pndm.PNDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(1, 2, output_type="pt").images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine"])
def test_the_schedule_it_was_trained_on(monkeypatch, tmp_path, source, schedule):
    folder = tmp_path / "converted"
    options = ["schedule.beta_start=0.0002"] if schedule == "scaled_linear" else []
    assert convert(monkeypatch, source, folder, f"schedule={schedule}", "experiment.image_size=24", *options) == 0
    made = schedules.create(schedule, **({"beta_start": 0.0002} if options else {}))
    loaded = pretrained.load(folder)
    assert loaded.shape == (3, 24, 24)
    times = np.arange(1000.0)
    np.testing.assert_allclose(loaded.schedule.log_alpha(times), made.log_alpha(times), rtol=1e-9)
    theirs = diffusers.DDPMPipeline.from_pretrained(folder).scheduler.alphas_cumprod
    np.testing.assert_allclose(theirs.numpy(), made.alpha(times) ** 2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "experiment=convert needs a checkpoint: experiment.source=path/to/ema_cifar10.ckpt"),
        (["experiment.source=nowhere.ckpt"], "original checkpoint nowhere.ckpt: there is no such file"),
        (["experiment.source=pyproject.toml"], "original checkpoint pyproject.toml: "),
        (["experiment.source=SOURCE", "schedule=vp_linear"], "schedule 'vp_linear' has no discrete training steps"),
        (
            ["experiment.source=SOURCE", "experiment.image_size=15"],
            "unet image_size=15: 2 levels with patch=1 need a m",
        ),
        (["experiment.source=SOURCE", "experiment.image_size=0"], "unet image_size=0: give a positive whole number"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_pipeline(monkeypatch, capsys, tmp_path, source, options, said):
    options = [option.replace("SOURCE", str(source)) for option in options]
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, "experiment=convert", f"output={tmp_path / 'out'}", *options)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "model_index.json").exists()


def test_sampling_from_the_pickle_itself_names_the_way(monkeypatch, capsys, tmp_path, source):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, f"model={source}", f"output={tmp_path / 'out'}")
    assert "is a pickle" in (error := capsys.readouterr().err)
    assert "experiment=convert" in error
