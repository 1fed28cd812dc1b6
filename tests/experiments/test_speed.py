"""speed=fast and batch=auto through run.py, in miniature and without a compiler."""

import json

import pytest

from pndm.models import fast, memory
from tests.experiments.conftest import run_main


def record_of(monkeypatch, tmp_path, checkpoint, *arguments):
    options = [f"model={checkpoint}", "steps=5", "progress=false", f"output={tmp_path}", *arguments]
    assert run_main(monkeypatch, *options) == 0
    return json.loads((tmp_path / "record.json").read_text())


def test_exact_is_the_default(monkeypatch, tmp_path, checkpoint):
    record = record_of(monkeypatch, tmp_path, checkpoint, "samples=3")
    assert record["speed"] == {"mode": "exact"}


@pytest.mark.filterwarnings("ignore:no C")
@pytest.mark.parametrize("bfloat16", [True, False])
def test_fast_reports_its_error_in_the_images(monkeypatch, tmp_path, checkpoint, capsys, bfloat16):
    monkeypatch.setattr(fast, "has_compiler", lambda device: False)
    monkeypatch.setattr(fast, "has_bfloat16", lambda device: bfloat16)
    speed = record_of(monkeypatch, tmp_path, checkpoint, "samples=6", "batch=6", "speed=fast")["speed"]
    assert (speed["mode"], speed["bfloat16"], speed["compiled"]) == ("fast", bfloat16, False)
    assert speed["image_error_samples"] == 4
    assert speed["image_error_rms"] <= speed["image_error_max"]
    assert (1e-5 < speed["image_error_rms"] < 0.1) if bfloat16 else speed["image_error_max"] < 1e-4
    assert "off by" in capsys.readouterr().out


def test_automatic_batch(monkeypatch, tmp_path, checkpoint):
    monkeypatch.setattr(memory, "bytes_per_sample", lambda network, shape: 1000)
    monkeypatch.setattr(memory, "total_bytes", lambda device: 18_000)
    record = record_of(monkeypatch, tmp_path, checkpoint, "samples=6", "batch=auto")
    assert (record["config"]["batch"], record["batch"]) == ("auto", 4)
    assert record["samples"] == 6


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("speed=quick", "unknown speed 'quick'"),
        ("batch=0", "batch=0 must be a whole number of at least 1, or auto"),
        ("batch=some", "batch=some must be a whole number of at least 1, or auto"),
        ("batch=2.5", "batch=2.5 must be a whole number of at least 1, or auto"),
        ("autocast=true", "unknown option 'autocast'"),
    ],
)
def test_refused_in_one_sentence(monkeypatch, tmp_path, capsys, argument, sentence):
    assert run_main(monkeypatch, argument, f"output={tmp_path}") == 2
    assert sentence in capsys.readouterr().err
