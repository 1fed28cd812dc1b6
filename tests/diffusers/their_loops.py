"""Configurations and networks in diffusers' classes, and the loop of its pipelines."""

from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from torch import Tensor

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}


# A path on which ᾱ stays above 0.3, so that networks that have learnt nothing make bounded images too.
GENTLE = {"beta_start": 0.001, "beta_end": 0.00105}


def shaken(network):
    """Weights that are all felt in the output."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def small_unet(**changes) -> UNet2DModel:
    options = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return shaken(UNet2DModel(**{**options, **changes}))


def in_terms_of(predicts: str, model: Callable[[Tensor, Tensor], Tensor], path) -> Callable[[Tensor, Tensor], Tensor]:
    """A network that predicts something else, equal in what it knows to `model`, which predicts eps."""

    def answer(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (f(t.double())[:, None] for f in (path.alpha, path.sigma))
        eps = model(x, t)
        x0 = (x - sigma * eps) / alpha
        return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[predicts]

    return answer


def run(scheduler, steps, model, x, *, begin=None, **options):
    """The loop of diffusers' pipelines, from an index of the timesteps as its image-to-image pipelines start there."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if begin is not None:
        timesteps = timesteps[begin:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
    for t in timesteps:
        output = model(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(output, t, x, return_dict=False, **options)[0]
    return x
