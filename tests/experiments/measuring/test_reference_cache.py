"""Reference solutions on disk: found again, told apart, never trusted when damaged, safe among many writers."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.measuring import reference_cache
from experiments.measuring.reference_cache import Cache, key
from pndm import schedules
from pndm.models import problems
from pndm.reference import exact, self_converged

VP = schedules.create("vp_linear")
PROBLEM = problems.create("mixture")
MODEL = PROBLEM.eps(VP)
X = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIMES = np.array([1.0, 0.1])
CALLS: list[float] = []


def counted(model, x, schedule, times, *, tolerance: float = 1e-6):
    CALLS.append(tolerance)
    return exact(model, x, schedule, times, tolerance=tolerance)


counted.__name__ = "exact"


@pytest.fixture(autouse=True)
def _forget() -> None:
    CALLS.clear()


def get(folder: Path, **changed):
    x, times = changed.pop("x", X), changed.pop("times", TIMES)
    identity = changed.pop("identity", PROBLEM.identity())
    return Cache(folder).get(counted, MODEL, x, changed.pop("schedule", VP), times, identity=identity, **changed)


def test_the_second_time_it_is_read(tmp_path):
    first = get(tmp_path / "new" / "folder")
    again = get(tmp_path / "new" / "folder")
    assert len(CALLS) == 1
    assert torch.equal(first.states, again.states)
    assert np.array_equal(first.times, again.times)
    for name in ("method", "tolerance", "difference", "converged", "nfe"):
        assert getattr(first, name) == getattr(again, name)
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"x": X + 1e-16 * X.sign() * X.abs().clamp(min=1)},
        {"x": X[:2]},
        {"x": X.float()},
        {"times": np.array([1.0, 0.1000000001])},
        {"times": np.array([1.0, 0.5, 0.1])},
        {"tolerance": 1e-7},
        {"identity": {"problem": "other"}},
        {"schedule": schedules.create("vp_linear", beta_max=20.001)},
    ],
    ids=["last bit", "samples", "dtype", "end", "more times", "tolerance", "model", "schedule"],
)
def test_anything_that_determines_it_makes_another(tmp_path, changed):
    get(tmp_path)
    changed_x = changed.get("x", X)
    assert changed_x is X or changed_x.shape != X.shape or not torch.equal(changed_x, X), "the change is one"
    get(tmp_path, **changed)
    assert len(CALLS) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_the_default_tolerance_is_the_same_as_that_given(tmp_path):
    get(tmp_path)
    get(tmp_path, tolerance=1e-6)
    assert len(CALLS) == 1


def test_the_code_and_the_version_are_part_of_the_name(monkeypatch):
    before = key(exact, X, VP, TIMES, {}, {})
    assert before != key(self_converged, X, VP, TIMES, {}, {})
    with monkeypatch.context() as patch:
        patch.setattr(reference_cache.pndm, "__version__", "0.0.0")
        assert before != key(exact, X, VP, TIMES, {}, {})
    monkeypatch.setattr(reference_cache, "_code", lambda: "other")
    assert before != key(exact, X, VP, TIMES, {}, {})


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: flip(data, len(data) - 3),
        lambda data: flip(data, data.index(b"nfe") + 6),
        lambda data: b"\x00" * len(data),
        lambda data: data.replace(b"difference", b"differencf"),
    ],
    ids=["empty", "truncated", "bit in the states", "bit in the header", "zeros", "missing entry"],
)
def test_a_damaged_file_is_computed_again(tmp_path, capsys, damage):
    right = get(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again = get(tmp_path)
    assert len(CALLS) == 2
    assert torch.equal(again.states, right.states)
    assert again.nfe == right.nfe
    assert "is damaged" in capsys.readouterr().err
    get(tmp_path)
    assert len(CALLS) == 2, "the file is whole again"


def test_a_file_under_another_name_is_not_taken(tmp_path, capsys):
    get(tmp_path)
    (path,) = tmp_path.iterdir()
    other = tmp_path / f"{key(counted, X, VP, TIMES, {}, {})}.safetensors"
    path.rename(other)
    get(tmp_path, identity={})
    assert len(CALLS) == 2
    assert "is damaged" in capsys.readouterr().err


def test_no_folder_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Cache(None).get(counted, MODEL, X, VP, TIMES, identity={})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_and_the_answer_given(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert get(tmp_path / "file" / "cache").nfe > 0
    assert "is not kept" in capsys.readouterr().err


def _write_many(folder: str, seconds: float) -> None:
    torch.set_num_threads(1)
    end = time.time() + seconds
    while time.time() < end:
        for path in Path(folder).glob("*.safetensors"):
            if os.getpid() % 2:
                path.unlink(missing_ok=True)
        found = get(Path(folder))
        assert found.states.shape == (2, 3, 2)


def test_many_writers_at_once_and_some_killed(tmp_path, capsys):
    right = get(tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(str(tmp_path), 1.5)) for _ in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.7)
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers[1:]:
        worker.join(30)
        assert worker.exitcode == 0
    workers[0].join(5)
    found = get(tmp_path)
    assert torch.equal(found.states, right.states)
    assert "damaged" not in capsys.readouterr().err
    assert not list(tmp_path.glob("*lock*"))


def test_what_killed_writers_left_is_removed(tmp_path):
    old, young = tmp_path / ".a.safetensors.1.tmp", tmp_path / ".b.safetensors.2.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    get(tmp_path)
    assert not old.exists(), "hours old: nobody is writing it"
    assert young.exists(), "somebody may be"
