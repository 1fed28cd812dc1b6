"""The U-Net of the DDIM repository, written for the tests from its state dictionary's names and shapes alone.

A state dictionary, and a function that evaluates it: no modules, nothing shared with `pndm.models.unet`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def random_weights(width=32, multiples=(1, 2), blocks=2, attends=(1,), channels=3, seed=0) -> Weights:
    """Weights under the original's names: levels of width * multiples, attention at the levels `attends`."""
    draws = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def add(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=draws) / math.sqrt(math.prod(shape[1:]) or 1)
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=draws) * 0.1

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=draws)
        weights[f"{name}.bias"] = torch.randn(size, generator=draws) * 0.1

    def block(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        add(f"{name}.conv1", out, into, 3, 3)
        add(f"{name}.temb_proj", out, 4 * width)
        norm(f"{name}.norm2", out)
        add(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            add(f"{name}.nin_shortcut", out, into, 1, 1)

    def attention(name: str, size: int) -> None:
        norm(f"{name}.norm", size)
        for part in ("q", "k", "v", "proj_out"):
            add(f"{name}.{part}", size, size, 1, 1)

    add("temb.dense.0", 4 * width, width)
    add("temb.dense.1", 4 * width, 4 * width)
    add("conv_in", width, channels, 3, 3)
    sizes, now, kept = [width * m for m in multiples], width, [width]
    for i, size in enumerate(sizes):
        for j in range(blocks):
            block(f"down.{i}.block.{j}", now, size)
            now = size
            kept.append(now)
            if i in attends:
                attention(f"down.{i}.attn.{j}", now)
        if i < len(sizes) - 1:
            add(f"down.{i}.downsample.conv", now, now, 3, 3)
            kept.append(now)
    block("mid.block_1", now, now)
    attention("mid.attn_1", now)
    block("mid.block_2", now, now)
    for i, size in reversed(list(enumerate(sizes))):
        for j in range(blocks + 1):
            block(f"up.{i}.block.{j}", now + kept.pop(), size)
            now = size
            if i in attends:
                attention(f"up.{i}.attn.{j}", now)
        if i > 0:
            add(f"up.{i}.upsample.conv", now, now, 3, 3)
    norm("norm_out", now)
    add("conv_out", channels, now, 3, 3)
    return weights


def evaluate(weights: Weights, x: Tensor, t: Tensor) -> Tensor:
    """The network's output: x (B, C, H, W), t (B,)."""

    def has(name: str) -> bool:
        return f"{name}.weight" in weights

    def conv(name: str, x: Tensor, **options) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights[f"{name}.bias"], **{"padding": weight.shape[-1] // 2, **options})

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (32, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        spread = (groups - mean).square().mean((2, 3, 4), keepdim=True)
        x = ((groups - mean) / (spread + 1e-6).sqrt()).flatten(1, 2)
        return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    def swish(x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-x))

    def block(name: str, x: Tensor) -> Tensor:
        h = (
            conv(f"{name}.conv1", swish(norm(f"{name}.norm1", x)))
            + dense(f"{name}.temb_proj", swish(time))[..., None, None]
        )
        h = conv(f"{name}.conv2", swish(norm(f"{name}.norm2", h)))
        return h + (conv(f"{name}.nin_shortcut", x) if has(f"{name}.nin_shortcut") else x)

    def attention(name: str, x: Tensor) -> Tensor:
        h = norm(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        looks = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])
        h = torch.einsum("bij,bcj->bci", looks.softmax(2), v).unflatten(2, x.shape[2:])
        return x + conv(f"{name}.proj_out", h)

    def level(name: str, j: int, x: Tensor) -> Tensor:
        x = block(f"{name}.block.{j}", x)
        return attention(f"{name}.attn.{j}", x) if has(f"{name}.attn.{j}.q") else x

    half = weights["temb.dense.0.weight"].shape[1] // 2
    angles = t.to(x)[:, None] * 10000 ** (-torch.arange(half).to(x) / (half - 1))
    time = dense("temb.dense.1", swish(dense("temb.dense.0", torch.cat([angles.sin(), angles.cos()], 1))))
    levels = len({name.split(".")[1] for name in weights if name.startswith("down.")})
    blocks = len({name.split(".")[3] for name in weights if name.startswith("down.0.block.")})
    kept = [conv("conv_in", x)]
    for i in range(levels):
        for j in range(blocks):
            kept.append(level(f"down.{i}", j, kept[-1]))
        if i < levels - 1:
            kept.append(conv(f"down.{i}.downsample.conv", F.pad(kept[-1], (0, 1, 0, 1)), stride=2, padding=0))
    h = block("mid.block_2", attention("mid.attn_1", block("mid.block_1", kept[-1])))
    for i in reversed(range(levels)):
        for j in range(blocks + 1):
            h = level(f"up.{i}", j, torch.cat([h, kept.pop()], 1))
        if i > 0:
            h = conv(f"up.{i}.upsample.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return conv("conv_out", swish(norm("norm_out", h)))
