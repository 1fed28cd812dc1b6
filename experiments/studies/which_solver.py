"""The best solver and grid for a budget of evaluations: `python run.py experiment=which_solver budget=10`.

Every solver runs on every grid with as many steps as the budget pays for, from the same noise, on the network of
`model`. They are ranked by the root mean square error to the reference solution; those that the bootstrap of the
difference to the first does not tell from it are marked. What is printed at the end is the command to use.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from experiments.config.schema import GROUPS
from experiments.measuring import target
from experiments.runs import records
from experiments.studies.work_precision import steps_for
from pndm.errors import ModelError, OptionError
from pndm.metrics.estimate import Means, Resampling, differ, estimate

RESAMPLES = 400
SHOWN = 15  # rows of the ranking that are printed; the record has all


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first choice that cannot be used."""
    target.check_common(cfg)
    if cfg.problem.name != "none":
        raise OptionError(f"experiment=which_solver is for networks: problem={cfg.problem.name} has no images to make")
    solvers = target.chosen(GROUPS["solver"], cfg.experiment.solvers)
    target.refuse_stochastic(solvers)
    target.refuse_own_steps(solvers, "it cannot keep to a budget: leave it out")
    target.check_grids(cfg, 2)
    if cfg.budget < 1:
        raise OptionError(f"budget={cfg.budget} must be at least 1 evaluation")
    if cfg.samples < 2:
        raise OptionError(f"samples={cfg.samples} is too few to tell solvers apart: at least 2 are needed")


def which_solver(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Measure into the folder `out`, and return the record."""
    began = time.perf_counter()
    goal = target.make(cfg)
    x = goal.noise(cfg.seed, range(cfg.samples))
    truth = goal.reference(x, goal.ends, cfg.experiment.tolerance, cfg.experiment.cache)
    rows: list[dict[str, Any]] = []
    chosen_grids = target.chosen(GROUPS["grid"], cfg.experiment.grids)
    pairs = [(*solver, *grid) for solver in target.chosen(GROUPS["solver"], cfg.experiment.solvers).items()
             for grid in chosen_grids.items()]  # fmt: skip
    for label, solver, on, grid in tqdm(pairs, desc="runs", disable=not cfg.progress, dynamic_ncols=True):
        times = steps_for(cfg.budget, solver, grid, goal)
        if times is None:
            continue
        try:
            solution = goal.solve(x, solver, times)
        except ModelError:  # it blew up
            continue
        squares = (solution.x.cpu().double() - truth.x).square().flatten(1).mean(1, keepdim=True)
        means = Means(1, Resampling(RESAMPLES, cfg.seed)).update(squares, range(len(x)))
        found = estimate(math.sqrt(means.mean().item()), len(x), means.resampled()[:, 0].sqrt(), least=0.0)
        if math.isfinite(found.value):
            rows.append({"solver": label, "grid": on, "steps": len(times) - 1, "nfe": solution.nfe, "error": found})
    if not rows:
        raise OptionError(f"budget={cfg.budget} pays for no step of any of the solvers, or all of them blew up")
    rows.sort(key=lambda row: row["error"].value)
    first = rows[0]["error"]
    for row in rows:
        other = row["error"]
        row["as_good"] = not differ((first.value, first.resamples), (other.value, other.resamples))
        row |= {"error": other.value, "low": other.low, "high": other.high}
    record = {
        **target.head(cfg, goal, truth),
        "budget": cfg.budget,
        "rows": rows,
        "command": command(cfg, rows[0]),
        "seconds": round(time.perf_counter() - began, 2),
    }
    records.write_record(out, record)
    print(report(record))
    print(f"wrote {out / 'record.json'}")
    return record


def command(cfg: DictConfig, row: dict[str, Any]) -> str:
    """The command that samples with the solver and grid of a row."""
    said = ["python run.py"]
    for group in ("solver", "grid"):
        name, *options = row[group].split()
        said += [f"{group}={name}", *(f"{group}.{option}" for option in options)]
    said.append(f"steps={row['steps']}")
    if cfg.model.weights != "default":
        said.append(f"model={cfg.model.weights}")
    if cfg.schedule.name != "linear":
        said.append(f"schedule={cfg.schedule.name}")
    said += [f"{option}={cfg[option]:g}" for option in ("t_start", "t_end") if cfg[option] is not None]
    return " ".join([*said, *(["denoise=true"] if cfg.denoise else [])])


def report(record: dict[str, Any]) -> str:
    """The ranking, and the command to use."""
    lines = [f"{'solver':26} {'grid':12} {'steps':>5} {'nfe':>4}  RMSE to the reference solution, 95 % interval"]
    for row in record["rows"][:SHOWN]:
        mark = "" if row is record["rows"][0] or not row["as_good"] else "   no significant difference to the first"
        lines.append(f"{row['solver']:26} {row['grid']:12} {row['steps']:5} {row['nfe']:4}  "
                     f"{row['error']:.4g} [{row['low']:.4g}, {row['high']:.4g}]{mark}")  # fmt: skip
    rest = len(record["rows"]) - SHOWN
    if rest > 0:
        lines.append(f"and {rest} more in the record, the last with {record['rows'][-1]['error']:.3g}")
    of = f"{record['samples']} samples, seed {record['config']['seed']}, {record['dtype']}, {record['seconds']:.0f} s"
    sure = f"the reference is certain to {record['reference']['difference']:.1e}"
    return "\n".join([*lines, "", f"{of}; {sure}", f"use: {record['command']}"])
