"""The figures of `experiment=convergence`, from its record alone."""

from __future__ import annotations

import math
from typing import Any

from experiments import figures

TRIANGLE = math.log(2)  # its width, in natural logarithms


def against_cost(record: dict[str, Any]) -> Any:
    """Error against steps and against evaluations: log-log, slope triangles, one colour a solver, the floor shaded."""
    figure = figures.new_figure(11.5, 5.2)
    left, right = figure.subplots(1, 2, sharey=True)
    curves(left, record, "steps", "error")
    curves(right, record, "nfe", "error")
    triangles(left, record, "order", "error")
    left.set(xlabel="steps", ylabel="error (RMS against the reference)")
    right.set(xlabel="network evaluations (nfe)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def local(record: dict[str, Any]) -> Any:
    """The error of the step in the middle, made from exact states, against steps."""
    figure = figures.new_figure(7.6, 5.2)
    axes = figure.add_subplot()
    curves(axes, record, "steps", "local_error")
    triangles(axes, record, "local_order", "local_error")
    axes.set(xlabel="steps", ylabel="error of the middle step (RMS)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def title(record: dict[str, Any]) -> str:
    """What was measured, in a line."""
    config = record["config"]
    return (
        f"{record['target']['name']}, {record['dimension']} dimensions, {config['schedule']['name']}, "
        f"{config['grid']['name']} grid from t = {record['t_start']:g} to {record['t_end']:g}"
    )


def curves(axes: Any, record: dict[str, Any], cost: str, column: str) -> None:
    """One line a solver, and the floor."""
    for i, entry in enumerate(record["orders"]):
        rows = [row for row in record["rows"] if row["solver"] == entry["solver"] and row[column]]
        name = entry["solver"].split()[0]
        axes.plot(
            [row[cost] for row in rows],
            [row[column] for row in rows],
            marker=figures.MARKERS[i % len(figures.MARKERS)],
            color=figures.colour(name),
            label=entry["solver"],
            lw=1.4,
            ms=4.5,
        )
    axes.set(xscale="log", yscale="log")
    ticks = sorted({row["steps"] for row in record["rows"]}) if cost == "steps" else None
    if ticks:
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
    shown = [row[column] for row in record["rows"] if row[column]]
    low = min([*shown, record["floor"]])
    high = min(max(shown, default=1.0), 30.0)
    axes.set_ylim(low / 4, high * 3)
    axes.axhspan(low / 4, record["floor"], color="0.85", lw=0, zorder=0)
    axes.annotate("rounding floor", (0.02, record["floor"]), (0, -3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", va="top", fontsize=8, color="0.35")  # fmt: skip
    axes.grid(alpha=0.3)


def triangles(axes: Any, record: dict[str, Any], which: str, column: str) -> None:
    """One slope triangle for each order that was measured, under the lowest curve that shows it."""
    lowest: dict[int, tuple[float, float]] = {}
    for entry in record["orders"]:
        order = entry[which]
        if order is None or not order["asymptotic"] or abs(order["value"] - round(order["value"])) > 0.25:
            continue
        steps = order["steps"]
        points = {row["steps"]: row[column] for row in record["rows"] if row["solver"] == entry["solver"]}
        at = steps[len(steps) // 2]
        slope = round(order["value"])
        if slope not in lowest or points[at] < points_at(lowest[slope], at, slope):
            lowest[slope] = (at, points[at])
    for slope, (at, error) in lowest.items():
        x0, x1 = at / math.exp(TRIANGLE / 2), at * math.exp(TRIANGLE / 2)
        top = error * (at / x0) ** slope / 2.2
        bottom = top * (x0 / x1) ** slope
        axes.plot([x0, x0, x1, x0], [top, bottom, bottom, top], color="0.25", lw=0.9, zorder=1)
        axes.annotate(str(slope), (x0, math.sqrt(top * bottom)), (-3, 0), textcoords="offset points", ha="right",
                      va="center", fontsize=9, color="0.25")  # fmt: skip


def points_at(point: tuple[float, float], at: float, slope: int) -> float:
    """The error at `at` steps on the line of that slope through a point."""
    return point[1] * (point[0] / at) ** slope
