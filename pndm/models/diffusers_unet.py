"""diffusers' own UNet2DModel, for pipelines whose network has parts that our U-Net lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pndm.errors import OptionError


class DiffusersUNet(nn.Module):
    """A UNet2DModel with the call of our `UNet`: x (B, C, H, W) of any float dtype, real times t (B,).

    shape: of one sample, (C, H, W). Raises OptionError for a network that more than x and t must be told, or that
    answers with another number of channels.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        config = network.config
        if config.class_embed_type or config.num_class_embeds:
            raise OptionError("diffusers unet config: the network wants a class, and only unconditional ones are known")
        if config.out_channels != config.in_channels or not config.sample_size:
            raise OptionError(
                f"diffusers unet config: out_channels={config.out_channels!r} must be in_channels="
                f"{config.in_channels!r}, and sample_size={config.sample_size!r} given"
            )
        size = config.sample_size
        self.shape = (config.in_channels, *((size, size) if isinstance(size, int) else size))
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x.to(self.network.dtype), t).sample.to(x.dtype)


def load_unet(folder: Path, dtype: torch.dtype, lacking: OptionError) -> DiffusersUNet:
    """The network of unet/, on the CPU in evaluation mode. `lacking`: why ours cannot be it; raised if theirs cannot
    either."""
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise OptionError(f"{lacking}; diffusers' own network may: pip install 'pndm[diffusers]'") from None
    try:
        network = UNet2DModel.from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)
    except Exception as error:
        raise OptionError(f"{lacking}; nor can diffusers load it ({type(error).__name__})") from error
    return DiffusersUNet(network).eval()
