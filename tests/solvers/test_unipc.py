"""UniPC: equal to diffusers' to rounding, and of the order that its corrector gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from their_runs import BETAS, alphas_cumprod, rms, run_theirs, slope

from pndm import OptionError, grids, schedules, solve, solvers
from pndm.solvers.base import drive


def theirs(order, variant, transfer="data", final_order=0, final="sigma_min"):
    return UniPCMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        predict_x0=transfer == "data",
        lower_order_final=bool(final_order),
        final_sigmas_type=final,
        **BETAS,
    )


def both(scheduler, ours, mixture, noise, steps, end):
    schedule = schedules.create("table", alphas_cumprod=scheduler.alphas_cumprod)
    model = replace(mixture, schedule=schedule)
    times = grids.times("uniform", steps, schedule, t_end=end)
    wanted = run_theirs(scheduler, schedule, times, model, noise)
    return wanted, solve(model, noise, solver=ours, schedule=schedule, grid=times)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("final_order", [0, 1])
@pytest.mark.parametrize("transfer", ["data", "manifold"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_whole_run_is_theirs(order, variant, transfer, final_order, steps, mixture, noise):
    ours = solvers.create("unipc", order=order, variant=variant, transfer=transfer, final_order=final_order)
    wanted, solution = both(theirs(order, variant, transfer, final_order), ours, mixture, noise, steps, 0.0)
    assert solution.nfe == steps
    torch.testing.assert_close(solution.x, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_into_the_clean_end_is_theirs(order, mixture, noise):
    ours = solvers.create("unipc", order=order, final_order=1)
    wanted, solution = both(theirs(order, "bh2", "data", 1, "zero"), ours, mixture, noise, 20, -1.0)
    torch.testing.assert_close(solution.x, wanted, rtol=0, atol=1e-11)


def test_bh1_into_the_clean_end_is_nan_there_and_not_here(mixture, noise):
    """B(h) = h is infinite for a step into sigma = 0, and diffusers multiplies it by 0."""
    ours = solvers.create("unipc", variant="bh1")
    wanted, solution = both(theirs(2, "bh1", "data", 1, "zero"), ours, mixture, noise, 20, -1.0)
    assert wanted.isnan().all()
    bh2 = both(theirs(2, "bh2", "data", 1, "zero"), ours, mixture, noise, 20, -1.0)[0]
    assert rms(solution.x - bh2) < 0.1


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("transfer", ["data", "manifold"])
@pytest.mark.parametrize("order", [1, 2])
def test_order(order, transfer, variant, mixture, noise, reference, vp):
    """One more than that of the predictor. From t = 0.3, as at the noise end the order shows only in small steps."""
    solver = solvers.create("unipc", order=order, transfer=transfer, variant=variant)
    exact = reference(noise, alphas_cumprod(vp, 0.3), alphas_cumprod(vp, 0.02))
    steps = (160, 320, 640)
    errors = [
        rms(solve(mixture, noise, solver=solver, steps=n, schedule=vp, t_start=0.3, t_end=0.02).x - exact)
        for n in steps
    ]
    assert solver.order == order + 1
    assert abs(slope(errors, steps) - solver.order) < 0.15, errors


def test_order_3_has_order_4_from_an_exact_start(mixture, noise, reference, vp):
    """So it is the start-up, one Euler step with UniC-1, that keeps the whole run to order 3."""
    start, end, steps = 0.3, 0.02, (160, 320, 640)
    exact = reference(noise, alphas_cumprod(vp, start), alphas_cumprod(vp, end))
    errors = []
    for n in steps:
        times = np.linspace(start, end, n + 1)
        fine = solve(
            mixture, noise, solver="rho_rk4", schedule=vp, grid=np.linspace(start, times[3], 61), trajectory=True
        )
        begin = fine.trajectory[::20]
        run = solvers.create("unipc", order=3).begin(vp, times, None)
        x = noise
        for k, (t, s) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
            if k < len(begin):
                x, run.before = begin[k], None  # exact: nothing to correct
            x = drive(run.ask(x, t, s), lambda x, t: mixture(x, torch.full((len(x),), t, dtype=x.dtype)))
        errors.append(rms(x - exact))
    assert abs(slope(errors, steps) - 4) < 0.15, errors


def test_full_order_3_is_of_order_3(mixture, noise, reference, vp):
    """eps on the manifold from t = 0.3: there the start-up shows within 640 steps."""
    solver = solvers.create("unipc", order=3, transfer="manifold")
    exact = reference(noise, alphas_cumprod(vp, 0.3), alphas_cumprod(vp, 0.02))
    steps = (320, 640, 1280)
    errors = [
        rms(solve(mixture, noise, solver=solver, steps=n, schedule=vp, t_start=0.3, t_end=0.02).x - exact)
        for n in steps
    ]
    assert abs(slope(errors, steps) - solver.order) < 0.15, errors


def test_weights_sum_to_one():
    run = solvers.create("unipc", order=3, variant="bh1").begin(
        schedules.create("linear"), np.linspace(999, -1, 8), None
    )
    assert len(run.predictors) == 7
    assert len(run.correctors) == 6  # no evaluation at the end to correct with
    for weights in [*run.predictors, *run.correctors]:
        assert sum(weights) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "order=4 must be 1, 2 or 3"),
        ({"variant": "bh3"}, "unknown variant 'bh3'"),
        ({"transfer": "linear"}, "unknown transfer 'linear'"),
        ({"order": 2, "final_order": 3}, "final_order=3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        solvers.create("unipc", **options)
