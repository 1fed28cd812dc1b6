"""Our solvers as diffusers schedulers: the same runs as pndm.solve, predictions, beginnings, files, refusals."""

import copy
import itertools
import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from their_loops import STABLE_DIFFUSION, in_terms_of, run

import pndm
from pndm import grids, schedules, solve, solvers
from pndm.denoisers import denoiser
from pndm.diffusers import SolverScheduler, scheduler

STEPPED = [name for name in solvers.names() if solvers.create(name).evaluations_per_step]
DETERMINISTIC = [name for name in STEPPED if not solvers.create(name).stochastic]
HERE, FAR = {"rtol": 0, "atol": 2e-7}, {"rtol": 0, "atol": 1e-5}  # timesteps between integers are float32


# ---- the same generators


@pytest.mark.parametrize(
    ("name", "grid"),
    sorted({*itertools.product(DETERMINISTIC, ["leading", "karras"]), *itertools.product(["plms"], grids.names())}),
)
def test_runs_are_those_of_solve(name, grid, pixels, noise):
    ours = scheduler(name, timestep_spacing=grid)
    result = run(ours, 10, pixels, noise)
    expected = solve(pixels, noise, solver=name, steps=10, grid=grid)
    assert len(ours.timesteps) == expected.nfe
    torch.testing.assert_close(result, expected.x, **FAR)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["leading", "uniform"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_few_steps(name, spacing, steps, pixels, noise):
    result = run(scheduler(name, timestep_spacing=spacing), steps, pixels, noise)
    torch.testing.assert_close(result, solve(pixels, noise, solver=name, steps=steps, grid=spacing).x, **FAR)


@pytest.mark.parametrize("name", [name for name in STEPPED if name not in DETERMINISTIC])
def test_stochastic_solvers_draw_from_the_generator_of_step(name, pixels, noise):
    draws = torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    result = run(scheduler(name), 10, pixels, noise, generator=draws)
    expected = solve(pixels, noise, solver=name, steps=10, generator=torch.Generator().manual_seed(1)).x
    torch.testing.assert_close(result, expected, **FAR)
    assert torch.equal(torch.get_rng_state(), before)  # not even to find the timesteps


def test_options_reach_the_solver_the_grid_and_the_scheduler(pixels, noise):
    options = {
        "order": 3,
        "startup": "low_order",
        "power": 3.0,
        "timestep_spacing": "karras",
        "set_alpha_to_one": False,
    }
    result = run(scheduler("plms", **options), 8, pixels, noise)
    solver = solvers.create("plms", order=3, startup="low_order")
    expected = solve(pixels, noise, solver=solver, steps=8, grid=grids.create("karras", power=3.0), t_end=0.0)
    torch.testing.assert_close(result, expected.x, **FAR)


def test_timesteps_are_integers_where_they_can_be_and_real_half_steps_elsewhere():
    whole, half = scheduler("plms", timestep_spacing="leading"), scheduler("prk", timestep_spacing="leading")
    whole.set_timesteps(50)
    half.set_timesteps(40)
    assert whole.timesteps.dtype == torch.int64
    assert whole.timesteps[:4].tolist() == [980, 970, 970, 960]
    assert half.timesteps.dtype == torch.float32
    assert half.timesteps[:4].tolist() == [975, 962.5, 962.5, 950]
    theirs = diffusers.PNDMScheduler()
    theirs.set_timesteps(40)
    assert theirs.timesteps[:4].tolist() == [975, 962, 962, 950]


def test_no_evaluation_is_repeated(pixels, noise):
    seen = []
    ours, theirs = scheduler("plms", STABLE_DIFFUSION), diffusers.PNDMScheduler(**STABLE_DIFFUSION)
    theirs.set_timesteps(20)
    assert len(theirs.timesteps) == 21
    assert theirs.timesteps[1] == theirs.timesteps[2]
    run(ours, 20, lambda x, t: seen.append((t[0].item(), x.sum().item())) or pixels(x, t), noise)
    assert len({t for t, _ in seen}) == len(seen) == 20


def test_the_low_order_start_up_is_better_than_the_repeated_evaluation(latent):
    """At equal evaluations: the reason why skip_prk_steps means it here."""
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for budget in (6, 11, 21):
        errors = {}
        for startup, steps in {"low_order": budget, "heun": budget - 1}.items():
            ours = scheduler("plms", STABLE_DIFFUSION, startup=startup)
            result, times = run(ours, steps, latent, x), ours.grid_times(steps)
            assert len(ours.timesteps) == budget
            ends = {"t_start": times[0], "t_end": times[-1]}
            exact = solve(latent, x, solver="rho_rk4", steps=100, schedule=latent.schedule, **ends).x
            errors[startup] = (result - exact).square().mean().sqrt().item()
        assert errors["low_order"] < 0.95 * errors["heun"]


def test_own_timesteps(pixels, noise):
    times = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]  # diffusers' AysSchedules
    ours = scheduler("dpmpp_2m")
    ours.set_timesteps(timesteps=times)
    assert ours.timesteps.tolist() == times
    assert ours.num_inference_steps == 10
    x = noise
    for t in ours.timesteps:
        x = ours.step(pixels(x, t.expand(len(x))), t, x).prev_sample
    torch.testing.assert_close(x, solve(pixels, noise, solver="dpmpp_2m", grid=[*times, -1]).x, **HERE)


def test_float16_is_kept(pixels, noise):
    result = run(scheduler("plms"), 10, lambda x, t: pixels(x.float(), t).half(), noise.half())
    assert result.dtype == torch.float16
    apart = result.double() - run(scheduler("plms"), 10, pixels, noise)
    assert apart.square().mean().sqrt() < 1e-2  # 0.005 over many seeds; the largest of 12 numbers is a matter of luck


# ---- predictions


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", ["plms", "prk", "fon", "dpmpp_2m", "unipc"])
def test_every_prediction_gives_the_run_of_eps(name, predicts, pixels, noise):
    model = in_terms_of(predicts, pixels, pixels.schedule)
    result = run(scheduler(name, prediction_type=predicts), 20, model, noise)
    torch.testing.assert_close(result, run(scheduler(name), 20, pixels, noise), **FAR)


def test_v_where_diffusers_is_wrong(latent, noise, record_property):
    """The same network as eps and as v: ours makes the same images, diffusers' PNDM makes others."""
    by_v = in_terms_of("v_prediction", latent, latent.schedule)
    errors = {}
    for who, make in {
        "ours": lambda **options: scheduler("plms", {**STABLE_DIFFUSION, **options}),
        "diffusers": lambda **options: diffusers.PNDMScheduler(**STABLE_DIFFUSION, **options),
    }.items():
        eps, v = run(make(), 20, latent, noise), run(make(prediction_type="v_prediction"), 20, by_v, noise)
        errors[who] = (v - eps).abs().max().item()
    record_property("errors", errors)
    assert errors["ours"] < 1e-5
    assert errors["diffusers"] > 0.02


def test_denoiser_agrees(pixels, noise):
    """One formula for both drivers: a v network through pndm.solve and through the scheduler."""
    by_v = in_terms_of("v_prediction", pixels, pixels.schedule)
    expected = solve(denoiser(by_v, "v", "linear"), noise, steps=20).x
    torch.testing.assert_close(run(scheduler("plms", prediction_type="v_prediction"), 20, by_v, noise), expected, **FAR)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, schedules.create("linear")),
        (
            {"beta_schedule": "scaled_linear", "beta_end": 0.01},
            schedules.create("scaled_linear", beta_start=1e-4, beta_end=0.01),
        ),
        (
            {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
            schedules.create("cosine", train_steps=500),
        ),
        ({"trained_betas": np.linspace(1e-4, 0.02, 1000)}, schedules.create("linear")),
    ],
    ids=["linear", "scaled_linear", "cosine", "trained_betas"],
)
def test_noise_paths(config, path):
    ours, theirs = scheduler("ddim", config), diffusers.DDIMScheduler(**config)
    times = np.linspace(-1, path.t_noise, 5000)
    np.testing.assert_allclose(ours.schedule.log_alpha(times), path.log_alpha(times), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert len(ours) == len(theirs) == path.train_steps


def test_add_noise_is_diffusers_and_knows_real_times(noise):
    ours, theirs = scheduler("plms", STABLE_DIFFUSION), diffusers.PNDMScheduler(**STABLE_DIFFUSION)
    x0, times = torch.ones(6, 2), torch.tensor([0, 1, 10, 400, 998, 999])
    torch.testing.assert_close(
        ours.add_noise(x0, noise.float(), times), theirs.add_noise(x0, noise.float(), times), rtol=0, atol=1e-6
    )
    half = ours.add_noise(x0.double(), noise, torch.tensor([400.5]))
    path = ours.schedule
    torch.testing.assert_close(half, path.alpha(400.5) * x0.double() + path.sigma(400.5) * noise, **HERE)


# ---- beginning in the middle


def _has_startup(name):
    return "startup" in solvers.solvers.options(name)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_run_can_start_at_every_step(name, latent, noise):
    """As image-to-image pipelines do: the run from there on is that of the solver, begun there."""
    ours = (
        scheduler(name, STABLE_DIFFUSION, startup="low_order")
        if _has_startup(name)
        else scheduler(name, STABLE_DIFFUSION)
    )
    times = ours.grid_times(10)
    for k in (1, 4, 9):
        result = run(ours, 10, latent, noise, begin=k * ours.order)
        solver = solvers.create(name, startup="low_order") if _has_startup(name) else name
        expected = solve(latent, noise, solver=solver, schedule=latent.schedule, grid=times[k:])
        torch.testing.assert_close(result, expected.x, **FAR)


def test_a_multistep_start_up_begins_there_at_low_order(latent, noise, recwarn):
    """The list of a Heun start-up holds the second time twice; from the third entry on it is any grid."""
    ours = scheduler("plms", STABLE_DIFFUSION, startup="heun")
    ours.set_timesteps(20)
    assert ours.timesteps[:4].tolist() == [951, 901, 901, 851]
    result = run(ours, 20, latent, noise, begin=5)
    expected = solve(latent, noise, solver="ipndm", schedule=latent.schedule, grid=ours.grid_times(20)[4:])
    torch.testing.assert_close(result, expected.x, **FAR)
    assert not recwarn.list


def test_inside_a_runge_kutta_start_up_evaluations_are_passed_over_with_a_warning(latent, noise):
    ours = scheduler("plms", {**STABLE_DIFFUSION, "skip_prk_steps": False})
    ours.set_timesteps(50)
    assert ours.timesteps[10] == 931  # where image-to-image begins by default, strength 0.8
    with pytest.warns(UserWarning, match="starts at index 10 of 59.* evaluations not used: 1 "):
        result = run(ours, 50, latent, noise, begin=10)
    expected = solve(latent, noise, solver="ipndm", schedule=latent.schedule, grid=[931, *ours.grid_times(50)[3:]])
    torch.testing.assert_close(result, expected.x, **FAR)


def test_a_run_begins_at_the_timestep_of_the_first_step(latent, noise):
    ours = scheduler("ddim", STABLE_DIFFUSION)
    expected = run(ours, 10, latent, noise, begin=4)
    for times in (lambda: ours.timesteps[4:], lambda: ours.timesteps[4:].tolist()):
        ours.set_timesteps(10)
        x = noise
        for t in times():
            x = ours.step(latent(x, torch.full((6,), float(t))), t, x).prev_sample
        torch.testing.assert_close(x, expected, **HERE)


@pytest.mark.parametrize("name", ["plms", "prk", "dpmpp_2m", "fon"])
def test_a_sample_that_the_pipeline_changed_takes_the_place_of_the_state(name, latent, noise):
    """As in inpainting, where the known part is put back after every step; in place or not."""
    ours = scheduler(name, STABLE_DIFFUSION)
    results = []
    for in_place in (False, True):
        ours.set_timesteps(10)
        x = noise.clone()
        kept = []
        for k, t in enumerate(ours.timesteps):
            x = ours.step(latent(x, t.expand(6)), t, x).prev_sample
            if k == len(ours.timesteps) // 2:
                before = x.clone()
                x = x.mul_(0.5) if in_place else x * 0.5
            kept.append(x)
        results.append(x)
        assert torch.equal(kept[len(ours.timesteps) // 2], before * 0.5)  # nobody wrote into it since
    assert torch.equal(*results)
    assert (results[0] - run(ours, 10, latent, noise)).abs().max() > 0.01


# ---- configurations


@pytest.mark.parametrize("theirs", ["PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_takes_the_place_of_another_scheduler(theirs, tmp_path):
    """What its class took for granted counts too, in its object's configuration and in its file."""
    original = getattr(diffusers, theirs)(beta_schedule="scaled_linear", prediction_type="v_prediction")
    ours = scheduler("dpmpp_2m", original.config)
    assert ours.config.timestep_spacing == original.config.timestep_spacing
    assert ours.config.set_alpha_to_one == original.config.get("set_alpha_to_one", True)
    assert (ours.config.beta_schedule, ours.predicts) == ("scaled_linear", "v")
    file = {k: v for k, v in original.config.items() if k not in original.config["_use_default_values"]}
    assert (
        scheduler("dpmpp_2m", {"_class_name": theirs, **file}).config.set_alpha_to_one == ours.config.set_alpha_to_one
    )
    back = getattr(diffusers, theirs).from_config(ours.config)
    assert back.config.beta_schedule == "scaled_linear"


def test_saves_and_loads(tmp_path, pixels, noise):
    first = scheduler(
        "deis", timestep_spacing="karras", power=5.0, order=2, trained_betas=np.linspace(1e-4, 0.02, 1000)
    )
    first.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["solver"] == "deis"
    second = SolverScheduler.from_pretrained(tmp_path)
    third = SolverScheduler.from_config(first.config)
    fourth = SolverScheduler.from_config(first.config, solver="ddim", solver_options={})
    expected = run(first, 6, pixels, noise)
    assert torch.equal(run(second, 6, pixels, noise), expected)
    assert torch.equal(run(third, 6, pixels, noise), expected)
    assert not torch.equal(run(fourth, 6, pixels, noise), expected)


def test_is_a_diffusers_scheduler():
    ours = scheduler("heun")
    assert isinstance(ours, diffusers.SchedulerMixin)
    assert isinstance(ours, diffusers.ConfigMixin)
    assert (ours.order, ours.init_noise_sigma, len(ours)) == (2, 1.0, 1000)
    assert diffusers.PNDMScheduler in ours.compatibles


def test_can_be_copied_before_and_after_a_run(pixels, noise):
    ours = scheduler("plms")
    expected = run(ours, 6, pixels, noise)
    assert torch.equal(run(copy.deepcopy(ours), 6, pixels, noise), expected)
    ours.set_timesteps(6)
    assert torch.equal(copy.deepcopy(ours).timesteps, ours.timesteps)


def test_importing_pndm_does_not_import_diffusers():
    code = "import sys, pndm, pndm.diffusers; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert pndm.diffusers.scheduler is scheduler
