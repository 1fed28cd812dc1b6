"""experiment=convergence in miniature, and what it refuses."""

import csv
import io
import json
import math
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import pndm
from tests.experiments.conftest import run_main

SMALL = ["experiment=convergence", "samples=6", "progress=false"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[dict, Path, str]:
    """The record, the folder and what was printed of one run."""
    out = tmp_path_factory.mktemp("convergence")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        steps = "experiment.steps=[20,40,80,160]"
        solvers = "experiment.solvers=[ddim,prk,rk4,{name: rho_ab, order: 3, startup: rk}]"
        code = run_main(patch, *SMALL, solvers, steps, f"output={out}", f"experiment.cache={out / 'cache'}")
    assert code == 0
    return json.loads((out / "record.json").read_text()), out, printed.getvalue()


def test_orders_are_those_of_the_theory(outcome):
    record, _, _ = outcome
    orders = {entry["solver"]: entry for entry in record["orders"]}
    for solver, expected in {"ddim": 1, "prk": 2, "rk4": 4, "rho_ab order=3 startup=rk": 3}.items():
        found = orders[solver]["order"]
        assert found["value"] == pytest.approx(expected, abs=0.25)
        assert found["low"] <= found["value"] <= found["high"]
        assert orders[solver]["local_order"]["value"] == pytest.approx(expected + 1, abs=0.25)
        assert orders[solver]["documented"] == expected


def test_record_says_everything(outcome):
    record, _, _ = outcome
    assert record["target"] == {"name": "mixture", "problem": "mixture"}
    assert record["reference"]["method"].startswith("DOP853")
    assert record["reference"]["tolerance"] == 1e-12
    assert record["reference"]["difference"] < 1e-10
    assert (record["samples"], record["dimension"], record["dtype"]) == (6, 2, "float64")
    assert (record["t_start"], record["t_end"]) == (1.0, 0.01)
    assert {"versions", "git_commit", "device", "config", "seconds", "floor"} <= set(record)
    assert len(record["rows"]) == 16
    for row in record["rows"]:
        evaluations = 4 if row["solver"] in ("prk", "rk4") else 1
        start_up = 6 if "rho_ab" in row["solver"] else 0
        assert row["nfe"] == evaluations * row["steps"] + start_up
        assert 0 < row["median_error"]
        assert 0 < row["local_error"] < row["error"]


def test_files_and_table(outcome):
    record, out, printed = outcome
    with open(out / "convergence.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["error"]) for row in rows] == [row["error"] for row in record["rows"]]
    for name in ("convergence.png", "convergence.svg", "local.png", "local.svg", "record.json"):
        assert (out / name).stat().st_size > 1000
    lines = printed.splitlines()
    for solver in ("ddim", "prk", "rk4", "rho_ab order=3 startup=rk"):
        assert any(line.startswith(solver) for line in lines)
    assert any("DOP853" in line for line in lines)
    assert len(list((out / "cache").glob("*.safetensors"))) == 2


@pytest.mark.usefixtures("short_reference")
def test_a_network_has_no_local_error_and_a_self_converged_reference(monkeypatch, tmp_path, checkpoint, capsys):
    code = run_main(
        monkeypatch, *SMALL, "problem=none", f"model={checkpoint}", "experiment.solvers=[ddim]", "samples=2",
        "experiment.steps=[4,8,16]", f"output={tmp_path}", "experiment.cache=null", "experiment.tolerance=0.05",
        "t_start=300", "dtype=float32",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["reference"]["method"].startswith("adams_bashforth")
    assert record["reference"]["nfe"] >= 46
    assert len(record["target"]["weights"]) == 64
    assert all(row["local_error"] is None and row["error"] > 0 for row in record["rows"])
    assert not (tmp_path / "local.png").exists()


def test_float32_has_a_higher_floor(monkeypatch, tmp_path, capsys):
    code = run_main(
        monkeypatch, *SMALL, "dtype=float32", "experiment.solvers=[rk4]", "experiment.steps=[20,80,160,320]",
        f"output={tmp_path}", "experiment.cache=null",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert 1e-7 < record["floor"] < 1e-5
    assert record["rows"][-1]["error"] < 3 * record["floor"]
    assert record["orders"][0]["order"] is None, "three points above the floor there are not"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiment.solvers=[plsm]"], "unknown solver 'plsm': did you mean 'plms'?"),
        (["experiment.solvers=[]"], "give at least one solver"),
        (["experiment.solvers=[ddim,ddim]"], "solver 'ddim' is listed twice"),
        (["experiment.solvers=[{order: 3}]"], "must be a name, or options with a name"),
        (["experiment.solvers=[3]"], "must be a name, or options with a name"),
        (["experiment.solvers=[{name: plms, bar: 3}]"], "solver 'plms' has no option 'bar'"),
        (["experiment.solvers=[ddpm]"], "solver 'ddpm' draws noise on the way"),
        (["experiment.solvers=[pf_ode]"], "solver 'pf_ode' chooses its own steps"),
        (["experiment.steps=[10,20]"], "at least three different whole numbers"),
        (["experiment.steps=[10,20,20]"], "at least three different whole numbers"),
        (["experiment.steps=[0,10,20]"], "at least three different whole numbers"),
        (["experiment.tolerance=0"], "experiment.tolerance=0.0 must be positive"),
        (["problem=circel"], "did you mean 'circle'?"),
        (["problem=circle", "problem.dimension=1"], "dimension=1 must be at least 2"),
        (["problem=circle", "problem.dimensions=3"], "there is no option 'problem.dimensions'"),
        (["solver=plms"], "solver= has no effect in experiment=convergence: use experiment.solvers=[plms]"),
        (["steps=50"], "steps= has no effect in experiment=convergence"),
        (["dtype=bfloat16"], "dtype=bfloat16 is not for exact problems"),
        (["grid=trailing"], "needs a schedule with training steps"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, said):
    assert run_main(monkeypatch, "experiment=convergence", *arguments, f"output={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_problem_is_refused_where_images_are_drawn(monkeypatch, capsys, tmp_path):
    assert run_main(monkeypatch, "experiment=sample", "problem=circle", f"output={tmp_path / 'out'}") == 2
    assert "problem=circle is for experiment=convergence" in capsys.readouterr().err


def test_a_run_that_blows_up_is_a_row_without_error(monkeypatch, tmp_path, capsys):
    from experiments.studies import convergence

    def explode(*args, **kwargs):
        raise convergence.ModelError("the model returned NaN")

    monkeypatch.setattr(pndm, "solve", explode)
    code = run_main(
        monkeypatch, *SMALL, "experiment.solvers=[ddim]", "experiment.steps=[5,10,20]", f"output={tmp_path}",
        "experiment.cache=null", "experiment.local=false",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert all(row["error"] is None and row["nfe"] is None for row in record["rows"])
    assert record["orders"][0]["order"] is None
    assert math.isfinite(record["floor"])
