"""The answer to which solver: the ranking against errors measured by hand, the command that it prints, and refusals."""

import json

import pytest

from experiments.runs import records
from tests.experiments.conftest import run_main

QUICK = ("experiment=which_solver", "samples=4", "experiment.tolerance=0.02", "experiment.cache=null")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["budget=0"], "budget=0 must be at least 1 evaluation"),
        (["steps=5"], "steps= has no effect in experiment=which_solver: use budget=10"),
        (["experiment.solvers=[pf_ode]"], "solver 'pf_ode' chooses its own steps"),
        (["experiment.solvers=[ddpm]"], "draws noise on the way"),
        (["experiment.solvers=[plsm]"], "did you mean 'plms'?"),
        (["samples=1"], "samples=1 is too few to tell solvers apart"),
        (["problem=circle"], "is for networks"),
        (["experiment=paper_table", "metric=[paired,kdi]"], "did you mean 'kid'?"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, said):
    assert run_main(monkeypatch, "experiment=which_solver", *arguments, f"output={tmp_path / 'out'}") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_it_prints_gives_the_error_it_says(monkeypatch, capsys, checkpoint, tmp_path, short_reference):
    assert run_main(monkeypatch, *QUICK, "budget=9", f"model={checkpoint}", f"output={tmp_path / 'which'}",
                    "experiment.solvers=[ddim,plms,{name: deis, order: 2}]", "experiment.grids=[uniform,quadratic]",
                    ) == 0  # fmt: skip
    record = records.read_record(tmp_path / "which" / "record.json")
    rows = record["rows"]
    assert [row["error"] for row in rows] == sorted(row["error"] for row in rows)
    assert {row["solver"] for row in rows} == {"ddim", "plms", "deis order=2"}
    assert max(row["nfe"] for row in rows) == 9
    assert rows[0]["as_good"]
    shown = capsys.readouterr().out
    assert f"use: {record['command']}\n" in shown
    arguments = record["command"].removeprefix("python run.py ").split()
    assert run_main(monkeypatch, *arguments, "samples=4", "metric=paired", "metric.paired.tolerance=0.02",
                    f"output={tmp_path / 'run'}") == 0  # fmt: skip
    again = json.loads((tmp_path / "run" / "record.json").read_text())
    assert again["metrics"]["paired_rmse"]["value"] == pytest.approx(rows[0]["error"], rel=1e-3)
