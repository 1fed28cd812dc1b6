"""compat=True: what diffusers' PNDMScheduler and DDIMScheduler compute, to 1e-5, faults included."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from their_loops import STABLE_DIFFUSION, in_terms_of, run

from pndm import OptionError, solve
from pndm.diffusers import scheduler

CLOSE = {"rtol": 0, "atol": 1e-5}
SPACINGS = ("leading", "trailing", "linspace")
BETAS = {
    "linear": {},
    "Stable Diffusion's": STABLE_DIFFUSION,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "given": {"trained_betas": torch.linspace(1e-4, 0.02, 1000).tolist()},
}


@pytest.mark.parametrize("steps", [4, 7, 20, 50])
@pytest.mark.parametrize(("skip", "one"), [*itertools.product([True, False], repeat=2)])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_pndm(predicts, spacing, skip, one, steps, pixels, noise):
    config = {"timestep_spacing": spacing, "skip_prk_steps": skip, "set_alpha_to_one": one, "prediction_type": predicts}
    theirs, model = PNDMScheduler(**config), in_terms_of(predicts, pixels, pixels.schedule)
    expected = run(theirs, steps, model, noise)
    ours = scheduler("plms", theirs.config, compat=True)
    result = run(ours, steps, model, noise)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert expected.isfinite().all()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("begin", [None, 1, 2, 10])
@pytest.mark.parametrize("betas", BETAS)
def test_pndm_on_every_path_and_from_the_middle(betas, begin, latent, noise):
    theirs = PNDMScheduler(**{**BETAS[betas], "skip_prk_steps": True})
    ours = scheduler("plms", theirs.config, compat=True)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-6, atol=1e-9)
    expected = run(theirs, 20, latent, noise, begin=begin)
    torch.testing.assert_close(run(ours, 20, latent, noise, begin=begin), expected, **CLOSE)


@pytest.mark.parametrize("begin", [1, 4, 10, 13])
def test_pndm_with_runge_kutta_from_the_middle(begin, latent, noise):
    """Where their own run fails, ours need not; where it does not, it is the same."""
    theirs = PNDMScheduler(**{**STABLE_DIFFUSION, "skip_prk_steps": False})
    ours = scheduler("plms", theirs.config, compat=True)
    expected = run(theirs, 50, latent, noise, begin=begin)
    torch.testing.assert_close(run(ours, 50, latent, noise, begin=begin), expected, **CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
def test_ddim(predicts, spacing, clip, one, steps, pixels, noise):
    config = {"timestep_spacing": spacing, "clip_sample": clip, "set_alpha_to_one": one, "prediction_type": predicts}
    theirs, model = DDIMScheduler(**config), in_terms_of(predicts, pixels, pixels.schedule)
    expected = run(theirs, steps, model, noise)
    torch.testing.assert_close(
        run(scheduler("ddim", theirs.config, compat=True), steps, model, noise), expected, **CLOSE
    )


def test_float32_states(latent, noise):
    theirs = PNDMScheduler(**STABLE_DIFFUSION)
    expected = run(theirs, 50, latent, noise.float())
    torch.testing.assert_close(
        run(scheduler("plms", theirs.config, compat=True), 50, latent, noise.float()), expected, **CLOSE
    )


@pytest.mark.parametrize(("name", "kind"), [("plms", PNDMScheduler), ("ddim", DDIMScheduler)])
def test_another_class_configuration_means_what_it_means_to_theirs(name, kind, pixels, noise):
    """Of a DDPM scheduler's configuration theirs takes what it was told, and the rest from its own defaults."""
    written = DDPMScheduler(beta_end=0.015).config
    expected = run(kind.from_config(written), 20, pixels, noise)
    torch.testing.assert_close(run(scheduler(name, written, compat=True), 20, pixels, noise), expected, **CLOSE)
    expected = run(kind(), 20, pixels, noise)
    torch.testing.assert_close(run(scheduler(name, compat=True), 20, pixels, noise), expected, **CLOSE)


def test_theirs_fails_below_four_steps_and_ours_does_not(pixels, noise):
    for steps in (1, 2, 3):
        with pytest.raises(ValueError, match="broadcast"):
            PNDMScheduler().set_timesteps(steps)
        with pytest.raises(OptionError, match=f"num_inference_steps={steps}: with compat=True .* at least 4"):
            scheduler("plms", compat=True).set_timesteps(steps)
        assert run(scheduler("plms", PNDMScheduler().config), steps, pixels, noise).isfinite().all()


def test_theirs_ends_an_image_to_image_run_at_the_wrong_noise(latent, noise, record_property):
    """From the middle, their list does not repeat its second time, but their counter takes it as repeated: every later
    evaluation is made one step of noise off. The exact flow from there is the measure."""
    theirs, ours = PNDMScheduler(**STABLE_DIFFUSION), scheduler("plms", STABLE_DIFFUSION)
    ours.set_timesteps(50)
    start, path = ours.timesteps[25].item(), latent.schedule
    draws = torch.Generator().manual_seed(0)
    images = latent.sample(200, draws)
    x = ours.add_noise(images, torch.randn(200, 2, dtype=torch.float64, generator=draws), torch.tensor([start]))
    exact = solve(latent, x, solver="rho_rk4", steps=400, schedule=path, t_start=start, t_end=0.0).x
    theirs.set_timesteps(50)
    errors = {}
    for name, each in {"ours": ours, "diffusers": theirs}.items():
        begin = each.timesteps.tolist().index(start)
        errors[name] = (run(each, 50, latent, x, begin=begin) - exact).square().mean().sqrt().item()
    record_property("errors", errors)
    assert errors["ours"] < 3e-3
    assert errors["diffusers"] > 4 * errors["ours"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: scheduler("prk", compat=True), "solver='prk': compat=True knows plms .* and ddim"),
        (
            lambda: scheduler("plms", compat=True, timestep_spacing="karras").set_timesteps(10),
            "unknown timestep_spacing of compat=True 'karras': known names are leading, linspace, trailing",
        ),
        (
            lambda: scheduler("plms", compat=True, prediction_type="sample").set_timesteps(10),
            "PNDMScheduler knows prediction_type epsilon and v_prediction only",
        ),
        (lambda: scheduler("ddim", compat=True).set_timesteps(timesteps=[5, 1]), "compat=True does not take timesteps"),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()
