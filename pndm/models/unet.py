"""The DDPM U-Net (Ho, Jain & Abbeel 2020, appendix B): the network that predicts the noise of an image.

Parameter names and shapes are those of diffusers' `UNet2DModel`, so that its state dicts load directly, and
`UNetConfig.from_diffusers` reads its `unet/config.json`. One addition: with `patch` > 1 the image is folded
into channels before the first convolution and unfolded after the last (pixel-unshuffle, Shi et al. 2016), which
runs the whole network at 1/patch of the resolution, about patch² times cheaper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pndm.errors import OptionError


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Architecture of a `UNet` as plain data (JSON-able both ways). Defaults: the CIFAR-10 model of DDPM and PNDM.

    Raises OptionError for a value that no network can be built from.
    """

    image_size: int = 32  # height and width of the images it is made for
    in_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)  # one entry a level; each level halves the resolution
    blocks: int = 2  # residual blocks a level on the way down (diffusers: layers_per_block); the way up has one more
    attention: tuple[bool, ...] = (False, True, False, False)  # self-attention after each block of the level
    patch: int = 1  # pixel-unshuffle factor of the stem; 1 = none
    dropout: float = 0.0
    groups: int = 32  # of every GroupNorm
    attention_head_dim: int | None = None  # None = one head
    eps: float = 1e-6  # of every GroupNorm
    # What diffusers leaves open; the defaults are those of google/ddpm-cifar10-32.
    flip_sin_to_cos: bool = False  # time embedding: cosines before sines
    freq_shift: float = 1  # time embedding: frequencies 10000^(-i / (half - freq_shift))
    downsample_padding: int = 0  # 1 = on all sides; 0 = right and bottom only, as the TensorFlow original

    def __post_init__(self) -> None:
        for name in ("channels", "attention"):  # JSON has only lists
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise OptionError(f"unet {name}={value!r}: give a list with one entry a level")
            object.__setattr__(self, name, tuple(value))
        for name in ("image_size", "in_channels", "blocks", "patch", "groups"):
            _check_positive(name, getattr(self, name))
        for width in self.channels:
            _check_positive("channels", width, shown=self.channels)
            if width % self.groups:
                raise OptionError(f"unet channels={self.channels}: {width} is not a multiple of groups={self.groups}")
        if not self.channels:
            raise OptionError("unet channels=(): give at least one level")
        if self.channels[0] % 2 or (self.channels[0] // 2) == self.freq_shift:
            raise OptionError(f"unet channels={self.channels}: the first must be even and at least 4 (time embedding)")
        if len(self.attention) != len(self.channels) or not all(isinstance(a, bool) for a in self.attention):
            raise OptionError(f"unet attention={self.attention}: give true or false for each of the "
                              f"{len(self.channels)} levels of channels={self.channels}")  # fmt: skip
        if self.image_size % self.size_multiple:
            raise OptionError(
                f"unet image_size={self.image_size}: {len(self.channels)} levels with patch={self.patch} "
                f"need a multiple of {self.size_multiple}"
            )
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise OptionError(f"unet dropout={self.dropout!r}: give a probability in [0, 1)")
        if not isinstance(self.eps, (int, float)) or not self.eps > 0:
            raise OptionError(f"unet eps={self.eps!r}: give a positive number")
        if self.downsample_padding not in (0, 1):
            raise OptionError(f"unet downsample_padding={self.downsample_padding!r}: give 0 or 1")
        if self.attention_head_dim is not None:
            _check_positive("attention_head_dim", self.attention_head_dim)
            for width, attends in zip((*self.channels, self.channels[-1]), (*self.attention, True), strict=True):
                if attends and width % self.attention_head_dim:
                    raise OptionError(f"unet attention_head_dim={self.attention_head_dim}: does not divide the "
                                      f"{width} channels of a level with attention")  # fmt: skip

    @property
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of this."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """The inverse of `to_dict`; raises OptionError for a field that does not exist."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise OptionError(f"unet option {name!r} does not exist: known are {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> UNetConfig:
        """From the content of a diffusers `unet/config.json`; OptionError for a part this U-Net lacks."""
        given = {**_DIFFUSERS_DEFAULTS, **{k: v for k, v in values.items() if not k.startswith("_")}}
        for name in given:
            if name not in _DIFFUSERS_DEFAULTS:
                raise OptionError(f"diffusers unet config: option {name!r} is not known to this U-Net")
        kinds = {}
        for way, known in (("down_block_types", _DOWN_BLOCKS), ("up_block_types", _UP_BLOCKS)):
            for kind in given[way]:
                if kind not in known:
                    raise OptionError(f"diffusers unet config: {way} has {kind!r}; known are {', '.join(known)}")
            kinds[way] = tuple(known[kind] for kind in given[way])
        if kinds["down_block_types"] != kinds["up_block_types"][::-1]:
            raise OptionError("diffusers unet config: up_block_types must have attention at the same levels "
                              f"as down_block_types={list(given['down_block_types'])}")  # fmt: skip
        channels = given["block_out_channels"]
        accepted: dict[str, tuple[Any, ...]] = {  # the choices of diffusers that this U-Net has made for good
            "out_channels": (given["in_channels"],),
            "time_embedding_dim": (None, 4 * channels[0]),
            "attn_norm_num_groups": (None, given["norm_num_groups"]),
            **_DIFFUSERS_FIXED,
        }
        for name, choices in accepted.items():
            if given[name] not in choices:
                raise OptionError(f"diffusers unet config: {name}={given[name]!r} is not known, only {choices[-1]!r}")
        size = given["sample_size"]
        size = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
        return cls(
            image_size=size,
            in_channels=given["in_channels"],
            channels=channels,
            blocks=given["layers_per_block"],
            attention=kinds["down_block_types"],
            dropout=given["dropout"],
            groups=given["norm_num_groups"],
            attention_head_dim=given["attention_head_dim"],
            eps=given["norm_eps"],
            flip_sin_to_cos=given["flip_sin_to_cos"],
            freq_shift=given["freq_shift"],
            downsample_padding=given["downsample_padding"],
        )


# Block types of diffusers and whether they have attention; and what an absent key means there.
_DOWN_BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True}
_UP_BLOCKS = {"UpBlock2D": False, "AttnUpBlock2D": True}
# fmt: off
_DIFFUSERS_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,), "downsample_type": ("conv",), "upsample_type": ("conv",),
    "act_fn": ("swish", "silu"),  # one function under two names
    "resnet_time_scale_shift": ("default",), "add_attention": (True,), "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "downsample_padding": 1, "dropout": 0.0,
    "attention_head_dim": 8, "norm_num_groups": 32, "norm_eps": 1e-5, "time_embedding_dim": None,
    "attn_norm_num_groups": None,
    "num_train_timesteps": None,  # only for learned time embeddings, which are refused
    **{name: choices[-1] for name, choices in _DIFFUSERS_FIXED.items()},
}
# fmt: on


def _check_positive(name: str, value: Any, shown: Any = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"unet {name}={value if shown is None else shown!r}: give a positive whole number")


def time_features(t: Tensor, dim: int, config: UNetConfig) -> Tensor:
    """Sinusoidal features of real times t: (B,) -> (B, dim), in t's dtype."""
    half = dim // 2
    index = torch.arange(half, dtype=t.dtype, device=t.device)
    angles = t[:, None] * torch.exp(index * (-math.log(10000) / (half - config.freq_shift)))
    parts = (angles.cos(), angles.sin()) if config.flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=1)


class TimeEmbedding(nn.Module):
    """Two-layer perceptron on the time features: (B, C) -> (B, 4C)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class ResnetBlock(nn.Module):
    """GroupNorm-SiLU-conv twice around the added time embedding, plus a shortcut: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, inner: int, out: int, time_dim: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, inner, eps=config.eps)
        self.conv1 = nn.Conv2d(inner, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out)
        self.norm2 = nn.GroupNorm(config.groups, out, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inner, out, 1) if inner != out else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """`emb` is SiLU(time embedding), (B, 4C): the same for all blocks, so it is computed once outside."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.15


class Attention(nn.Module):
    """Self-attention over all pixels, plus a shortcut: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = channels // (config.attention_head_dim or channels)
        self.group_norm = nn.GroupNorm(config.groups, channels, eps=config.eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        # In channels-last memory the flattening and its inverse are views.
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, HW, C / heads)
        h = self.to_out[0](h.transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])

    def _load_from_state_dict(self, state_dict, prefix, *args):  # type: ignore[no-untyped-def]
        for old, new in _OLD_NAMES.items():
            for kind in ("weight", "bias"):
                if f"{prefix}{old}.{kind}" in state_dict:
                    state_dict[f"{prefix}{new}.{kind}"] = state_dict.pop(f"{prefix}{old}.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)


class Downsample(nn.Module):
    """Convolution of stride 2: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.conv.padding == (0, 0) else x)


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, `widths` = (in, out) of each. Absent parts have no entry, as in diffusers."""

    def __init__(self, widths: list[tuple[int, int]], attends: bool, time_dim: int, config: UNetConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(i, o, time_dim, config) for i, o in widths])
        self.attentions = nn.ModuleList([Attention(o, config) for _, o in widths] if attends else [])

    def block(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resnets[i](x, emb)
        return self.attentions[i](x) if len(self.attentions) else x


class DownLevel(Level):
    """Blocks, then half the resolution unless it is the last level."""

    def __init__(self, *args: Any, downsample: Downsample | None) -> None:
        super().__init__(*args)
        self.downsamplers = None if downsample is None else nn.ModuleList([downsample])

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The outputs of all parts in order; the next level goes on from the last."""
        outputs = []
        for i in range(len(self.resnets)):
            x = self.block(i, x, emb)
            outputs.append(x)
        if self.downsamplers is not None:
            outputs.append(self.downsamplers[0](x))
        return outputs


class UpLevel(Level):
    """Blocks that each take back one output of the way down, then twice the resolution unless it is the last level."""

    def __init__(self, *args: Any, upsample: Upsample | None) -> None:
        super().__init__(*args)
        self.upsamplers = None if upsample is None else nn.ModuleList([upsample])

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes its inputs from the end of `skips`."""
        for i in range(len(self.resnets)):
            x = self.block(i, torch.cat((x, skips.pop()), dim=1), emb)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MidBlock(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, time_dim: int, config: UNetConfig) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, config)])
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, time_dim, config) for _ in range(2)])

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, emb)), emb)


class UNet(nn.Module):
    """Predicted noise (or x0, or v) of images x at real times t: (B, C, H, W), (B,) -> (B, C, H, W)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, time_dim = config.channels, 4 * config.channels[0]
        folded, last = config.in_channels * config.patch**2, len(channels) - 1

        self.conv_in = nn.Conv2d(folded, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time_dim)

        width, skips = channels[0], [channels[0]]  # `skips`: widths of the outputs that the way up takes back in
        self.down_blocks = nn.ModuleList()
        for i, out in enumerate(channels):
            widths = [(width if j == 0 else out, out) for j in range(config.blocks)]
            down = None if i == last else Downsample(out, config.downsample_padding)
            self.down_blocks.append(DownLevel(widths, config.attention[i], time_dim, config, downsample=down))
            skips += [out] * (config.blocks + (down is not None))
            width = out

        self.mid_block = MidBlock(width, time_dim, config)

        self.up_blocks = nn.ModuleList()
        for i, out in reversed(list(enumerate(channels))):
            widths = [((width if j == 0 else out) + skips.pop(), out) for j in range(config.blocks + 1)]
            up = None if i == 0 else Upsample(out)
            self.up_blocks.append(UpLevel(widths, config.attention[i], time_dim, config, upsample=up))
            width = out

        self.conv_norm_out = nn.GroupNorm(config.groups, width, eps=config.eps)
        self.conv_out = nn.Conv2d(width, folded, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DDPM's initialisation: variance 1/fan_avg, and zero for the last layer of every residual branch."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                for parameter in module.to_out.parameters():
                    nn.init.zeros_(parameter)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: (B, C, H, W) of any float dtype; t: real times, (B,) or () for one that all share.

        The network runs in the dtype of its weights (or autocast's); the answer has x's dtype.
        """
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels or any(n % config.size_multiple for n in x.shape[2:]):
            raise OptionError(
                f"unet input of shape {tuple(x.shape)}: give (batch, {config.in_channels}, height, width) "
                f"with height and width multiples of {config.size_multiple}"
            )
        dtype = self.conv_in.weight.dtype
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32  # half precision cannot tell 999 from 998
        features = time_features(t.to(exact).reshape(-1), config.channels[0], config).to(dtype)
        emb = F.silu(self.time_embedding(features))  # every block applies the same SiLU first

        h = self.conv_in(F.pixel_unshuffle(x.to(dtype), config.patch))
        skips = [h]
        for level in self.down_blocks:
            skips += level(skips[-1], emb)
        h = self.mid_block(skips[-1], emb)
        for level in self.up_blocks:
            h = level(h, emb, skips)
        h = self.conv_out(F.silu(self.conv_norm_out(h)))
        return F.pixel_shuffle(h, config.patch).to(x.dtype)
