"""Seconds of several things that take turns, so that a slow spell of the machine hits them all."""

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run in each of `rounds` rounds, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if round_:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """The median of the ratios round by round: what is reported, from a quiet machine."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
