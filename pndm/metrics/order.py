"""The order of convergence that errors show: a line through the logarithms, where they have become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_POINTS = 3
ABOVE_FLOOR = 10.0  # a point counts when its error is this many times the rounding floor
BEND = 0.2  # how far a local slope may differ from that of the finest pair


@dataclass(frozen=True)
class Order:
    """A measured order with the 95 % confidence interval of the regression, and the steps that it was measured on.

    asymptotic: whether the slopes between those steps agree, so that the order means something.
    """

    value: float
    low: float
    high: float
    steps: tuple[int, ...]
    asymptotic: bool


def measure_order(steps: Sequence[int], errors: Sequence[float], floor: float = 0.0) -> Order | None:
    """The slope of ln error against -ln steps over the asymptotic part; None with fewer than three points for it.

    The rule: points within a factor 10 of `floor`, or not finite, are left out, and so is everything finer than the
    first such point after a usable one. From the finest three that remain the part grows towards coarser ones as long
    as the slope of each further pair is within 0.2 of that of the finest pair. If those of the finest three already
    differ by more, they are fitted all the same, and marked as not asymptotic. The interval is Student's, at 95 %, of
    the least-squares slope: it tells how straight the line is, and widens with few points.
    """
    usable: list[tuple[float, float, int]] = []
    for count, error in sorted(zip(steps, errors, strict=True)):
        if math.isfinite(error) and error > ABOVE_FLOOR * floor and error > 0:
            usable.append((math.log(count), math.log(error), count))
        elif usable and math.isfinite(error):
            break
        else:
            usable.clear()
    if len(usable) < LEAST_POINTS:
        return None
    place, size = np.array([point[:2] for point in usable]).T
    slopes = -np.diff(size) / np.diff(place)
    first = len(slopes) - 1
    while first > 0 and abs(slopes[first - 1] - slopes[-1]) <= BEND:
        first -= 1
    asymptotic = first <= len(slopes) - (LEAST_POINTS - 1)
    first = min(first, len(slopes) - (LEAST_POINTS - 1))
    value, half = _slope(place[first:], size[first:])
    return Order(value, value - half, value + half, tuple(point[2] for point in usable[first:]), asymptotic)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Minus the least-squares slope, and half its 95 % interval."""
    from scipy.stats import t as student  # slow to import

    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    deviation = math.sqrt(float(residual @ residual) / (len(x) - 2) / spread)
    return -slope, float(student.ppf(0.975, len(x) - 2)) * deviation
