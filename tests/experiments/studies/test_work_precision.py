"""experiment=work_precision in miniature: its costs, its front, its tables, and what it refuses."""

import csv
import io
import json
import math
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.studies import work_precision
from tests.experiments.conftest import run_main

SMALL = ["experiment=work_precision", "samples=4", "progress=false", "experiment.cache=null", "experiment.repeats=1"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[dict, Path, str]:
    """The record, the folder and what was printed of one run."""
    out = tmp_path_factory.mktemp("work_precision")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        code = run_main(
            patch, *SMALL, "problem=mixture", "experiment.solvers=[ddim,plms,{name: deis, order: 4},adaptive,prk]",
            "experiment.grids=[uniform,{name: karras, power: 3}]", "experiment.evaluations=[5,10,20,50]",
            "experiment.tolerances=[0.01,0.001]", f"output={out}",
        )  # fmt: skip
    assert code == 0
    return json.loads((out / "record.json").read_text()), out, printed.getvalue()


def test_runs_spend_what_the_budget_pays_for(outcome):
    record, _, _ = outcome
    spent = {}
    for row in record["rows"]:
        spent.setdefault((row["solver"], row["grid"]), []).append((row["nfe"], row["steps"]))
    assert spent["ddim", "uniform"] == [(5, 5), (10, 10), (20, 20), (50, 50)]
    assert spent["plms", "karras power=3"] == [(4, 1), (8, 2), (20, 11), (50, 41)]
    assert spent["prk", "uniform"] == [(4, 1), (8, 2), (20, 5), (48, 12)]
    assert [steps for _, steps in spent["adaptive", "own steps"]] == [None, None]
    assert len(spent) == 9, "each solver on each grid, and the adaptive one on its own steps"


def test_the_front_is_that_of_the_points(outcome):
    record, _, _ = outcome
    rows = record["rows"]
    for cost in ("nfe", "seconds"):
        front = sorted((row for row in rows if row[f"pareto_{cost}"]), key=lambda row: row[cost])
        assert all(a["error"] >= b["error"] for a, b in pairwise(front))
        for row in rows:
            beaten = any(
                (other[cost] <= row[cost] and other["error"] < row["error"])
                or (other[cost] < row[cost] and other["error"] <= row["error"])
                for other in rows
            )
            assert row[f"pareto_{cost}"] != beaten


def test_files_and_tables(outcome):
    record, out, printed = outcome
    with open(out / "work_precision.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["error"]) for row in rows] == [row["error"] for row in record["rows"]]
    for name in ("work_precision.png", "work_precision.svg", "grids.png", "grids.svg"):
        assert (out / name).stat().st_size > 1000
    assert "evaluations needed to reach an error of" in printed
    assert "least error within a budget of evaluations" in printed
    assert "deis order=4" in printed
    assert [entry["evaluations"] for entry in record["best"]] == [5, 10, 20, 50]
    for entry in record["best"]:
        within = [row for row in record["rows"] if row["nfe"] <= entry["evaluations"]]
        assert entry["best"]["error"] == min(row["error"] for row in within)
        assert entry["next"]["solver"] != entry["best"]["solver"]


@pytest.mark.usefixtures("short_reference")
def test_a_network_against_its_self_converged_reference(monkeypatch, tmp_path, checkpoint, capsys):
    code = run_main(
        monkeypatch, *SMALL, f"model={checkpoint}", "experiment.solvers=[ddim,plms]", "experiment.grids=[trailing]",
        "experiment.evaluations=[5,15]", "samples=2", "experiment.tolerance=0.05", "t_start=300",
        f"output={tmp_path}",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["target"]["name"] == checkpoint.stem
    assert record["reference"]["method"].startswith("adams_bashforth")
    assert all(row["error"] > 0 and row["seconds"] > 0 for row in record["rows"])


def test_the_table_is_silent_below_the_references_own_error():
    entry = {"0.1": 5.0, "0.01": 12.34, "0.001": None, "0.0001": 20.0, "at_most": ["0.1"]}
    assert [work_precision.cell(entry, name, 5e-4) for name in ("0.1", "0.01", "0.001", "0.0001")] == [
        "<=5.0", "12.3", "-", "?",
    ]  # fmt: skip


def test_crossing_is_straight_in_the_logarithms():
    curve = [(10, 1e-1), (20, 1e-3), (40, 1e-5)]
    assert work_precision.crossing(curve, 1e-1) == 10
    assert work_precision.crossing(curve, 1.0) == 10
    assert work_precision.crossing(curve, 1e-2) == pytest.approx(10 * math.sqrt(2))
    assert work_precision.crossing(curve, 1e-3) == pytest.approx(20)
    assert work_precision.crossing(curve, 1e-4) == pytest.approx(20 * math.sqrt(2))
    assert work_precision.crossing(curve, 1e-6) is None
    assert work_precision.crossing([(10, 1e-1), (20, 0.0)], 1e-2) < 20


def test_pareto():
    points = [(1, 9.0), (2, 5.0), (2, 4.0), (3, 4.0), (4, 1.0), (5, 2.0), (4, 1.0)]
    assert work_precision.pareto(points) == [True, False, True, False, True, False, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiment.solvers=[sde_dpmpp_2m]"], "draws noise on the way"),
        (["experiment.grids=[kerras]"], "did you mean 'karras'?"),
        (["experiment.grids=[]"], "give at least one grid"),
        (["experiment.grids=[{name: karras, power: -1}]"], "power=-1 must be positive"),
        (["experiment.grids=[trailing]", "problem=mixture"], "needs a schedule with training steps"),
        (["experiment.evaluations=[0,5]"], "must be whole numbers from 1"),
        (["experiment.evaluations=[]"], "must be whole numbers from 1"),
        (["experiment.tolerances=[0.1,0]"], "must be positive"),
        (["experiment.repeats=0"], "experiment.repeats=0 must be at least 1"),
        (["grid=karras"], "grid= has no effect in experiment=work_precision: use experiment.grids=[uniform]"),
        (["experiment.tolerance=-1"], "experiment.tolerance=-1.0 must be positive"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, said):
    assert run_main(monkeypatch, "experiment=work_precision", *arguments, f"output={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_missing(monkeypatch, capsys, tmp_path):
    assert run_main(monkeypatch, *SMALL, "model=nowhere/model.safetensors", f"output={tmp_path / 'out'}") == 2
    assert "nowhere/model.safetensors: there is no such file" in capsys.readouterr().err


def test_denoise_pays_an_evaluation_and_goes_to_the_clean_end(monkeypatch, tmp_path, capsys):
    errors = {}
    for denoise in ("true", "false"):
        code = run_main(
            monkeypatch, *SMALL, "problem=mixture", "experiment.solvers=[ddim]", "experiment.grids=[uniform]",
            "experiment.evaluations=[10]", f"t_end={0.01 if denoise == 'true' else 0}", f"denoise={denoise}",
            f"output={tmp_path / denoise}",
        )  # fmt: skip
        assert code == 0
        (row,) = json.loads((tmp_path / denoise / "record.json").read_text())["rows"]
        assert (row["nfe"], row["steps"]) == (10, 9 if denoise == "true" else 10)
        errors[denoise] = row["error"]
    assert errors["true"] != errors["false"]
    assert "t from 1 to 0.01 and denoised" in capsys.readouterr().out


def test_denoise_at_the_clean_end_is_refused(monkeypatch, tmp_path, capsys):
    assert run_main(monkeypatch, *SMALL, "problem=mixture", "t_end=0", "denoise=true", f"output={tmp_path}") == 2
    assert "denoise=true has nothing to do" in capsys.readouterr().err
