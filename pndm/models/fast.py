"""Cheaper evaluations of a network: bfloat16 where the processor multiplies it natively, and compiled where it can be.

Neither is exact: `experiments` reports the error in the images beside the time, and docs/speed.md has a table of both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pndm.denoisers import Model
from pndm.errors import OptionError
from pndm.models.compiled import Halved, Shape, ahead_of_time, example
from pndm.schedules import Schedule

if TYPE_CHECKING:
    from pndm.models.pretrained import Pretrained


@dataclass(frozen=True)
class Fast:
    """A model of eps, and how it is made: in bfloat16, compiled, and the seconds that compiling took."""

    model: Model
    bfloat16: bool
    compiled: bool
    compile_seconds: float


def fast(trained: Pretrained, schedule: Schedule, batch: int) -> Fast:
    """`trained.eps(schedule)` for states of up to `batch` samples, as cheap as this machine allows.

    Compiled for that one batch: smaller ones are filled up, larger ones refused. What was compiled is kept for later
    processes. Where there is no compiler, or compiling fails, a warning says so and the network runs as it is. Half
    precision stays inside the network: states, and eps in them, keep theirs.
    """
    device = next(trained.network.parameters()).device
    bfloat16 = has_bfloat16(device)
    network = Halved(trained.network).eval() if bfloat16 else trained.network

    def of(network: Model) -> Model:
        return dataclasses.replace(trained, network=network).eps(schedule)  # type: ignore[arg-type]

    plain = Fast(of(network), bfloat16, False, 0.0)
    if not has_compiler(device):
        warnings.warn("no C++ compiler (CPU) or no triton (GPU): the network runs uncompiled", stacklevel=2)
        return plain
    start = time.perf_counter()
    try:
        made = (graphed if device.type == "cuda" else ahead_of_time)(network, batch, trained.shape)
    except (RuntimeError, OSError) as error:
        warnings.warn(f"the network runs uncompiled, as compiling it failed: {error}".split("\n")[0], stacklevel=2)
        return plain
    return Fast(of(filled(made, batch, trained.shape)), bfloat16, True, time.perf_counter() - start)


def filled(network: Model, batch: int, shape: Shape) -> Model:
    """For any number of samples up to `batch`, from a network for just that many, in contiguous memory."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        count = len(x)
        if count > batch or x.shape[1:] != shape:  # compiled code does not look, and would read beyond its memory
            raise OptionError(f"states of shape {tuple(x.shape)}: compiled for {shape}, and at most {batch} at once")
        if count < batch:
            x, t = F.pad(x, [0, 0] * (x.dim() - 1) + [0, batch - count]), F.pad(t, (0, batch - count))
        return network(x.contiguous(), t.contiguous())[:count]

    return call


def graphed(network: nn.Module, batch: int, shape: Shape) -> Model:
    """On a GPU an evaluation is one CUDA graph, whose answer is copied out, since the next evaluation overwrites it."""
    compiled = torch.compile(network, dynamic=False, mode="reduce-overhead")

    def call(x: Tensor, t: Tensor) -> Tensor:
        return compiled(x, t).clone()

    x, t = example(network, batch, shape)
    with torch.no_grad():
        for _ in range(3):  # a graph is recorded on the second call
            call(x, t)
    return call


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively: otherwise it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
            return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler for the CPU, triton for a GPU."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
