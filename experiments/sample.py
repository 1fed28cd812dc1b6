"""Draw samples with one solver, measure them, and leave a record: `python run.py solver=plms steps=50`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments import build, figures, identity, measuring, processes, records
from experiments.drawing import draw, warmed_up
from experiments.shards import FOLDER, TOGETHER, Shards, first, parts, tidy
from pndm.data import to_uint8
from pndm.models import pretrained
from pndm.solve import Model

SHOWN = 64


def sample(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Run one configuration into the folder `out`, from the first batch that is not there, and return its record."""
    method, device, dtype = build.method(cfg), build.device(cfg), build.dtype(cfg)
    trained = pretrained.load(cfg.model.weights, dtype=dtype, device=device)
    if cfg.compile:
        trained.network.compile()
    model = trained.eps(method.schedule)
    if cfg.autocast:
        model = in_bfloat16(model, device)
    warm_up = warmed_up(model, torch.zeros(min(cfg.batch, cfg.samples), *trained.shape, dtype=dtype, device=device))
    measurement = measuring.make(cfg, trained.data, device)  # before the samples, as data or weights may be missing
    head = identity.head(cfg, device)
    shards = Shards(out, head["key"], cfg.samples, cfg.batch)
    (out / TOGETHER).unlink(missing_ok=True)  # of a run that was killed before its record: made again from its batches
    draw(cfg, method, model, trained.shape, device, dtype, shards)
    if processes.rank():
        return {}
    shards.put_together()
    nfe, seconds = shards.cost()
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
        "seed": cfg.seed,
        "warm_up_seconds": round(warm_up, 4),
        "seconds": round(seconds, 4),
        "seconds_per_image": round(seconds / cfg.samples, 6),
        "metrics": measuring.measured(measurement, parts(out)),
    }  # fmt: skip
    records.write(out / "samples.png", figures.image_grid(to_uint8(first(out, SHOWN).float())))
    records.write_record(out, record)
    tidy(out)
    print(report(record, out))
    return record


def in_bfloat16(model: Model, device: torch.device) -> Model:
    """The model with its network in bfloat16 where torch's autocast thinks it safe; states stay as they are."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(x, t)

    return eps


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
    files = ("samples.png", TOGETHER if (out / TOGETHER).exists() else FOLDER, "record.json")
    return "\n".join([*lines, *(f"{'wrote':10} {out / file}" for file in files)])
