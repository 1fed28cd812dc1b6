"""docs/speed.json as the tables of docs/speed.md and its figure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path("docs")
LOOPS = {
    "pipeline": "the CIFAR-10 network (random weights, so without an error), batch 4, medians of two rounds",
    "end_to_end": "the default network, batch 16; error: RMS of 8 images to the reference solution",
}
MARK = "<!-- measured: everything below is written by `make bench` -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(lines[0]), *shown[1:]])


def overhead(found: dict[str, Any]) -> str:
    libraries = ["diffusers", "k-diffusion", "azula", "torchdiffeq"]
    rows = []
    for solver, contenders in found["rows"].items():
        cells = []
        for library in libraries:
            one = contenders.get(library)
            cells.append(f"{one['microseconds']:.0f} ({one['ratio']:.2f})" if one else "–")
        rows.append([f"`{solver}`", f"{contenders['pndm']['microseconds']:.0f}", *cells])
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        "## Solver and driver alone\n\n"
        f"Microseconds an evaluation and, in brackets, ours as a share of theirs. A model that costs nothing, state "
        f"{tuple(found['state'])} float32, 50 steps, one thread; {versions}.\n\n"
        + table(["solver", "pndm", *libraries], rows)
    )


def sections(results: dict[str, Any]) -> Iterable[str]:
    if "overhead" in results:
        yield overhead(results["overhead"])
    lines = []
    if "whole" in results:
        found = results["whole"]
        lines.append(["`solve`, plms, 50 steps, batch 16 / as many bare evaluations", f"{found['ratio']:.3f}"])
    if "startup" in results:
        found = results["startup"]
        lines.append(["`import pndm` / `import torch`", f"{found['ratio']:.3f}"])
        lines.append(["`run.py --help` beyond importing torch", f"{found['help_more']:.2f} s"])
    if "metrics" in results:
        found = results["metrics"]
        lines.append(
            [f"`frechet_features` of {found['samples']} images / drawing them with {found['evaluations']} evaluations",
             f"{found['ratio']:.4f}"]
        )  # fmt: skip
    if "memory" in results:
        states = ", ".join(f"`{solver}` {count:.0f}" for solver, count in results["memory"]["rows"].items())
        lines.append(["states alive at once, beside the given one", states])
    for name, found in results.get("growth", {"rows": {}})["rows"].items():
        at = list(found["points"])
        lines.append(
            [f"seconds against {name} ({at[0]} to {at[-1]}): intercept of the line, share of the variance it explains",
             f"{found['intercept']:.2f} s, {found['r2']:.4f}"]
        )  # fmt: skip
    if lines:
        yield "## A run around its network\n\n" + table(["what", "measured"], lines)
    if "network" in results:
        found = results["network"]
        rows = [[name, f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}"] for name, row in found["rows"].items()]
        yield (
            f"## One evaluation of the CIFAR-10 network\n\n{found['parameters']:,} parameters (random), batch 4, "
            f"{found['threads']} threads; compiled or found compiled in {found['compile_seconds']:.0f} s.\n\n"
            + table(["", "milliseconds", "of diffusers"], rows)
        )
    for name, about in LOOPS.items():
        if name in results:
            rows = [
                [of, f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['error']:.4f}" if "error" in row else "–"]
                for of, row in results[name]["rows"].items()
            ]
            best = results[name].get("best")
            more = f" best: `{best['solver']}`, grid {best['grid']}, {best['evaluations']} evaluations." if best else ""
            yield (
                f"## End to end: {about}\n\nSeed 0, 50 steps: 59 evaluations of diffusers, 50 of ours.{more}\n\n"
                + table(["", "seconds", "of diffusers' loop", "error"], rows)
            )
    if "precision" in results:
        found = results["precision"]
        rows = [
            [mode, f"`{solver}`", f"{error['rms']:.1e}", f"{error['max']:.1e}"]
            for mode, solvers in found["rows"].items()
            for solver, error in solvers.items()
        ]
        yield (
            "## Errors of exact and fast evaluations against float64\n\nImages in [-1, 1], "
            f"{found['samples']} samples, seed 0, 50 steps, default network.\n\n"
            + table(["speed", "solver", "rms", "largest"], rows)
        )
    if "profile" in results:
        rows = [[f"`{name}`", f"{100 * share:.1f} %", str(count)] for name, share, count in results["profile"]["rows"]]
        yield f"## Profile of one run\n\n{results['profile']['run']}: operations by their own time.\n\n" + table(
            ["operation", "share", "calls"], rows
        )


def figure(results: dict[str, Any]) -> None:
    """Solver and driver alone: ours and the peers', a group of bars a solver."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = results["overhead"]["rows"]
    libraries = ["pndm", "diffusers", "k-diffusion", "azula", "torchdiffeq"]
    colours = dict(zip(libraries, ("#d62728", "#7f7f7f", "#1f77b4", "#2ca02c", "#9467bd"), strict=True))
    drawing, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    place, ticks = 0.0, []
    for contenders in rows.values():
        there = [library for library in libraries if library in contenders]
        for k, library in enumerate(there):
            axes.bar(place + k, contenders[library]["microseconds"], 0.9, color=colours[library])
        ticks.append(place + (len(there) - 1) / 2)
        place += len(there) + 1
    for library in libraries:
        axes.bar(0, 0, color=colours[library], label=library)
    axes.set_yscale("log")
    axes.set_yticks([30, 50, 100, 200, 500, 1000], ["30", "50", "100", "200", "500", "1000"])
    axes.minorticks_off()
    axes.set_xticks(ticks, rows, rotation=20)
    axes.set_ylabel("microseconds an evaluation")
    axes.set_title("Solver and driver alone: state (16, 3, 32, 32) float32, 50 steps, one thread of a CPU")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=5, loc="upper left")
    axes.set_ylim(20, 2500)
    (DOCS / "images").mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        drawing.savefig(DOCS / "images" / f"speed.{kind}", dpi=150)
    plt.close(drawing)


def written(results: dict[str, Any]) -> str:
    """Write docs/speed.md below its mark, and the figure; gives back the tables."""
    tables = "\n\n".join(sections(results))
    path = DOCS / "speed.md"
    above = path.read_text(encoding="utf-8").split(MARK)[0]
    path.write_text(f"{above}{MARK}\n\n{tables}\n", encoding="utf-8")
    if "overhead" in results:
        figure(results)
    return tables
