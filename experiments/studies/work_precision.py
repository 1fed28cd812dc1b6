"""Which solver on which grid is worth its cost: `python run.py experiment=work_precision`, on a network or a problem.

Every solver runs on every grid with as many steps as each budget of evaluations pays for, from the same noise; a solver
that chooses its own steps runs at each tolerance instead. The error is the root mean square over samples and their
numbers against the reference solution from the same noise. Cost is what was spent: evaluations, and seconds.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from experiments.config.schema import GROUPS
from experiments.measuring import target
from experiments.measuring.target import Target
from experiments.runs import records
from experiments.studies import work_precision_figure
from pndm import grids
from pndm.errors import ModelError, OptionError
from pndm.grids import Grid
from pndm.noise import as_noise
from pndm.reference import rmse
from pndm.solvers import Solver

COLUMNS = ("solver", "grid", "steps", "tolerance", "nfe", "seconds", "error", "pareto_nfe", "pareto_seconds")
ERRORS = (1e-1, 1e-2, 1e-3, 1e-4)
BUDGETS = (5, 10, 20, 50)
ENOUGH_SECONDS = 0.5  # of runs of one kind: a longer run is timed once
OWN_STEPS = "own steps"  # the grid of a solver that chooses its steps


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first choice that cannot be used."""
    target.check_common(cfg)
    solvers = target.chosen(GROUPS["solver"], cfg.experiment.solvers)
    target.refuse_stochastic(solvers)
    target.check_grids(cfg, 5)
    if not cfg.experiment.evaluations or min(cfg.experiment.evaluations) < 1:
        raise OptionError(f"experiment.evaluations={list(cfg.experiment.evaluations)} must be whole numbers from 1")
    if any(not tolerance > 0 for tolerance in cfg.experiment.tolerances):
        raise OptionError(f"experiment.tolerances={list(cfg.experiment.tolerances)} must be positive")
    if cfg.experiment.repeats < 1:
        raise OptionError(f"experiment.repeats={cfg.experiment.repeats} must be at least 1")


def work_precision(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Measure into the folder `out`, and return the record."""
    began = time.perf_counter()
    goal = target.make(cfg)
    x = goal.noise(cfg.seed, range(cfg.samples))
    truth = goal.reference(x, goal.ends, cfg.experiment.tolerance, cfg.experiment.cache)
    rows, warm = [], set()
    with tqdm(runs(cfg, goal), desc="runs", disable=not cfg.progress, dynamic_ncols=True) as bar:
        for label, on, solver, times, tolerance in bar:
            bar.set_postfix_str(f"{label}, {on}")
            if label not in warm:  # the first run of anything is slower than all others
                warm.add(label)
                measure(goal, solver, x[:1], times, truth.x[:1], 1)
            row = measure(goal, solver, x, times, truth.x, cfg.experiment.repeats)
            if row is not None:
                steps = None if tolerance else len(times) - 1
                rows.append({"solver": label, "grid": on, "steps": steps, "tolerance": tolerance, **row})
    for cost in ("nfe", "seconds"):
        for row, unbeaten in zip(rows, pareto([(row[cost], row["error"]) for row in rows]), strict=True):
            row[f"pareto_{cost}"] = unbeaten
    record = {
        **target.head(cfg, goal, truth),
        "denoise": goal.denoise,
        "rows": rows,
        "needed": needed(rows),
        "best": best(rows),
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records.write(out / "work_precision.csv", table.getvalue())
    records.write_figure(out, "work_precision", work_precision_figure.against_cost(record))
    records.write_figure(out, "grids", work_precision_figure.by_grid(record))
    records.write_record(out, record)
    print(report(record))
    for name in ("work_precision.png", "grids.png", "work_precision.csv", "record.json"):
        print(f"wrote {out / name}")
    return record


def runs(cfg: DictConfig, goal: Target) -> list[tuple[str, str, Solver, np.ndarray, float | None]]:
    """Label, grid, solver, times and tolerance of every run; each number of steps once."""
    found: list[tuple[str, str, Solver, np.ndarray, float | None]] = []
    chosen_grids = target.chosen(GROUPS["grid"], cfg.experiment.grids)
    for label, solver in target.chosen(GROUPS["solver"], cfg.experiment.solvers).items():
        if solver.evaluations_per_step is None:
            times = np.array([goal.start, goal.end])
            for tolerance in sorted(cfg.experiment.tolerances, reverse=True):
                found.append((label, OWN_STEPS, with_tolerance(solver, tolerance), times, tolerance))
            continue
        for on, grid in chosen_grids.items():
            placed = [steps_for(budget, solver, grid, goal) for budget in sorted(cfg.experiment.evaluations)]
            each = {len(times): times for times in placed if times is not None}
            found += [(label, on, solver, times, None) for times in each.values()]
    return found


def steps_for(budget: int, solver: Solver, grid: Grid, goal: Target) -> np.ndarray | None:
    """The times of the most steps that the budget of evaluations pays for; None when it does not pay for one."""
    per_step = solver.evaluations_per_step or 1
    most = budget // per_step + 1  # one more, for solvers that save an evaluation
    for steps in range(min(most, goal.schedule.train_steps or most), 0, -1):
        try:
            times = grids.times(grid, steps, goal.schedule, goal.start, goal.end)
        except OptionError:  # a grid that cannot be so short or so long
            continue
        spent = solver.begin(goal.schedule, times, as_noise(None)).evaluations()
        if spent is not None and spent + goal.denoise <= budget:
            return times
    return None


def with_tolerance(solver: Solver, tolerance: float) -> Solver:
    """The same solver at another tolerance, whatever its options for that are called."""
    changed = copy.copy(solver)
    for option in ("tol", "rtol", "atol"):
        if hasattr(changed, option):
            setattr(changed, option, tolerance)
    return changed


def measure(
    goal: Target, solver: Solver, x: Tensor, times: np.ndarray, truth: Tensor, repeats: int
) -> dict[str, Any] | None:
    """Evaluations, the seconds of the fastest of some runs, and the error; None for a run that blows up."""
    seconds, since = math.inf, time.perf_counter()
    try:
        for repeat in range(repeats):
            if repeat and time.perf_counter() - since > ENOUGH_SECONDS:
                break
            began = time.perf_counter()
            solution = goal.solve(x, solver, times)
            landed = solution.x.cpu()  # which waits for the device
            seconds = min(seconds, time.perf_counter() - began)
    except ModelError:
        return None
    error = rmse(landed, truth)
    return {"nfe": solution.nfe, "seconds": seconds, "error": error} if math.isfinite(error) else None


def pareto(points: list[tuple[float, float]]) -> list[bool]:
    """Of (cost, error) pairs, which no other pair beats in one without being worse in the other."""
    return [not any(c <= cost and e <= error and (c < cost or e < error) for c, e in points) for cost, error in points]


def needed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations at which each solver and grid reaches each error; None where it does not.

    Between two runs the curve is taken as straight in the logarithms of both. `at_most` marks what the cheapest run
    already reaches.
    """
    found = []
    for name, curve in by_curve(rows).items():
        entry: dict[str, Any] = {"solver": name[0], "grid": name[1]}
        for error in ERRORS:
            entry[f"{error:g}"] = crossing([(row["nfe"], row["error"]) for row in curve], error)
        entry["at_most"] = [f"{error:g}" for error in ERRORS if curve[0]["error"] <= error]
        found.append(entry)
    return found


def crossing(curve: list[tuple[float, float]], error: float) -> float | None:
    """The cost at which a curve of (cost, error), in the order of cost, first comes down to an error."""
    if curve[0][1] <= error:
        return float(curve[0][0])
    for (c0, e0), (c1, e1) in pairwise(curve):
        if e1 <= error:
            share = math.log(e0 / error) / math.log(e0 / max(e1, 1e-300))
            return math.exp(math.log(c0) + share * math.log(c1 / c0))
    return None


def by_curve(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of each solver and grid, in the order of evaluations."""
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["nfe"]):
        curves.setdefault((row["solver"], row["grid"]), []).append(row)
    return curves


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each budget of evaluations, the run of least error within it, and that of the next best solver."""
    found = []
    for budget in BUDGETS:
        within = sorted((row for row in rows if row["nfe"] <= budget), key=lambda row: row["error"])
        if within:
            others = [row for row in within if row["solver"] != within[0]["solver"]]
            found.append({"evaluations": budget, "best": within[0], "next": others[0] if others else None})
    return found


def cell(entry: dict[str, Any], name: str, difference: float) -> str:
    """What the table says of the evaluations that one solver and grid need for an error."""
    if float(name) < difference:
        return "?"
    if entry[name] is None:
        return "-"
    return f"{'<=' if name in entry['at_most'] else ''}{entry[name]:.1f}"


def report(record: dict[str, Any]) -> str:
    """The tables that a study prints."""
    names = [f"{error:g}" for error in ERRORS]
    lines = [
        "evaluations needed to reach an error of",
        f"{'solver':34} {'grid':14} " + "".join(f"{n:>9}" for n in names),
    ]
    for entry in sorted(record["needed"], key=lambda entry: [entry[name] or math.inf for name in reversed(names)]):
        cells = [cell(entry, name, record["reference"]["difference"]) for name in names]
        lines.append(f"{entry['solver']:34} {entry['grid']:14} " + "".join(f"{cell:>9}" for cell in cells))
    lines += ["", "least error within a budget of evaluations"]
    for entry in record["best"]:
        said = [f"{row['solver']} on {row['grid']} ({row['nfe']} evaluations): {row['error']:.2e}"
                for row in (entry["best"], entry["next"]) if row]  # fmt: skip
        lines.append(f"{entry['evaluations']:4}  " + "; next ".join(said))
    truth, denoised = record["reference"], " and denoised" if record["denoise"] else ""
    lines += [
        "",
        f"{record['target']['name']}: {record['samples']} samples of {record['dimension']} numbers, t from "
        f"{record['t_start']:g} to {record['t_end']:g}{denoised}, {record['dtype']}, {record['seconds']:.0f} s",
        f"reference: {truth['method']}, {truth['nfe']} evaluations, difference {truth['difference']:.1e}"
        + ("" if truth["converged"] else f", WHICH IS ABOVE ITS TOLERANCE {truth['tolerance']:.0e}"),
    ]
    return "\n".join(lines)
