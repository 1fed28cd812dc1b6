"""The rows of a comparison, from the records on disk: runs that differ in their seed alone are one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs import records
from pndm.errors import OptionError

NO_PART = ("seed", "output", "progress", "force", "batch", "device")  # of a row's identity


@dataclass(frozen=True)
class Measured:
    """A metric of a row: the mean over seeds, with its interval, and that of each resample."""

    value: float
    low: float | None
    high: float | None  # both or neither
    n: int
    resamples: tuple[float, ...]

    @property
    def bars(self) -> tuple[float, float]:
        """How far the interval reaches down and up."""
        return (0.0, 0.0) if self.low is None or self.high is None else (self.value - self.low, self.high - self.value)


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone."""

    label: str
    solver: str
    steps: int
    nfe: int
    seconds: float  # of a run, the mean over seeds
    seconds_per_image: float
    samples: int
    metrics: dict[str, Measured]
    records: tuple[dict[str, Any], ...]  # one a seed, each with its folder

    @property
    def seeds(self) -> list[int]:
        return [record["seed"] for record in self.records]


def find(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all sampling runs below the folders, each with its folder, and what was left out and why."""
    found: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    for path in sorted({path for folder in folders for path in folder.rglob("record.json")}):
        try:
            record = records.read_record(path)
        except OptionError as error:
            left_out.append(str(error))
            continue
        if record.get("experiment") == "sample":
            found.setdefault(record["key"], {**record, "folder": path.parent})  # a copied folder counts once
    return list(found.values()), left_out


def rows(found: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of the table, in the order of solver, options and evaluations."""
    groups: dict[bytes, list[dict[str, Any]]] = {}
    for record in found:
        config = {name: value for name, value in record["config"].items() if name not in NO_PART}
        groups.setdefault(records.canonical(config), []).append(record)
    made = [_row(sorted(group, key=lambda record: record["seed"]), found) for group in groups.values()]
    return sorted(made, key=lambda row: (row.solver, row.label, row.nfe))


def _row(group: list[dict[str, Any]], found: Sequence[dict[str, Any]]) -> Row:
    first, count = group[0], len(group)
    names = [name for name in first["metrics"] if all(name in record["metrics"] for record in group)]
    return Row(
        label(first, found),
        first["solver"],
        first["steps"],
        max(record["nfe"] for record in group),
        sum(record["seconds"] for record in group) / count,
        sum(record["seconds_per_image"] for record in group) / count,
        first["samples"],
        {name: _over_seeds([record["metrics"][name] for record in group]) for name in names},
        tuple(group),
    )


def _over_seeds(entries: list[dict[str, Any]]) -> Measured:
    """One metric of several seeds: independent runs, so the k-th resample of their mean is the mean of their k-th."""
    count = len(entries)
    value, n = sum(entry["value"] for entry in entries) / count, sum(entry["n"] for entry in entries)
    if any(entry["low"] is None for entry in entries):
        return Measured(value, None, None, n, ())
    below = sum((entry["value"] - entry["low"]) ** 2 for entry in entries) ** 0.5 / count
    above = sum((entry["high"] - entry["value"]) ** 2 for entry in entries) ** 0.5 / count
    drawn = zip(*([float(each) for each in entry["resamples"].split()] for entry in entries), strict=False)
    return Measured(value, value - below, value + above, n, tuple(sum(each) / count for each in drawn))


def label(record: dict[str, Any], found: Sequence[dict[str, Any]]) -> str:
    """The solver's name, with what else tells this run from the others of that solver."""
    same = [other for other in found if other["solver"] == record["solver"]]
    told = [record["solver"], *_told_options(record, same, "solver")]
    for group in ("grid", "schedule"):
        if len({other["config"][group]["name"] for other in same}) > 1:
            told.append(record["config"][group]["name"])
        told += _told_options(record, same, group)
    mine, others = _plain_choices(record, found), [_plain_choices(other, found) for other in same]
    return " ".join(told + [mine[key] for key in mine if len({other[key] for other in others}) > 1])


def solver_options(record: dict[str, Any]) -> str:
    """The options of a record's solver, as they are typed."""
    return " ".join(f"{key}={_typed(value)}" for key, value in record["config"]["solver"].items() if key != "name")


def _told_options(record: dict[str, Any], same: Sequence[dict[str, Any]], group: str) -> list[str]:
    """The options of a record's solver, grid or schedule in which others of the same name differ."""
    mine = record["config"][group]
    alike = [other["config"][group] for other in same if other["config"][group]["name"] == mine["name"]]
    return [f"{key}={_typed(value)}" for key, value in mine.items() if any(other.get(key) != value for other in alike)]


def _plain_choices(record: dict[str, Any], found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What a run was told beside solver, grid and schedule; a network by its file's name, where that is enough."""
    config, weights = record["config"], record["model"]["weights"]
    namesakes = {
        other["model"]["weights"] for other in found if Path(other["model"]["weights"]).stem == Path(weights).stem
    }
    return {
        "model": Path(weights).stem if len(namesakes) == 1 else weights,
        "dtype": record["dtype"],
        "speed": f"speed={config['speed']}",
        "samples": f"samples={record['samples']}",
        **{name: f"{name}={_typed(config.get(name))}" for name in ("t_start", "t_end", "denoise")},
    }


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
