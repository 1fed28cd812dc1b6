"""The figures of `experiment=trajectory`, from its record alone."""

from __future__ import annotations

from typing import Any

from experiments import figures

EXACT = {"color": "black", "ls": (0, (4, 2)), "lw": 1.1, "label": "exact solution", "zorder": 4}
GREY = "0.85"
LATE = 3  # steps


def norm(record: dict[str, Any]) -> Any:
    """The norm of x_t in shares of its expected value: along the whole path, and towards the end."""
    figure = figures.new_figure(11.5, 4.6)
    whole, end = figure.subplots(1, 2)
    low, high = [1 - half for half in record["band"]], [1 + half for half in record["band"]]
    ratios = [ratio for of in record["solvers"].values() for ratio in of["norm_ratio"] if ratio < 2]
    for axes, along in ((whole, record["times"]), (end, record["rho"])):
        axes.fill_between(along, low, high, color=GREY, lw=0, label="95 % of exact batches")
        axes.plot(along, record["exact"]["norm_ratio"], **EXACT)
        for i, (label, of) in enumerate(record["solvers"].items()):
            axes.plot(along, of["norm_ratio"], **style(label, i))
        axes.set_ylim(*padded(min(low + ratios), max(high + ratios)))
        axes.grid(alpha=0.3)
    whole.set(xlabel="t (sampling goes to the right)", ylabel="norm of x over its expected value")
    whole.invert_xaxis()
    towards_the_end(end, record["rho"])
    figure.legend(*whole.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def distance(record: dict[str, Any]) -> Any:
    """The distance of x / alpha from the data's manifold: along the path, and of the end points."""
    figure = figures.new_figure(11.5, 4.6)
    path, end = figure.subplots(1, 2)
    exact, count = record["exact"], record["samples"]
    shares = [(i + 0.5) / count for i in range(count)]
    noisy = [k for k, rho in enumerate(record["rho"]) if rho > 0]
    path.plot([record["rho"][k] for k in noisy], [1.0 for _ in noisy], **EXACT)
    end.plot(exact["end_distances"], shares, **EXACT)
    ratios = []
    for i, (label, of) in enumerate(record["solvers"].items()):
        ratio = [of["distance"][k] / exact["distance"][k] for k in noisy]
        ratios += [each for each in ratio if each < 5]
        path.plot([record["rho"][k] for k in noisy], ratio, **style(label, i))
        end.plot(of["end_distances"], shares, **{**style(label, i), "marker": None})
    path.set(ylabel="distance of x/α from the manifold, over the exact one's", ylim=padded(min(ratios), max(ratios)))
    towards_the_end(path, record["rho"])
    end.set(xscale="log", xlabel=f"distance of the end points, at t = {record['times'][-1]:g}, from the manifold",
            ylabel="share of samples nearer than that")  # fmt: skip
    for axes in (path, end):
        axes.grid(alpha=0.3)
    figure.legend(*path.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title(record))
    return figure


def near_end(record: dict[str, Any]) -> Any:
    """Two solvers as t goes to 0: numbers of one sample, the error, and the directions that the transfers follow."""
    figure = figures.new_figure(14, 4.6)
    numbers, error, size = figure.subplots(1, 3)
    curves, times = record["curves"], record["times"]
    start = times[-min(len(times), LATE + 1)]
    for j in range(len(curves["numbers"])):
        at = [(t, value[j]) for t, value in zip(curves["times"], curves["exact"], strict=True) if t <= start]
        numbers.plot(*zip(*at, strict=True), **{**EXACT, "label": EXACT["label"] if j == 0 else None})
        for i, (label, path) in enumerate(curves["solvers"].items()):
            shown = [(t, value[j]) for t, value in zip(times, path, strict=True) if t <= start]
            numbers.plot(*zip(*shown, strict=True), **{**style(label, i), "label": label if j == 0 else None})
    worst = next(iter(curves["solvers"]))
    numbers.set(xlabel=f"t (the last {min(len(times) - 1, LATE)} steps)", ylabel="numbers of a sample",
                title=f"the {len(curves['numbers'])} numbers that {worst} gets most wrong")  # fmt: skip
    numbers.invert_xaxis()
    numbers.legend(frameon=False, fontsize=9)
    for i, label in enumerate(curves["solvers"]):
        error.plot(times[1:], record["solvers"][label]["path_error"][1:], **style(label, i))
    error.set(yscale="log", xlabel="t", ylabel="RMS over all samples", title="distance from the exact path")
    error.invert_xaxis()
    error.legend(frameon=False, fontsize=9)
    size.plot(curves["rho"], curves["slope"], color="0.1", lw=1.6, label="dx/dt: what the linear transfer follows")
    size.plot(curves["rho"], curves["eps"], color="0.55", lw=1.6, label="ε: what the manifold transfer follows")
    size.set(yscale="log", ylabel="RMS (t scaled to run from 0 to 1)", title="directions along the exact path")
    size.set_ylim(min(curves["slope"] + curves["eps"]) / 2, max(curves["slope"] + curves["eps"]) * 6)
    towards_the_end(size, curves["rho"])
    size.legend(frameon=False, fontsize=9, loc="upper left")
    for axes in (numbers, error, size):
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(10)
    figure.suptitle(title(record))
    return figure


def padded(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis with some room."""
    room = 0.08 * (high - low) or 0.01
    return low - room, high + room


def towards_the_end(axes: Any, rho: list[float]) -> None:
    """A logarithmic axis of the noise level, on which sampling goes to the right."""
    least = min(each for each in rho if each > 0)
    axes.set(xscale="log", xlabel="noise level σ/α (sampling goes to the right)", xlim=(rho[0] * 1.2, least / 1.2))


def style(label: str, place: int) -> dict[str, Any]:
    """How a solver's line looks."""
    marker = figures.MARKERS[place % len(figures.MARKERS)]
    return {"color": figures.colour(label.split()[0]), "marker": marker, "ms": 3.5, "lw": 1.3, "label": label}


def title(record: dict[str, Any]) -> str:
    """What was measured, in a line."""
    config, times = record["config"], record["times"]
    return (
        f"{record['target']['name']}, {record['samples']} samples of {record['dimension']} numbers, "
        f"{config['schedule']['name']}, {len(times) - 1} steps on the {config['grid']['name']} grid "
        f"from t = {times[0]:g} to {times[-1]:g}"
    )
