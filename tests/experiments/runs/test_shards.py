"""Samples on disk: a file a batch, that survives kills and full disks, and is read back in constant memory."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.runs import shards
from experiments.runs.shards import Shards
from pndm.errors import OptionError
from pndm.models.checkpoint import save_checkpoint
from pndm.models.unet import UNet, UNetConfig
from tests.experiments.conftest import run_main

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for 28x28 images that is as cheap as one can be: thousands of images a second on one core."""
    torch.manual_seed(0)
    network = UNet(
        UNetConfig(image_size=28, in_channels=1, channels=(4,), attention=(False,), blocks=1, patch=4, groups=2)
    )
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, network, half=False, schedule="linear", predicts="eps", data="fashion-mnist")
    return path


def command(model: Path, out: Path, samples: int, batch: int, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), f"model={model}", "solver=ddim", "steps=1", f"samples={samples}",
            f"batch={batch}", f"output={out}", "progress=false", *more]  # fmt: skip


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


def states(out: Path) -> torch.Tensor:
    return torch.cat([x for _, x in shards.parts(out)])


def kill_at_random(arguments: list[str], out: Path, kills: int, batches: int, seed: int = 0) -> int:
    """Run again and again, and SIGKILL each at a random moment after it has begun to write; how many were killed."""
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        before = len(list(out.glob("samples/*.safetensors")))
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        target = before + moments.randrange(1, max(2, batches // kills))
        while child.poll() is None and len(list(out.glob("samples/*.safetensors"))) < min(target, batches):
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        killed += child.returncode == -signal.SIGKILL
    return killed


def check_killed(tiny: Path, tmp_path: Path, samples: int, batch: int, kills: int) -> None:
    batches = samples // batch
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(tiny, whole, samples, batch), check=True, capture_output=True)
    again = command(tiny, parts, samples, batch)
    assert kill_at_random(again, parts, kills, batches) == kills
    assert not (parts / "record.json").exists()
    ran = subprocess.run(again, check=True, capture_output=True, text=True)
    assert "done already" not in ran.stdout
    assert torch.equal(states(parts), states(whole))
    assert states(parts).shape == (samples, 1, 28, 28)
    assert names(parts) == names(whole), "something is left over, or missing"
    assert not [name for name in names(whole) if name.endswith((".tmp", ".lock"))]
    mine, theirs = (json.loads((out / "record.json").read_text()) for out in (parts, whole))
    assert mine["key"] == theirs["key"]
    assert (mine["nfe"], mine["samples"]) == (theirs["nfe"], theirs["samples"])


def test_two_kills_lose_nothing(tiny, tmp_path, monkeypatch):
    check_killed(tiny, tmp_path, samples=2000, batch=50, kills=2)


@pytest.mark.slow
def test_20_kills_of_50000_samples_lose_nothing(tiny, tmp_path):
    check_killed(tiny, tmp_path, samples=50_000, batch=250, kills=20)


PEAK = """
import sys
from pathlib import Path
from experiments import command_line
sys.argv[1:] = sys.argv[2:]
assert command_line.main() == 0
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def peak(arguments: list[str]) -> int:
    ran = subprocess.run([sys.executable, "-c", PEAK, *arguments[1:]], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout.split("VmHWM:")[1].split()[0])  # of this process alone: getrusage begins at its parent's


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["none", "frechet_features"])
def test_memory_does_not_grow_with_samples(tiny, tmp_path, metric):
    few, many = (peak(command(tiny, tmp_path / str(n), n, 250, f"metric={metric}")) for n in (5_000, 50_000))
    print(f"\npeak memory, metric={metric}: {few} KiB at 5000 samples, {many} KiB at 50000: {many / few:.3f} times")
    assert many <= 1.1 * few


@pytest.fixture
def written(tmp_path: Path) -> Shards:
    """Ten samples in batches of four."""
    made = Shards(tmp_path, "the key", 10, 4)
    for indices in made.batches:
        made.write(indices, torch.arange(10.0)[indices.start : indices.stop].view(-1, 1), 7, 0.25)
    return made


def test_what_is_missing(written, tmp_path):
    assert written.missing() == [False, False, False]
    assert written.cost() == (7, 0.75)
    path = tmp_path / "samples" / "00000004.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert written.missing() == [False, True, False]
    with pytest.raises(OptionError, match="another run"):
        Shards(tmp_path, "another key", 10, 4).missing()


def test_samples_are_read_back_in_order_and_parts(written, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PART", 3)
    for _ in ("a file a batch", "one file"):
        read = list(shards.parts(tmp_path))
        assert [i for indices, _ in read for i in indices] == list(range(10))
        assert torch.equal(torch.cat([x for _, x in read]).flatten(), torch.arange(10.0))
        assert max(len(x) for _, x in read) <= 3
        assert torch.equal(shards.first(tmp_path, 5).flatten(), torch.arange(5.0))
        assert len(shards.first(tmp_path, 50)) == 10
        written.put_together()
    assert (tmp_path / "samples").exists(), "the batches stay until the record is there"
    shards.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.safetensors"]


def test_samples_of_many_bytes_stay_apart(written, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL_BYTES", 39)
    written.put_together()
    shards.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_reading_what_is_not_whole(written, tmp_path):
    (tmp_path / "samples" / "00000004.safetensors").unlink()
    with pytest.raises(OptionError, match="lacks samples from 4 on"):
        list(shards.parts(tmp_path))
    (tmp_path / "samples" / "00000000.safetensors").write_bytes(b"short")
    with pytest.raises(OptionError, match="cannot be read"):
        list(shards.parts(tmp_path))
    shards.clear(tmp_path)
    with pytest.raises(OptionError, match="has no samples"):
        list(shards.parts(tmp_path))


def test_samples_of_another_unfinished_run_are_not_overwritten(monkeypatch, capsys, tiny, tmp_path):
    arguments = command(tiny, tmp_path, 100, 50)[2:]
    assert run_main(monkeypatch, *arguments) == 0
    whole = load_file(tmp_path / "samples.safetensors")["x"]
    Shards(tmp_path, "another key", 100, 50).write(range(50), whole[:50], 1, 0.1)
    (tmp_path / "record.json").unlink()
    with pytest.raises(SystemExit):
        run_main(monkeypatch, *arguments)
    assert "holds samples of another run, which is not done" in capsys.readouterr().err
    assert run_main(monkeypatch, *arguments, "--force") == 0
    assert torch.equal(load_file(tmp_path / "samples.safetensors")["x"], whole)


def test_a_full_disk_is_one_sentence_and_loses_nothing(monkeypatch, capsys, tiny, tmp_path):
    """The disk refuses the third of four batches, half of which is on it already."""
    arguments = [*command(tiny, tmp_path, 100, 25)[2:], "--force"]
    assert run_main(monkeypatch, *arguments) == 0
    capsys.readouterr()  # that a network with random weights diverges
    whole = states(tmp_path)
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SystemExit) as stop:
            run_main(patch, *arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "00000050.safetensors cannot be written (No space left on device); the same command goes on" in said
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "00000000.safetensors", "00000025.safetensors",
    ]  # fmt: skip
    assert run_main(monkeypatch, *arguments[:-1]) == 0
    assert torch.equal(states(tmp_path), whole)


def test_a_disk_without_room_is_refused_before_anything_runs(monkeypatch, capsys, tiny, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    assert run_main(monkeypatch, *command(tiny, tmp_path / "out", 100, 25)[2:]) == 2
    assert "is full: 5000 bytes are left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
