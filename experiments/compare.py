"""One table and figures from any number of runs' records: `python -m experiments.compare outputs/ multirun/`.

A sweep ends with it by itself. Everything is made from the records and samples on disk, so it can be made again at any
time. Runs that differ in their seed alone are one row. Cost is compared by evaluations (nfe) and seconds, never by
steps. Whether two rows differ is told from the bootstrap of their difference, which is sharper than their intervals
where both started from the same noise; `--against "ddim 1000"` adds a table of the differences to one row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.comparison import figures, report
from experiments.comparison.rows import find, rows
from experiments.runs import records
from pndm.errors import OptionError


class CompareAfterSweep(Callback):
    """Hydra's hook: when a sweep has ended, compare its runs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if find([folder])[0]:  # a sweep over another experiment has its own figures
            compare([folder], folder)


def compare(folders: Sequence[Path], out: Path, against: str | None = None) -> None:
    """Write comparison.csv, comparison.md and the figures into `out`, and print the table.

    against: a label and a number of steps, the row to which differences are given. Raises OptionError without records,
    or without that row.
    """
    found, left_out = find(folders)
    for reason in left_out:
        print(f"LEFT OUT: {reason}", file=sys.stderr)
    if not found:
        raise OptionError(f"no records of sampling runs below {', '.join(map(str, folders))}")
    table = rows(found)
    base = None if against is None else report.find_row(table, against)
    written = []
    for name in report.metric_names(table):
        records.write_figure(out, name, figures.quality(table, name))
        written.append(f"{name}.png")
    images = figures.strip(table)
    if images is not None:
        records.write_figure(out, "strip", images)
        written.append("strip.png")
    records.write(out / "comparison.csv", report.as_csv(table))
    records.write(out / "comparison.md", report.as_markdown(table, left_out, written, base))
    print(report.as_text(table, left_out, base))
    for name in ("comparison.csv", "comparison.md", *written):
        print(f"wrote {out / name}")


def main(arguments: Sequence[str]) -> int:
    """`python -m experiments.compare FOLDER...`: compares all runs below the folders, into the first of them."""
    parser = argparse.ArgumentParser("python -m experiments.compare", description="One table and figures from records.")
    parser.add_argument("folders", nargs="*", type=Path, help="all runs below them; the first takes what is made")
    parser.add_argument("--against", metavar='"SOLVER STEPS"', help='the row to give differences to, as "ddim 1000"')
    given = parser.parse_args(arguments)
    folders = given.folders
    try:
        if not folders:
            raise OptionError("give at least one folder with runs, such as outputs/ or multirun/")
        for folder in folders:
            if not folder.is_dir():
                raise OptionError(f"{folder} is not a folder")
        compare(folders, folders[0], given.against)
    except OptionError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
