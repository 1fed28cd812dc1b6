"""The gradient part: which direction? Runge-Kutta tableaux and Adams-Bashforth weights, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

    nodes: c_i, the stages' places in the step, from 0 (its start) to 1 (its end).
    stages: row i holds a_ij / c_i for j < i: the combination of earlier directions along which stage i is reached. A
        combination, not a displacement: its weights sum to 1, so that any transfer can follow it over the distance c_i.
    weights: b_i, the combination along which the step is made.
    open: the tableau for a step into a time without noise, where this one would ask for an evaluation at its end.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    open: Tableau | None = None

    @cached_property
    def last_followed(self) -> tuple[int, ...]:
        """The last stage that each direction is followed to."""
        stages = range(len(self.nodes))
        return tuple(max((i for i in stages if j < i and self.stages[i][j]), default=j) for j in stages)


EULER = Tableau(1, (0.0,), ((),), (1.0,))
MIDPOINT = Tableau(2, (0.0, 0.5), ((), (1.0,)), (0.0, 1.0))
HEUN = Tableau(2, (0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2), open=EULER)
RK4 = Tableau(
    order=4,
    nodes=(0.0, 0.5, 0.5, 1.0),
    stages=((), (1.0,), (0.0, 1.0), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    open=MIDPOINT,
)
TABLEAUX: dict[str, Tableau] = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4}

# Weights of the last evaluations, newest first, for equal steps (Hairer, Norsett & Wanner, chapter III.1).
ADAMS_BASHFORTH: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def combine(weights: Sequence[float], directions: Sequence[Tensor]) -> Tensor:
    """The weighted sum of directions of one shape; zero weights cost nothing, a lone 1 gives the direction itself."""
    terms = [(w, d) for w, d in zip(weights, directions, strict=True) if w != 0]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    total = torch.mul(terms[0][1], terms[0][0])
    for weight, direction in terms[1:]:
        total.add_(direction, alpha=weight)
    return total
