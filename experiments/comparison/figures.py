"""The figures of a comparison: quality against cost, and the images of all rows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import figures
from experiments.comparison.rows import Row
from experiments.runs.shards import first
from pndm.data import to_uint8
from pndm.errors import OptionError

COLUMNS = 5  # images of a row in each block of the strip
AXES = {
    "paired_rmse": "RMSE to the reference solution",
    "paired_psnr": "PSNR to the reference solution [dB]",
    "paired_label_changes": "share of samples whose class changes",
    "frechet_features": "Fréchet distance, classifier features",
    "fid": "FID",
    "kid": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "sliced_wasserstein": "sliced Wasserstein distance, pixels",
}
LINEAR = ("paired_psnr", "paired_label_changes", "kid", "precision", "recall")  # may be 0 or below, or are logarithms


def quality(table: Sequence[Row], name: str) -> Any:
    """A metric against evaluations and against seconds, with its intervals, one colour a solver."""
    figure = figures.new_figure(10, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    lines: dict[str, list[Row]] = {}
    for row in table:
        if name in row.metrics:
            lines.setdefault(row.label, []).append(row)
    for axes, cost in zip(panels, ("nfe", "seconds_per_image"), strict=True):
        for i, (label, line) in enumerate(lines.items()):
            line = sorted(line, key=lambda row: row.nfe)
            x, y = [getattr(row, cost) for row in line], [row.metrics[name].value for row in line]
            shade = figures.colour(line[0].solver)
            bars = list(zip(*(row.metrics[name].bars for row in line), strict=True))
            axes.errorbar(x, y, yerr=bars, color=shade, label=label, lw=1.5, ms=5, capsize=2.5,
                          elinewidth=0.9, marker=figures.MARKERS[i % len(figures.MARKERS)],
                          ls=figures.line_style(label, lines))  # fmt: skip
        axes.set(xscale="log", yscale="linear" if name in LINEAR else "log")
        axes.grid(alpha=0.3)
        figures.numbers_on(axes.xaxis)
    if name not in LINEAR:
        figures.numbers_on(panels[0].yaxis)
    panels[0].set(xlabel="network evaluations per sample (nfe)", ylabel=AXES.get(name, name))
    panels[1].set(xlabel="seconds per sample")
    panels[0].legend(fontsize=8)
    counts = sorted({row.metrics[name].n for row in table if name in row.metrics})
    of = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    figure.suptitle(f"{of} samples a point; bars: 95 % intervals", fontsize=9)
    return figure


def strip(table: Sequence[Row]) -> Any:
    """The first samples of every row: solvers across the rows, steps along the sheet, and down a column one noise.

    None when no run's samples are there any more.
    """
    images = {(row.label, row.steps): (row.nfe, found) for row in table if (found := _first(row)) is not None}
    if not images:
        return None
    labels, steps = list(dict.fromkeys(key[0] for key in images)), sorted({key[1] for key in images})
    size = max(found.shape[1] for _, found in images.values())
    figure = figures.new_figure(1.2 + 0.5 * COLUMNS * len(steps), 0.4 + 0.68 * len(labels))
    grid = figure.subplots(len(labels), len(steps), squeeze=False)
    for i, label in enumerate(labels):
        for j, count in enumerate(steps):
            axes = grid[i][j]
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if i == 0:
                axes.set_title(f"{count} step{'s' * (count != 1)}", fontsize=8)
            if j == 0:
                axes.set_ylabel(label.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
            if (label, count) not in images:
                continue
            nfe, found = images[label, count]
            padded = np.pad(found, ((0, COLUMNS - len(found)), (1, 1), (1, 1), (0, 0)), constant_values=255)
            sheet = np.concatenate(list(padded), axis=1).squeeze()
            axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if size < 64 else "antialiased")
            axes.set_xlabel(f"nfe {nfe}", fontsize=6, labelpad=1)
    return figure


def _first(row: Row) -> np.ndarray | None:
    """The first images (COLUMNS, H, W, C) of a row's first seed, or fewer; None when they cannot be read."""
    try:
        x = first(row.records[0]["folder"], COLUMNS)
    except OptionError:
        return None
    return to_uint8(x.float()).permute(0, 2, 3, 1).numpy()
