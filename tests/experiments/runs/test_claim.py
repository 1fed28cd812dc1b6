"""A run is made once: skipped when done, made again when forced, and by one process at a time."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.runs import shards
from experiments.runs.claim import claimed
from tests.experiments.conftest import run_main

ROOT = Path(__file__).parents[3]
SMALL = ["solver=ddim", "steps=2", "samples=2", "progress=false"]
HOLDER = """
import sys, time
from pathlib import Path
from experiments.runs.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds a folder; returns when it does."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, folder, str(seconds)], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_run_that_is_done_is_not_made_again_unless_forced(monkeypatch, capsys, checkpoint, tmp_path):
    arguments = [*SMALL, f"model={checkpoint}", f"output={tmp_path}"]
    assert run_main(monkeypatch, *arguments) == 0
    made = (tmp_path / "record.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments, "progress=true") == 0
    assert f"done already: {tmp_path}" in capsys.readouterr().out
    assert (tmp_path / "record.json").stat().st_mtime_ns == made
    assert run_main(monkeypatch, "--force", *arguments) == 0
    assert (tmp_path / "record.json").stat().st_mtime_ns > made


def test_another_run_is_not_overwritten_unless_forced(monkeypatch, capsys, checkpoint, tmp_path):
    arguments = [*SMALL, f"model={checkpoint}", f"output={tmp_path}"]
    run_main(monkeypatch, *arguments)
    before = (tmp_path / "record.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch, *arguments, "seed=1")
    assert stop.value.code == 2
    assert "holds the result of another run, with other seed: choose another folder" in capsys.readouterr().err
    assert (tmp_path / "record.json").read_bytes() == before
    assert run_main(monkeypatch, *arguments, "seed=1", "--force") == 0
    assert json.loads((tmp_path / "record.json").read_text())["seed"] == 1


def test_a_refused_command_changes_nothing_in_the_folder(monkeypatch, checkpoint, tmp_path):
    arguments = [*SMALL, f"model={checkpoint}", f"output={tmp_path}"]
    run_main(monkeypatch, *arguments)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["record.json", "samples.png", "samples.safetensors"]
    with pytest.raises(SystemExit):
        run_main(monkeypatch, *arguments, "seed=1")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_record_is_named_and_made_again(monkeypatch, capsys, checkpoint, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, f"model={checkpoint}"]
    run_main(monkeypatch, *arguments)
    (path,) = tmp_path.glob("outputs/sample/*/record.json")
    path.write_text(path.read_text()[:-100])
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments) == 0
    assert f"made again: record {path} is truncated" in capsys.readouterr().out
    json.loads(path.read_text())


@pytest.mark.parametrize("change", [[], ["solver=plms"]])
def test_a_record_that_cannot_be_read_is_not_replaced_in_a_folder_of_ones_own(
    monkeypatch, capsys, checkpoint, tmp_path, change
):
    """The folder's name does not say that the result in it is of this run."""
    arguments = [*SMALL, f"model={checkpoint}", f"output={tmp_path}"]
    run_main(monkeypatch, *arguments)
    path = tmp_path / "record.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 1'))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch, *arguments, *change)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"run.py: output={tmp_path}: record {path} has schema 1, and this version reads schema 2: run it again; "
        "choose another folder, or --force replaces it\n"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run_main(monkeypatch, *arguments, *change, "--force") == 0
    assert json.loads(path.read_text())["schema"] == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "has no samples"),
        (lambda path: path.write_bytes(bytes(100)), "samples.safetensors cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "samples.safetensors cannot be read"),
        (lambda path: save_file({"x": torch.zeros(1, 1, 28, 28)}, path), "holds 1 samples and not 2"),
    ],
)
def test_samples_that_are_lost_or_damaged_are_made_again(monkeypatch, capsys, checkpoint, tmp_path, spoil, said):
    arguments = [*SMALL, f"model={checkpoint}", f"output={tmp_path}"]
    run_main(monkeypatch, *arguments)
    path = tmp_path / "samples.safetensors"
    whole = path.read_bytes()
    spoil(path)
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert said in printed.splitlines()[0]
    assert printed.startswith("made again: ")
    assert path.read_bytes() == whole


def test_a_lost_batch_of_many_samples_is_made_again(monkeypatch, capsys, checkpoint, tmp_path):
    monkeypatch.setattr(shards, "SMALL_BYTES", 0)
    arguments = [*SMALL, "batch=1", f"model={checkpoint}", f"output={tmp_path}"]
    run_main(monkeypatch, *arguments)
    path = tmp_path / "samples" / "00000001.safetensors"
    whole = load_file(path)["x"]
    path.unlink()
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.startswith(f"made again: {tmp_path} holds 1 samples and not 2")
    assert torch.equal(load_file(path)["x"], whole)
    assert run_main(monkeypatch, *arguments) == 0
    assert "done already" in capsys.readouterr().out


def test_a_sweep_is_skipped_point_by_point(monkeypatch, capsys, checkpoint, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", *SMALL, f"model={checkpoint}", "steps=2,3"]
    assert run_main(monkeypatch, *arguments) == 0
    (folder,) = (tmp_path / "multirun").iterdir()
    points = sorted(folder.glob("*/record.json"))
    assert len(points) == 2
    points[0].unlink()
    kept = points[1].stat().st_mtime_ns
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.count("done already: ") == 1
    assert sorted(folder.glob("*/record.json")) == points
    assert points[1].stat().st_mtime_ns == kept


def test_a_second_process_waits_and_leaves_no_lock(tmp_path, capsys):
    child = hold(tmp_path, 0.5)
    with claimed(tmp_path):
        assert child.wait(timeout=60) == 0
    assert "waiting: another process is making the run" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_held_is_free(tmp_path, capsys):
    child = hold(tmp_path, 600)
    child.send_signal(signal.SIGKILL)
    child.wait()
    began = time.monotonic()
    with claimed(tmp_path):
        pass
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_run_left_half_written_is_removed(tmp_path):
    left = [".record.json.0123abcd.tmp", "samples/.00000000.safetensors.0123abcd.tmp", "tensorboard/.a.0123abcd.tmp",
            "unet/.config.json.0123abcd.tmp"]  # fmt: skip
    others = [".mine.tmp", "samples/.mine.tmp", "another-run/.record.json.0123abcd.tmp"]
    for name in (*left, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp")) == sorted(others)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    from pndm.errors import OptionError

    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"), claimed(tmp_path / "file"):
        pass
