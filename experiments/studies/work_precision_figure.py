"""The figures of `experiment=work_precision`, from its record alone: one colour a solver."""

from __future__ import annotations

import math
from typing import Any

from experiments import figures

HIGHEST = 3.0  # errors above are off the figures: such samples have blown up
AXES = {"nfe": "network evaluations (nfe)", "seconds": "seconds"}


def against_cost(record: dict[str, Any]) -> Any:
    """Error against evaluations and against seconds: each solver on its best grid, faint on the others; the front."""
    figure = figures.new_figure(12.5, 5.4)
    panels = figure.subplots(1, 2, sharey=True)
    chosen = best_grids(record["rows"])
    for axes, cost in zip(panels, AXES, strict=True):
        for i, (solver, grid) in enumerate(chosen.items()):
            for on in dict.fromkeys(row["grid"] for row in record["rows"] if row["solver"] == solver):
                rows = curve(record["rows"], solver, on, cost)
                style = {"lw": 1.5, "ms": 4, "label": f"{solver}, {grid}", "zorder": 3} if on == grid else {
                    "lw": 0.7, "ms": 0, "alpha": 0.35, "zorder": 2}  # fmt: skip
                axes.plot([row[cost] for row in rows], [row["error"] for row in rows], color=shade(solver),
                          ls=figures.line_style(solver, chosen), marker=figures.MARKERS[i % len(figures.MARKERS)],
                          **style)  # fmt: skip
        front = sorted((row for row in shown(record) if row[f"pareto_{cost}"]), key=lambda row: row[cost])
        axes.plot([row[cost] for row in front], [row["error"] for row in front], "o", mfc="none", mec="black", ms=9,
                  mew=1.1, label="Pareto front", zorder=4)  # fmt: skip
        finish(axes, record, cost)
    panels[0].set_ylabel("error (RMS against the reference)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False,
                  title="each on its best grid;\nother grids faint")  # fmt: skip
    figure.suptitle(title(record))
    return figure


def by_grid(record: dict[str, Any]) -> Any:
    """Error against evaluations, a panel a grid."""
    grids = list(dict.fromkeys(row["grid"] for row in record["rows"]))
    solvers = list(dict.fromkeys(row["solver"] for row in record["rows"]))
    columns = len(grids) if len(grids) < 4 else math.ceil(math.sqrt(len(grids)))
    lines = math.ceil(len(grids) / columns)
    figure = figures.new_figure(3.9 * columns + 2.2, 3.5 * lines + 0.6)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for k, (axes, grid) in enumerate(zip(panels, grids, strict=False)):
        for i, solver in enumerate(solvers):
            rows = curve(record["rows"], solver, grid, "nfe")
            if rows:
                (handles[solver],) = axes.plot(
                    [row["nfe"] for row in rows], [row["error"] for row in rows], color=shade(solver), lw=1.3, ms=4,
                    ls=figures.line_style(solver, solvers),
                    marker=figures.MARKERS[i % len(figures.MARKERS)],
                )  # fmt: skip
        finish(axes, record, "nfe")
        axes.set_title(grid, fontsize=10)
        below = k + columns < len(grids)
        axes.tick_params(labelbottom=not below)
        axes.set_xlabel("" if below else AXES["nfe"])
    for axes in panels[len(grids) :]:
        axes.set_visible(False)
    figure.supylabel("error (RMS against the reference)", fontsize=10)
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def finish(axes: Any, record: dict[str, Any], cost: str) -> None:
    """Scales, labels and the reference's own error."""
    axes.set(xscale="log", yscale="log", xlabel=AXES[cost])
    rows = shown(record)
    errors, costs = [row["error"] for row in rows], [row[cost] for row in rows]
    low = min((error for error in errors if error > 0), default=1e-3) / 2.5
    axes.set_ylim(low, min(max(errors, default=1.0) * 2, HIGHEST))
    axes.set_xlim(min(costs, default=1) / 1.2, max(costs, default=10) * 1.2)
    figures.numbers_on(axes.xaxis)
    figures.numbers_on(axes.yaxis)
    if record["reference"]["difference"] > low:
        axes.axhspan(low, record["reference"]["difference"], color="0.85", lw=0, zorder=0)
        axes.annotate("the reference's own error", (0.02, 0.015), xycoords="axes fraction", fontsize=8, color="0.35")
    axes.grid(alpha=0.3)


def shown(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that the figures have room for: those of a useful error; all where none is."""
    return [row for row in record["rows"] if row["error"] <= HIGHEST] or record["rows"]


def best_grids(rows: list[dict[str, Any]]) -> dict[str, str]:
    """For each solver the grid on which the logarithm of its error is least on average over its costs."""
    means: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        means.setdefault(row["solver"], {}).setdefault(row["grid"], []).append(math.log(max(row["error"], 1e-300)))
    return {solver: min(of, key=lambda grid: sum(of[grid]) / len(of[grid])) for solver, of in means.items()}


def curve(rows: list[dict[str, Any]], solver: str, grid: str, cost: str) -> list[dict[str, Any]]:
    """The runs of one solver on one grid, in the order of their cost."""
    return sorted((row for row in rows if row["solver"] == solver and row["grid"] == grid), key=lambda row: row[cost])


def shade(label: str) -> str:
    """The colour of a solver, whatever its options."""
    return figures.colour(label.split()[0])


def title(record: dict[str, Any]) -> str:
    """What was measured, in a line."""
    return (
        f"{record['target']['name']}, {record['samples']} samples of {record['dimension']} numbers, "
        f"{record['config']['schedule']['name']} from t = {record['t_start']:g} to {record['t_end']:g}"
    )
