"""run.py: what it refuses, in which words, and with which exit code; what it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments import command_line
from experiments.config import composing, schema
from pndm.models.checkpoint import save_checkpoint
from pndm.models.unet import UNet
from tests.experiments.conftest import SMALL

ROOT = Path(__file__).parent.parent.parent


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return command_line.main()


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["solver=plsm"], "unknown solver 'plsm': did you mean 'plms'?"),
        (["schedule=liner"], "did you mean 'linear'?"),
        (["grid=unifrom"], "did you mean 'uniform'?"),
        (["model=defualt"], "did you mean 'default'?"),
        (["metric=fid2"], "unknown metric 'fid2'"),
        (["experiment=trian"], "did you mean 'train'?"),
        (["step=10"], "did you mean 'steps'?"),
        (["steps"], "write option=value"),
        (["steps=0"], "steps=0 must be a whole number of at least 1"),
        (["steps=-3"], "steps=-3 must be a whole number of at least 1"),
        (["steps=1001"], "steps=1001 is more than the 1000 that the schedule has"),
        (["steps=many"], "could not be converted to Integer"),
        (["samples=0"], "samples=0 must be at least 1"),
        (["batch=0"], "batch=0 must be a whole number of at least 1"),
        (["seed=-1"], "seed=-1 must be a whole number from 0"),
        (["solver.bar=1"], "unknown option of solver plms 'bar': known names are"),
        (["solver=ddim", "solver.order=2"], "unknown option of solver ddim 'order': known names are eta"),
        (["solver=ddim", "solver.eta=2"], "eta=2.0 must lie between 0"),
        (["solver.startup=rk5"], "unknown startup 'rk5'"),
        (["schedule=linear", "schedule.beta_end=2"], "0 < start <= end < 1"),
        (["t_start=5", "t_end=10"], "t_start=5 must be later (noisier) than t_end=10"),
        (["t_start=5000"], "times must lie in"),
        (["device=gpu0"], "device=gpu0 is not a device"),
        (["dtype=float31"], "did you mean 'float32'?"),
        (["experiment=train", "experiment.lrr=1"], "there is no option 'experiment.lrr'"),
        (["-m", "solver=ddim,plsm"], "did you mean 'plms'?"),
        (["-m", "steps=10,0"], "steps=0 must be"),
        (["-m", "solver=ddim,plms", "solver.order=2"], "unknown option of solver ddim"),
        (["solver=ddim,plms", "steps=3"], "solver=ddim,plms is a sweep: add -m"),
        (["solver=[ddim,plms]"], "solver takes one name: solver=ddim,plms with -m is a sweep"),
        (["-m", "solver=glob(d*)"], "solver=glob(d*) cannot be read"),
        (["output=a=b"], "output=a=b cannot be read: a value with brackets, commas, quotes or = in it"),
        (["-m", "steps=1,2", "output=here"], "output= has no effect in a sweep"),
        (["experiment=compare", "output=here"], "output= has no effect in a sweep"),
        (["model=file"], "model=file says of no file: give model=PATH"),
        (["model="], "model= is empty"),
        (["-m", "model=default,/nosuch.safetensors"], "model /nosuch.safetensors: there is no such file"),
        (["metric=kid", "metric.fid.real=5"], "the metric fid is not chosen: add metric=fid"),
        (["metric.fdi.real=5"], "unknown metric 'fdi': did you mean 'fid'?"),
        (["metric=kid", "metric.kid.bootstrap=-1"], "metric.kid.bootstrap=-1 must be 0"),
        (["device=meta"], "device=meta is not a device to run on"),
        (["problem=mixture"], "problem=mixture is for experiment=convergence, work_precision, trajectory"),
        (["budget=20"], "budget= has no effect in experiment=sample: use steps=10"),
        (["experiment=train", "batch=256"], "batch= has no effect in experiment=train: use experiment.batch=128"),
        (["experiment=train", "speed=fast"], "speed= has no effect in experiment=train: leave it out"),
        (["experiment=train", "experiment.batch=0"], "batch 0 must be at least 1"),
        (["experiment=convergence", "metric=kid"], "metric= has no effect in experiment=convergence"),
        (["experiment=train_classifier", "experiment.momentum=-1"], "momentum is -1.0: a number from 0"),
        (["experiment=train_classifier", "experiment.label_smoothing=5"], "label_smoothing is 5.0: a number from 0"),
        (["experiment=train_classifier", "experiment.weight_decay=nan"], "weight_decay is nan: a number of at least 0"),
        (["experiment=train_classifier", "experiment.shift=40"], "shift is 40: at most 8 pixels"),
        (["experiment=train_classifier", "experiment.limit=1"], "limit is 1: 0 for all images, or at least 2"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, said):
    place = "hydra.sweep.dir" if "-m" in arguments else "output"
    assert run_main(monkeypatch, *arguments, f"{place}={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("run.py: ")
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a run that never started must leave nothing"


def test_output_folder_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert run_main(monkeypatch, f"output={tmp_path / 'file' / 'out'}") == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["", "' '"])
def test_an_empty_output_is_refused(monkeypatch, capsys, tmp_path, empty):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, f"output={empty}") == 2
    assert "names no folder: give one, or output=." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def truncated(path: Path, checkpoint: Path) -> None:
    path.write_bytes(checkpoint.read_bytes()[:-1000])


def pickled(path: Path, checkpoint: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def other_architecture(path: Path, checkpoint: Path) -> None:
    import safetensors

    tensors = load_file(checkpoint)
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    tensors["conv_in.weight"] = torch.zeros(3, 3)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path, checkpoint: None, "there is no such file"),
        (truncated, "truncated or damaged"),
        (pickled, "is a pickle"),
        (other_architecture, "tensor conv_in.weight has shape (3, 3)"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(checkpoint, tmp_path, make, said):
    path = tmp_path / "model.safetensors"
    make(path, checkpoint)
    ran = run(f"model={path}", f"output={tmp_path / 'out'}")
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_network_that_returns_nan_is_named(tmp_path):
    network = UNet(SMALL)
    torch.nn.init.constant_(network.conv_out.bias, torch.nan)
    save_checkpoint(tmp_path / "nan.safetensors", network, half=False, schedule="linear", predicts="eps", data="none")
    ran = run(f"model={tmp_path / 'nan.safetensors'}", "steps=5", f"output={tmp_path / 'out'}")
    assert ran.returncode == 2
    assert "the model returned NaN or infinity: solver plms, step 1, evaluation 1 of 14, at t = 999" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out" / "record.json").exists()


def test_list_has_a_line_for_everything(monkeypatch, capsys):
    assert run_main(monkeypatch, "--list") == 0
    shown = capsys.readouterr().out.splitlines()
    for group in (*schema.GROUPS, *composing.FILE_GROUPS):
        for name in composing.choices(group):
            line = next(line for line in shown if line.split()[:1] == [name])
            assert len(line.split()) > 3, f"{name} has no description"


def test_a_run_leaves_its_record_and_pictures(checkpoint, tmp_path):
    out = tmp_path / "out"
    ran = run(f"model={checkpoint}", "solver=plms", "steps=5", "samples=5", "batch=2", f"output={out}")
    assert ran.returncode == 0, ran.stderr
    record = json.loads((out / "record.json").read_text())
    assert (record["solver"], record["steps"], record["nfe"], record["samples"]) == ("plms", 5, 14, 5)
    assert record["config"]["solver"]["startup"] == "rk"
    assert record["versions"]["torch"] == torch.__version__
    assert load_file(out / "samples.safetensors")["x"].shape == (5, 1, 28, 28)
    assert {path.name for path in out.iterdir()} >= {"record.json", "samples.png", "samples.safetensors"}
    assert "nfe 14" in ran.stdout
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_samples_depend_on_seed_and_index_alone(checkpoint, tmp_path):
    def samples(name: str, *options: str) -> torch.Tensor:
        ran = run(f"model={checkpoint}", "steps=6", f"output={tmp_path / name}", *options)
        assert ran.returncode == 0, ran.stderr
        return load_file(tmp_path / name / "samples.safetensors")["x"]

    first = samples("a", "samples=9", "batch=9")
    assert torch.equal(first, samples("b", "samples=9", "batch=9")), "not the same bits when run twice"
    assert (first[:8] - samples("c", "samples=8", "batch=3")).abs().max() < 1e-4
    assert (first - samples("d", "samples=9", "batch=9", "seed=1")).abs().max() > 0.1


def test_a_sweep_ends_with_one_table(checkpoint, tmp_path):
    ran = run("-m", f"model={checkpoint}", "solver=ddim,plms", "steps=4,6", "samples=4", f"hydra.sweep.dir={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    table = (tmp_path / "comparison.csv").read_text().splitlines()
    assert len(table) == 5
    nfe = table[0].split(",").index("nfe")
    assert [line.split(",")[nfe] for line in table[1:]] == ["4", "6", "13", "15"]
    assert (tmp_path / "strip.png").exists()
    assert (tmp_path / "strip.svg").exists()


def test_a_run_that_has_diverged_says_so(monkeypatch, tmp_path, capsys):
    options = ["schedule=cosine", "solver=plms", "steps=5", "samples=1", "progress=false"]
    assert run_main(monkeypatch, *options, f"output={tmp_path / 'uniform'}") == 0
    assert "the run has diverged: values up to" in capsys.readouterr().err
    assert run_main(monkeypatch, *options, "grid=leading", f"output={tmp_path / 'leading'}") == 0
    assert "diverged" not in capsys.readouterr().err
