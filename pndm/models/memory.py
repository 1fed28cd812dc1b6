"""How much memory an evaluation takes, and how many samples fit what there is."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

STATES = 7  # kept by plms, the method of the registry that keeps most but for unipc's and adaptive's few more
SHARE = 0.5  # of the free memory: allocators leave gaps, and other programs want some
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


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on the device now; of a CPU, its container's limit counts too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit, encoding="ascii") as one, open(used, encoding="ascii") as other:
                free = min(free, int(one.read()) - int(other.read()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(free, 0)


def largest_batch(network: nn.Module, shape: tuple[int, ...]) -> int:
    """A power of two of samples that takes at most half of the free memory; at least 1."""
    device = next(network.parameters()).device
    fit = int(SHARE * free_bytes(device)) // bytes_per_sample(network, shape)
    return 1 << (min(max(fit, 1), LARGEST).bit_length() - 1)
