"""TensorBoard's event files say what the record says, read by TensorBoard itself."""

import importlib
import sys
from pathlib import Path

import pytest

from experiments.runs import records
from tests.experiments.conftest import run_main


def read_events(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """The scalars by tag, and the tags of images, of the one event file of a run."""
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    (path,) = (run / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(path), {accumulator.SCALARS: 0}).Reload()
    tags = events.Tags()
    assert "_hparams_/session_start_info" in events.summary_metadata or "loss/training" in tags["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}, tags["images"]


def test_a_sampling_run(monkeypatch, capsys, checkpoint, tmp_path):
    pytest.importorskip("tensorboard")
    arguments = [f"model={checkpoint}", "solver=ddim", "steps=3", "samples=200", "batch=100", "progress=false",
                 "metric=frechet_features", f"output={tmp_path}"]  # fmt: skip
    assert run_main(monkeypatch, *arguments) == 0
    assert not (tmp_path / "tensorboard").exists()
    for again in ([], ["--force"]):  # also of a run that was done without
        assert run_main(monkeypatch, *arguments, "tensorboard=true", *again) == 0
        record = records.read_record(tmp_path / "record.json")
        scalars, images = read_events(tmp_path)
        assert images == ["samples"]
        for name in ("nfe", "seconds", "seconds_per_image"):
            assert scalars[f"cost/{name}"] == [(3, pytest.approx(record[name]))]
        for name, metric in record["metrics"].items():
            assert scalars[f"metrics/{name}"] == [(3, pytest.approx(metric["value"]))]
            assert scalars[f"metrics/{name}_high"] == [(3, pytest.approx(metric["high"]))]


def test_bad_input(monkeypatch, capsys, tmp_path):
    arguments = ("tensorboard=true", f"output={tmp_path / 'out'}")
    assert run_main(monkeypatch, "experiment=convergence", *arguments) == 2
    assert "tensorboard=true is for experiment=sample and train" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run_main(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == "run.py: tensorboard=true needs a package: pip install 'pndm[tensorboard]'\n"
