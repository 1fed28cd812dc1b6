"""experiment=trajectory in miniature: what it measures along the paths, its pictures, and what it refuses."""

import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.studies import trajectory, trajectory_gif
from pndm import data
from pndm.errors import OptionError
from tests.experiments.conftest import run_main

SMALL = ["experiment=trajectory", "samples=8", "steps=12", "experiment.cache=null"]


@pytest.fixture(scope="module", autouse=True)
def _miniature():
    """Few frames, and few times on the exact curve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectory_gif, "FRAMES", 1)
        patch.setattr(trajectory, "BETWEEN", 20)
        yield


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[dict, Path, str]:
    """The record, the folder and what was printed of one run."""
    out = tmp_path_factory.mktemp("trajectory")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        code = run_main(
            patch, *SMALL, "problem.dimension=6", "problem.patches=64", "steps=40", f"output={out}",
        )  # fmt: skip
    assert code == 0
    return json.loads((out / "record.json").read_text()), out, printed.getvalue()


def test_the_papers_point_fon_leaves_the_manifold_at_the_end_and_plms_does_not(outcome):
    record, _, _ = outcome
    ends = {label: of["distance"][-1] for label, of in record["solvers"].items()}
    assert ends["fon"] > 20 * ends["plms"]
    assert ends["plms"] < 1e-2
    errors = {label: of["path_error"][-1] for label, of in record["solvers"].items()}
    assert errors["fon"] > 3 * errors["plms"]
    late, early = record["curves"]["slope"][-1], record["curves"]["slope"][0]
    assert late > 100 * early, "dx/dt grows without bound"
    assert max(record["curves"]["eps"]) < 2, "eps does not"


def test_measures_of_the_exact_path(outcome):
    record, _, _ = outcome
    exact = record["exact"]
    assert exact["path_error"] == [0.0] * 41
    half = np.array(record["band"][:30])
    assert np.all(np.abs(np.array(exact["norm_ratio"][:30]) - 1) < 2 * half)
    assert exact["distance"][-1] < 5e-3
    for of in record["solvers"].values():
        assert of["path_error"][0] < 1e-14
        assert len(of["norm_ratio"]) == len(record["times"]) == 41
        assert sorted(of["end_distances"]) == of["end_distances"]
    assert record["nfe"] == {"ddim": 40, "s_pndm": 41, "plms": 49, "fon": 49}


def test_files(outcome):
    record, out, printed = outcome
    for name in ("norm.png", "near_end.png", "distance.png", "norm.svg", "near_end.svg", "distance.svg"):
        assert (out / name).stat().st_size > 1000
    with open(out / "trajectory.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 41
    assert {row["solver"] for row in rows} == {"exact", *record["solvers"]}
    assert "end to manifold" in printed
    with Image.open(out / "flow.gif") as animation:
        assert animation.n_frames == 41
        assert animation.info["loop"] == 0
        first = np.array(animation.convert("RGB"))
        animation.seek(animation.n_frames - 1)
        last = np.array(animation.convert("RGB"))
    assert first.shape == last.shape
    assert (first != last).any()


def test_a_problem_without_a_manifold(monkeypatch, tmp_path, capsys):
    solvers = "experiment.solvers=[ddim,{name: rho_ab, order: 2}]"
    pair = "experiment.pair=[ddim,'rho_ab order=2']"
    code = run_main(monkeypatch, *SMALL, "problem=mixture", solvers, pair, "t_end=0.01", f"output={tmp_path}")
    assert code == 0
    assert not (tmp_path / "distance.png").exists()
    assert (tmp_path / "flow.gif").exists()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["exact"]["distance"] is None
    assert list(record["curves"]["solvers"]) == ["ddim", "rho_ab order=2"]
    assert "end to manifold" not in capsys.readouterr().out.splitlines()[0]


@pytest.mark.usefixtures("short_reference")
def test_a_network(monkeypatch, tmp_path, checkpoint, capsys):
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    monkeypatch.setattr(data, "load", lambda name: data.Dataset(images, torch.zeros(20), name, ()))
    code = run_main(
        monkeypatch, *SMALL, "problem=none", f"model={checkpoint}", "samples=2", "experiment.tolerance=0.05",
        "t_start=300", "experiment.solvers=[ddim,plms]", "experiment.pair=[ddim,plms]", f"output={tmp_path}",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["times"][-1] == 0.0, "the least noise that the network knows"
    assert not (tmp_path / "flow.gif").exists()
    assert record["band"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["experiment.pair=[fon]"],
            "experiment.pair=['fon'] must be two of experiment.solvers: ddim, s_pndm, plms, fon",
        ),
        (["experiment.pair=[fon,prk]"], "must be two of experiment.solvers"),
        (["experiment.solvers=[adaptive,plms]"], "solver 'adaptive' chooses its own steps"),
        (["experiment.solvers=[ddpm,plms]"], "draws noise on the way"),
        (["solver=plms"], "solver= has no effect in experiment=trajectory"),
        (["steps=0"], "steps=0 must be a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, said):
    assert run_main(monkeypatch, "experiment=trajectory", *arguments, f"output={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_states_between_those_of_the_grid():
    path = np.arange(6.0).reshape(3, 1, 2)
    found = trajectory_gif._between(path, np.array([0.0, 0.5, 1.0, 1.75, 2.0]))
    assert np.allclose(found[:, 0, 0], [0.0, 1.0, 2.0, 3.5, 4.0])


def test_problem_errors_come_before_the_run(monkeypatch, capsys, tmp_path):
    def absent(*args):
        raise OptionError("data are not here")

    monkeypatch.setattr("pndm.data.load", absent)
    assert run_main(monkeypatch, "experiment=trajectory", "problem=dataset", f"output={tmp_path / 'out'}") == 2
    assert "data are not here" in capsys.readouterr().err
