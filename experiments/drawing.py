"""Draw a run's samples: batch after batch to the disk, from the first that is not there."""

from __future__ import annotations

import time
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

import pndm
from experiments.config import build
from experiments.runs import processes
from experiments.runs.shards import Shards
from pndm.noise import SampleNoise
from pndm.solve import Model


class Progress(tqdm):
    """A bar over evaluations, or over samples where a solver chooses its own steps; time left, and images a second."""

    def __init__(self, *, images_per_unit: float, **options: Any):
        self.images_per_unit = images_per_unit
        layout = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit}, {images} images/s, {remaining} left"
        super().__init__(bar_format=layout, dynamic_ncols=True, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = super().format_dict
        done = shown["n"] - shown["initial"]
        rate = shown["rate"] or (done / shown["elapsed"] if shown["elapsed"] else 0.0)
        return {**shown, "images": f"{rate * self.images_per_unit:.1f}"}


@torch.no_grad()
def warmed_up(model: Model, x: Tensor) -> float:
    """Ask the model once, so that neither compilation nor first allocations are in the timing; the seconds it took."""
    start = time.perf_counter()
    model(x, torch.zeros(len(x), device=x.device)).sum().item()
    return time.perf_counter() - start


def solved(
    cfg: DictConfig, method: build.Method, model: Model, x: Tensor, noise: SampleNoise, progress: Any = False
) -> pndm.Solution:
    """The method of a configuration carried out from the states x (B, *shape); `noise` is of the same samples."""
    return pndm.solve(
        model,
        x,
        solver=method.solver,
        schedule=method.schedule,
        grid=method.times,
        generator=noise,
        progress=progress,
        denoise=cfg.denoise,
    )


def draw(
    cfg: DictConfig,
    method: build.Method,
    model: Model,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    shards: Shards,
) -> None:
    """Draw the batches that are missing and that fall to this process, each (B, *shape), and write them."""
    batches = shards.batches
    missing = [batch for batch, gone in zip(batches, processes.agreed(shards.missing()), strict=True) if gone]
    mine = missing[processes.rank() :: processes.size()]
    expected = method.solver.begin(method.schedule, method.times, SampleNoise(cfg.seed, ())).evaluations()
    a_batch = expected + cfg.denoise if expected else cfg.batch
    total = -(-len(batches) // processes.size()) * a_batch
    bar = Progress(
        total=total, initial=total - len(mine) * a_batch, desc=method.solver.name,
        unit="evaluations" if expected else "samples", images_per_unit=processes.size() * cfg.batch / a_batch,
        disable=not cfg.progress or processes.rank() > 0,
    )  # fmt: skip
    with bar:
        for indices in mine:
            noise = SampleNoise(cfg.seed, indices)
            x = noise.draw(shape, dtype, device)
            began = time.perf_counter()
            solution = solved(cfg, method, model, x, noise, bar if expected else False)
            x = solution.x.cpu()  # which waits for the device
            shards.write(indices, x, solution.nfe, time.perf_counter() - began)
            if not expected:
                bar.update(len(indices))
    processes.wait_for_all()
