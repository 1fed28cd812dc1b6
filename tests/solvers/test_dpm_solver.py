"""Single-step DPM-Solver of orders 2 and 3 against diffusers' updates, and their orders."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverSinglestepScheduler
from their_runs import BETAS, alphas_cumprod, rms, run_theirs, slope

from pndm import grids, schedules, solve, solvers
from pndm.clocks import between

# Our solver, their algorithm, and which of their rules makes each stage. Where Algorithm 2 of DPM-Solver has the exact
# integral of a line that is "heun" in their second-order update, and "midpoint" in their third-order one.
CASES = {
    "dpm_solver_2": ("dpm_solver_2", {}, "dpmsolver", ["midpoint", "midpoint"]),
    "dpm_solver_3": ("dpm_solver_3", {}, "dpmsolver", ["heun", "heun", "midpoint"]),
    "DPM-Solver++(2S)": (
        "runge_kutta",
        {"tableau": "midpoint", "transfer": "data", "clock": "lam"},
        "dpmsolver++",
        ["midpoint", "midpoint"],
    ),
    "DPM-Solver++(3S)": ("dpm_solver_3", {"transfer": "data"}, "dpmsolver++", ["heun", "heun", "midpoint"]),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers': it means to drop "dpmsolver"
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("case", CASES)
def test_whole_run_is_theirs(case, steps, mixture, noise):
    """They count a stage as a step of the grid, so their grid is ours with the stages' times put in."""
    name, options, algorithm, rules = CASES[case]
    order = len(rules)
    scheduler = DPMSolverSinglestepScheduler(
        solver_order=order, algorithm_type=algorithm, lower_order_final=False, final_sigmas_type="sigma_min", **BETAS
    )
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule, t_end=0.0)
    shares = np.arange(order) / order
    theirs = [between(schedule, "lam", t, s, share) if share else t for t, s in pairwise(times) for share in shares]

    def use_rule(k):
        scheduler.register_to_config(solver_type=rules[k % order])
        return {}

    wanted = run_theirs(scheduler, schedule, [*theirs, times[-1]], model, noise, step_options=use_rule)
    solution = solve(model, noise, solver=solvers.create(name, **options), schedule=schedule, grid=times)
    assert solution.nfe == order * steps
    torch.testing.assert_close(solution.x, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("transfer", ["manifold", "data"])
def test_order_3(transfer, mixture, noise, reference, vp):
    solver = solvers.create("dpm_solver_3", transfer=transfer)
    exact = reference(noise, alphas_cumprod(vp, 0.3), alphas_cumprod(vp, 0.02))
    steps = (20, 40, 80)
    errors = [
        rms(solve(mixture, noise, solver=solver, steps=n, schedule=vp, t_start=0.3, t_end=0.02).x - exact)
        for n in steps
    ]
    assert abs(slope(errors, steps) - 3) < 0.15, errors


@pytest.mark.parametrize("name", ["dpm_solver_2", "dpm_solver_3"])
def test_into_the_clean_end_is_eulers_step(name, mixture, noise):
    model = replace(mixture, schedule="linear")
    times = np.linspace(999, -1, 11)
    solution = solve(model, noise, solver=name, schedule="linear", grid=times, trajectory=True)
    last = solve(model, solution.trajectory[-2], solver="ddim", schedule="linear", grid=times[-2:])
    assert torch.equal(solution.x, last.x)
    assert solution.nfe == 9 * int(name[-1]) + 1
