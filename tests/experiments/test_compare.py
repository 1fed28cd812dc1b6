"""Comparisons from records alone: seeds in one row, words about significance, and records that cannot be relied on."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments import compare
from experiments.comparison import report, rows
from experiments.runs import records

NAMES = ("paired_rmse", "kid")


def entry(value: float, seed: int, spread: float = 0.1) -> dict:
    """A metric whose resamples two solvers share, as after runs from the same noise."""
    drawn = random.Random(seed)
    resamples = [value + spread * drawn.gauss(0, 1) for _ in range(100)]
    return {"value": value, "n": 64, "error": spread, "low": value - 2 * spread, "high": value + 2 * spread,
            "bias": None, "floor": None, "resamples": " ".join(f"{each:.7g}" for each in resamples)}  # fmt: skip


def write_run(
    folder: Path, solver: str, steps: int, seed: int, value: float, *, images: bool = True, **options
) -> Path:
    run = folder / f"{solver}-{steps}-{seed}"
    config = {"solver": {"name": solver, **options}, "grid": {"name": "uniform"}, "schedule": {"name": "linear"},
              "steps": steps, "seed": seed, "speed": "exact", "output": str(run)}  # fmt: skip
    record = {"schema": records.SCHEMA, "key": f"{solver} {steps} {seed} {options}", "experiment": "sample",
              "config": config, "dtype": "float32", "device_name": "a processor", "model": {"weights": "default"},
              "solver": solver, "steps": steps, "nfe": steps + 1, "samples": 64, "seed": seed, "seconds": 2.0 * steps,
              "seconds_per_image": steps / 32, "metrics": {name: entry(value, seed) for name in NAMES}}  # fmt: skip
    records.write_record(run, record)
    if images:
        save_file({"x": torch.full((6, 1, 8, 8), value)}, run / "samples.safetensors")
    return run / "record.json"


def test_seeds_are_one_row_with_a_narrower_interval(tmp_path):
    for seed in range(4):
        write_run(tmp_path, "ddim", 10, seed, 1.0 + 0.1 * seed)
    (row,) = rows.rows(rows.find([tmp_path])[0])
    metric = row.metrics["paired_rmse"]
    assert row.seeds == [0, 1, 2, 3]
    assert metric.value == pytest.approx(1.15)
    assert metric.n == 4 * 64
    assert metric.high - metric.low == pytest.approx(0.4 / 2)  # independent runs: one over the root of four
    assert len(metric.resamples) == 100


def test_significance_is_said_in_words(tmp_path, capsys):
    """From the same noise 1 % counts, though the intervals overlap; from other noise it does not."""
    write_run(tmp_path / "same", "ddim", 10, 0, 1.01)
    write_run(tmp_path / "same", "plms", 10, 0, 1.0)
    write_run(tmp_path / "other", "ddim", 10, 1, 1.01)
    write_run(tmp_path / "other", "plms", 10, 0, 1.0)
    compare.compare([tmp_path / "same"], tmp_path / "same")
    assert "plms is best (nfe 11, 1); the next, ddim (nfe 11, 1.01), differs significantly" in capsys.readouterr().out
    compare.compare([tmp_path / "other"], tmp_path / "other")
    assert "plms is best (nfe 11, 1); no significant difference to ddim" in capsys.readouterr().out


def test_all_files_are_made_and_remade_by_the_command(tmp_path, capsys):
    for solver, value in (("ddim", 0.5), ("plms", 0.25)):
        for steps in (5, 10):
            for seed in (0, 1):
                write_run(tmp_path, solver, steps, seed, value / steps)
    assert compare.main([str(tmp_path)]) == 0
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert len(lines) == 8
    assert {line["seed"] for line in lines} == {"0", "1"}
    assert float(lines[0]["paired_rmse_low"]) < float(lines[0]["paired_rmse"]) < float(lines[0]["paired_rmse_high"])
    page = (tmp_path / "comparison.md").read_text()
    assert page.count("\n| ddim |") == 2
    assert "![strip.png](strip.png)" in page
    for name in ("paired_rmse", "kid", "strip"):
        assert (tmp_path / f"{name}.png").exists()
        assert (tmp_path / f"{name}.svg").exists()
    before = (tmp_path / "comparison.md").read_text()
    assert compare.main([str(tmp_path), str(tmp_path / "ddim-5-0")]) == 0  # a run that is found twice counts once
    assert (tmp_path / "comparison.md").read_text() == before


def test_differences_to_a_row_are_told_by_what_two_runs_do_not_share(tmp_path, capsys):
    """Two intervals of +-0.2 that overlap, and a difference that is known to 1e-6: the resamples are the same."""
    write_run(tmp_path, "ddim", 1000, 0, 1.01)
    write_run(tmp_path, "plms", 50, 0, 1.0)
    assert compare.main([str(tmp_path), "--against", "ddim 1000"]) == 0
    assert "plms     50   51  -0.01 [-0.01, -0.01]  -0.01 [-0.01, -0.01]" in capsys.readouterr().out
    page = (tmp_path / "comparison.md").read_text()
    assert "| plms | 50 | 51 | -0.01 [-0.01, -0.01] |" in page
    assert "Differences to ddim in 1000 steps (nfe 1001)" in page
    assert compare.main([str(tmp_path)]) == 0
    assert "Differences to" not in (tmp_path / "comparison.md").read_text()


def test_values_of_other_numbers_of_samples_are_not_subtracted(tmp_path, capsys):
    """Their biases are unlike: a Frechet distance of fewer samples is larger, whatever the solver."""
    write_run(tmp_path, "ddim", 1000, 0, 1.0)
    path = write_run(tmp_path, "plms", 50, 0, 1.0)
    record = records.read_record(path)
    record["metrics"]["kid"]["n"] = 32
    del record["metrics"]["paired_rmse"]
    records.write_record(path.parent, record)
    compare.compare([tmp_path], tmp_path, against="ddim 1000")
    assert "| plms | 50 | 51 |  | of 32 samples, not 64 |" in (tmp_path / "comparison.md").read_text()
    assert "LEFT OUT" not in capsys.readouterr().err


def test_a_row_that_is_not_there_is_a_sentence(tmp_path, capsys):
    write_run(tmp_path, "ddim", 1000, 0, 1.0)
    assert compare.main([str(tmp_path), "--against", "dim 1000"]) == 2
    assert "unknown row for --against 'dim 1000': did you mean 'ddim 1000'?" in capsys.readouterr().err
    assert not (tmp_path / "comparison.md").exists()


def edited(path: Path) -> None:
    record = json.loads(path.read_text())
    record["metrics"]["kid"]["value"] = 0.0
    path.write_text(json.dumps(record))


def truncated(path: Path) -> None:
    path.write_text(path.read_text()[:-100])


def of_another_schema(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 1}))


@pytest.mark.parametrize(
    ("damage", "said"), [(edited, "edited"), (truncated, "truncated"), (of_another_schema, "schema 1")]
)
def test_records_that_cannot_be_relied_on_are_named_and_left_out(tmp_path, capsys, damage, said):
    write_run(tmp_path, "plms", 10, 0, 1.0)
    bad = write_run(tmp_path, "ddim", 10, 0, 0.1)
    damage(bad)
    assert compare.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert f"LEFT OUT: record {bad}" in printed.err
    assert said in printed.err
    assert "LEFT OUT of this table: 1 records" in printed.out
    page = (tmp_path / "comparison.md").read_text()
    assert "ddim |" not in page
    assert str(bad) in page


def test_nothing_to_compare_is_a_sentence(tmp_path, capsys):
    assert compare.main([]) == 2
    assert compare.main([str(tmp_path / "absent")]) == 2
    assert compare.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_runs_without_images_or_intervals_have_a_table_all_the_same(tmp_path, capsys):
    path = write_run(tmp_path, "ddim", 10, 0, 1.0, images=False)
    record = records.read_record(path)
    record["metrics"] = {"kid": {**record["metrics"]["kid"], "low": None, "high": None, "resamples": ""}}
    records.write_record(path.parent, record)
    write_run(tmp_path, "plms", 10, 0, 1.0, images=False)
    compare.compare([tmp_path], tmp_path)
    assert "without resamples nothing can be said" in capsys.readouterr().out
    assert not (tmp_path / "strip.png").exists()


def test_what_tells_runs_apart_is_in_their_label(tmp_path):
    write_run(tmp_path, "deis", 10, 0, 1.0, order=2)
    write_run(tmp_path, "deis", 20, 0, 1.0, order=3)
    write_run(tmp_path, "ddim", 10, 0, 1.0, eta=0.0)
    assert [row.label for row in rows.rows(rows.find([tmp_path])[0])] == [
        "ddim",
        "deis order=2",
        "deis order=3",
    ]


@pytest.mark.parametrize(
    ("told", "labels"),
    [
        ({"grid": [{"name": "karras", "power": 2}, {"name": "karras", "power": 9}]}, ["ddim power=2", "ddim power=9"]),
        ({"grid": [{"name": "uniform"}, {"name": "karras", "power": 7}]}, ["ddim karras", "ddim uniform"]),
        ({"t_end": [None, 300]}, ["ddim t_end=300", "ddim t_end=null"]),
        ({"denoise": [False, True], "t_end": [1, 1]}, ["ddim denoise=false", "ddim denoise=true"]),
    ],
)
def test_runs_that_differ_have_labels_that_differ(tmp_path, told, labels):
    """Or their lines would be joined in the figures, and one would hide the other in the strip."""
    for i in (0, 1):
        path = write_run(tmp_path / str(i), "ddim", 10, 0, 1.0)
        record = records.read_record(path)
        record["config"] |= {name: values[i] for name, values in told.items()}
        records.write_record(path.parent, {**record, "key": str(i)})
    assert sorted(row.label for row in rows.rows(rows.find([tmp_path])[0])) == labels


def test_networks_of_one_name_are_told_by_their_folders(tmp_path):
    for folder in ("a", "b"):
        path = write_run(tmp_path / folder, "ddim", 10, 0, 1.0)
        record = records.read_record(path)
        record["model"]["weights"] = f"{folder}/model.safetensors"
        record["config"]["model"] = folder
        records.write_record(path.parent, {**record, "key": folder})
    found = rows.rows(rows.find([tmp_path])[0])
    assert [row.label for row in found] == ["ddim a/model.safetensors", "ddim b/model.safetensors"]


def test_agreement_counts_pairs_that_two_seeds_order_alike(tmp_path):
    for seed, values in ((0, (1.0, 2.0, 3.0)), (1, (1.1, 3.0, 2.0))):
        for solver, value in zip(("ddim", "plms", "fon"), values, strict=True):
            write_run(tmp_path, solver, 10, seed, value)
    said = report.agreement(rows.rows(rows.find([tmp_path])[0]))
    assert said[0].startswith("paired_rmse: of 3 pairs of rows whose intervals are apart in two seeds or more, 2 are")
