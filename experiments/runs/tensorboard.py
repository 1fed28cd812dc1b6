"""A record's numbers as an event file of TensorBoard (`tensorboard=true`): `tensorboard --logdir outputs`.

Made from the record alone, and anew whenever the record is, so that both always say the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import records
from pndm.errors import OptionError

FOLDER = "tensorboard"
COST = ("nfe", "seconds", "seconds_per_image")
OPTIONS = ("schedule", "grid", "steps", "samples", "seed", "dtype")  # beside the solver with its options


def check() -> None:
    """Raise OptionError unless TensorBoard is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise OptionError("tensorboard=true needs a package: pip install 'pndm[tensorboard]'") from None


def write(run: Path) -> None:
    """The event file of a run's record and picture, in place of an older one."""
    from torch.utils.tensorboard import SummaryWriter

    record = records.read_record(run / "record.json")
    with tempfile.TemporaryDirectory() as aside:
        with SummaryWriter(aside) as writer:
            if record["experiment"] == "train":
                _curves(writer, record)
            else:
                _numbers(writer, record)
                writer.add_image("samples", _picture(run / "samples.png"), record["steps"], dataformats="HWC")
        (made,) = Path(aside).iterdir()
        older = list((run / FOLDER).glob("events.*"))
        records.write(run / FOLDER / made.name, made.read_bytes())
        for path in older:
            path.unlink()


def _curves(writer: Any, record: dict[str, Any]) -> None:
    for name, curve in (("loss/training", record["loss"]), ("loss/held_out", record["validation_loss"])):
        for iteration, value in curve:
            writer.add_scalar(name, value, iteration)


def _numbers(writer: Any, record: dict[str, Any]) -> None:
    """Cost and metrics at the run's steps, and beside its options in the table of hyperparameters."""
    from torch.utils.tensorboard.summary import hparams

    values = {f"cost/{name}": record[name] for name in COST}
    for name, metric in record["metrics"].items():
        ends = {"": metric["value"], "_low": metric["low"], "_high": metric["high"]}
        values |= {f"metrics/{name}{end}": value for end, value in ends.items() if value is not None}
    for name, value in values.items():
        writer.add_scalar(name, value, record["steps"])
    chosen = {name: record["config"][name] for name in OPTIONS}
    options = {name: value["name"] if isinstance(value, dict) else value for name, value in chosen.items()}
    solver = {f"solver.{name}": str(value) for name, value in record["config"]["solver"].items()}
    for summary in hparams({**solver, **options}, values):
        writer.file_writer.add_summary(summary)


def _picture(path: Path) -> np.ndarray:
    """A picture's pixels, (H, W, 3)."""
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
