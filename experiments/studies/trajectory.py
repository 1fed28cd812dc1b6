"""How far solvers leave the path and the manifold: `python run.py experiment=trajectory problem=circle`.

All solvers go from the same noise over the same grid. At every time of it are measured, over the samples: the root mean
square norm of the state against its exact expectation, sqrt(alpha^2 E|x0|^2 + sigma^2 D), and the band in which 95 % of
batches of exact noisy data lie; the distance from the exact path; and where the data have a manifold, the distance of
x / alpha from it. Two solvers are followed more closely: coordinates of one sample near the end, and an animation.
"""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

import pndm
from experiments.config import build
from experiments.config.schema import GROUPS
from experiments.measuring import target
from experiments.measuring.target import Target
from experiments.runs import records
from experiments.studies import trajectory_figures, trajectory_gif
from pndm import data
from pndm.errors import OptionError
from pndm.schedules import Schedule
from pndm.solvers import Solver

COLUMNS = ("solver", "step", "t", "rho", "norm_ratio", "path_error", "distance")
NUMBERS = 2
BETWEEN = 120  # times on the exact curve between those of the grid


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first choice that cannot be used."""
    target.check_common(cfg)
    solvers = _solvers(cfg)
    pair = list(cfg.experiment.pair)
    if len(pair) != 2 or any(label not in solvers for label in pair):
        raise OptionError(f"experiment.pair={pair} must be two of experiment.solvers: {', '.join(solvers)}")


def _solvers(cfg: DictConfig) -> dict[str, Solver]:
    solvers = target.chosen(GROUPS["solver"], cfg.experiment.solvers)
    target.refuse_own_steps(solvers, "it cannot be followed over a grid: leave it out")
    target.refuse_stochastic(solvers)
    return solvers


def trajectory(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Measure into the folder `out`, and return the record."""
    began = time.perf_counter()
    goal, times = target.make(cfg), build.method(cfg).times
    x = goal.noise(cfg.seed, range(cfg.samples))
    fine = _fine(goal.schedule, times)
    truth = goal.reference(x, fine, cfg.experiment.tolerance, cfg.experiment.cache)
    exact = truth.states[np.searchsorted(-fine, -times)]
    paths, nfe = {}, {}
    for label, solver in _solvers(cfg).items():
        solution = pndm.solve(goal.model, x, solver=solver, schedule=goal.schedule, grid=times, trajectory=True)
        assert solution.trajectory is not None
        paths[label], nfe[label] = solution.trajectory.cpu().double(), solution.nfe
    moments = [norm_moments(goal, float(t)) for t in times]
    solvers = {label: measures(goal, times, path, exact, moments) for label, path in paths.items()}
    record = {
        **target.head(cfg, goal, truth),
        "times": times.tolist(),
        "rho": [goal.schedule.rho(float(t)) for t in times],
        "band": [band(mean, variance, len(x)) for mean, variance in moments],
        "exact": measures(goal, times, exact, exact, moments),
        "nfe": nfe,
        "solvers": solvers,
        "curves": curves(goal, fine, truth.states, {label: paths[label] for label in cfg.experiment.pair}),
    }  # fmt: skip
    files = ["norm.png", "near_end.png"]
    records.write_figure(out, "norm", trajectory_figures.norm(record))
    records.write_figure(out, "near_end", trajectory_figures.near_end(record))
    if solvers[cfg.experiment.pair[0]]["distance"] is not None:
        records.write_figure(out, "distance", trajectory_figures.distance(record))
        files.append("distance.png")
    if goal.problem is not None:
        pair = {label: goal.problem.plane(paths[label].flatten(0, 1)).view(*paths[label].shape[:2], 2).numpy()
                for label in cfg.experiment.pair}  # fmt: skip
        drawn = trajectory_gif.flow(
            record, pair, goal.problem.plane(goal.problem.data(600, seed=1)).numpy(), goal.schedule
        )
        records.write(out / "flow.gif", drawn)
        files.append("flow.gif")
    record["seconds"] = round(time.perf_counter() - began, 2)
    records.write(out / "trajectory.csv", table(record))
    records.write_record(out, record)
    print(report(record))
    print("\n".join(f"wrote {out / name}" for name in (*files, "trajectory.csv", "record.json")))
    return record


def _fine(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    """The grid's times, and between them others equal in ln rho, decreasing."""
    last = float(times[-1])
    if schedule.sigma(last) == 0:
        last = schedule.t_least if schedule.train_steps else schedule.t_of_rho(1e-3)
    lam = np.linspace(schedule.lam(float(times[0])), schedule.lam(last), BETWEEN)[1:-1]
    return np.unique(np.concatenate([times, schedule.t_of_lam(lam).clip(times[-1], times[0])]))[::-1].copy()


def norm_moments(goal: Target, t: float) -> tuple[float, float]:
    """Mean and variance of |x_t|^2: of the problem, or of the images that the network was trained on."""
    if goal.problem is not None:
        return goal.problem.norm_moments(goal.schedule, t)
    squares = data.to_model(data.load(goal.data).images.flatten(1)).square().sum(1).double()
    mean, variance = float(squares.mean()), float(squares.var())
    a, s, count = goal.schedule.alpha(t) ** 2, goal.schedule.sigma(t) ** 2, math.prod(goal.shape)
    return a * mean + s * count, a * a * variance + 4 * a * s * mean + 2 * s * s * count


def band(mean: float, variance: float, samples: int) -> float:
    """Half the width, in shares of the expected norm, of the band that holds the norm of 95 % of exact batches."""
    return 1.96 * math.sqrt(variance / samples) / (2 * mean)


def measures(
    goal: Target, times: np.ndarray, path: Tensor, exact: Tensor, moments: list[tuple[float, float]]
) -> dict[str, Any]:
    """Of one path (N + 1, B, *shape), at every time of the grid."""
    flat = path.flatten(2)
    expected = torch.tensor([mean for mean, _ in moments], dtype=torch.float64)
    distances = None
    if goal.problem is not None:
        at = [goal.problem.distance(x / goal.schedule.alpha(float(t))) for t, x in zip(times, flat, strict=True)]
        distances = None if at[0] is None else torch.stack([each for each in at if each is not None])
    return {
        "norm_ratio": (flat.square().sum(2).mean(1) / expected).sqrt().tolist(),
        "path_error": (path - exact).flatten(1).square().mean(1).sqrt().tolist(),
        "distance": None if distances is None else distances.square().mean(1).sqrt().tolist(),
        "end_distances": None if distances is None else distances[-1].sort().values.tolist(),
    }


def curves(goal: Target, fine: np.ndarray, exact: Tensor, pair: dict[str, Tensor]) -> dict[str, Any]:
    """The numbers that the first solver of the pair gets most wrong at the end: exactly, and under both.

    Also how large the directions are that the two kinds of transfer follow, along the exact path: eps, and dx/dt.
    """
    wrong = (next(iter(pair.values()))[-1] - exact[-1]).flatten(1).abs()
    sample = int(wrong.amax(1).argmax())
    which = wrong[sample].topk(min(NUMBERS, wrong.shape[1])).indices
    asked = [k for k, t in enumerate(fine) if goal.schedule.sigma(float(t)) > 0]
    eps, slope = [], []
    for k in asked:
        t = float(fine[k])
        x = exact[k].to(goal.dtype).to(goal.device)
        answer = goal.model(x, torch.full((len(x),), t, dtype=torch.float64, device=x.device))
        eps.append(float(answer.double().square().mean().sqrt()))
        along = goal.schedule.dlog_alpha(t) * (x - answer / goal.schedule.sigma(t))
        slope.append(float(along.double().square().mean().sqrt()) * (goal.schedule.t_noise - goal.schedule.t_clean))
    return {
        "sample": sample,
        "numbers": which.tolist(),
        "times": fine.tolist(),
        "exact": exact[:, sample].flatten(1)[:, which].tolist(),
        "solvers": {label: path[:, sample].flatten(1)[:, which].tolist() for label, path in pair.items()},
        "rho": [goal.schedule.rho(float(fine[k])) for k in asked],
        "eps": eps,
        "slope": slope,
    }


def table(record: dict[str, Any]) -> str:
    """trajectory.csv: a row a solver and time; the exact path as the solver "exact"."""
    drawn = io.StringIO()
    writer = csv.writer(drawn, lineterminator="\n")
    writer.writerow(COLUMNS)
    for label, of in {"exact": record["exact"], **record["solvers"]}.items():
        for k, t in enumerate(record["times"]):
            distance = None if of["distance"] is None else of["distance"][k]
            writer.writerow([label, k, t, record["rho"][k], of["norm_ratio"][k], of["path_error"][k], distance])
    return drawn.getvalue()


def report(record: dict[str, Any]) -> str:
    """The table that a study prints."""
    with_distance = record["exact"]["distance"] is not None
    lines = [f"{'solver':26} {'nfe':>5} {'error at the end':>17} {'norm off by':>12}"
             + (f" {'end to manifold':>16}" if with_distance else "")]  # fmt: skip
    for label, of in {**record["solvers"], "exact": record["exact"]}.items():
        off = max(abs(a - b) for a, b in zip(of["norm_ratio"], record["exact"]["norm_ratio"], strict=True))
        cells = f"{label:26} {record['nfe'].get(label, ''):>5} {of['path_error'][-1]:17.2e} {off:12.2%}"
        lines.append(cells + (f" {of['distance'][-1]:16.3e}" if with_distance else ""))
    truth = record["reference"]
    return "\n".join([
        *lines,
        f"{record['target']['name']}: {record['samples']} samples of {record['dimension']} numbers, "
        f"{len(record['times']) - 1} steps from t = {record['times'][0]:g} to {record['times'][-1]:g}, "
        f"{record['seconds']:.1f} s",
        "norm off by: the largest difference from the exact path's norm on the way; end to manifold: RMS distance",
        f"reference: {truth['method']}, difference {truth['difference']:.1e}"
        + ("" if truth["converged"] else f", WHICH IS ABOVE ITS TOLERANCE {truth['tolerance']:.0e}"),
    ])  # fmt: skip
