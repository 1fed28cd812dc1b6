"""What a training prints when it ends: what it reached, how fast, and where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pndm.metrics.frechet import CLASSIFIER, RECORD, STATISTICS


def of_classifier(record: dict[str, Any], out: Path) -> str:
    """Of a classifier and its statistics."""
    losses, accuracy = record["loss"], record["accuracy"]
    lines = [
        f"{'accuracy':10} {100 * accuracy['test']:.2f} % of {accuracy['n_test']} test images",
        f"{'loss':10} {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last of {len(losses)}",
        f"{'time':10} {record['seconds']['training']:.1f} s, {record['images_per_second']:.1f} images/s",
    ]
    return _with_files(lines, out, (CLASSIFIER, STATISTICS, RECORD))


def _with_files(lines: Sequence[str], out: Path, files: Sequence[str]) -> str:
    return "\n".join([*lines, *(f"{'wrote':10} {out / file}" for file in files)])
