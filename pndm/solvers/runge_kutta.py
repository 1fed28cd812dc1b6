"""Single-step methods: a Runge-Kutta tableau times a transfer.

With the manifold transfer these are the paper's pseudo Runge-Kutta methods, with the linear one the classical methods.
"""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from pndm.errors import unknown_name
from pndm.gradient import TABLEAUX, Tableau, combine
from pndm.solvers.base import Question, Solver, Step, register
from pndm.transfer import Transfer


def runge_kutta_step(
    tableau: Tableau, transfer: Transfer, x: Tensor, t: float, s: float
) -> Generator[Question, Tensor, tuple[Tensor, Tensor]]:
    """One step of any tableau over any transfer. Returns the new state and the step's first direction."""
    directions: list[Tensor] = []
    for node, stage in zip(tableau.nodes, tableau.stages, strict=True):
        there = t + node * (s - t) if node < 1 else s
        landed = transfer(x, combine(stage, directions), t, there) if node else x
        directions.append((yield landed, there))
    return transfer(x, combine(tableau.weights, directions), t, s), directions[0]


def fitting(tableau: Tableau, noiseless_end: bool) -> Tableau:
    """`tableau`, or its open relative where the step's end has no noise and so no eps to ask for."""
    return tableau.open if noiseless_end and tableau.open else tableau


@register("pseudo_euler", tableau="euler", about="Euler x manifold: deterministic DDIM under the paper's name.")
@register("pseudo_heun", tableau="heun", about="Heun x manifold: the paper's pseudo improved Euler.")
@register("prk", tableau="rk4", about="RK4 x manifold: the paper's pseudo Runge-Kutta 4 (Algorithm 2).")
@register("euler", tableau="euler", transfer="linear", about="Classical Euler on dx/dt.")
@register("heun", tableau="heun", transfer="linear", about="Classical Heun on dx/dt.")
@register("rk4", tableau="rk4", transfer="linear", about="Classical Runge-Kutta 4 on dx/dt.")
@register("runge_kutta", about="Any tableau (euler, midpoint, heun, rk4) x any transfer (manifold, linear).")
class RungeKutta(Solver):
    """An explicit Runge-Kutta method over a transfer.

    Order: the tableau's with the linear transfer; at most 2 on the manifold, since the weights assume equal steps in t
    while the integral runs over rho (measured: 1, 2 and 2 for Euler, Heun and RK4).
    Evaluations a step: the stages (1, 2, 2, 4). Source: PNDM, section 3.3 and Algorithm 2; Butcher's classical
    tableaux. Shapes: x (B, *shape), any float dtype.
    Fails: asks for eps at the step's end, which does not exist where sigma = 0. A step to such a time is made with the
    tableau's open relative instead (RK4: midpoint, Heun: Euler).
    """

    def __init__(self, tableau: str = "rk4", transfer: str = "manifold"):
        super().__init__(transfer)
        if tableau not in TABLEAUX:
            raise unknown_name("tableau", tableau, TABLEAUX)
        self.tableau = TABLEAUX[tableau]
        self.order = self.tableau.order if transfer == "linear" else min(self.tableau.order, 2)
        self.evaluations_per_step = len(self.tableau.nodes)

    def step(self, x: Tensor, t: float, s: float) -> Step:
        x, _ = yield from runge_kutta_step(fitting(self.tableau, self.noiseless(s)), self.transfer, x, t, s)
        return x

    def evaluations(self) -> int:
        last = fitting(self.tableau, self.noiseless(float(self.times[-1])))
        return len(self.tableau.nodes) * (len(self.times) - 2) + len(last.nodes)
