"""How much memory an evaluation takes, and how many samples fit what there is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

STATES = 7  # kept by plms, the method of the registry that keeps most but for unipc's and adaptive's few more
SHARE = 0.25  # of the memory: allocators leave gaps, and other programs and processes want some
LARGEST = 1024  # a batch that fills any processor; more only makes a run's first images wait


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active: `peak`, the most that were held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.held[StorageWeakRef(storage)] = storage.nbytes()
        self.held = {storage: size for storage, size in self.held.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.held.values()))
        return result


@torch.no_grad()
def bytes_per_sample(network: nn.Module, shape: tuple[int, ...]) -> int:
    """What one more sample of the given shape takes in a run: an evaluation's peak, found by one, and the states."""
    weight = next(network.parameters())
    x = torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)
    with Alive() as alive:
        network(x, torch.zeros(1, device=weight.device))
    return alive.peak + STATES * x.numel() * x.element_size()


def total_bytes(device: torch.device) -> int:
    """The device's memory; of a CPU, its container's limit counts. Not what is free now: a run that is taken up again,
    or shared by processes, must find the same number."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            total = min(total, int(Path(limit).read_text(encoding="ascii")))
    return total


def largest_batch(network: nn.Module, shape: tuple[int, ...]) -> int:
    """The largest power of two of samples that takes at most a quarter of the memory; at least 1."""
    device = next(network.parameters()).device
    fit = int(SHARE * total_bytes(device)) // bytes_per_sample(network, shape)
    return 1 << (min(max(fit, 1), LARGEST).bit_length() - 1)
