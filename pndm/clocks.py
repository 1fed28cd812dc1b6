"""The clock: the variable in which a polynomial through several evaluations runs, and the weights that follow from it.

The ODE of a direction d is d(state) = d dmu, with mu the transfer's own clock: rho for eps on the manifold, snr = 1/rho
for x0, t for dx/dt. A multistep method replaces d by the polynomial through its last values, in some clock c, and
integrates it exactly: sum_j d_j * integral of L_j(c) dmu. The weights here are those integrals over the whole of dmu,
so they sum to 1 and make a direction that the transfer follows over the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from pndm.schedules import Schedule

# Each clock by name: its value at a time, and the time of a value.
CLOCKS: dict[str, tuple[Callable[[Schedule, float], float], Callable[[Schedule, float], float]]] = {
    "t": (lambda path, t: t, lambda path, value: value),
    "rho": (lambda path, t: path.rho(t), lambda path, value: path.t_of_rho(value)),
    "lam": (lambda path, t: path.lam(t), lambda path, value: path.t_of_lam(value)),
    "snr": (lambda path, t: 1 / path.rho(t), lambda path, value: path.t_of_rho(1 / value)),
}

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_SHRINKING = 0.25 ** np.arange(1, 17)  # to 2e-10: what is left counts for nothing, and no place in it rounds to the end
_LAGUERRE = np.polynomial.laguerre.laggauss(16)


def between(path: Schedule, clock: str, t: float, s: float, share: float) -> float:
    """The time at `share` of the way from t to s, as the clock counts."""
    if clock == "t":
        return t + share * (s - t)
    return path.remember(("between", clock, t, s, share), _between, path, clock, t, s, share)


def _between(path: Schedule, clock: str, t: float, s: float, share: float) -> float:
    read, invert = CLOCKS[clock]
    start, end = read(path, t), read(path, s)
    return invert(path, start + share * (end - start))


def polynomial_weights(
    path: Schedule, clock: str, measure: str, asked: Sequence[float], t: float, s: float
) -> list[float]:
    """Weights of evaluations made at the times `asked`, for a step from t to s: float64, summing to 1.

    clock: t, rho or lam. measure: the transfer's own clock, over which the polynomial is integrated. Gauss-Legendre on
    pieces on which the integrand is smooth (and Gauss-Laguerre where lam runs to infinity), to rounding.
    Source: Adams-Bashforth with variable steps (rho, rho); DEIS, Zhang & Chen 2023 (t, rho); DPM-Solver++ (lam, snr).
    """
    if len(asked) == 1:
        return [1.0]
    return path.remember((clock, measure, *asked, t, s), _polynomial_weights, path, clock, measure, tuple(asked), t, s)


def _polynomial_weights(
    path: Schedule, clock: str, measure: str, asked: Sequence[float], t: float, s: float
) -> list[float]:
    places, mass = _quadrature(path, clock, measure, t, s)
    known = np.array([CLOCKS[clock][0](path, float(time)) for time in asked])
    weights = []
    for j, own in enumerate(known):
        others = np.delete(known, j)
        basis = np.prod((places[:, None] - others) / (own - others), axis=1)
        weights.append(float(mass @ basis))
    return weights


def _quadrature(path: Schedule, clock: str, measure: str, t: float, s: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of the clock, and their shares of the measure, between t and s."""
    if path.sigma(s) == 0 and measure == "snr":
        return np.array([CLOCKS[clock][0](path, s)]), np.array([1.0])  # an infinite measure, all of it at the end
    if measure == "t" and clock != "t":
        # At the data's own time rho has a root and lam a logarithm: pieces shrink towards it.
        shrinking = path.t_data + _SHRINKING
        ends = np.union1d(_breaks(path, t, s), shrinking[(shrinking < t) & (shrinking > s)])
        times, lengths = _gauss(ends[::-1])
        return _read(path, clock, times), lengths / lengths.sum()
    if path.sigma(s) == 0 and clock == "lam":
        distance, mass = _LAGUERRE  # d rho = -e^-lam d lam, from lam_t to infinity
        return path.lam(t) + distance, mass / mass.sum()
    if clock == measure:
        ends = np.array([CLOCKS[clock][0](path, t), CLOCKS[clock][0](path, s)])
        places, lengths = _gauss(ends)
        return places, lengths / lengths.sum()
    if path.sigma(s) == 0:  # only rho is finite there
        rho, lengths = _gauss(np.array([path.rho(time) for time in _breaks(path, t, s)]))
        return _read(path, clock, path.t_of_rho(rho)), lengths / lengths.sum()
    # In lam both measures are an exponential, which Gauss-Legendre integrates to rounding on pieces of length 1.
    lam = [path.lam(time) for time in (_breaks(path, t, s) if clock == "t" else (t, s))]
    pieces = [np.linspace(a, b, math.ceil(abs(b - a)) + 1)[:-1] for a, b in pairwise(lam)]
    places, lengths = _gauss(np.append(np.concatenate(pieces), lam[-1]))
    sign = 1.0 if measure == "snr" else -1.0
    mass = lengths * np.exp(sign * (places - lam[-1]))
    mass /= mass.sum()
    if clock == "lam":
        return places, mass
    return (np.exp(-places) if clock == "rho" else path.t_of_lam(places)), mass


def _breaks(path: Schedule, t: float, s: float) -> np.ndarray:
    """t, s, and the times between them at which a discrete schedule's spline changes its piece."""
    inner = np.arange(math.floor(t), math.ceil(s) - 1, -1.0) if path.train_steps else np.linspace(t, s, 9)
    return np.concatenate([[t], inner[(inner < t) & (inner > s)], [s]])


def _gauss(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre places and weights on the pieces between successive ends."""
    half = np.diff(ends)[:, None] / 2
    return (ends[:-1, None] + half * (1 + _NODES)).ravel(), (half * _WEIGHTS).ravel()


def _read(path: Schedule, clock: str, times: np.ndarray) -> np.ndarray:
    return times if clock == "t" else path.rho(times) if clock == "rho" else path.lam(times)
