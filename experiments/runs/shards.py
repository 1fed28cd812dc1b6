"""A run's samples on disk: a file a batch while they are drawn, so that a kill loses at most the batch in flight.

    RUN/samples/00000000.safetensors   samples 0 ... batch-1: x (B, *shape), with the run's key, evaluations and seconds
    RUN/samples/00000064.safetensors   and so on; each written whole or not at all

Batches are the unit because images of other batch sizes agree to rounding only: a run that goes on draws the same
batches, and so the same bits. Samples of few bytes are put together in RUN/samples.safetensors when all are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from experiments.runs import records
from pndm.errors import OptionError

FOLDER, TOGETHER = "samples", "samples.safetensors"
SMALL_BYTES = 16 * 2**20
PART = 256  # samples that are read at once from a file that holds all


@dataclass(frozen=True)
class Shards:
    """The batches of one run in its folder, `samples` samples in all."""

    run: Path
    key: str
    samples: int
    batch: int

    @property
    def batches(self) -> list[range]:
        """The indices of every batch."""
        return [range(start, min(start + self.batch, self.samples)) for start in range(0, self.samples, self.batch)]

    def missing(self) -> list[bool]:
        """Which of the batches are not there, or not whole. Raises OptionError for those of another run."""
        for path in (self.run / FOLDER).glob("*.safetensors"):
            entry = _entry(path)
            if entry is not None and entry["key"] != self.key:
                raise OptionError(f"output={self.run} holds samples of another run, which is not done: choose another "
                                  "folder, or --force replaces them")  # fmt: skip
        return [_entry(self._path(indices)) is None for indices in self.batches]

    def write(self, indices: range, x: Tensor, nfe: int, seconds: float) -> None:
        """One batch, x (B, *shape). Raises OptionError when the disk refuses it; what is there stays."""
        entry = {"key": self.key, "nfe": str(nfe), "seconds": str(seconds)}
        try:
            records.write(self._path(indices), save({"x": x.contiguous()}, entry))
        except OptionError as error:
            raise OptionError(f"{error}; the same command goes on from the samples that are there") from None

    def cost(self) -> tuple[int, float]:
        """Evaluations a sample, and the seconds that solving took in all. All batches must be there."""
        entries = [entry for indices in self.batches if (entry := _entry(self._path(indices)))]
        return max(int(entry["nfe"]) for entry in entries), sum(float(entry["seconds"]) for entry in entries)

    def put_together(self) -> None:
        """Make one file of samples of few bytes; their batches stay until `tidy`, when the record is there."""
        if first(self.run, 1).nbytes * self.samples <= SMALL_BYTES:
            whole = torch.cat([x for _, x in parts(self.run)])
            records.write(self.run / TOGETHER, save({"x": whole}, {"key": self.key}))

    def _path(self, indices: range) -> Path:
        return self.run / FOLDER / f"{indices.start:08d}.safetensors"


def parts(run: Path) -> Iterator[tuple[range, Tensor]]:
    """The samples in a run's folder, some at a time and in order: their indices, and x (B, *shape).

    Raises OptionError where there are none, or where one is missing or damaged.
    """
    for begins, x in _files(run):
        for i in range(0, x.get_shape()[0], PART):
            part = x[i : i + PART]
            yield range(begins + i, begins + i + len(part)), part


def check_whole(run: Path, samples: int) -> None:
    """Raise OptionError unless a run's folder holds so many samples; the beginnings of the files tell."""
    found = sum(x.get_shape()[0] for _, x in _files(run))
    if found != samples:
        raise OptionError(f"{run} holds {found} samples and not {samples}")


def first(run: Path, count: int) -> Tensor:
    """The first samples in a run's folder, (count, *shape) or as many as there are."""
    found: list[Tensor] = []
    for indices, x in parts(run):
        found.append(x)
        if indices.stop >= count:
            break
    return torch.cat(found)[:count]


def begun_with(run: Path) -> int | None:
    """The batch of a run that has begun: as many samples as its first file holds; None where there is none."""
    files = sorted((run / FOLDER).glob("*.safetensors"))
    if not files or _entry(files[0]) is None:
        return None
    with safe_open(files[0], framework="pt") as file:
        return int(file.get_slice("x").get_shape()[0])


def clear(run: Path) -> None:
    """Remove all samples of a run."""
    (run / TOGETHER).unlink(missing_ok=True)
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove the batches of samples that have been put together."""
    if (run / TOGETHER).exists():
        shutil.rmtree(run / FOLDER, ignore_errors=True)


def _files(run: Path) -> Iterator[tuple[int, Any]]:
    """The first index and the x, not yet read, of every file with samples in a run's folder. Raises as `parts` does."""
    together, begins = run / TOGETHER, 0
    files = [together] if together.exists() else sorted((run / FOLDER).glob("*.safetensors"))
    if not files:
        raise OptionError(f"{run} has no samples")
    for path in files:
        if path != together and int(path.stem) != begins:
            raise OptionError(f"{run} lacks samples from {begins} on: run it again, and it makes them")
        try:
            with safe_open(path, framework="pt") as file:
                x = file.get_slice("x")
                yield begins, x
                begins += x.get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise OptionError(f"samples {path} cannot be read ({error}): run it again, and it makes them") from None


def _entry(path: Path) -> dict[str, str] | None:
    """What a batch's file says of it; None unless it is whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except (OSError, SafetensorError):
        return None
