"""One table and figures from any number of runs' records: `python -m experiments.compare outputs/ multirun/`.

A sweep ends with it by itself. Everything is made from the records and samples on disk, so it can be made again at any
time. Runs that differ in their seed alone are one row. Cost is compared by evaluations (nfe) and seconds, never by
steps. Whether two rows differ is told from the bootstrap of their difference, which is sharper than their intervals
where both started from the same noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments import comparison_figures, comparison_table, records
from experiments.comparison import find, rows
from pndm.errors import OptionError


class CompareAfterSweep(Callback):
    """Hydra's hook: when a sweep has ended, compare its runs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if find([folder])[0]:  # a sweep over another experiment has its own figures
            compare([folder], folder)


def compare(folders: Sequence[Path], out: Path) -> None:
    """Write comparison.csv, comparison.md and the figures into `out`, and print the table."""
    found, left_out = find(folders)
    for reason in left_out:
        print(f"LEFT OUT: {reason}", file=sys.stderr)
    if not found:
        raise OptionError(f"no records of sampling runs below {', '.join(map(str, folders))}")
    table = rows(found)
    written = []
    for name in comparison_table.metric_names(table):
        records.write_figure(out, name, comparison_figures.quality(table, name))
        written.append(f"{name}.png")
    images = comparison_figures.strip(table)
    if images is not None:
        records.write_figure(out, "strip", images)
        written.append("strip.png")
    records.write(out / "comparison.csv", comparison_table.as_csv(table))
    records.write(out / "comparison.md", comparison_table.as_markdown(table, left_out, written))
    print(comparison_table.as_text(table, left_out))
    for name in ("comparison.csv", "comparison.md", *written):
        print(f"wrote {out / name}")


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
