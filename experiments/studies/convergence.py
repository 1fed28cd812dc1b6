"""How fast solvers converge: `python run.py experiment=convergence problem=mixture`.

Every solver runs at every number of steps from the same noise. Its error is the root mean square over samples and
their numbers against the reference solution. The table on disk has the median over samples too: where single samples
end elsewhere altogether, as on a data set, the two differ. Its local error is that of one step, the one in the middle
of the grid, made from exact states: the steps before it are made from the exact solution too, so that a multistep
method's history is what it would be without error. (UniPC corrects a step in the next one, so only its prediction is
seen.) Orders are fitted by the rule of `pndm.metrics.order.measure_order`.
"""

from __future__ import annotations

import csv
import io
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from experiments.config.schema import GROUPS, create
from experiments.measuring import target
from experiments.measuring.target import Target
from experiments.runs import records
from experiments.studies import convergence_figure
from pndm import grids
from pndm.errors import ModelError, OptionError
from pndm.metrics.order import Order, measure_order
from pndm.noise import as_noise
from pndm.reference import Reference, rmse
from pndm.solvers import Solver
from pndm.solvers.base import drive

LOCAL_SAMPLES = 8
COLUMNS = ("solver", "steps", "nfe", "error", "median_error", "local_error")


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first choice that cannot be used."""
    target.check_common(cfg)
    solvers = _solvers(cfg)
    steps = list(cfg.experiment.steps)
    if len(steps) < 3 or min(steps) < 1 or len(set(steps)) < len(steps):
        raise OptionError(f"experiment.steps={steps} must be at least three different whole numbers from 1, so that "
                          "an order can be fitted")  # fmt: skip
    schedule, grid = create(GROUPS["schedule"], cfg.schedule), create(GROUPS["grid"], cfg.grid)
    for count in steps:
        times = grids.times(grid, count, schedule, cfg.t_start, cfg.t_end)
        for solver in solvers.values():
            solver.begin(schedule, times, as_noise(None))


def _solvers(cfg: DictConfig) -> dict[str, Solver]:
    solvers = target.chosen(GROUPS["solver"], cfg.experiment.solvers)
    target.refuse_stochastic(solvers)
    target.refuse_own_steps(
        solvers, "it has no order in them: leave it out here, and give it to experiment=work_precision"
    )
    return solvers


def convergence(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Measure into the folder `out`, and return the record."""
    began = time.perf_counter()
    goal, solvers, steps = target.make(cfg), _solvers(cfg), sorted(cfg.experiment.steps)
    grid = create(GROUPS["grid"], cfg.grid)
    placed = {count: grids.times(grid, count, goal.schedule, goal.start, goal.end) for count in steps}
    x = goal.noise(cfg.seed, range(cfg.samples))
    truth = goal.reference(x, goal.ends, cfg.experiment.tolerance, cfg.experiment.cache)
    path = _path(goal, x[:LOCAL_SAMPLES], placed, cfg)
    rows = []
    with tqdm(total=len(solvers) * len(steps), desc="runs", disable=not cfg.progress, dynamic_ncols=True) as bar:
        for label, solver in solvers.items():
            for count in steps:
                bar.set_postfix_str(f"{label}, {count} steps")
                rows.append(_measure(goal, label, solver, x, placed[count], truth, path))
                bar.update()
    floor = rounding_floor(truth, x.dtype, max(steps))
    local_floor = torch.finfo(x.dtype).eps * float(truth.x.square().mean().sqrt())
    orders = [_orders(label, solver, rows, floor, local_floor) for label, solver in solvers.items()]
    record = {
        **target.head(cfg, goal, truth),
        "floor": floor,
        "local_floor": local_floor,
        "orders": orders,
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records.write(out / "convergence.csv", table.getvalue())
    records.write_figure(out, "convergence", convergence_figure.against_cost(record))
    files = ["convergence.png", "convergence.csv", "record.json"]
    if path is not None:
        records.write_figure(out, "local", convergence_figure.local(record))
        files.insert(1, "local.png")
    records.write_record(out, record)
    print(report(record))
    print("\n".join(f"wrote {out / name}" for name in files))
    return record


def _path(goal: Target, x: Tensor, placed: dict[int, np.ndarray], cfg: DictConfig) -> dict[float, Tensor] | None:
    """The exact states by time, at every time that the first half of some grid visits; None for networks."""
    if goal.problem is None or not cfg.experiment.local:
        return None
    wanted = {float(t) for times in placed.values() for t in times[: middle(times) + 2]}
    times = np.array(sorted(wanted | {goal.start}, reverse=True))
    found = goal.reference(x, times, cfg.experiment.tolerance, cfg.experiment.cache)
    return {float(t): state.to(x) for t, state in zip(times, found.states, strict=True)}


def middle(times: np.ndarray) -> int:
    """The step at which the local error is taken: that from the middle of the grid."""
    return (len(times) - 1) // 2


def _measure(
    goal: Target,
    label: str,
    solver: Solver,
    x: Tensor,
    times: np.ndarray,
    truth: Reference,
    path: dict[float, Tensor] | None,
) -> dict[str, Any]:
    """One row. A run that blows up has no error (None); it is a finding, not a fault."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"solver": label, "steps": len(times) - 1}
    try:
        solution = goal.solve(x, solver, times)
        row["nfe"] = solution.nfe
        if math.isfinite(error := rmse(solution.x.cpu(), truth.x)):
            each = (solution.x.cpu().double() - truth.x).flatten(1).square().mean(1).sqrt()
            row |= {"error": error, "median_error": float(each.median())}
        if path is not None:
            row["local_error"] = local_error(goal, solver, times, path)
    except ModelError:
        pass
    return row


@torch.no_grad()
def local_error(goal: Target, solver: Solver, times: np.ndarray, path: dict[float, Tensor]) -> float:
    """The error of the middle step, made like all before it from the exact state."""
    run = solver.begin(goal.schedule, times, as_noise(None))

    def evaluate(x: Tensor, t: float) -> Tensor:
        return goal.model(x, torch.full((len(x),), t, dtype=torch.float64, device=x.device))

    for k, (t, s) in enumerate(pairwise(times.tolist())):
        made = drive(run.ask(path[t].clone(), t, s), evaluate)
        if k == middle(times):
            break
    return rmse(made, path[s])


def rounding_floor(truth: Reference, dtype: torch.dtype, steps: int) -> float:
    """The error below which nothing can be measured: the reference's own, or the rounding of that many steps."""
    scale = float(truth.x.square().mean().sqrt())
    return max(truth.difference, torch.finfo(dtype).eps / 2 * math.sqrt(steps) * scale)


def _orders(label: str, solver: Solver, rows: list[dict[str, Any]], floor: float, local_floor: float) -> dict[str, Any]:
    """What one solver shows, beside what it promises."""
    own = [row for row in rows if row["solver"] == label]
    steps = [row["steps"] for row in own]

    def of(column: str, floor: float) -> dict[str, Any] | None:
        errors = [math.inf if row[column] is None else row[column] for row in own]
        found = measure_order(steps, errors, floor)
        return None if found is None else _plain(found)

    return {
        "solver": label,
        "documented": solver.order,
        "documented_running": getattr(solver, "running_order", solver.order),
        "order": of("error", floor),
        "local_order": of("local_error", local_floor),
    }


def _plain(order: Order) -> dict[str, Any]:
    return {"value": order.value, "low": order.low, "high": order.high, "steps": list(order.steps),
            "asymptotic": order.asymptotic}  # fmt: skip


def report(record: dict[str, Any]) -> str:
    """The table that a study prints."""
    lines = [f"{'solver':26} {'documented':>10}   {'measured order (95 %)':27} {'on steps':>10}   {'of a step':>9} "
             f"{'best error':>11} {'at nfe':>7}"]  # fmt: skip
    for entry in record["orders"]:
        own = [row for row in record["rows"] if row["solver"] == entry["solver"] and row["error"] is not None]
        best = min(own, key=lambda row: row["error"], default={"error": math.nan, "nfe": "-"})
        promised = str(entry["documented"])
        if entry["documented_running"] != entry["documented"]:
            promised = f"{entry['documented_running']} ({promised})"
        order, local = entry["order"], entry["local_order"]
        measured, span = "too few points", ""
        if order:
            measured = f"{order['value']:.2f} [{order['low']:.2f}, {order['high']:.2f}]"
            measured += "" if order["asymptotic"] else " bends"
            span = f"{order['steps'][0]}-{order['steps'][-1]}"
        of_step = f"{local['value']:.2f}" if local else "-"
        lines.append(f"{entry['solver']:26} {promised:>10}   {measured:27} {span:>10}   {of_step:>9} "
                     f"{best['error']:11.2e} {best['nfe']:>7}")  # fmt: skip
    truth = record["reference"]
    lines += [
        "documented: of the ordinary steps, and in brackets with the start-up; of a step: its local error's, ideally "
        "one more",
        f"{record['target']['name']}: {record['samples']} samples of {record['dimension']} numbers, t from "
        f"{record['t_start']:g} to {record['t_end']:g}, {record['dtype']}, {record['seconds']:.1f} s",
        f"reference: {truth['method']}, {truth['nfe']} evaluations, difference {truth['difference']:.1e}"
        + ("" if truth["converged"] else f", WHICH IS ABOVE ITS TOLERANCE {truth['tolerance']:.0e}"),
    ]
    return "\n".join(lines)
