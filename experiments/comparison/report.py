"""The table of a comparison for the screen, as CSV and as Markdown, and what it says in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import combinations

from experiments.comparison.rows import Measured, Row, solver_options
from pndm.errors import unknown_name
from pndm.metrics.estimate import differ, difference

HIGHER_IS_BETTER = ("paired_psnr", "precision", "recall")
BUDGETS = (5, 10, 20, 50, 100, 250, 1000)  # evaluations
COLUMNS = ("label", "solver", "options", "grid", "schedule", "model", "steps", "nfe", "samples", "seed", "seconds",
           "seconds_per_image")  # fmt: skip


def metric_names(table: Sequence[Row]) -> list[str]:
    """The metrics that some row has."""
    return list(dict.fromkeys(name for row in table for name in row.metrics))


def as_text(table: Sequence[Row], left_out: Sequence[str], base: Row | None = None) -> str:
    """For the screen; with the differences of all rows to `base`, where one is given."""
    text = [*_columns(*_cells(table)), "", about(table), *ranking(table), *agreement(table)]
    if base is not None:
        text += ["", *_columns(*differences(table, base)), "", about_differences(base)]
    if left_out:
        text.append(f"LEFT OUT of this table: {len(left_out)} records that cannot be relied on, named above")
    return "\n".join(text)


def as_markdown(table: Sequence[Row], left_out: Sequence[str], pictures: Sequence[str], base: Row | None = None) -> str:
    """For a report: the table, what it says in words, the differences to `base`, what was left out, and the figures."""
    said = [f"- {line}" for line in (*ranking(table), *agreement(table))]
    text = [*_piped(*_cells(table)), "", about(table), "", *said]
    if base is not None:
        text += ["", *_piped(*differences(table, base)), "", about_differences(base)]
    if left_out:
        text += ["", "**Left out**, as they cannot be relied on:", "", *(f"- {reason}" for reason in left_out)]
    return "\n".join([*text, "", *(f"![{name}]({name})" for name in pictures), ""])


def as_csv(table: Sequence[Row]) -> str:
    """A line a run, so that seeds are apart, with the ends of all intervals."""
    metrics = [f"{name}{end}" for name in metric_names(table) for end in ("", "_low", "_high", "_n")]
    written = io.StringIO()
    writer = csv.DictWriter(written, [*COLUMNS, *metrics], lineterminator="\n")
    writer.writeheader()
    for row in table:
        for record in row.records:
            config = record["config"]
            line = {name: record[name] for name in COLUMNS if name in record} | {
                "label": row.label,
                "options": solver_options(record),
                "grid": config["grid"]["name"],
                "schedule": config["schedule"]["name"],
                "model": record["model"]["weights"],
            }
            for name, entry in record["metrics"].items():
                line |= {name: entry["value"], f"{name}_n": entry["n"]}
                line |= {f"{name}_{end}": entry[end] for end in ("low", "high")}
            writer.writerow(line)
    return written.getvalue()


def about(table: Sequence[Row]) -> str:
    """What all rows have in common, and what the intervals are."""
    found = [record for row in table for record in row.records]
    shared = {
        "model": {record["model"]["weights"] for record in found},
        "samples": {str(record["samples"]) for record in found},
        "seed": {", ".join(map(str, row.seeds)) for row in table},
        "grid": {record["config"]["grid"]["name"] for record in found},
        "schedule": {record["config"]["schedule"]["name"] for record in found},
        "dtype": {record["dtype"] for record in found},
        "device": {record["device_name"] for record in found},
    }
    said = [f"{name} {values.pop()}" if len(values) == 1 else f"{name} differs" for name, values in shared.items()]
    interval = any(metric.low is not None for row in table for metric in row.metrics.values())
    return f"All: {', '.join(said)}." + (" In brackets: 95 % intervals by bootstrap over samples." if interval else "")


def ranking(table: Sequence[Row]) -> list[str]:
    """For every metric and budget of evaluations, which solver is best, and whether the next one really is worse."""
    said: list[str] = []
    largest = max(row.nfe for row in table)
    budgets = [budget for i, budget in enumerate(BUDGETS) if i == 0 or BUDGETS[i - 1] < largest]
    for name in metric_names(table):
        best = max if name in HIGHER_IS_BETTER else min
        before: list[Row] = []
        for budget in budgets:
            within = [row for row in table if row.nfe <= budget and name in row.metrics]
            labels = dict.fromkeys(row.label for row in within)
            if len(labels) > 1 and within != before:
                each = [best((row for row in within if row.label == label), key=lambda row: row.metrics[name].value)
                        for label in labels]  # fmt: skip
                each.sort(key=lambda row: row.metrics[name].value, reverse=name in HIGHER_IS_BETTER)
                said.append(f"{name}, up to {budget} evaluations: {verdict(name, each)}")
            before = within
    return said


def verdict(name: str, ordered: Sequence[Row]) -> str:
    """The first row, and those from which it differs or does not."""
    first = ordered[0]
    alike, unsure = [], []
    for row in ordered[1:]:
        told = differ(_pair(first.metrics[name]), _pair(row.metrics[name]))
        if told is None:
            unsure.append(row.label)
        elif not told:
            alike.append(row.label)
    best = f"{first.label} is best (nfe {first.nfe}, {first.metrics[name].value:.4g})"
    if unsure:
        return f"{best}; without resamples nothing can be said about significance"
    if alike:
        return f"{best}; no significant difference to {', '.join(alike)}"
    return f"{best}; the next, {ordered[1].label} (nfe {ordered[1].nfe}, {ordered[1].metrics[name].value:.4g}), " \
           "differs significantly"  # fmt: skip


def agreement(table: Sequence[Row]) -> list[str]:
    """With several seeds: of the pairs of rows whose intervals do not overlap in either of two seeds, how many each
    seed puts in the same order."""
    said = []
    for name in metric_names(table):
        apart = alike = 0
        for one, other in combinations([row for row in table if name in row.metrics], 2):
            by_seed = {record["seed"]: record["metrics"][name] for record in other.records}
            orders = []
            for record in one.records:
                a, b = record["metrics"][name], by_seed.get(record["seed"])
                if b is not None and a["low"] is not None and (a["high"] < b["low"] or b["high"] < a["low"]):
                    orders.append(a["value"] < b["value"])
            if len(orders) > 1:
                apart += 1
                alike += len(set(orders)) == 1
        if apart:
            said.append(f"{name}: of {apart} pairs of rows whose intervals are apart in two seeds or more, "
                        f"{alike} are in the same order in all of them")  # fmt: skip
    return said


def find_row(table: Sequence[Row], asked: str) -> Row:
    """The row of a label and a number of steps, as "ddim 1000". Raises OptionError, with what there is."""
    names = {f"{row.label} {row.steps}": row for row in table}
    if asked not in names:
        raise unknown_name("row for --against", asked, tuple(names))
    return names[asked]


def differences(table: Sequence[Row], base: Row) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table of how far each row is from `base`, metric by metric."""
    names = list(base.metrics)
    others = [row for row in table if row is not base]
    lines = [[row.label, str(row.steps), str(row.nfe), *(_apart(row, base, name) for name in names)] for row in others]
    return ["solver", "steps", "nfe", *names], lines


def about_differences(base: Row) -> str:
    """What the differences are."""
    return (
        f"Differences to {base.label} in {base.steps} steps (nfe {base.nfe}), in brackets their 95 % intervals: "
        "samples of one seed and index are resampled together, so what two runs have in common is not in them."
    )


def _apart(row: Row, base: Row, name: str) -> str:
    """One difference; values of unlike numbers of samples have unlike biases and are not compared."""
    mine, its = row.metrics.get(name), base.metrics[name]
    if mine is None:
        return ""
    if mine.n != its.n:
        return f"of {mine.n} samples, not {its.n}"
    found = difference(_pair(mine), _pair(its))
    if found is None:
        return f"{mine.value - its.value:+.3g}"
    value, half = found
    return f"{value:+.3g} [{value - half:+.3g}, {value + half:+.3g}]"


def _pair(metric: Measured) -> tuple[float, tuple[float, ...]]:
    return metric.value, metric.resamples


def _cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    names = metric_names(table)
    head = ["solver", "steps", "nfe", "seconds", "s/image", *names]
    lines = []
    for row in table:
        cells = [row.label, str(row.steps), str(row.nfe), f"{row.seconds:.3g}", f"{row.seconds_per_image:.3g}"]
        lines.append([*cells, *(_cell(row.metrics.get(name)) for name in names)])
    return head, lines


def _columns(head: list[str], lines: list[list[str]]) -> list[str]:
    """A table for the screen."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]


def _piped(head: list[str], lines: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def _cell(metric: Measured | None) -> str:
    if metric is None:
        return ""
    if metric.low is None:
        return f"{metric.value:.4g}"
    return f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}]"
