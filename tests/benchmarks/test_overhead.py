"""What solver and driver cost beside the network: ratios taken side by side in one run.

`make bench` times them with pytest-benchmark; the default tests keep a guard with a generous margin, which a copy or a
synchronisation in every step would trip and a noisy machine does not.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pndm
from pndm.models import pretrained
from tests.benchmarks import report
from tests.benchmarks.peers import CONTENDERS, STEPS, Free, installed
from tests.benchmarks.timing import in_turn, median_ratio


def least_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Least processor time of the first over that of the second, on one thread: what other work disturbs least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = in_turn({"first": first, "second": second}, rounds=20, clock=time.thread_time)
    torch.set_num_threads(threads)
    return min(seconds["first"]) / min(seconds["second"])


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

    ratio = least_ratio(lambda: pndm.solve(model, x, solver=solver, steps=STEPS, schedule=schedule), passes)
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

    ratio = least_ratio(lambda: pndm.solve(model, x, solver="plms", steps=STEPS, schedule=schedule), theirs)
    assert ratio < 0.7, f"plms takes {ratio:.2f} of the time of diffusers' PNDMScheduler for the same evaluations"


@pytest.mark.slow
def test_solve_adds_at_most_2_percent_to_the_network(capsys):
    trained = pretrained.load("default")
    schedule = pndm.schedules.create("linear")
    model = trained.eps(schedule)
    x = torch.randn(16, *trained.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((16,), 500.0)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(STEPS + 9):
            model(x, t)

    seconds = in_turn(
        {"solve": lambda: pndm.solve(model, x, solver="plms", steps=STEPS, schedule=schedule), "bare": bare}, rounds=9
    )
    ratio = median_ratio(seconds["solve"], seconds["bare"])
    with capsys.disabled():
        print(f"\nsolve / bare network, plms {STEPS} steps, batch 16, float32: {ratio:.4f}")
    assert ratio <= 1.02


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "library"), [(solver, of) for solver, all_ in CONTENDERS.items() for of in all_])
def test_bench_solver_and_driver_alone(benchmark, solver, library):
    if library not in {"pndm", *installed()}:
        pytest.skip(f"{library} is not installed: pip install 'pndm[bench]'")
    run, model = CONTENDERS[solver][library](), Free()
    benchmark.group = f"{solver}: {STEPS} steps of a model that costs nothing, (16, 3, 32, 32) float32"
    benchmark(lambda: run(model))


def test_the_table_of_docs_is_what_was_measured():
    """docs/speed.md is written from docs/speed.json and not by hand."""
    results = json.loads(Path("docs/speed.json").read_text(encoding="utf-8"))
    written = Path("docs/speed.md").read_text(encoding="utf-8").split(report.MARK)[1].strip()
    assert written == "\n\n".join(report.sections(results)).strip()
