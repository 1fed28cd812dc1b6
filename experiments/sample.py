"""Draw samples with one solver, measure them, and leave a record: `python run.py solver=plms steps=50`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

import pndm
from experiments import build, figures, identity, measuring, records
from pndm.data import to_uint8
from pndm.models import pretrained
from pndm.noise import SampleNoise
from pndm.solve import Model

SHOWN = 64


class Progress(tqdm):
    """A bar over evaluations, with the time left and images a second."""

    images_per_evaluation = 0.0

    def __init__(self, **options: Any):
        layout = (
            "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} evaluations, {images} images/s, {remaining} left"
        )
        super().__init__(bar_format=layout if options["total"] else None, dynamic_ncols=True, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = super().format_dict
        rate = shown["rate"] or (shown["n"] / shown["elapsed"] if shown["elapsed"] else 0.0)
        return {**shown, "images": f"{rate * self.images_per_evaluation:.1f}"}


def sample(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Run one configuration into the folder `out` and return its record."""
    method, device, dtype = build.method(cfg), build.device(cfg), build.dtype(cfg)
    trained = pretrained.load(cfg.model.weights, dtype=dtype, device=device)
    if cfg.compile:
        trained.network.compile()
    model = trained.eps(method.schedule)
    if cfg.autocast:
        model = in_bfloat16(model, device)
    warm_up = warmed_up(model, torch.zeros(min(cfg.batch, cfg.samples), *trained.shape, dtype=dtype, device=device))
    measurement = measuring.make(cfg, trained.data, device)
    x, nfe, seconds = draw(cfg, method, model, trained.shape, device, dtype)
    images = to_uint8(x.float())
    for start in range(0, len(x), cfg.batch):
        measurement.update(x[start : start + cfg.batch], range(start, min(start + cfg.batch, len(x))))
    record = {
        **identity.head(cfg, device),
        "model": {"weights": cfg.model.weights, "parameters": sum(p.numel() for p in trained.network.parameters()),
                  "data": trained.data, "iteration": trained.metadata.get("iteration")},
        "solver": method.solver.name,
        "steps": len(method.times) - 1,
        "times": method.times.tolist(),
        "denoise": cfg.denoise,
        "nfe": nfe,
        "samples": len(x),
        "seed": cfg.seed,
        "warm_up_seconds": round(warm_up, 4),
        "seconds": round(seconds, 4),
        "seconds_per_image": round(seconds / len(x), 6),
        "metrics": measuring.as_record(measurement),
    }  # fmt: skip
    records.write(out / "samples.safetensors", save({"x": x.contiguous()}, {"seed": str(cfg.seed)}))
    records.write(out / "samples.png", figures.image_grid(images[:SHOWN]))
    records.write_record(out, record)
    print(report(record, out))
    return record


def in_bfloat16(model: Model, device: torch.device) -> Model:
    """The model with its network in bfloat16 where torch's autocast thinks it safe; states stay as they are."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(x, t)

    return eps


@torch.no_grad()
def warmed_up(model: Model, x: Tensor) -> float:
    """Ask the model once, so that neither compilation nor first allocations are in the timing; the seconds it took."""
    start = time.perf_counter()
    model(x, torch.zeros(len(x), device=x.device)).sum().item()
    return time.perf_counter() - start


def draw(
    cfg: DictConfig,
    method: build.Method,
    model: Model,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, int, float]:
    """The samples (N, *shape) on the CPU, the evaluations that each cost, and the seconds that solving took."""
    parts, nfe, seconds = [], 0, 0.0
    starts = range(0, cfg.samples, cfg.batch)
    expected = method.solver.begin(method.schedule, method.times, SampleNoise(cfg.seed, ())).evaluations()
    total = (expected + cfg.denoise) * len(starts) if expected else None
    with Progress(total=total, desc=method.solver.name, unit="eval", disable=not cfg.progress) as bar:
        bar.images_per_evaluation = cfg.samples / total if total else 0.0
        for start in starts:
            indices = range(start, min(start + cfg.batch, cfg.samples))
            noise = SampleNoise(cfg.seed, indices)
            x = noise.draw(shape, dtype, device)
            began = time.perf_counter()
            solution = pndm.solve(
                model,
                x,
                solver=method.solver,
                schedule=method.schedule,
                grid=method.times,
                generator=noise,
                progress=bar,
                denoise=cfg.denoise,
            )
            parts.append(solution.x.cpu())  # which waits for the device
            seconds += time.perf_counter() - began
            nfe = max(nfe, solution.nfe)
    return torch.cat(parts), nfe, seconds


def report(record: dict[str, Any], out: Path) -> str:
    """What a run prints when it is done."""
    lines = [
        f"{'solver':10} {record['solver']}   steps {record['steps']}   nfe {record['nfe']}",
        f"{'samples':10} {record['samples']} (seed {record['seed']}, {record['dtype']}"
        f"{' with bfloat16 autocast' if record['config']['autocast'] else ''}, {record['device_name']})",
        f"{'time':10} {record['seconds']:.2f} s, {1 / record['seconds_per_image']:.1f} images/s",
    ]
    for name, found in record["metrics"].items():
        interval = "" if found["low"] is None else f" ({found['low']:.4g} to {found['high']:.4g}, 95 %)"
        floor = found["floor"] or 0.0
        doubt = f"; the reference is itself uncertain by {floor:.1g}" if found["value"] < 10 * floor else ""
        lines.append(f"{name} {found['value']:.4g}{interval} on {found['n']} samples{doubt}")
    files = ("samples.png", "samples.safetensors", "record.json")
    return "\n".join([*lines, *(f"{'wrote':10} {out / file}" for file in files)])
