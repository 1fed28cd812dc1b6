"""The figures of `experiment=convergence`, from its record alone."""

from __future__ import annotations

from typing import Any

from experiments import figures
from pndm.reference import METHODS

FAN = 3.0  # from the left to the right end of the slope triangles
ROOM = 30.0  # how far below the smallest error the axis goes at most, to show the floor and the triangles


def against_cost(record: dict[str, Any]) -> Any:
    """Error against steps and against evaluations: log-log, slope triangles, one colour a solver, the floor shaded."""
    figure = figures.new_figure(11.5, 5.2)
    left, right = figure.subplots(1, 2, sharey=True)
    curves(left, record, "steps", "error", record["floor"])
    curves(right, record, "nfe", "error", record["floor"])
    triangles(left, record, "order", "error", record["floor"])
    left.set(xlabel="steps", ylabel="error (RMS against the reference)")
    right.set(xlabel="network evaluations (nfe)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def local(record: dict[str, Any]) -> Any:
    """The error of the step in the middle, made from exact states, against steps."""
    figure = figures.new_figure(7.6, 5.2)
    axes = figure.add_subplot()
    curves(axes, record, "steps", "local_error", record["local_floor"])
    triangles(axes, record, "local_order", "local_error", record["local_floor"])
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


def curves(axes: Any, record: dict[str, Any], cost: str, column: str, floor: float) -> None:
    """One line a solver, and the floor."""
    for i, entry in enumerate(record["orders"]):
        rows = [row for row in record["rows"] if row["solver"] == entry["solver"] and row[column]]
        name = entry["solver"].split()[0]
        axes.plot(
            [row[cost] for row in rows],
            [row[column] for row in rows],
            marker=figures.MARKERS[i % len(figures.MARKERS)],
            color=figures.colour(name),
            ls=figures.line_style(entry["solver"], [each["solver"] for each in record["orders"]]),
            label=entry["solver"],
            lw=1.4,
            ms=4.5,
        )
    axes.set(xscale="log", yscale="log")
    ticks = sorted({row["steps"] for row in record["rows"]}) if cost == "steps" else None
    if ticks:
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
    else:
        figures.numbers_on(axes.xaxis)
    shown = [row[column] for row in record["rows"] if row[column]]
    low = min([*shown, max(floor, min(shown, default=1.0) / ROOM)])
    high = min(max(shown, default=1.0), 30.0)
    axes.set_ylim(low / 4, high * 3)
    if floor > low / 4:
        axes.axhspan(low / 4, floor, color="0.85", lw=0, zorder=0)
        below = "rounding floor" if record["reference"]["method"] == METHODS["exact"] else "the reference's own error"
        axes.annotate(below, (0.02, floor), (0, -3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="top", fontsize=8, color="0.35")  # fmt: skip
    axes.grid(alpha=0.3)


def triangles(axes: Any, record: dict[str, Any], which: str, column: str, floor: float) -> None:
    """A fan of slope triangles, one for each order that was measured, in the corner below the curves."""
    found = [entry[which]["value"] for entry in record["orders"] if entry[which] and entry[which]["asymptotic"]]
    slopes = sorted({round(value) for value in found if abs(value - round(value)) < 0.25 and value > 0.5})
    rows = [row for row in record["rows"] if row[column]]
    if not slopes:
        return
    left = min(row["steps"] for row in rows) * 1.15
    lowest = min(row[column] for row in rows if row["steps"] <= 1.5 * FAN * left) / 3
    bottom = max(2 * floor, axes.get_ylim()[0] * 2)
    fan = min(FAN, (lowest / bottom) ** (1 / slopes[-1]))  # as wide as there is room above the floor
    if fan < 1.5:
        return
    right, top = left * fan, min(lowest, 3 * bottom * fan ** slopes[-1])
    for slope in slopes:
        bottom = top * (left / right) ** slope
        axes.fill([left, right, right], [top, top, bottom], color="0.3", alpha=0.12, lw=0, zorder=1)
        axes.plot([left, right, right, left], [top, top, bottom, top], color="0.3", lw=0.8, zorder=1)
        axes.annotate(f"order {slope}", (right, bottom), (3, 0), textcoords="offset points", ha="left", va="center",
                      fontsize=8, color="0.25")  # fmt: skip
