"""What a training run leaves to read: record.json and the loss curve as a picture."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

CURVE_POINTS = 500


def write(out: Path, record: dict[str, Any]) -> None:
    """Write record.json, loss.png and loss.svg, each whole or not at all."""
    with whole(out / "record.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if record["loss"]:
        plot(out, record)


def thin(curve: list[list[float]], points: int = CURVE_POINTS) -> list[list[float]]:
    """At most `points` points of a curve: neighbours averaged, each at its last iteration."""
    width = max(1, -(-len(curve) // points))
    groups = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [[group[-1][0], round(sum(value for _, value in group) / len(group), 6)] for group in groups]


def tail_mean(curve: list[list[float]], count: int = 50) -> float | None:
    """Mean of the last values: one batch's loss alone says little."""
    values = [value for _, value in curve[-count:]]
    return sum(values) / len(values) if values else None


def plot(out: Path, record: dict[str, Any]) -> None:
    """The loss against the iteration, training and held out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed only here
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*record["loss"], strict=True), lw=0.8, color="tab:blue", alpha=0.7, label="training, live weights")
    if record["validation_loss"]:
        points = tuple(zip(*record["validation_loss"], strict=True))
        axes.plot(*points, "o-", ms=3, color="tab:red", label="held out, averaged weights")
    values = [value for _, value in record["loss"][len(record["loss"]) // 20 :]]
    values += [value for _, value in record["validation_loss"][1:]]
    if len(record["loss"]) > 20:  # the first iterations' losses would flatten all the rest
        low, high = min(values), max(values)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel(f"iteration (batch {record['config']['batch']})")
    axes.set_ylabel("mean squared error of the predicted noise")
    axes.set_title(f"{record['config']['data']}, {record['parameters'] / 1e6:.2f} M parameters")
    axes.grid(alpha=0.3)
    axes.legend()
    for kind in ("png", "svg"):
        with whole(out / f"loss.{kind}") as path:
            figure.savefig(path, format=kind, dpi=150)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write to the path given inside, which then replaces `path` in one step."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "safetensors", "pndm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout
            versions[package] = "unknown"
    return {
        "versions": versions,
        "git_commit": _git_commit(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of this code, with a plus when files differ from it; None outside a repository."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if status.strip() else "")
