"""Metrics from the command line: several at once, refused before anything runs, the paired error against a solve."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pndm
from experiments.measuring import metrics, real_images
from experiments.runs import records
from pndm.models import pretrained
from pndm.noise import SampleNoise
from pndm.reference import self_converged
from tests.experiments.conftest import run_main

PAIRED = ("metric=paired", "metric.paired.tolerance=0.02")  # of a network that was never trained


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short_reference: None) -> None:
    monkeypatch.setattr(metrics, "CACHE", tmp_path / "references")
    monkeypatch.setattr(real_images, "CACHE", tmp_path / "real")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["metric=[paired,kdi]"], "unknown metric 'kdi': did you mean 'kid'?"),
        (["-m", "metric=paired,fidd"], "unknown metric 'fidd': did you mean 'fid'?"),
        (["metric=kid", "samples=1"], "samples=1 is too few for the metric kid: it needs at least 2"),
        (["metric=precision_recall", "metric.precision_recall.neighbours=5", "samples=5"], "it needs at least 6"),
        (["metric=frechet_features", "samples=1"], "samples=1 is too few for the metric frechet_features"),
        (["metric=frechet_features", "metric.frechet_features.bootstrap=1"], "bootstrap=1 must be 0"),
        (["metric=kid", "metric.kid.features=inceptoin"], "did you mean 'inception'?"),
        (["metric=kid", "metric.kid.real=1"], "metric.kid.real=1 must be at least 2"),
        (["metric=paired", "solver=ddpm"], "draws noise on the way"),
        (["metric=paired", "metric.paired.tolerance=0"], "metric.paired.tolerance=0.0 must be positive"),
        (["metric=fid", "metric.fid.weights=absent.pth"], "Inception"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(monkeypatch, capsys, tmp_path, arguments, said):
    out = tmp_path / "out"
    assert run_main(monkeypatch, *arguments, f"output={out}", f"hydra.sweep.dir={out}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("batch", [2, 5])
def test_paired_error_is_that_of_a_solve_by_hand(monkeypatch, checkpoint, tmp_path, batch):
    out = tmp_path / "out"
    assert run_main(monkeypatch, f"model={checkpoint}", "solver=ddim", "steps=6", "samples=5", f"batch={batch}",
                    *PAIRED, "metric.paired.samples=4", "seed=3", f"output={out}") == 0  # fmt: skip
    found = records.read_record(out / "record.json")["metrics"]
    trained, schedule = pretrained.load(str(checkpoint)), pndm.schedules.create("linear")
    noise = SampleNoise(3, range(4)).draw(trained.shape)
    truth = self_converged(trained.eps(schedule), noise, schedule, [999.0, -1.0], first=20, tolerance=0.02)
    x = load_file(out / "samples.safetensors")["x"][:4]
    assert found["paired_rmse"]["value"] == pytest.approx((x - truth.x).square().mean().sqrt().item(), rel=1e-3)
    assert found["paired_rmse"]["n"] == 4
    assert found["paired_rmse"]["floor"] == pytest.approx(truth.difference, rel=1e-2)
    assert len(found["paired_rmse"]["resamples"].split()) == 200


def test_several_metrics_at_once(monkeypatch, capsys, checkpoint, tmp_path):
    pytest.importorskip("pndm.data")
    try:
        pndm.data.load("fashion-mnist", split="test")
    except pndm.errors.OptionError as error:
        pytest.skip(str(error))
    chosen = "metric=[frechet_features,kid,precision_recall,sliced_wasserstein]"
    sizes = [f"metric.{name}.real=200" for name in ("kid", "precision_recall", "sliced_wasserstein")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 12 samples in 96 dimensions
        assert run_main(monkeypatch, f"model={checkpoint}", "solver=ddim", "steps=3", "samples=12", "batch=5", chosen,
                        *sizes, f"output={tmp_path / 'out'}") == 0  # fmt: skip
    found = json.loads((tmp_path / "out" / "record.json").read_text())["metrics"]
    assert set(found) == {"frechet_features", "kid", "precision", "recall", "sliced_wasserstein"}
    assert {found[name]["n"] for name in found} == {12, 200}  # recall's are the real images
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in found)
    kept = list((tmp_path / "real").iterdir())
    assert len(kept) == 1, "kernel distance and precision look at the same features of the same images"


def test_real_images_are_kept_and_a_damaged_file_is_made_again(tmp_path):
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"features": torch.arange(6.0)}

    for _ in range(2):
        assert torch.equal(real_images._kept("some", make)["features"], torch.arange(6.0))
    assert len(calls) == 1
    (file,) = (tmp_path / "real").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    assert torch.equal(real_images._kept("some", make)["features"], torch.arange(6.0))
    assert len(calls) == 2


def test_a_comparison_ends_with_its_table(monkeypatch, capsys, checkpoint, tmp_path):
    assert run_main(monkeypatch, "-m", "experiment=compare", f"model={checkpoint}", "solver=ddim,plms", "steps=5,20",
                    "samples=4", PAIRED[1], f"hydra.sweep.dir={tmp_path / 'sweep'}") == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "paired_rmse, up to 50 evaluations:" in shown
    assert len((tmp_path / "sweep" / "comparison.csv").read_text().splitlines()) == 5
    assert {path.name for path in (tmp_path / "sweep").glob("*.png")} == {
        "paired_rmse.png", "paired_psnr.png", "paired_label_changes.png", "strip.png"}  # fmt: skip
