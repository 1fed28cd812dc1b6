"""`make bench`: what is reported of speed, measured side by side; docs/speed.json, docs/speed.md and the figure.

    python -m tests.benchmarks.bench                     everything
    python -m tests.benchmarks.bench overhead network    some sections, into what is there of the others

On a quiet machine: nothing else may run. The sections are the functions below of the same names.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pndm
from pndm.metrics.frechet import frechet_features
from pndm.models import pretrained
from pndm.models.fast import Fast, fast
from pndm.models.memory import Alive
from pndm.models.unet import UNet, UNetConfig
from pndm.noise import SampleNoise
from pndm.reference import self_converged
from tests.benchmarks import peers, report
from tests.benchmarks.timing import in_turn, median_ratio

LINEAR = peers.LINEAR
STEPS, BATCH = peers.STEPS, 16
CIFAR = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
    "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip  # of google/ddpm-cifar10-32: the paper's network
# For the time to a given error.
CANDIDATES = ("ipndm", "deis", "rho_ab", "dpmpp_2m", "dpmpp_3m", "unipc")
GRIDS = ("quadratic", "logsnr")
BUDGETS = (12, 14, 16, 18, 20, 25, 30)


def noise(count: int, shape: tuple[int, ...]) -> Tensor:
    return SampleNoise(0, range(count)).draw(shape)


def solved(model: Any, x: Tensor, solver: str, steps: int = STEPS, grid: str = "uniform") -> Tensor:
    return pndm.solve(model, x, solver=solver, steps=steps, grid=grid, schedule=LINEAR).x


def their_loop(network: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """The loop of diffusers' PNDMPipeline."""
    import diffusers

    scheduler = diffusers.PNDMScheduler()
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.to(x.device).expand(len(x))), t, x).prev_sample
    return x


def beside_diffusers(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The median seconds of each, and as a share of diffusers'."""
    return {
        name: {"seconds": statistics.median(taken), "ratio": median_ratio(taken, seconds["diffusers"])}
        for name, taken in seconds.items()
    }


def rms(x: Tensor, reference: Tensor) -> float:
    return (x.double() - reference.double()).square().mean().sqrt().item()


def overhead() -> dict[str, Any]:
    """Solver and driver alone, microseconds an evaluation, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    there = {"pndm", *peers.installed()}
    for solver, contenders in peers.CONTENDERS.items():
        runs: dict[str, Callable[[], object]] = {}
        asked = {}
        for name, make in contenders.items():
            if name in there:
                run, model = make(), peers.Free()
                run(model)
                asked[name] = model.asked
                runs[name] = lambda run=run: run(peers.Free())
        seconds = in_turn(runs, rounds=12)
        rows[solver] = {
            name: {"microseconds": statistics.median(seconds[name]) / asked[name] * 1e6, "evaluations": asked[name],
                   "ratio": median_ratio(seconds["pndm"], taken) * asked[name] / asked["pndm"]}
            for name, taken in seconds.items()
        }  # fmt: skip
    torch.set_num_threads(threads)
    return {"versions": peers.installed(), "state": peers.SHAPE, "threads": 1, "rows": rows}


def whole() -> dict[str, Any]:
    """`solve` over as many bare evaluations of the default network."""
    trained = pretrained.load("default")
    model, x = trained.eps(LINEAR), noise(BATCH, trained.shape)
    t = torch.full((BATCH,), 500.0)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(STEPS + 9):
            model(x, t)

    seconds = in_turn({"solve": lambda: solved(model, x, "plms"), "bare": bare}, rounds=9)
    return {"ratio": median_ratio(seconds["solve"], seconds["bare"]), "batch": BATCH, "steps": STEPS}


def both(config: dict[str, Any], device: str = "cpu") -> tuple[Any, pretrained.Pretrained]:
    """diffusers' network, and ours with the same (random) weights."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    theirs = UNet2DModel(**config).eval().requires_grad_(False).to(device)
    ours = UNet(UNetConfig.from_diffusers(config)).eval().requires_grad_(False).to(device)
    ours.load_state_dict(theirs.state_dict())
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (ours.config.in_channels, ours.config.image_size, ours.config.image_size)
    return theirs, pretrained.Pretrained(ours, shape, LINEAR, "eps", "none", {})


@cache
def cifar() -> tuple[Any, pretrained.Pretrained, Fast]:
    """Both networks for CIFAR-10, and ours made fast for batches of 4."""
    theirs, trained = both(CIFAR)
    return theirs, trained, fast(trained, LINEAR, batch=4)


def network() -> dict[str, Any]:
    """One evaluation of the CIFAR-10 network (35.7 M parameters), batch 4, against diffusers' with the same weights."""
    theirs, trained, quick = cifar()
    x, t = noise(4, trained.shape), torch.full((4,), 500.0)
    with torch.no_grad():
        seconds = in_turn(
            {
                "diffusers": lambda: theirs(x, t),
                "exact": lambda: trained.network(x, t),
                "fast": lambda: quick.model(x, t),
            },
            rounds=8,
        )
    rows = {
        name: {"milliseconds": statistics.median(taken) * 1e3, "ratio": median_ratio(taken, seconds["diffusers"])}
        for name, taken in seconds.items()
    }
    return {
        "batch": 4,
        "parameters": sum(p.numel() for p in trained.network.parameters()),
        "compiled": quick.compiled,
        "compile_seconds": quick.compile_seconds,
        "bfloat16": quick.bfloat16,
        "rows": rows,
    }


def pipeline() -> dict[str, Any]:
    """4 images by the CIFAR-10 network in 50 steps against the loop of diffusers' pipeline."""
    theirs, trained, quick = cifar()
    x = noise(4, trained.shape)
    runs: dict[str, Callable[[], Tensor]] = {
        "diffusers": lambda: their_loop(lambda x, t: theirs(x, t).sample, x),
        "exact": lambda: solved(trained.network, x, "ipndm"),
        "fast": lambda: solved(quick.model, x, "ipndm"),
    }
    seconds = in_turn(runs, rounds=2)
    return {"batch": 4, "steps": STEPS, "rows": beside_diffusers(seconds)}


def end_to_end() -> dict[str, Any]:
    """16 images of the default network against the loop of diffusers' pipeline over the same network, and errors."""
    trained = pretrained.load("default")
    model, x = trained.eps(LINEAR), noise(BATCH, trained.shape)
    quick = fast(trained, LINEAR, batch=BATCH)
    reference = self_converged(model, x[:8], LINEAR, np.array([999.0, -1.0]), tolerance=1e-3).states[-1]
    runs: dict[str, Callable[[], Tensor]] = {
        "diffusers": lambda: their_loop(model, x),
        "exact": lambda: solved(model, x, "ipndm", grid="quadratic"),  # plms without the Runge-Kutta start-up
        "fast": lambda: solved(quick.model, x, "ipndm", grid="quadratic"),
    }
    errors = {name: rms(run()[:8], reference) for name, run in runs.items()}
    for steps in BUDGETS:  # the fewest evaluations with which one of ours is at least as near
        found = {(name, grid): rms(solved(model, x[:8], name, steps, grid), reference)
                 for name in CANDIDATES for grid in GRIDS}  # fmt: skip
        name, grid = min(found, key=lambda choice: found[choice])
        if found[name, grid] <= errors["diffusers"]:
            break
    runs["best"] = lambda: solved(model, x, name, steps, grid)
    runs["best, fast"] = lambda: solved(quick.model, x, name, steps, grid)
    errors |= {key: rms(runs[key]()[:8], reference) for key in ("best", "best, fast")}
    best = {"solver": name, "grid": grid, "evaluations": steps}
    seconds = in_turn(runs, rounds=5)
    rows = {name: {**row, "error": errors[name]} for name, row in beside_diffusers(seconds).items()}
    return {"batch": BATCH, "steps": STEPS, "seed": 0, "error_samples": 8, "best": best, "rows": rows}


def precision() -> dict[str, Any]:
    """Images of exact and fast evaluations against float64."""
    x = noise(4, pretrained.load("default").shape)
    images = {}
    for name, dtype in (("float64", torch.float64), ("exact", torch.float32), ("fast", torch.float32)):
        trained = pretrained.load("default", dtype=dtype)
        model = fast(trained, LINEAR, batch=4).model if name == "fast" else trained.eps(LINEAR)
        images[name] = {solver: solved(model, x.to(dtype), solver) for solver in ("ddim", "plms", "dpmpp_2m")}
    rows = {
        mode: {
            solver: {
                "rms": rms(x, images["float64"][solver]),
                "max": (x - images["float64"][solver]).abs().max().item(),
            }
            for solver, x in images[mode].items()
        }
        for mode in ("exact", "fast")
    }
    return {"samples": 4, "steps": STEPS, "seed": 0, "rows": rows}


def memory() -> dict[str, Any]:
    """The most states alive at once beside the given one."""
    x = torch.randn(8, 3, 16, 16)
    rows = {}
    for solver in ("ddim", "s_pndm", "plms", "prk", "dpmpp_2m", "unipc"):
        with Alive() as alive:
            solved(lambda x, t: torch.tanh(x), x, solver, 20)
        rows[solver] = round(alive.peak / x.nbytes, 2)
    return {"rows": rows}


def startup() -> dict[str, Any]:
    """Seconds to import and to help, in fresh processes that take turns."""

    def fresh(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = in_turn(
        {"import torch": fresh("-c", "import torch"), "import pndm": fresh("-c", "import pndm"),
         "run.py --help": fresh("run.py", "--help")}, rounds=5
    )  # fmt: skip
    rows = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {"rows": rows, "ratio": median_ratio(seconds["import pndm"], seconds["import torch"]),
            "help_more": rows["run.py --help"] - rows["import torch"]}  # fmt: skip


def growth() -> dict[str, Any]:
    """Seconds against samples and against steps, with the straight lines through them."""
    trained = pretrained.load("default")
    model = trained.eps(LINEAR)

    def taken(samples: int, steps: int) -> float:
        start = time.perf_counter()
        for first in range(0, samples, 64):
            solved(model, SampleNoise(0, range(first, min(first + 64, samples))).draw(trained.shape), "ddim", steps)
        return time.perf_counter() - start

    taken(64, 2)
    by_samples = {samples: taken(samples, 4) for samples in (64, 256, 1024, 4096)}
    by_steps = {steps: taken(16, steps) for steps in (10, 20, 50, 100, 200)}
    rows = {}
    for name, points in (("samples", by_samples), ("steps", by_steps)):
        at, seconds = np.array(list(points)), np.array(list(points.values()))
        slope, intercept = np.polyfit(at, seconds, 1)
        left = seconds - slope * at - intercept
        r2 = 1 - left.var() / seconds.var()
        rows[name] = {"points": points, "slope": slope, "intercept": intercept, "r2": r2}
    return {"rows": rows}


def metrics() -> dict[str, Any]:
    """frechet_features of 512 images beside drawing them with 20 evaluations."""
    trained = pretrained.load("default")
    x = noise(512, trained.shape)
    start = time.perf_counter()
    images = pndm.data.to_uint8(solved(trained.eps(LINEAR), x, "ddim", 20))
    drawn = time.perf_counter() - start
    frechet_features(images[:64], trained.data)  # which reads classifier and statistics
    start = time.perf_counter()
    frechet_features(images, trained.data)
    return {"samples": 512, "evaluations": 20, "ratio": (time.perf_counter() - start) / drawn}


def profile() -> dict[str, Any]:
    """Where the time of one sampling run goes: operations by their own time."""
    trained = pretrained.load("default")
    model, x = trained.eps(LINEAR), noise(BATCH, trained.shape)
    solved(model, x, "plms", 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        solved(model, x, "plms", 20)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {"run": "plms, 20 steps, batch 16, default network",
            "rows": [[event.key, event.self_cpu_time_total / total, event.count] for event in events[:12]]}  # fmt: skip


SECTIONS = {
    section.__name__: section
    for section in (
        overhead,
        whole,
        network,
        pipeline,
        end_to_end,
        precision,
        memory,
        startup,
        growth,
        metrics,
        profile,
    )
}


def main(names: list[str]) -> None:
    path = Path("docs/speed.json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in names or SECTIONS:
        results[name] = {"torch": torch.__version__, "threads": torch.get_num_threads(), **SECTIONS[name]()}
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
    print(report.written(results))


if __name__ == "__main__":
    main(sys.argv[1:])
