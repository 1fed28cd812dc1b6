"""Our schedulers in Stable Diffusion's loops and pipelines, with tiny random weights and guidance.

`text_to_image` and `image_to_image` are the loops of `StableDiffusionPipeline.__call__` and of its image-to-image
sister's, line by line, for measurements that the whole pipelines are too slow for; those run at the end.
"""

import inspect

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel, PNDMScheduler, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from their_loops import GENTLE, STABLE_DIFFUSION, shaken

from pndm.diffusers import scheduler

THEIRS = {**STABLE_DIFFUSION, **GENTLE}
SOLVERS = ["plms", "prk", "ddim", "fon", "dpmpp_2m", "unipc"]


@pytest.fixture(scope="module")
def prompts():
    """Embeddings without and with a text, for two images."""
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def unet():
    network = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return shaken(network)


def denoise(unet, scheduler, timesteps, latents, prompt_embeds, generator, guidance_scale):
    """Steps 6 and 7 of StableDiffusionPipeline.__call__."""
    extra_step_kwargs = {}
    if "eta" in set(inspect.signature(scheduler.step).parameters.keys()):
        extra_step_kwargs["eta"] = 0.0
    if "generator" in set(inspect.signature(scheduler.step).parameters.keys()):
        extra_step_kwargs["generator"] = generator
    for t in timesteps:
        latent_model_input = torch.cat([latents] * 2)
        latent_model_input = scheduler.scale_model_input(latent_model_input, t)
        noise_pred = unet(latent_model_input, t, encoder_hidden_states=prompt_embeds, return_dict=False)[0]
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
        latents = scheduler.step(noise_pred, t, latents, **extra_step_kwargs, return_dict=False)[0]
    return latents


@torch.no_grad()
def text_to_image(unet, scheduler, prompt_embeds, steps=10, guidance_scale=3.0):
    generator = torch.Generator().manual_seed(2)
    scheduler.set_timesteps(steps, device="cpu")  # retrieve_timesteps
    latents = randn_tensor((2, 4, 8, 8), generator=generator, dtype=prompt_embeds.dtype)
    latents = latents * scheduler.init_noise_sigma
    return denoise(unet, scheduler, scheduler.timesteps, latents, prompt_embeds, generator, guidance_scale)


@torch.no_grad()
def image_to_image(unet, scheduler, prompt_embeds, image, steps=10, strength=0.8, guidance_scale=3.0):
    generator = torch.Generator().manual_seed(2)
    scheduler.set_timesteps(steps, device="cpu")
    # get_timesteps
    init_timestep = min(int(steps * strength), steps)
    t_start = max(steps - init_timestep, 0)
    timesteps = scheduler.timesteps[t_start * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(t_start * scheduler.order)
    latent_timestep = timesteps[:1].repeat(2)
    # prepare_latents
    noise = randn_tensor(image.shape, generator=generator, dtype=image.dtype)
    latents = scheduler.add_noise(image, noise, latent_timestep)
    return denoise(unet, scheduler, timesteps, latents, prompt_embeds, generator, guidance_scale)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def converged(request, unet, prompts):
    """A configuration, and the images of a run of many steps."""
    config = PNDMScheduler(**{**THEIRS, "timestep_spacing": "trailing"}, prediction_type=request.param).config
    return config, text_to_image(unet, scheduler("rho_ab", config), prompts, steps=80)


@pytest.mark.parametrize("name", SOLVERS)
def test_text_to_image(name, converged, unet, prompts):
    config, images = converged
    ours = text_to_image(unet, scheduler(name, config), prompts, steps=20)
    assert (ours - images).square().mean().sqrt() < 0.1 * images.std()
    assert text_to_image(unet, scheduler(name, config, timestep_spacing="leading"), prompts, steps=2).isfinite().all()


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.1])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.filterwarnings("ignore:scheduler .* starts at index")
def test_image_to_image(name, strength, unet, prompts):
    image = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    config = PNDMScheduler(**THEIRS).config
    images = image_to_image(unet, scheduler(name, config), prompts, image, strength=strength)
    assert images.isfinite().all()
    changed = (images - image).square().mean().sqrt()
    assert changed > 0.01
    if strength == 0.1:
        assert changed < 0.5


@pytest.mark.parametrize("strength", [None, 0.8, 0.3])
def test_compat_is_diffusers(strength, unet, prompts):
    image = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = PNDMScheduler(**THEIRS)
    ours = scheduler("plms", theirs.config, compat=True)
    results = [
        text_to_image(unet, each, prompts, 10)
        if strength is None
        else image_to_image(unet, each, prompts, image, strength=strength)
        for each in (ours, theirs)
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plms", "dpmpp_2m"])
def test_a_whole_pipeline_with_guidance(name):
    """DiTPipeline: classes instead of texts, a latent space, and a state whose second half the pipeline replaces."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=8,
        norm_num_groups=4, num_embeds_ada_norm=1000,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipe = DiTPipeline(transformer=transformer, vae=vae, scheduler=PNDMScheduler(**THEIRS))
    pipe.scheduler = scheduler(name, pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    images = pipe([3, 5], num_inference_steps=5, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert images.shape == (2, 8, 8, 3)


@pytest.mark.parametrize(("name", "prediction"), [*((name, "epsilon") for name in SOLVERS), ("plms", "v_prediction")])
def test_the_pipelines_themselves(name, prediction, unet):
    """Text to image, image to image, inpainting: `pipe.scheduler = ours`, and what comes out."""
    torch.manual_seed(0)
    theirs = PNDMScheduler(**THEIRS, prediction_type=prediction)
    words = transformers.CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=100
    )
    parts = {
        "vae": AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                             down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        "text_encoder": transformers.CLIPTextModel(words), "tokenizer": None, "unet": unet,
        "scheduler": theirs, "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    embeddings = {"prompt_embeds": torch.randn(2, 5, 8), "negative_prompt_embeds": torch.randn(2, 5, 8)}
    image, mask = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    mask[..., :8] = 0
    for kind, arguments in {
        "StableDiffusionPipeline": {},
        "StableDiffusionImg2ImgPipeline": {"image": image, "strength": 0.5},
        "StableDiffusionInpaintPipeline": {"image": image, "mask_image": mask, "height": 16, "width": 16},
    }.items():
        pipe = getattr(diffusers, kind)(**parts)
        pipe.set_progress_bar_config(disable=True)
        results = {}
        schedulers = {"ours": scheduler(name, theirs.config)}
        if name == "plms":
            schedulers |= {"theirs": theirs, "compat": scheduler(name, theirs.config, compat=True)}
        for who, pipe.scheduler in schedulers.items():
            draws = torch.Generator().manual_seed(0)
            results[who] = pipe(
                num_inference_steps=6, generator=draws, output_type="pt", **embeddings, **arguments
            ).images
        assert results["ours"].isfinite().all()
        if name == "plms":
            torch.testing.assert_close(results["compat"], results["theirs"], rtol=0, atol=1e-5)
            assert not torch.equal(results["ours"], results["theirs"])
