"""One table and figures from any number of runs' records: `python -m experiments.compare outputs/ multirun/`.

A sweep ends with it by itself. Everything is made from the records and samples on disk, so it can be made again at any
time. Cost is compared by evaluations (nfe) and seconds, never by steps.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments import figures, records
from pndm.errors import OptionError

COLUMNS = ("solver", "options", "grid", "schedule", "steps", "nfe", "samples", "seed", "seconds", "seconds_per_image")
STRIP_COLUMNS = 12


class CompareAfterSweep(Callback):
    """Hydra's hook: when a sweep has ended, compare its runs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if find([folder]):  # a sweep over another experiment has its own figures
            compare([folder], folder)


def find(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of all sampling runs below the folders, each with its own folder; stderr names what is left out."""
    found = []
    for path in sorted({path for folder in folders for path in folder.rglob("record.json")}):
        try:
            record = records.read_record(path)
            if record.get("experiment") == "sample":
                found.append({**row(record), "folder": path.parent})
        except OptionError as error:
            print(f"left out: {error}", file=sys.stderr)
    return sorted(found, key=lambda run: (run["solver"], run["options"], run["grid"], run["nfe"], run["seed"]))


def row(record: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one run."""
    config = record["config"]
    options = {key: value for key, value in config["solver"].items() if key != "name"}
    shown = {
        "solver": record["solver"],
        "options": " ".join(f"{key}={value}" for key, value in options.items()),
        "grid": config["grid"]["name"],
        "schedule": config["schedule"]["name"],
        **{column: record[column] for column in COLUMNS[4:]},
    }
    for name, metric in record["metrics"].items():
        shown |= {name: metric["value"], f"{name}_low": metric["low"], f"{name}_high": metric["high"]}
    return shown


def compare(folders: Sequence[Path], out: Path) -> None:
    """Write comparison.csv, and as figures the metric against nfe and the samples side by side; print the table."""
    runs = find(folders)
    if not runs:
        raise OptionError(f"no records of sampling runs below {', '.join(map(str, folders))}")
    metrics = metric_columns(runs)
    columns = [*COLUMNS, *metrics]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(runs)
    records.write(out / "comparison.csv", table.getvalue())
    print(as_text(runs))
    written = ["comparison.csv", "strip.png"]
    records.write_figure(out, "strip", strip(runs))
    for metric in (name for name in metrics if f"{name}_low" in metrics):
        records.write_figure(out, metric, against_nfe(runs, metric))
        written.append(f"{metric}.png")
    for name in written:
        print(f"wrote {out / name}")


def as_text(runs: list[dict[str, Any]]) -> str:
    """The table for a screen: what varies between the runs, cost, and metrics."""
    fixed = {column for column in ("grid", "schedule", "samples", "seed") if len({run[column] for run in runs}) == 1}
    named = [{**run, "solver": label(run, runs)} for run in runs]
    columns = [column for column in COLUMNS if column not in fixed | {"options"}] + metric_columns(runs)
    cells = [columns] + [[_cell(run.get(column)) for column in columns] for run in named]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    common = [f"{column} {runs[0][column]}" for column in COLUMNS if column in fixed]
    return "\n".join([*text, *([f"all: {', '.join(common)}"] if common else [])])


def metric_columns(runs: list[dict[str, Any]]) -> list[str]:
    """The metrics that some run has, each followed by the ends of its interval."""
    return list(dict.fromkeys(key for run in runs for key in run if key not in (*COLUMNS, "folder")))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def label(run: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The solver's name, with what else tells this run from the others of that solver."""
    same = [other for other in runs if other["solver"] == run["solver"]]
    parts = [run["solver"]]
    for key in ("options", "grid", "schedule"):
        if run[key] and len({other[key] for other in same}) > 1:
            parts.append(str(run[key]))
    return " ".join(parts)


def against_nfe(runs: list[dict[str, Any]], metric: str) -> Any:
    """The metric against evaluations, with its intervals, one colour a solver."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = figures.new_figure(6.5, 4.2)
    axes = figure.add_subplot()
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.get(metric) is not None:
            lines.setdefault(label(run, runs), []).append(run)
    for i, (name, line) in enumerate(lines.items()):
        line = sorted(line, key=lambda run: run["nfe"])
        x, y = [run["nfe"] for run in line], [run[metric] for run in line]
        shade = figures.colour(line[0]["solver"])
        axes.plot(x, y, marker=figures.MARKERS[i % len(figures.MARKERS)], color=shade, label=name, lw=1.5, ms=5)
        if all(run[f"{metric}_low"] is not None for run in line):
            low, high = ([run[f"{metric}_{end}"] for run in line] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=shade, alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="network evaluations per sample (nfe)", ylabel=metric)
    for axis in (axes.xaxis, axes.yaxis):  # few numbers in a decade, written out
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    counts = sorted({run["samples"] for run in runs})
    axes.set_title(f"{counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'} samples a point")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def strip(runs: list[dict[str, Any]]) -> Any:
    """The first samples of every run, a run a row: down a column is the same starting noise when the seeds agree."""
    import numpy as np
    from safetensors.torch import load_file

    from pndm.data import to_uint8

    rows = []
    for run in runs:
        x = load_file(run["folder"] / "samples.safetensors")["x"][:STRIP_COLUMNS]
        images = to_uint8(x.float()).permute(0, 2, 3, 1).numpy()
        rows.append((f"{label(run, runs)}\n{run['steps']} steps, nfe {run['nfe']}", images))
    count = max(len(images) for _, images in rows)
    figure = figures.new_figure(1.7 + 0.62 * count, 0.3 + 0.66 * len(rows))
    all_axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(all_axes, rows, strict=True):
        padded = np.pad(images, ((0, count - len(images)), (1, 1), (1, 1), (0, 0)), constant_values=255)
        axes.imshow(
            np.concatenate(list(padded), axis=1).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def main(arguments: Sequence[str]) -> int:
    """`python -m experiments.compare FOLDER...`: compares all runs below the folders, into the first of them."""
    folders = [Path(argument) for argument in arguments]
    try:
        if not folders:
            raise OptionError("give at least one folder with runs, such as outputs/ or multirun/")
        for folder in folders:
            if not folder.is_dir():
                raise OptionError(f"{folder} is not a folder")
        compare(folders, folders[0])
    except OptionError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
