"""Single-step methods: a Runge-Kutta tableau times a transfer, with its nodes placed by a clock.

With the manifold transfer and the clock t these are the paper's pseudo Runge-Kutta methods, with the linear transfer
the classical ones. With the manifold transfer and its own clock rho they keep their full order.
"""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from pndm.clocks import CLOCKS, between
from pndm.errors import unknown_name
from pndm.gradient import EULER, TABLEAUX, Tableau
from pndm.solvers.base import Question, Solver, Step, register
from pndm.transfer import Transfer, added


def runge_kutta_step(
    tableau: Tableau, transfer: Transfer, clock: str, x: Tensor, t: float, s: float
) -> Generator[Question, Tensor, tuple[Tensor, Tensor]]:
    """One step of any tableau over any transfer, its nodes placed as the clock counts.

    Returns the new state and the step's first direction.
    """
    a, b = transfer.pair(t, s)
    directions: list[Tensor] = []
    first = moved = None
    for i, (node, stage, weight) in enumerate(zip(tableau.nodes, tableau.stages, tableau.weights, strict=True)):
        there = between(transfer.schedule, clock, t, s, node) if 0 < node < 1 else s if node else t
        landed = transfer.along(x, stage, directions, t, there) if node else x
        # Let go of what no later stage follows (x only holds its place): a run keeps few states.
        directions = [d if last > i else x for d, last in zip(directions, tableau.last_followed, strict=False)]
        e = yield landed, there
        del landed
        first = e if first is None else first
        moved = added(moved, b * weight, e) if weight else moved
        directions.append(e)
        del e
    assert first is not None
    assert moved is not None
    return moved.add_(x, alpha=a), first


def fitting(tableau: Tableau, clock: str, noiseless_end: bool) -> Tableau:
    """`tableau`, or what can serve a step whose end has no noise, and so no eps to ask for.

    That is its open relative; Euler where the clock is infinite there, and has no middle.
    """
    if not noiseless_end:
        return tableau
    return EULER if clock in ("lam", "snr") else tableau.open or tableau


@register("pseudo_euler", tableau="euler", about="Euler x manifold: deterministic DDIM under the paper's name.")
@register("pseudo_heun", tableau="heun", about="Heun x manifold: the paper's pseudo improved Euler; EDM's Heun.")
@register("prk", tableau="rk4", about="RK4 x manifold: the paper's pseudo Runge-Kutta 4 (Algorithm 2).")
@register("rho_rk4", tableau="rk4", clock="rho", about="RK4 x manifold with its stages placed in rho: true order 4.")
@register("euler", tableau="euler", transfer="linear", about="Classical Euler on dx/dt.")
@register("heun", tableau="heun", transfer="linear", about="Classical Heun on dx/dt.")
@register("rk4", tableau="rk4", transfer="linear", about="Classical Runge-Kutta 4 on dx/dt.")
@register("dpm_solver_2", tableau="midpoint", clock="lam", about="Midpoint x manifold in lam: DPM-Solver-2.")
@register("runge_kutta", about="Any tableau (euler, midpoint, heun, rk4) x transfer (manifold, linear, data) x clock.")
class RungeKutta(Solver):
    """An explicit Runge-Kutta method over a transfer.

    clock: where the inner stages are placed: halfway in t (the paper), rho, lam or snr = 1/rho.
    Order: the tableau's when the clock is the transfer's own (linear: t, manifold: rho, data: snr); otherwise at most
    2, since the weights assume equal distances in a variable over which the integral does not run.
    Evaluations a step: the stages (euler 1, midpoint and heun 2, rk4 4). Source: PNDM, section 3.3 and Algorithm 2;
    Butcher's classical tableaux; pseudo_heun without its last step is Algorithm 1 of Karras et al. 2022 without churn.
    Shapes: x (B, *shape), any float dtype.
    Fails: asks for eps at the step's end, which does not exist where sigma = 0. A step to such a time is made with the
    tableau's open relative instead (RK4: midpoint, Heun: Euler). On the manifold with clock t, a step from where
    alpha is near 0 (cosine's last index) diverges: start lower.
    """

    def __init__(self, tableau: str = "rk4", transfer: str = "manifold", clock: str = "t"):
        super().__init__(transfer)
        if tableau not in TABLEAUX:
            raise unknown_name("tableau", tableau, TABLEAUX)
        if clock not in CLOCKS:
            raise unknown_name("clock", clock, CLOCKS)
        self.tableau, self.clock = TABLEAUX[tableau], clock
        self.order = self.tableau.order if clock == self._transfer_type.clock else min(self.tableau.order, 2)
        self.evaluations_per_step = len(self.tableau.nodes)

    def step(self, x: Tensor, t: float, s: float) -> Step:
        tableau = fitting(self.tableau, self.clock, self.noiseless(s))
        x, _ = yield from runge_kutta_step(tableau, self.transfer, self.clock, x, t, s)
        return x

    def evaluations(self) -> int:
        last = fitting(self.tableau, self.clock, self.noiseless(float(self.times[-1])))
        return len(self.tableau.nodes) * (len(self.times) - 2) + len(last.nodes)
