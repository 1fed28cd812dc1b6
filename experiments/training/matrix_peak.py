"""How much of a device's matrix arithmetic a training run uses: the measure of how well it is fed."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SIZES = {"cuda": 8192, "cpu": 1024}  # of square matrices: large enough for the peak, small enough for a moment
REPEATS = 10


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second (a multiplication and an addition are two) of the fastest of ten square products."""
    size = SIZES.get(device.type, SIZES["cpu"])
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(REPEATS + 1):  # the first one warms up, and is never the fastest
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest


def operations(network: nn.Module, image: Tensor, *, training: bool) -> int:
    """Operations of convolutions, products and attention for one image (1, C, H, W); training: backwards too."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        answer = network(image, torch.zeros(1, device=image.device))
        if training:
            answer.sum().backward()
    for parameter in network.parameters():
        parameter.grad = None
    return counter.get_total_flops()


def throughput(network: nn.Module, image: Tensor, bf16: bool, images: int, seconds: float) -> dict[str, float]:
    """What a run of so many images and seconds made of the device, for its record."""
    each = operations(network, image, training=True)
    peak = matrix_peak(image.device, torch.bfloat16 if bf16 else torch.float32)
    return {
        "images_per_second": round(images / seconds, 2),
        "operations_per_image": each,
        "matrix_peak": round(peak),
        "share_of_matrix_peak": round(each * images / seconds / peak, 4),
    }


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
