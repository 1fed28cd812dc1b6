"""The gradient part: order conditions of the tableaux, exactness of the weights, and their combination."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pndm.gradient import ADAMS_BASHFORTH, TABLEAUX, Tableau, combine

ALL = {**TABLEAUX, **{f"{name} (open)": t.open for name, t in TABLEAUX.items() if t.open}}
by_tableau = pytest.mark.parametrize("tableau", ALL.values(), ids=ALL.keys())


def butcher(tableau: Tableau) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, b and c of the usual notation."""
    A = np.zeros((len(tableau.nodes),) * 2)
    for i, (node, stage) in enumerate(zip(tableau.nodes, tableau.stages, strict=True)):
        A[i, : len(stage)] = node * np.array(stage)
    return A, np.array(tableau.weights), np.array(tableau.nodes)


def residuals(tableau: Tableau, order: int) -> list[float]:
    """What is left over in the order conditions up to `order` (Hairer, Norsett & Wanner, table II.2.1)."""
    A, b, c = butcher(tableau)
    conditions = [
        [b.sum() - 1],
        [b @ c - 1 / 2],
        [b @ c**2 - 1 / 3, b @ A @ c - 1 / 6],
        [b @ c**3 - 1 / 4, (b * c) @ A @ c - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24],
    ]
    return [abs(left) for group in conditions[:order] for left in group]


@by_tableau
def test_order_conditions_hold_up_to_the_order_and_no_further(tableau):
    assert max(residuals(tableau, tableau.order)) < 1e-15
    if tableau.order < 4:
        assert max(residuals(tableau, tableau.order + 1)) > 1e-3


@by_tableau
def test_stages_are_explicit_combinations_of_weight_1(tableau):
    A, _, c = butcher(tableau)
    assert np.all(np.triu(A) == 0)
    np.testing.assert_allclose(A.sum(1), c, atol=1e-15)


@pytest.mark.parametrize("name", TABLEAUX)
def test_a_tableau_or_its_open_relative_does_not_ask_at_the_end(name):
    tableau = TABLEAUX[name]
    assert 1.0 not in (tableau.open or tableau).nodes


def test_rk4_is_the_classical_one():
    A, b, c = butcher(TABLEAUX["rk4"])
    np.testing.assert_array_equal(A, [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(b, np.array([1, 2, 2, 1]) / 6)
    np.testing.assert_array_equal(c, [0, 0.5, 0.5, 1])


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
def test_adams_bashforth_integrates_its_polynomial(order):
    """The weights are the integrals over the next step of the Lagrange polynomials of the last `order` points."""
    points = -np.arange(order)
    for j, weight in enumerate(ADAMS_BASHFORTH[order]):
        others = np.delete(points, j)
        integral, _ = quad(lambda u, j=j, others=others: np.prod((u - others) / (points[j] - others)), 0, 1)
        assert weight == pytest.approx(integral, abs=1e-13)


def test_combine():
    a, b, c = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    copies = [v.clone() for v in (a, b, c)]
    torch.testing.assert_close(combine((2.0, -0.5, 0.25), (a, b, c)), 2 * a - b / 2 + c / 4, rtol=0, atol=1e-15)
    assert combine((0.0, 1.0, 0.0), (a, b, c)) is b
    assert torch.equal(combine((0.0, 3.0), (torch.full_like(a, torch.nan), b)), 3 * b)
    assert all(torch.equal(v, copy) for v, copy in zip((a, b, c), copies, strict=True))
    with pytest.raises(ValueError, match="shorter"):
        combine((1.0, 2.0), (a,))
