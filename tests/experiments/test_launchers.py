"""Sweeps on more than one worker: Ray on a cluster of two nodes, one of which dies; submitit."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import checks
from experiments.runs import records
from tests.experiments.conftest import run_main
from tests.experiments.runs.test_identity import composed

ROOT = Path(__file__).parents[2]


def command(folder: Path, launcher: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), "-m", f"hydra/launcher={launcher}", "solver=ddim", "progress=false",
            f"hydra.sweep.dir={folder}", *arguments]  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of Ray with a head and no more, on this machine."""
    utils = pytest.importorskip("ray.cluster_utils")
    head = {"num_cpus": 1, "include_dashboard": False}
    made = utils.Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def environment(cluster: Any) -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}


def points(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/record.json"))


@pytest.mark.slow
def test_a_sweep_on_ray_survives_the_death_of_a_node(cluster, checkpoint, tmp_path):
    node = cluster.add_node(num_cpus=1)
    arguments = command(tmp_path, "ray", f"model={checkpoint}", "samples=400", "batch=20", "steps=range(20,32)")
    sweep = subprocess.Popen(arguments, env=environment(cluster), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    deadline = time.monotonic() + 300
    while len(points(tmp_path)) < 3:
        assert sweep.poll() is None, sweep.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = len(points(tmp_path))
    cluster.remove_node(node, allow_graceful=False)
    printed, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, printed
    assert before < 12, "the node died too late to matter"
    assert [records.read_record(path)["steps"] for path in points(tmp_path)] == list(range(20, 32))
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 13
    assert not [path for path in tmp_path.rglob("*") if path.name == ".lock" or path.suffix == ".tmp"]
    assert not list(tmp_path.glob("*/samples")), "batches of a point that was taken up again are left over"


@pytest.mark.slow
def test_a_sweep_by_submitit(checkpoint, tmp_path):
    """Its executor on this machine: the same plugin, jobs and folders as on Slurm, without a queue."""
    pytest.importorskip("submitit")
    arguments = command(tmp_path, "submitit_local", f"model={checkpoint}", "samples=4", "steps=2,3")
    ran = subprocess.run(arguments, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(path.read_text())["steps"] for path in points(tmp_path)] == [2, 3]
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 3
    wrong = subprocess.run(
        command(tmp_path, "submitit_local", "model=none.safetensors"), capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "run.py: model none.safetensors: there is no such file" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_ready_configurations():
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    ray = composed("hydra/launcher=ray").hydra.launcher
    assert (ray.ray.remote.num_cpus, ray.ray.init.address, ray.ray.init.object_store_memory) == (1, None, None)
    slurm = composed("hydra/launcher=slurm", "hydra.launcher.partition=gpu").hydra.launcher
    assert slurm._target_.endswith("SlurmLauncher")
    assert (slurm.partition, slurm.max_num_timeout) == ("gpu", 20)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_launcher_that_is_not_installed_is_one_sentence(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, checks.PLUGINS[name], None)
    assert run_main(monkeypatch, "-m", f"hydra/launcher={name}", "steps=2,3") == 2
    assert capsys.readouterr().err == (f"run.py: hydra/launcher={name} is not installed: pip install 'pndm[{name}]'\n")


def test_slurm_where_there_is_none(monkeypatch, capsys, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_main(monkeypatch, "-m", "hydra/launcher=slurm", "steps=2,3") == 2
    assert "needs Slurm, and this machine has no srun" in capsys.readouterr().err
