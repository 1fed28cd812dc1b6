"""Adams-Bashforth in its clocks against diffusers' DEIS and DPM-Solver++ multistep; the analytic first evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler
from their_runs import BETAS, alphas_cumprod, rms, run_theirs, slope

from pndm import OptionError, grids, schedules, solve, solvers
from pndm.solvers.base import drive


def both(scheduler, ours, mixture, noise, steps, end):
    """Their state and ours at the end of the same times on the same table."""
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule, t_end=end)
    wanted = run_theirs(scheduler, schedule, times, model, noise)
    return wanted, solve(model, noise, solver=ours, schedule=schedule, grid=times).x


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("final_order", [0, 1])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order, final_order, steps, mixture, noise):
    """Their polynomial runs in ln rho, not in t as in the paper's tAB. They lower the order only below 15 steps."""
    scheduler = DEISMultistepScheduler(solver_order=order, lower_order_final=bool(final_order), **BETAS)
    final_order *= steps < 15
    ours = solvers.create("deis", order=order, clock="lam", final_order=final_order)
    wanted, x = both(scheduler, ours, mixture, noise, steps, 0.0)
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-11)


def dpm(order, rule, final, final_order=0):
    options = {"solver_order": order, "solver_type": rule, "final_sigmas_type": final, **BETAS}
    return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", lower_order_final=bool(final_order), **options)


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(("final", "end"), [("sigma_min", 0.0), ("zero", -1.0)])
def test_dpmpp_2m_is_their_heun(final, end, steps, mixture, noise):
    """Their "heun" is the exact integral of the line in lambda. They round every state to float32."""
    wanted, x = both(dpm(2, "heun", final), solvers.create("dpmpp_2m"), mixture, noise, steps, end)
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 10, 14])
def test_dpmpp_2m_with_lower_order_at_the_end(steps, mixture, noise):
    ours = solvers.create("dpmpp_2m", final_order=1)
    wanted, x = both(dpm(2, "heun", "sigma_min", 1), ours, mixture, noise, steps, 0.0)
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_their_midpoint_takes_the_line_halfway(steps, mixture, noise):
    """DPM-Solver++(2M) as its paper has it: the line at the middle of the step, not its integral (UniP-2, bh2)."""
    scheduler = dpm(2, "midpoint", "sigma_min")
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule, t_end=0.0)
    halfway = solvers.create("unipc", variant="bh2").begin(schedule, times, None).predictors

    class Midpoint(type(solvers.create("dpmpp_2m"))):
        def _weights(self, k):
            return halfway[k]

    ours = Midpoint(order=2, transfer="data", clock="lam", startup="low_order")
    wanted = run_theirs(scheduler, schedule, times, model, noise)
    x = solve(model, noise, solver=ours, schedule=schedule, grid=times).x
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-5)


def test_their_third_order_is_second(mixture, noise, reference, vp):
    """They take half the second divided difference in lambda where the whole belongs.

    From an exact start the order shows that is lost: 2 (they round to float32, which keeps the steps few), ours 3.
    """
    start, end, steps = 0.3, 0.02, (40, 80, 160)
    exact = reference(noise, alphas_cumprod(vp, start), alphas_cumprod(vp, end))
    theirs, ours = [], []
    for n in steps:
        times = np.linspace(start, end, n + 1)
        fine = solve(
            mixture, noise, solver="rho_rk4", schedule=vp, grid=np.linspace(start, times[2], 31), trajectory=True
        )
        begin = fine.trajectory[::15]  # at the first three times
        scheduler = dpm(3, "heun", "sigma_min")
        theirs.append(rms(run_theirs(scheduler, vp, times, mixture, noise, exact=begin) - exact))
        run = solvers.create("dpmpp_3m").begin(vp, times, None)
        x = noise
        for k, (t, s) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
            x = begin[k] if k < 3 else x
            x = drive(run.ask(x, t, s), lambda x, t: mixture(x, torch.full((len(x),), t, dtype=x.dtype)))
        ours.append(rms(x - exact))
    assert abs(slope(theirs, steps) - 2) < 0.3, theirs
    assert abs(slope(ours, steps) - 3) < 0.15, ours
    assert ours[-1] < theirs[-1] / 3


FIRST = [("plms", {}), ("fon", {}), ("ipndm", {}), ("deis", {}), ("dpmpp_2m", {}), ("unipc", {}), ("s_pndm", {})]


@pytest.mark.parametrize(("name", "options"), FIRST)
def test_analytic_first_evaluation_saves_one(name, options, mixture, noise):
    """And leads nearly to where the network's would: it is wrong by about alpha(t_noise) in one direction."""
    asked = []

    def model(x, t):
        asked.append(float(t[0]))
        return replace(mixture, schedule="linear")(x, t)

    usual = solve(model, noise, solver=solvers.create(name, **options), steps=20, schedule="linear", t_end=0.0)
    assert asked[0] == 999.0
    asked.clear()
    saving = solvers.create(name, first="analytic", **options)
    saved = solve(model, noise, solver=saving, steps=20, schedule="linear", t_end=0.0)
    assert saved.nfe == len(asked) == usual.nfe - 1
    assert saved.nfe == saving.begin(schedules.create("linear"), saved.times, None).evaluations()
    assert max(asked) < 999.0
    assert 1e-8 < rms(saved.x - usual.x) < 0.02


def test_analytic_first_evaluation_is_exact_for_standard_data(noise):
    """Of data N(0, 1), eps is sigma x everywhere."""
    vp = schedules.create("vp_linear")
    model = lambda x, t: vp.sigma(t.double())[:, None] * x  # noqa: E731
    ends = [
        solve(model, noise, solver=solvers.create("deis", first=f), steps=5, schedule=vp).x
        for f in ("network", "analytic")
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-13)


def test_one_step_can_cost_nothing(noise):
    solution = solve(lambda x, t: x, noise, solver=solvers.create("ipndm", first="analytic"), steps=1)
    assert solution.nfe == 0
    assert solution.x.isfinite().all()


def test_unknown_first():
    with pytest.raises(OptionError, match="did you mean 'analytic'"):
        solvers.create("plms", first="analytical")
