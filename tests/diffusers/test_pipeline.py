"""PNDMPipeline: diffusers' interface, equal images, folders, outputs, refusals."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from their_loops import GENTLE, small_unet

import pndm
from pndm import ModelError, OptionError, PNDMPipeline, solve, solvers
from pndm.diffusers import SolverScheduler, scheduler
from pndm.models.unet import UNet, UNetConfig

SAME = {"rtol": 0, "atol": 1e-5}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(unet):
    return quiet(PNDMPipeline(unet, scheduler("plms", GENTLE)))


@pytest.fixture
def own(unet):
    """The same network as our U-Net."""
    network = UNet(UNetConfig.from_diffusers(unet.config)).eval()
    network.load_state_dict(unet.state_dict())
    return quiet(PNDMPipeline(network, scheduler("plms", GENTLE)))


# ---- the interface


def test_call_has_diffusers_signature():
    ours, theirs = (inspect.signature(each.__call__).parameters for each in (PNDMPipeline, diffusers.PNDMPipeline))
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)
    assert list(inspect.signature(PNDMPipeline.__init__).parameters) == ["self", "unet", "scheduler"]
    for name in ("from_pretrained", "save_pretrained"):
        ours, theirs = (inspect.signature(getattr(each, name)) for each in (PNDMPipeline, diffusers.PNDMPipeline))
        assert next(iter(ours.parameters)) == next(iter(theirs.parameters))


def test_is_a_diffusion_pipeline(pipe, own):
    assert issubclass(PNDMPipeline, diffusers.DiffusionPipeline)
    assert pndm.PNDMPipeline is PNDMPipeline
    for each in (pipe, own):
        assert set(each.components) == {"unet", "scheduler"}
        assert (each.device, each.dtype) == (torch.device("cpu"), torch.float32)


def test_outputs(pipe):
    images = pipe(2, 3, generator=seeded())
    assert isinstance(images, diffusers.ImagePipelineOutput)
    assert [each.size for each in images.images] == [(8, 8)] * 2
    assert all(isinstance(each, Image.Image) for each in images.images)
    (array,) = pipe(batch_size=2, num_inference_steps=3, generator=seeded(), output_type="np", return_dict=False)
    assert (array.shape, array.dtype) == ((2, 8, 8, 3), np.float32)
    assert np.array_equal(np.array(images.images[1]), (array[1] * 255).round())
    assert np.array_equal(pipe(2, 3, seeded(), None).images, array)
    tensor = pipe(2, 3, seeded(), "pt").images
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert 0 <= array.min() < array.max() <= 1


def test_one_channel_gives_grey_images():
    grey = quiet(PNDMPipeline(small_unet(in_channels=1, out_channels=1), scheduler("ddim", GENTLE)))
    assert grey(1, 2).images[0].mode == "L"


def test_progress_bar(unet, capfd):
    PNDMPipeline(unet, scheduler("plms", GENTLE))(1, 5)
    assert "14/14" in capfd.readouterr().err  # evaluations
    PNDMPipeline(unet, scheduler("plms", GENTLE))(1, 5, solver="ddim")
    assert "5/5" in capfd.readouterr().err


# ---- the images


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "v_prediction"},
        GENTLE,
        {**GENTLE, "skip_prk_steps": True},
        {**GENTLE, "set_alpha_to_one": True, "steps_offset": 1},
    ],
)
def test_compat_gives_diffusers_images(config, unet):
    theirs = quiet(diffusers.PNDMPipeline(unet, diffusers.PNDMScheduler(**config)))
    ours = quiet(PNDMPipeline(unet, scheduler("plms", theirs.scheduler.config, compat=True)))
    expected = theirs(2, 20, generator=seeded(), output_type="np").images
    result = ours(2, 20, generator=seeded(), output_type="np").images
    assert expected.std() > 0.05
    assert np.abs(result - expected).max() < 1 / 255
    assert np.abs(result - expected).max() < 1e-5


def test_a_list_of_generators_draws_what_diffusers_draws(unet):
    theirs = quiet(diffusers.PNDMPipeline(unet, diffusers.PNDMScheduler(**GENTLE)))
    ours = quiet(PNDMPipeline(unet, scheduler("plms", theirs.scheduler.config, compat=True)))
    expected, result = (
        pipe(3, 5, [seeded(k) for k in (5, 6, 7)], "np", return_dict=False)[0] for pipe in (theirs, ours)
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["plms", "dpmpp_2m", "prk"])
def test_the_scheduler_is_the_solver(name, unet):
    pipe = quiet(PNDMPipeline(unet, scheduler(name, GENTLE)))
    images = pipe(2, 5, seeded(), "pt").images
    x = torch.randn(2, 3, 8, 8, generator=seeded())
    x = solve(lambda x, t: unet(x, t).sample, x, solver=name, steps=5, schedule=pipe.scheduler.schedule).x
    torch.testing.assert_close(images, (x / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_our_network_and_theirs_give_the_same_images(pipe, own):
    torch.testing.assert_close(own(2, 5, seeded(), "pt").images, pipe(2, 5, seeded(), "pt").images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", solvers.names())
def test_every_solver_of_the_registry_for_one_call(name, own):
    images = own(1, 4, seeded(), "pt", solver=name).images
    assert images.isfinite().all()
    if name in ("ddim", "unipc"):
        alone = quiet(PNDMPipeline(own.unet, scheduler(name, GENTLE)))(1, 4, seeded(), "pt").images
        torch.testing.assert_close(images, alone, rtol=0, atol=1e-5)


def test_a_solver_object_and_a_foreign_scheduler(pipe):
    expected = pipe(1, 4, seeded(), "pt", solver=solvers.create("plms", order=2)).images
    pipe.scheduler = diffusers.EulerDiscreteScheduler(**GENTLE)
    assert pipe(1, 4, seeded(), "pt").images.isfinite().all()
    pipe.scheduler = diffusers.DDIMScheduler(**GENTLE)
    assert not torch.equal(pipe(1, 4, seeded(), "pt", solver="plms").images, expected)
    assert isinstance(PNDMPipeline(pipe.unet, pipe.scheduler).scheduler, SolverScheduler)


def test_an_image_depends_on_its_own_generator_alone(own):
    together = own(3, 4, [seeded(k) for k in (5, 6, 7)], "pt", solver="ddpm").images
    alone = own(1, 4, [seeded(6)], "pt", solver="ddpm").images
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


def test_half_precision_computes_in_half_and_adds_up_in_single(own):
    whole = own(1, 5, seeded(), "pt").images
    half = own.to(torch.bfloat16)(1, 5, seeded(), "pt").images
    assert (own.dtype, half.dtype) == (torch.bfloat16, torch.float32)
    assert 0 < (half - whole).abs().max() < 0.1


def test_to(pipe, own):
    for each in (pipe, own):
        assert each.to("cpu", torch.float64) is each
        assert each.dtype == torch.float64
        each.to(dtype=torch.float32)
        assert each.to(device="cpu").dtype == torch.float32


# ---- folders


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_round_trip(kind, pipe, own, tmp_path):
    source = pipe if kind == "theirs" else own
    source.scheduler = scheduler("dpmpp_2m", GENTLE, timestep_spacing="karras", power=5.0)
    source.save_pretrained(tmp_path)
    assert sorted(file.name for file in (tmp_path / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    back = quiet(PNDMPipeline.from_pretrained(tmp_path))
    assert isinstance(back.unet, diffusers.UNet2DModel)
    assert torch.equal(back(1, 4, seeded(), "pt").images, pipe_images(source, tmp_path))
    plain = quiet(diffusers.DiffusionPipeline.from_pretrained(tmp_path))  # as its own PNDMPipeline
    assert isinstance(plain, diffusers.PNDMPipeline)


def pipe_images(source, folder):
    """With diffusers' own network class, which rounds a little differently from ours."""
    network = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    return quiet(PNDMPipeline(network, source.scheduler))(1, 4, seeded(), "pt").images


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "PNDM"])
def test_loads_what_diffusers_saved(kind, unet, tmp_path):
    theirs = getattr(diffusers, f"{kind}Pipeline")(unet, getattr(diffusers, f"{kind}Scheduler")(**GENTLE))
    theirs.save_pretrained(tmp_path)
    ours = quiet(PNDMPipeline.from_pretrained(tmp_path, solver="prk", timestep_spacing="uniform"))
    direct = quiet(PNDMPipeline(unet, scheduler("prk", theirs.scheduler.config, timestep_spacing="uniform")))
    torch.testing.assert_close(ours(1, 3, seeded(), "pt").images, direct(1, 3, seeded(), "pt").images, **SAME)
    same = quiet(PNDMPipeline.from_pretrained(tmp_path, compat=True))
    plain = quiet(diffusers.PNDMPipeline.from_pretrained(tmp_path))
    expected = plain(1, 10, seeded(), "np").images
    np.testing.assert_allclose(same(1, 10, seeded(), "np").images, expected, rtol=0, atol=1e-5)


def test_a_folded_network_is_saved_too(tmp_path):
    config = UNetConfig(
        image_size=8, in_channels=1, channels=(8, 16), blocks=1, attention=(False, True), groups=4, patch=2
    )
    source = quiet(PNDMPipeline(UNet(config).eval(), scheduler("plms", GENTLE)))
    source.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["pndm.models.unet", "UNet"]
    back = quiet(PNDMPipeline.from_pretrained(tmp_path, dtype=torch.float32))
    assert torch.equal(back(1, 3, seeded(), "pt").images, source(1, 3, seeded(), "pt").images)


def test_parts_can_be_given(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    mine = scheduler("ddim", GENTLE)
    back = PNDMPipeline.from_pretrained(tmp_path, unet=pipe.unet, scheduler=mine)
    assert back.unet is pipe.unet
    assert back.scheduler is mine


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be a whole number of at least 1"),
        ({"num_inference_steps": 0, "solver": "ddim"}, "num_inference_steps=0 must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 3, "generator": [seeded()]}, "generator is a list of 1, but batch_size=3: give one a sample"),
        ({"generator": 3}, "generator=3 must be a torch.Generator, or a list of one a sample"),
        ({"output_type": "jpg"}, "output_type='jpg' must be one of pil, np, pt"),
        ({"solver": "plsm"}, "unknown solver 'plsm': did you mean 'plms'"),
        (
            {"compat": True},
            r"compat is an option of the scheduler, .* PNDMPipeline.from_pretrained.folder, compat=\.\.\.",
        ),
        ({"slover": "ddim"}, "PNDMPipeline has no argument 'slover': known are batch_size, .*, solver"),
    ],
)
def test_refused_calls(arguments, sentence, pipe):
    with pytest.raises(OptionError, match=sentence):
        pipe(**arguments)


def test_images_that_are_not_finite_are_an_error():
    network = small_unet()
    network.conv_out.bias[0] = torch.inf
    with pytest.raises(ModelError, match=r"the network answered with NaN or infinity .* in torch.float32"):
        quiet(PNDMPipeline(network, scheduler("ddim", GENTLE)))(1, 2)


def test_a_scheduler_that_is_none(unet):
    with pytest.raises(OptionError, match="scheduler=None must be a diffusers scheduler"):
        PNDMPipeline(unet, None)


def test_a_network_without_a_size_and_one_of_oblong_images():
    with pytest.raises(OptionError, match="configuration has no sample_size"):
        PNDMPipeline(small_unet(sample_size=None), scheduler("ddim", GENTLE))()
    oblong = quiet(PNDMPipeline(small_unet(sample_size=(8, 16)), scheduler("ddim", GENTLE)))
    assert oblong(1, 1).images[0].size == (16, 8)


def _edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_refused_folders(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for name, value in {"use_safetensors": False, "safe_serialization": False}.items():
        with pytest.raises(OptionError, match=f"{name}=False: pickle"):
            (PNDMPipeline.from_pretrained if name[0] == "u" else pipe.save_pretrained)(tmp_path, **{name: value})
    with pytest.raises(OptionError, match="scheduler is given, so solver must be set on it"):
        PNDMPipeline.from_pretrained(tmp_path, scheduler=scheduler("ddim", GENTLE), solver="prk")
    _edit(tmp_path / "scheduler" / "scheduler_config.json", beta_shedule="linear")
    with pytest.raises(
        OptionError, match=r"scheduler configuration: field 'beta_shedule' .value 'linear'. is not known"
    ):
        PNDMPipeline.from_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "unet" / "diffusion_pytorch_model.bin"
    )
    _edit(tmp_path / "scheduler" / "scheduler_config.json", beta_shedule="linear")
    with pytest.raises(OptionError, match="is not known"):
        PNDMPipeline.from_pretrained(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(
        OptionError, match=r"diffusion_pytorch_model.bin is a pickle, which can run code .* safe_serialization"
    ):
        PNDMPipeline.from_pretrained(tmp_path)
    _edit(tmp_path / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(OptionError, match="class 'StableDiffusionPipeline' is not known; known are DDPMPipeline, DDIM"):
        PNDMPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(OptionError, match=r"there is no model_index.json, so it is not a diffusers pipeline"):
        PNDMPipeline.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match="there is no such folder, and a name on the hub has the form owner/name"):
        PNDMPipeline.from_pretrained(tmp_path / "nowhere")
