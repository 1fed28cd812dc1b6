"""What solver and driver cost beside the network: ratios taken side by side in one run.

`make bench` times them with pytest-benchmark; the default tests keep a guard with a generous margin, which a copy or a
synchronisation in every step would trip and a noisy machine does not.
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pndm
from pndm.models import pretrained

STEPS = 50


def side_by_side(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median of time(first) / time(second), taken in pairs after a warm-up, so that a slow spell hits both."""
    ratios = []
    for round_ in range(rounds + 1):
        seconds = []
        for run in (first, second):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        if round_:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


@pytest.fixture(scope="module")
def free() -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A model that costs nothing, and a state of the size of CIFAR-10."""
    state = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    answer = state.flip(0)
    return (lambda x, t: answer), state


@pytest.mark.parametrize("name", ["ddim", "s_pndm", "plms", "fon", "prk"])
def test_guard_an_evaluation_costs_a_few_passes_over_the_state(free, name):
    model, x = free
    schedule, solver = pndm.schedules.create("linear"), pndm.solvers.create(name)
    nfe = pndm.solve(model, x, solver=solver, steps=STEPS, schedule=schedule).nfe

    def passes() -> None:
        for _ in range(nfe):
            (x * 0.5).add_(x, alpha=0.5)

    ratio = side_by_side(lambda: pndm.solve(model, x, solver=solver, steps=STEPS, schedule=schedule), passes, rounds=9)
    assert ratio < 15, f"{name}: an evaluation costs {ratio:.1f} passes over the state"


def test_guard_no_slower_than_diffusers(free):
    diffusers = pytest.importorskip("diffusers")
    model, x = free
    schedule, scheduler = pndm.schedules.create("linear"), diffusers.PNDMScheduler()

    def theirs() -> None:
        scheduler.set_timesteps(STEPS)
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(model(sample, t), t, sample).prev_sample

    ratio = side_by_side(lambda: pndm.solve(model, x, solver="plms", steps=STEPS, schedule=schedule), theirs, rounds=9)
    assert ratio < 0.7, f"plms takes {ratio:.2f} of the time of diffusers' PNDMScheduler for the same evaluations"


@pytest.mark.slow
def test_solve_adds_at_most_3_percent_to_the_network(capsys):
    trained = pretrained.load("default")
    schedule = pndm.schedules.create("linear")
    model = trained.eps(schedule)
    x = torch.randn(16, *trained.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((16,), 500.0)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(STEPS + 9):
            model(x, t)

    ratio = side_by_side(lambda: pndm.solve(model, x, solver="plms", steps=STEPS, schedule=schedule), bare, rounds=9)
    with capsys.disabled():
        print(f"\nsolve / bare network, plms {STEPS} steps, batch 16, float32: {ratio:.4f}")
    assert ratio <= 1.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "s_pndm", "plms", "prk", "fon"])
def test_bench_solver_and_driver_alone(benchmark, free, name):
    model, x = free
    schedule = pndm.schedules.create("linear")
    benchmark.group = "50 steps of a model that costs nothing, (16, 3, 32, 32) float32"
    benchmark(lambda: pndm.solve(model, x, solver=name, steps=STEPS, schedule=schedule))
