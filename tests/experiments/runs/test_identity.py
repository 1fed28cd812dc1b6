"""The key of a run: what changes it and what must not."""

import shutil
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from experiments.config import schema
from experiments.config.composing import CONF
from experiments.runs import identity


def composed(*overrides: str) -> DictConfig:
    schema.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def key(*overrides: str) -> str:
    return identity.key(composed(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["output=elsewhere"],
        ["progress=false"],
        ["force=true"],
        ["hydra.sweep.dir=elsewhere"],
        ["solver=plms", "steps=50"],
        ["device=cpu"],
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_key(overrides):
    assert key(*overrides) == key()


@pytest.mark.parametrize(
    "override",
    ["steps=49", "samples=63", "batch=32", "seed=1", "solver=ddim", "solver.startup=low_order", "schedule=cosine",
     "grid=quadratic", "t_end=10", "dtype=float64", "speed=fast", "metric=frechet_features",
     "metric=kid"],
)  # fmt: skip
def test_what_changes_the_result_changes_the_key(override):
    assert key(override) != key()


def test_the_model_counts_by_its_weights_and_not_by_its_path(checkpoint, tmp_path):
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    shutil.copy(checkpoint, here)
    shutil.copy(checkpoint, there)
    assert key("model=file", f"model.weights={here}") == key("model=file", f"model.weights={there}")
    before = key("model=file", f"model.weights={there}")
    there.write_bytes(there.read_bytes()[:-1] + b"\x01")
    assert key("model=file", f"model.weights={there}") != before


def test_on_an_exact_problem_the_network_is_of_no_matter():
    on_circle = ("experiment=trajectory", "problem=circle")
    assert key(*on_circle) == key(*on_circle, "model.weights=none") != key(*on_circle, "problem.radius=2")
    assert key(*on_circle) == key(*on_circle, "experiment.cache=elsewhere")


def test_another_version_or_source_is_another_key(monkeypatch):
    before = key()
    monkeypatch.setattr("pndm.__version__", "0.0.0")
    assert key() != before
    monkeypatch.undo()
    monkeypatch.setattr(identity, "_source", lambda others: "edited")
    assert key() != before


def test_folder_names_say_what_and_end_in_the_key():
    cfg = composed("solver=ddim", "steps=20")
    assert Path(cfg.output).name == f"ddim-20-{identity.key(cfg)[:10]}"
    assert Path(composed("experiment=trajectory").output).name.startswith("circle-")


def test_the_same_sweep_has_the_same_folder():
    first = identity.sweep_folder(["solver=ddim,plms", "steps=10,20"])
    assert first == identity.sweep_folder(["steps=10,20", "progress=false", "solver=ddim,plms", "hydra/launcher=ray"])
    assert first != identity.sweep_folder(["steps=10,20", "solver=ddim"])
    assert first.startswith("multirun/sample-")
    assert identity.sweep_folder(["experiment=convergence"]).startswith("multirun/convergence-")
