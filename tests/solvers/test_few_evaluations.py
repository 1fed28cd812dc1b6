"""What the generalised multistep family gains over the paper's F-PNDM at equal or smaller cost, on the mixture."""

import math

import numpy as np
import pytest
import torch

from pndm import schedules, solve, solvers
from pndm.noise import SampleNoise
from pndm.reference import exact

VP = schedules.create("vp_linear")
FAMILY = {"ipndm": {}, "deis": {"order": 4}, "rho_ab": {}, "dpmpp_2m": {}, "dpmpp_3m": {}, "unipc": {}}


@pytest.fixture
def error_of(mixture):
    """RMS error of a solver at the end, over 512 samples, and its evaluations."""
    x = SampleNoise(0, range(512)).draw((2,), torch.float64)
    truth = exact(mixture, x, VP, np.array([1.0, 0.01]), tolerance=1e-10).x

    def error(name, steps, grid="uniform", **options):
        method = solvers.create(name, **options)
        solution = solve(mixture, x, solver=method, steps=steps, schedule=VP, grid=grid, t_end=0.01)
        return math.sqrt((solution.x - truth).square().mean().item()), solution.nfe

    return error


def test_40_evaluations_against_plms_at_49(error_of):
    plms, nfe = error_of("plms", 40)
    assert nfe == 49
    errors = {name: error_of(name, 40, "quadratic", **options)[0] for name, options in FAMILY.items()}
    assert min(errors, key=errors.__getitem__) == "deis"
    assert errors["deis"] <= plms / 5  # measured: 1 / 5.8


def test_10_evaluations_against_plms_at_19(error_of):
    plms, nfe = error_of("plms", 10)
    assert nfe == 19
    assert min(error_of(name, 10, "quadratic", **options)[0] for name, options in FAMILY.items()) <= plms


def test_low_order_is_ahead_when_evaluations_are_few_and_behind_when_they_are_many(error_of):
    """Equal-step weights (order 2 on any grid) against exact ones of order 4: the crossing that the README names."""
    few = {name: error_of(name, 8, "quadratic", **FAMILY[name])[0] for name in ("ipndm", "deis")}
    many = {name: error_of(name, 30, "quadratic", **FAMILY[name])[0] for name in ("ipndm", "deis")}
    assert few["ipndm"] < few["deis"]
    assert many["deis"] < many["ipndm"] / 1.5
