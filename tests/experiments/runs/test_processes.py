"""torchrun: the samples of one run, shared out over processes, are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.runs import shards
from tests.experiments.conftest import run_main

ROOT = Path(__file__).parents[3]


def run(*arguments: str, processes: int = 1, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    by_torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *(by_torchrun if processes > 1 else []), str(ROOT / "run.py"), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def states(out: Path) -> torch.Tensor:
    return torch.cat([x for _, x in shards.parts(out)])


def test_two_processes_draw_what_one_draws(checkpoint, tmp_path):
    arguments = [f"model={checkpoint}", "solver=ddpm", "steps=3", "samples=22", "batch=4", "progress=false"]
    for name, processes in (("one", 1), ("two", 2)):
        ran = run(*arguments, f"output={tmp_path / name}", processes=processes)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("nfe 3") == 1, "the first process alone speaks"
    one, two = tmp_path / "one", tmp_path / "two"
    assert torch.equal(states(one), states(two)), "not the same bits, though the batches are the same"
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    mine, theirs = (json.loads((out / "record.json").read_text()) for out in (one, two))
    assert (mine["key"], mine["nfe"], mine["samples"]) == (theirs["key"], theirs["nfe"], theirs["samples"])
    assert "done already" in run(*arguments, f"output={two}", processes=2).stdout


@pytest.mark.slow
def test_a_sweep_and_a_mistake_by_torchrun(checkpoint, tmp_path):
    arguments = [f"model={checkpoint}", "solver=ddim", "samples=6", "batch=2", "progress=false"]
    ran = run("-m", *arguments, "steps=2,3", f"hydra.sweep.dir={tmp_path}", processes=2)
    assert ran.returncode == 0, ran.stderr
    assert len(list(tmp_path.glob("*/record.json"))) == 2
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 3
    wrong = run("experiment=convergence", processes=2)
    assert wrong.returncode != 0
    assert wrong.stderr.count("run.py: experiment=convergence runs in one process") == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [("experiment=convergence", "runs in one process"), ("batch=auto", "batch=auto is for one process")],
)
def test_what_torchrun_does_not_share_out(monkeypatch, capsys, tmp_path, option, said):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_main(monkeypatch, option, f"output={tmp_path / 'out'}") == 2
    assert said in capsys.readouterr().err
