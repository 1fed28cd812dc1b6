"""Draw samples with one solver, measure them, and leave a record: `python run.py solver=plms steps=50`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments import figures
from experiments.config import build
from experiments.drawing import draw, solved, warmed_up
from experiments.measuring import metrics
from experiments.runs import identity, processes, records
from experiments.runs.shards import FOLDER, TOGETHER, Shards, begun_with, first, parts, tidy
from pndm.data import to_uint8
from pndm.models import pretrained
from pndm.models.fast import Fast, fast
from pndm.noise import SampleNoise
from pndm.solve import Model

SHOWN = 64
DIVERGED = 5.0  # of a network that works, the largest value seen is below 2
COMPARED = 4  # samples that a fast run makes again with exact evaluations


def sample(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Run one configuration into the folder `out`, from the first batch that is not there, and return its record."""
    method, device, dtype = build.method(cfg), build.device(cfg), build.dtype(cfg)
    trained = pretrained.load(cfg.model.weights, dtype=dtype, device=device)
    head = identity.head(cfg, device)  # of what was asked for, batch=auto as it stands
    cfg = build.with_batch(cfg, trained, begun_with(out))
    exact = trained.eps(method.schedule)
    faster = fast(trained, method.schedule, min(cfg.batch, cfg.samples)) if cfg.speed == "fast" else None
    model = faster.model if faster else exact
    warm_up = warmed_up(model, torch.zeros(min(cfg.batch, cfg.samples), *trained.shape, dtype=dtype, device=device))
    measurement = metrics.make(cfg, trained.data, device)  # before the samples, as data or weights may be missing
    shards = Shards(out, head["key"], cfg.samples, cfg.batch)
    (out / TOGETHER).unlink(missing_ok=True)  # of a run that was killed before its record: made again from its batches
    draw(cfg, method, model, trained.shape, device, dtype, shards)
    if processes.rank():
        return {}
    shards.put_together()
    nfe, seconds = shards.cost()
    error = image_error(cfg, method, exact, first(out, COMPARED)) if faster else {}
    record = {
        **head,
        "model": {"weights": cfg.model.weights, "parameters": sum(p.numel() for p in trained.network.parameters()),
                  "data": trained.data, "iteration": trained.metadata.get("iteration")},
        "solver": method.solver.name,
        "steps": len(method.times) - 1,
        "times": method.times.tolist(),
        "denoise": cfg.denoise,
        "nfe": nfe,
        "samples": cfg.samples,
        "batch": cfg.batch,
        "seed": cfg.seed,
        "warm_up_seconds": round(warm_up, 4),
        "seconds": round(seconds, 4),
        "seconds_per_image": round(seconds / cfg.samples, 6),
        "speed": {"mode": cfg.speed, **(told(faster, error) if faster else {})},
        "metrics": metrics.measured(measurement, parts(out)),
    }  # fmt: skip
    shown = first(out, SHOWN).float()
    records.write(out / "samples.png", figures.image_grid(to_uint8(shown)))
    records.write_record(out, record)
    tidy(out)
    print(report(record, out))
    if (largest := shown.abs().max().item()) > DIVERGED:
        print(
            f"the run has diverged: values up to {largest:.3g} in images of range [-1, 1]. Methods with the weights of "
            "equal steps do so where alpha is near 0 at the start, as on the cosine schedule: try grid=leading",
            file=sys.stderr,
        )
    return record


def told(faster: Fast, error: dict[str, float]) -> dict[str, Any]:
    """What a record says of fast evaluations: how they were made and what they cost in the images."""
    return {
        "bfloat16": faster.bfloat16,
        "compiled": faster.compiled,
        "compile_seconds": round(faster.compile_seconds, 2),
        **error,
    }


def image_error(cfg: DictConfig, method: build.Method, exact: Model, few: Tensor) -> dict[str, float]:
    """How far the first samples lie from those that exact evaluations give, in images of range [-1, 1]."""
    noise = SampleNoise(cfg.seed, range(len(few)))
    start = noise.draw(few.shape[1:], few.dtype, build.device(cfg))
    apart = few - solved(cfg, method, exact, start, noise).x.cpu()
    return {
        "image_error_rms": apart.square().mean().sqrt().item(),
        "image_error_max": apart.abs().max().item(),
        "image_error_samples": len(few),
    }


def report(record: dict[str, Any], out: Path) -> str:
    """What a run prints when it is done."""
    lines = [
        f"{'solver':10} {record['solver']}   steps {record['steps']}   nfe {record['nfe']}",
        f"{'samples':10} {record['samples']} (seed {record['seed']}, {record['dtype']}"
        f"{', speed=fast' if record['speed']['mode'] == 'fast' else ''}, {record['device_name']})",
        f"{'time':10} {record['seconds']:.2f} s, {1 / record['seconds_per_image']:.1f} images/s",
    ]
    if "image_error_rms" in record["speed"]:
        lines.append(
            f"{'fast':10} off by {record['speed']['image_error_rms']:.2g} rms in the images (range -1 to 1) of exact "
            f"evaluations; compiled in {record['speed']['compile_seconds']:.0f} s"
        )
    for name, found in record["metrics"].items():
        interval = "" if found["low"] is None else f" ({found['low']:.4g} to {found['high']:.4g}, 95 %)"
        floor = found["floor"] or 0.0
        doubt = f"; the reference is itself uncertain by {floor:.1g}" if found["value"] < 10 * floor else ""
        lines.append(f"{name} {found['value']:.4g}{interval} on {found['n']} samples{doubt}")
    files = ("samples.png", TOGETHER if (out / TOGETHER).exists() else FOLDER, "record.json")
    return "\n".join([*lines, *(f"{'wrote':10} {out / file}" for file in files)])
