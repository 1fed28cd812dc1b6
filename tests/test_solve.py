"""The driver: what it asks, counts, reports and refuses, for every registered solver."""

import sys

import numpy as np
import pytest
import torch

import pndm
from pndm import ModelError, OptionError, grids, schedules, solve, solvers
from pndm.noise import SampleNoise, as_noise

NAMES = solvers.names()
FIXED = [name for name in NAMES if solvers.create(name).evaluations_per_step is not None]
LINEAR, VP = schedules.create("linear"), schedules.create("vp_linear")
ENDS = {"linear to -1": (LINEAR, None), "vp_linear to 0": (VP, 0.0), "vp_linear": (VP, None)}  # sigma = 0 in two


class Counting:
    """A model that keeps its count and the times at which it was asked."""

    def __init__(self, model=lambda x, t: torch.tanh(x + 1)):
        self.model = model
        self.times: list[float] = []

    def __call__(self, x, t):
        assert t.shape == (len(x),)
        assert torch.all(t == t[0])
        self.times.append(t[0].item())
        return self.model(x, t)


def draw(*shape, dtype=torch.float64):
    return SampleNoise(0, range(shape[0])).draw(shape[1:], dtype)


# ---- evaluations


@pytest.mark.parametrize(("schedule", "end"), ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_counted_and_never_made_without_noise(name, schedule, end):
    for steps in (1, 2, 3, 4, 10):
        model, solver = Counting(), solvers.create(name)
        solution = solve(model, draw(2, 3), solver=solver, steps=steps, schedule=schedule, t_end=end)
        run = solver.begin(schedule, grids.times("uniform", steps, schedule, t_end=end), as_noise(None))
        assert len(model.times) == solution.nfe
        assert run.evaluations() in (solution.nfe, None)
        assert (run.evaluations() is None) == (solver.evaluations_per_step is None)
        assert all(schedule.sigma(t) > 0 for t in model.times)
        assert solution.times[-1] <= min(model.times)
        assert model.times[0] == solution.times[0] == schedule.t_noise
        assert solution.x.isfinite().all()


@pytest.mark.parametrize("name", FIXED)
def test_an_ordinary_step_costs_what_the_solver_says(name):
    per_step = solvers.create(name).evaluations_per_step
    nfe = [solve(Counting(), draw(2, 3), solver=name, steps=n, schedule=VP).nfe for n in (10, 20)]
    assert nfe[1] - nfe[0] == 10 * per_step


# ---- what the model may not answer


def broken_at(k, value, place=(1, 2)):
    """A model whose k-th answer has one bad number."""
    count = iter(range(1, sys.maxsize))

    def model(x, t):
        eps = torch.tanh(x + 1)
        if next(count) == k:
            eps[place] = value
        return eps

    return model


@pytest.mark.parametrize("name", FIXED)
def test_a_number_that_is_not_finite_is_named_by_solver_step_evaluation_and_time(name):
    steps_done = [0]

    def recording(x, t):
        seen.append((steps_done[-1] + 1, t[0].item()))
        return torch.tanh(x + 1)

    seen: list[tuple[int, float]] = []
    options = {"solver": name, "steps": 5, "schedule": VP}
    nfe = solve(recording, draw(2, 3), callback=lambda k, t, x: steps_done.append(k), **options).nfe
    for k, (step, t) in enumerate(seen, start=1):
        message = f"solver {name}, step {step}, evaluation {k} of {nfe}, at t = {t:g}$"
        with pytest.raises(ModelError, match=message):
            solve(broken_at(k, torch.nan), draw(2, 3), **options)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_so_is_an_infinite_one(value):
    with pytest.raises(ModelError, match=r"solver ddim, step 3, evaluation 3 of 5, at t = 0\.6004$"):
        solve(broken_at(3, value), draw(2, 3), solver="ddim", steps=5, schedule=VP)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FIXED])
def test_adaptive_solver_names_the_evaluation_too(name):
    with pytest.raises(ModelError, match=rf"NaN or infinity: solver {name}, .*evaluation 4, at t = 0\.\d+$"):
        solve(broken_at(4, torch.nan), draw(2, 3), solver=name, schedule=VP)


def test_infinities_of_both_signs_do_not_cancel():
    def model(x, t):
        return torch.stack([torch.full_like(x[0], torch.inf), torch.full_like(x[0], -torch.inf)])

    with pytest.raises(ModelError, match="evaluation 1 of 3"):
        solve(model, draw(2, 3), solver="ddim", steps=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_large_batch_of_finite_numbers_is_finite(dtype):
    """200 000 ones: their sum is beyond the largest float16."""
    solution = solve(lambda x, t: torch.ones_like(x), torch.zeros(200, 1000, dtype=dtype), solver="ddim", steps=1)
    assert solution.nfe == 1


def test_an_answer_too_large_for_the_dtype_of_the_state_is_not_finite_there():
    """100 000 is above the largest float16."""
    with pytest.raises(ModelError, match=r"NaN or infinity: solver ddim, step 1, evaluation 1 of 5, at t = 999$"):
        solve(lambda x, t: torch.full_like(x, 1e5, dtype=torch.float32), draw(2, 3, dtype=torch.float16), solver="ddim",
              steps=5)  # fmt: skip


def test_a_start_with_nan_that_the_model_masks():
    x = draw(2, 3)
    x[1, 2] = torch.nan
    sentence = r"the state at the end holds NaN or infinity, though .* finite in torch\.float64: solver ddim$"
    with pytest.raises(ModelError, match=sentence):
        solve(lambda x, t: torch.tanh(x.nan_to_num()), x, solver="ddim", steps=5)


@pytest.mark.parametrize("denoise", [False, True])
def test_a_solver_whose_last_step_divides_by_0(denoise):
    class Divides(solvers.Solver):
        order, evaluations_per_step = 1, 1

        def step(self, x, t, s):
            e = yield x, t
            return self.transfer(x, e, t, s) / (s != self.times[-1])

    with pytest.raises(ModelError, match=r"the state at the end holds NaN or infinity, .*: solver Divides$"):
        solve(lambda x, t: torch.tanh(x.nan_to_num(posinf=0, neginf=0)), draw(2, 3), solver=Divides(), steps=5,
              schedule=VP, denoise=denoise)  # fmt: skip


def test_a_complex_answer_is_refused():
    with pytest.raises(ModelError, match=r"is torch\.complex128 where real numbers were expected: solver ddim, step 1"):
        solve(lambda x, t: x * (1 + 0j), draw(2, 3), solver="ddim", steps=5)


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        (lambda x: x[0], r"\(3,\)"),
        (lambda x: x[:, :1], r"\(2, 1\)"),
        (lambda x: x[None], r"\(1, 2, 3\)"),
        (lambda x: torch.cat([x, x], dim=1), r"\(2, 6\)"),
        (lambda x: (x,), "tuple"),
        (lambda x: None, "NoneType"),
    ],
)
def test_an_answer_of_another_shape(answer, shape):
    sentence = rf"shape {shape} where \(2, 3\) was expected: solver plms, step 1, evaluation 1 of 19, at t = 999$"
    with pytest.raises(ModelError, match=sentence):
        solve(lambda x, t: answer(x), draw(2, 3), solver="plms", steps=10)


# ---- what a run gives


@pytest.mark.parametrize("name", NAMES)
def test_callback_trajectory_and_times_tell_one_story(name):
    calls = []
    x = draw(2, 3)
    solution = solve(
        Counting(),
        x,
        solver=name,
        steps=6,
        schedule=VP,
        generator=torch.Generator().manual_seed(0),
        callback=lambda k, t, state: calls.append((k, t, state)),
        trajectory=True,
    )
    n = len(solution.times) - 1
    assert solution.trajectory.shape == (n + 1, 2, 3)
    assert torch.equal(solution.trajectory[0], x)
    assert torch.equal(solution.trajectory[-1], solution.x)
    assert [k for k, _, _ in calls] == list(range(1, n + 1))
    assert [t for _, t, _ in calls] == solution.times[1:].tolist()
    assert all(torch.equal(state, solution.trajectory[k]) for k, _, state in calls)


def test_no_trajectory_unless_asked():
    assert solve(Counting(), draw(2, 3), steps=5).trajectory is None


@pytest.mark.parametrize("name", NAMES)
def test_the_given_state_is_left_alone(name):
    x = draw(2, 3)
    solution = solve(Counting(), x, solver=name, steps=5, schedule=VP)
    assert torch.equal(x, draw(2, 3))
    assert not torch.equal(x, solution.x)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 1, 8, 8)])
@pytest.mark.parametrize("name", NAMES)
def test_any_shape_of_state(name, shape):
    assert solve(Counting(), draw(*shape), solver=name, steps=5, schedule=VP).x.shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_dtype_is_kept_and_only_rounds(name, mixture, noise):
    """The same start and the same draws in three precisions. Twenty steps of weights near 3 in bfloat16: 60 / 256."""

    def run(dtype):
        options = {"steps": 20, "schedule": VP, "t_start": 0.5, "generator": SampleNoise(0, range(6))}
        solution = solve(mixture, noise.to(dtype), solver=name, **options)
        assert solution.x.dtype == dtype
        return solution.x.double()

    exact = run(torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.25)):
        torch.testing.assert_close(run(dtype), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "time_dtype"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_the_model_is_told_times_that_half_precision_would_confuse(dtype, time_dtype):
    seen = []

    def model(x, t):
        assert x.dtype == dtype
        assert t.dtype == time_dtype
        seen.append(t[0].item())
        return x

    solve(model, draw(2, 3, dtype=dtype), solver="ddim", steps=1000, grid="leading")
    assert seen == list(range(999, -1, -1))


def test_an_answer_of_another_dtype_is_brought_to_the_states():
    solution = solve(lambda x, t: torch.tanh(x).double(), draw(2, 3, dtype=torch.float32), steps=5)
    assert solution.x.dtype == torch.float32


def test_no_gradient_is_kept():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert not solve(lambda x, t: weight * x, draw(2, 3), steps=5).x.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_solver_object_keeps_nothing_from_one_run_to_the_next(name):
    solver = solvers.create(name)
    options = {"steps": 6, "schedule": VP}
    first = solve(Counting(), draw(2, 3), solver=solver, generator=torch.Generator().manual_seed(0), **options)
    with pytest.raises(ModelError):
        solve(broken_at(3, torch.nan), draw(2, 3), solver=solver, **options)
    solve(lambda x, t: torch.cos(x), draw(5, 4), solver=solver, steps=9, schedule=LINEAR, t_start=700)
    again = solve(Counting(), draw(2, 3), solver=solver, generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(first.x, again.x)
    assert first.nfe == again.nfe


@pytest.mark.parametrize("name", FIXED)
def test_two_runs_of_one_solver_object_can_be_interleaved(name):
    """As in a server that keeps one solver for all requests."""
    solver = solvers.create(name)

    def run(model):
        return solve(model, draw(2, 3), solver=solver, steps=6, schedule=VP, generator=torch.Generator().manual_seed(0))

    def meanwhile(x, t):
        run(Counting())
        return torch.tanh(x + 1)

    assert torch.equal(run(meanwhile).x, run(Counting()).x)


# ---- choices


def test_defaults_are_plms_of_50_steps_on_the_linear_schedule():
    model = Counting()
    solution = solve(model, draw(2, 3))
    assert solution.nfe == 59
    np.testing.assert_allclose(solution.times, np.linspace(999, -1, 51))
    explicit = solve(Counting(), draw(2, 3), solver="plms", steps=50, schedule="linear", grid="uniform")
    assert torch.equal(solution.x, explicit.x)


def test_names_and_objects_are_the_same():
    by_name = solve(Counting(), draw(2, 3), solver="s_pndm", steps=7, schedule="cosine", grid="logsnr", t_start=900)
    by_object = solve(
        Counting(),
        draw(2, 3),
        solver=solvers.create("s_pndm"),
        steps=7,
        schedule=schedules.create("cosine"),
        grid=grids.create("logsnr"),
        t_start=900,
    )
    assert torch.equal(by_name.x, by_object.x)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_the_grid_can_be_the_times(kind):
    times = [900.0, 400.5, 30.0, -1.0]
    model = Counting()
    solution = solve(model, draw(2, 3), solver="ddim", steps=99, grid=kind(times))
    assert model.times == times[:-1]
    assert solution.times.tolist() == times


def test_one_run_is_two_runs_end_to_end(mixture, noise):
    """For a solver without history, stopping in the middle changes nothing."""
    options = {"solver": "prk", "schedule": VP}
    whole = solve(mixture, noise, grid=[1.0, 0.7, 0.4, 0.1], **options)
    half = solve(mixture, noise, grid=[1.0, 0.7], **options)
    rest = solve(mixture, half.x, grid=[0.7, 0.4, 0.1], **options)
    assert torch.equal(whole.x, rest.x)


BAD = [
    ({"solver": "plsm"}, "unknown solver 'plsm': did you mean 'plms'"),
    ({"schedule": "linaer"}, "unknown schedule 'linaer': did you mean 'linear'"),
    ({"grid": "unifrm"}, "unknown grid 'unifrm': did you mean 'uniform'"),
    ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
    ({"steps": -5}, "steps=-5 must be a whole number of at least 1"),
    ({"steps": 1001}, "steps=1001 is more than the 1000 that the schedule has"),
    ({"denoise": True}, "denoise=True has nothing to do: the run ends without noise, at t=-1; set t_end"),
    ({"t_start": 5, "t_end": 6}, "t_start=5 must be later"),
    ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "x must be of a floating-point dtype, not torch.int64"),
    ({"x": torch.zeros(2, 3, dtype=torch.complex64)}, "x must be of a floating-point dtype, not torch.complex64"),
    ({"x": np.zeros((2, 3))}, r"x must be a torch tensor of shape \(B, \*shape\), not ndarray"),
    ({"x": torch.zeros(())}, r"x must be a torch tensor of shape \(B, \*shape\), not one of shape \(\)"),
    ({"solver": solvers.Solver}, "solver=<class '.*Solver'> must be a name or a Solver object"),
    ({"solver": None}, "solver=None must be a name or a Solver object"),
    ({"schedule": torch.zeros(1000)}, "schedule=tensor.* must be a name or a Schedule object"),
    ({"grid": ["a", "b"]}, r"grid=\['a', 'b'\] must be a name, a Grid object or one list of decreasing numbers"),
    ({"grid": [[3.0], [2.0, 1.0]]}, r"grid=\[\[3\.0\], \[2\.0, 1\.0\]\] must be a name, a Grid object or one list"),
    ({"grid": grids.Grid}, "grid=<class '.*Grid'> must be a name, a Grid object or one list"),
    ({"t_start": "abc"}, "t_start='abc' must be a number"),
    ({"t_end": [3, 2]}, r"t_end=\[3, 2\] must be a number"),
    ({"solver": "ddpm", "generator": 0}, r"generator=0 must be a torch\.Generator, such as .*manual_seed\(0\)"),
    ({"solver": "ddpm", "generator": [torch.Generator()]}, "generator is a list of 1, but the state holds 2 samples"),
    ({"solver": "ddpm", "generator": SampleNoise(0, range(5))}, "state holds 2 samples, the noise source 5"),
]


@pytest.mark.parametrize(("choice", "sentence"), BAD)
def test_refused(choice, sentence):
    choice = {"x": torch.zeros(2, 3), **choice}
    with pytest.raises(OptionError, match=sentence):
        solve(Counting(), **choice)


# ---- noise of stochastic solvers


def test_generators(noise):
    def run(generator, x=noise):
        return solve(Counting(), x, solver="ddpm", steps=5, generator=generator).x

    def seeded(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    assert torch.equal(run(seeded(1)[0]), run(seeded(1)[0]))
    assert not torch.equal(run(seeded(1)[0]), run(seeded(2)[0]))
    together = run(seeded(*range(6)))
    for i in range(6):
        torch.testing.assert_close(together[i], run(seeded(i), noise[i : i + 1])[0], rtol=0, atol=1e-12)
    by_sample = run(SampleNoise(3, range(6)))
    torch.testing.assert_close(by_sample[4:], run(SampleNoise(3, [4, 5]), noise[4:]), rtol=0, atol=1e-12)
    torch.manual_seed(0)
    unseeded = run(None)
    torch.manual_seed(0)
    assert torch.equal(run(None), unseeded)
    assert torch.equal(run(torch.zeros_like), run(lambda x: 0 * x))


# ---- progress


class Bar:
    total = 0

    def update(self, n):
        self.total += n


@pytest.mark.parametrize("name", NAMES)
def test_a_progress_object_counts_evaluations(name):
    bar = Bar()
    assert solve(Counting(), draw(2, 3), solver=name, steps=5, schedule=VP, progress=bar).nfe == bar.total


def test_progress_bar(capsys):
    solve(Counting(), draw(2, 3), solver="plms", steps=10, progress=True)
    shown = capsys.readouterr().err
    assert "plms" in shown
    assert "19/19" in shown
    solve(Counting(), draw(2, 3), solver="plms", steps=10)
    assert capsys.readouterr().err == ""


def test_progress_bar_is_closed_when_the_model_fails(capsys, monkeypatch):
    closed = []
    tqdm = pytest.importorskip("tqdm").tqdm
    monkeypatch.setattr(tqdm, "close", lambda self, close=tqdm.close: (closed.append(self.n), close(self)))
    with pytest.raises(ModelError):
        solve(broken_at(4, torch.nan), draw(2, 3), solver="ddim", steps=10, progress=True)
    assert closed[0] == 3


# ---- the denoising step


@pytest.mark.parametrize("name", NAMES)
def test_denoise_lands_on_the_predicted_data(name, mixture, noise):
    plain = solve(mixture, noise, solver=name, steps=6, schedule=VP, t_end=0.1, generator=SampleNoise(0, range(6)))
    told = []
    solution = solve(
        mixture, noise, solver=name, steps=6, schedule=VP, t_end=0.1, generator=SampleNoise(0, range(6)),
        denoise=True, trajectory=True, callback=lambda k, t, x: told.append((t, x)),
    )  # fmt: skip
    assert solution.nfe == plain.nfe + 1
    assert solution.times.tolist() == [*plain.times.tolist(), 0.0]
    alpha, sigma = VP.alpha(0.1), VP.sigma(0.1)
    x0 = (plain.x - sigma * mixture(plain.x, torch.full((len(noise),), 0.1, dtype=torch.float64))) / alpha
    torch.testing.assert_close(solution.x, x0, rtol=0, atol=1e-12)
    assert torch.equal(solution.trajectory[-1], solution.x)
    assert told[-1][0] == 0.0
    assert torch.equal(told[-1][1], solution.x)


def test_denoise_counts_in_the_progress_and_in_messages(noise, capsys):
    solve(Counting(), noise, solver="ddim", steps=6, schedule=VP, denoise=True, t_end=0.1, progress=True)
    assert "7/7" in capsys.readouterr().err
    with pytest.raises(ModelError, match=r"solver ddim, step 7, evaluation 7 of 7, at t = 0\.1"):
        solve(broken_at(7, torch.nan), draw(2, 3), solver="ddim", steps=6, schedule=VP, denoise=True, t_end=0.1)


# ---- a solver of one's own


def test_a_solver_of_ones_own_in_a_dozen_lines(mixture, noise):
    class Midpoint(solvers.Solver):
        """Midpoint x manifold."""

        order, evaluations_per_step = 2, 2

        def step(self, x, t, s):
            mid = (t + s) / 2
            e1 = yield x, t
            e2 = yield self.transfer(x, e1, t, mid), mid
            return self.transfer(x, e2, t, s)

    ours = solve(mixture, noise, solver=Midpoint(), steps=7, schedule=VP)
    theirs = solve(mixture, noise, solver=solvers.create("runge_kutta", tableau="midpoint"), steps=7, schedule=VP)
    torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-14)
    assert ours.nfe == 14
    with pytest.raises(ModelError, match="solver Midpoint, step 2, evaluation 3 of 14"):
        solve(broken_at(3, torch.nan), noise[:2].repeat(1, 2), solver=Midpoint(), steps=7, schedule=VP)


def test_public_face():
    assert set(pndm.__all__) >= {"solve", "Solution", "solvers", "schedules", "grids", "OptionError", "ModelError"}
