"""What a training run leaves to read: record.json, and the loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments import figures
from experiments.runs import records

CURVE_POINTS = 500
Curve = list[list[float]]
"""Pairs of iteration and loss."""


def thin(curve: Curve, points: int = CURVE_POINTS) -> Curve:
    """At most `points` points of a curve: neighbours averaged, each at its last iteration."""
    width = max(1, -(-len(curve) // points))
    groups = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [[group[-1][0], round(sum(value for _, value in group) / len(group), 6)] for group in groups]


def tail_mean(curve: Curve, count: int = 50) -> float | None:
    """Mean of the last values: one batch's loss alone says little."""
    values = [value for _, value in curve[-count:]]
    return sum(values) / len(values) if values else None


def plot(out: Path, record: dict[str, Any]) -> None:
    """Draw loss.png and loss.svg: the loss against the iteration, training and held out."""
    curve, held_out = record["loss"], record["validation_loss"]
    if not curve:
        return
    figure = figures.new_figure(7, 4)
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), lw=0.8, alpha=0.7, label="training images, weights as they are")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", ms=3, label="held-out images, averaged weights")
    if len(curve) > 20:  # the first losses, near 1, would flatten all the rest
        values = [value for _, value in (*curve[len(curve) // 20 :], *held_out[1:])]
        margin = 0.05 * (max(values) - min(values))
        if margin > 0:
            axes.set_ylim(min(values) - margin, max(values) + margin)
    axes.set_xlabel(f"iteration (batch {record['config']['batch']})")
    axes.set_ylabel(f"mean squared error of the predicted {record['config']['predicts']}")
    axes.set_title(f"{record['config']['data']}, {record['parameters'] / 1e6:.2f} M parameters")
    axes.grid(alpha=0.3)
    axes.legend()
    records.write_figure(out, "loss", figure)
