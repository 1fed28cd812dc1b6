"""Fréchet distance: closed forms, agreement with the general matrix square root, streaming, the shipped space."""

import json
import shutil
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.training.classifier import noise_images
from pndm.errors import OptionError
from pndm.metrics import frechet
from pndm.metrics.estimate import Estimate, Resampling
from pndm.metrics.frechet import (
    FrechetDistance,
    GaussianStatistics,
    frechet_distance,
    frechet_features,
    gaussian_distance,
    load_feature_space,
)

PACKAGED = Path(frechet.__file__).parent / "data" / "fashion-mnist"
quick = settings(deadline=None, max_examples=25)


def sample(n: int, d: int, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    """Correlated, shifted normal rows (n, d) in float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + mean


def by_sqrtm(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The formula as FID code writes it, with scipy's general matrix square root."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    return float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()) - 2 * np.trace(root).real


def by_singular_values(x: torch.Tensor, y: torch.Tensor) -> float:
    """The same distance from the samples, exact for singular covariances too: the cross term is a nuclear norm."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    a, b = (x - x_mean) / (len(x) - 1) ** 0.5, (y - y_mean) / (len(y) - 1) ** 0.5
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float((x_mean - y_mean).square().sum() + a.square().sum() + b.square().sum() - 2 * cross)


def test_closed_form_for_diagonal_gaussians():
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    std_a, std_b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 2.0, 5.0]).double()
    distance = gaussian_distance(mean_a, std_a.square().diag(), mean_b, std_b.square().diag())
    assert distance == pytest.approx(5.0 + 0.25 + 4.0, rel=1e-12)  # |μ₁ − μ₂|² + Σ (σ₁ − σ₂)²


def test_zero_for_identical_and_the_shift_alone_for_moved():
    features = sample(500, 32)
    a, moved = GaussianStatistics.of(features), GaussianStatistics.of(features + 0.5)
    assert frechet_distance(a, a) <= 1e-10 * a.covariance.trace()
    assert frechet_distance(a, moved) == pytest.approx(32 * 0.25, rel=1e-8)


@pytest.mark.parametrize("d", [2, 16, 96])
def test_equals_sqrtm(d):
    a, b = GaussianStatistics.of(sample(1000, d, 1)), GaussianStatistics.of(sample(700, d, 2, mean=0.3))
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)


@pytest.mark.parametrize("n", [(20, 500), (500, 20), (20, 30)])
def test_stable_and_warns_with_fewer_samples_than_dimensions(n):
    x, y = sample(n[0], 64, 1), sample(n[1], 64, 2)
    with pytest.warns(UserWarning, match=f"{min(n)} samples .* 64 dimensions"):
        distance = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y))
    assert distance == pytest.approx(by_singular_values(x, y), rel=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples(n):
    with pytest.raises(OptionError, match=f"samples is {n}: .* at least 2"):
        frechet_distance(GaussianStatistics.of(sample(n, 4)), GaussianStatistics.of(sample(9, 4)))


def test_streaming_loses_no_digits_at_a_large_mean():
    features = sample(3000, 8, mean=1e6)
    statistics = GaussianStatistics(8)
    for part in features.split(7):
        statistics.update(part)
    assert torch.allclose(statistics.covariance, features.T.cov(), rtol=1e-8)
    assert torch.allclose(statistics.mean, features.mean(0), rtol=1e-14)


@quick
@given(st.integers(2, 60), st.integers(1, 6), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 99))
def test_statistics_do_not_depend_on_the_batches(n, d, cuts, seed):
    features = sample(n, d, seed, mean=3.0)
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    batches = [features[i:j] for i, j in pairwise(edges)]
    streamed, merged = GaussianStatistics(d), GaussianStatistics(d)
    for batch in batches:
        streamed.update(batch)
    for batch in reversed(batches):
        merged.merge(GaussianStatistics.of(batch))
    for statistics in (streamed, merged):
        assert statistics.n == n
        assert torch.allclose(statistics.mean, features.mean(0), rtol=1e-11)
        assert torch.allclose(statistics.covariance, features.T.cov().reshape(d, d), rtol=1e-9, atol=1e-11)


@quick
@given(st.integers(1, 12), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_symmetric_and_not_negative(d, seed, scale):
    a, b = GaussianStatistics.of(sample(40, d, seed)), GaussianStatistics.of(sample(50, d, seed + 1) * scale)
    size = float(a.covariance.trace() + b.covariance.trace())
    assert frechet_distance(a, b) >= 0
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-7, abs=1e-10 * size)
    assert frechet_distance(a, a) <= 1e-7 * size


def test_bad_features_are_named():
    statistics = GaussianStatistics(3)
    with pytest.raises(OptionError, match=r"shape \(4, 2\): \(B, 3\)"):
        statistics.update(torch.zeros(4, 2))
    with pytest.raises(OptionError, match="NaN"):
        statistics.update(torch.full((4, 3), float("nan")))
    with pytest.raises(OptionError, match="dimension"):
        statistics.merge(GaussianStatistics.of(sample(5, 4)))
    with pytest.raises(OptionError, match="dimensions"):
        frechet_distance(GaussianStatistics.of(sample(5, 4)), GaussianStatistics.of(sample(5, 3)))


# The bootstrap --------------------------------------------------------------------------------------------------------


def measured(features: torch.Tensor, reference: GaussianStatistics, bootstrap: int, seed: int = 0) -> Estimate:
    metric = FrechetDistance(reference, "distance", bootstrap=bootstrap, seed=seed)
    metric.update(features, range(len(features)))
    return metric.compute()["distance"]


def test_bootstrap_reports_n_holds_the_value_and_is_reproducible():
    reference, features = GaussianStatistics.of(sample(4000, 6, 5)), sample(300, 6, 5, mean=0.2)
    one, two = (measured(features, reference, 50, seed=3) for _ in range(2))
    assert one == two
    assert (one.n, len(one.resamples)) == (300, 50)
    assert one.value == frechet_distance(GaussianStatistics.of(features), reference)
    assert one.low < one.value < one.high
    assert measured(features, reference, 50, seed=4) != one


def test_bootstrap_interval_covers_other_samples_of_the_same_size():
    reference = GaussianStatistics(8)
    reference.n, reference.scatter = 10**6, torch.eye(8, dtype=torch.float64) * (10**6 - 1)
    draw = torch.randn(40, 400, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    values = torch.tensor([frechet_distance(GaussianStatistics.of(x), reference) for x in draw])
    estimates = [measured(x, reference, 40, seed=i) for i, x in enumerate(draw)]
    covered = sum(e.low <= values.mean() <= e.high for e in estimates)
    assert covered >= 34  # 38 of 40 are expected
    bias = sum(e.bias for e in estimates) / len(estimates)  # the true distance is 8 × 0.1²
    assert bias == pytest.approx(float(values.mean()) - 0.08, rel=0.25)


def test_resamples_equal_those_of_repeated_features():
    """A resample's distance is that of the features, each as often as its weight says."""
    features, reference = sample(60, 4, 1), GaussianStatistics.of(sample(500, 4, 2))
    found = measured(features, reference, 5, seed=9)
    weights = Resampling(5, 9).weights(range(60)).long()
    for value, counts in zip(found.resamples, weights, strict=True):
        repeated = GaussianStatistics.of(features.repeat_interleave(counts, dim=0))
        assert value == pytest.approx(frechet_distance(repeated, reference), rel=1e-6)


@pytest.mark.parametrize("bootstrap", [1, -1])
def test_bootstrap_is_checked(bootstrap):
    with pytest.raises(OptionError, match=f"bootstrap={bootstrap} must be 0"):
        FrechetDistance(GaussianStatistics.of(sample(10, 2)), "distance", bootstrap=bootstrap)


@pytest.mark.parametrize(("n", "d"), [(5000, 64), (200, 96)])
def test_agrees_with_torchmetrics(n, d):
    """Its own features and its own square root, in float64; also where samples are few."""
    fid = pytest.importorskip("torchmetrics.image.fid", exc_type=ImportError)
    x, y = sample(n, d, 1), sample(6000, d, 2, mean=0.3)
    theirs = fid._compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
    assert frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y)) == pytest.approx(theirs, rel=1e-4)


# The shipped feature space --------------------------------------------------------------------------------------------


def test_sanity_rows_are_reproduced(real_test_set):
    space, (features, _) = load_feature_space("fashion-mnist"), real_test_set
    half = features[: len(features) // 2]
    measured = {
        "test": frechet_distance(GaussianStatistics.of(features), space.reference),
        "test_half": frechet_distance(GaussianStatistics.of(half), space.reference),
        "noise": frechet_features(noise_images((2000, 1, 28, 28))).value,
    }
    rows = {name: row["frechet_features"] for name, row in space.record["sanity"].items()}
    assert measured["test"] == pytest.approx(rows["test"], rel=1e-3)
    assert measured["test_half"] == pytest.approx(rows["test_half"], rel=1e-3)
    assert measured["noise"] == pytest.approx(rows["noise"], rel=0.05)  # fewer images than the row's, to be quick
    assert rows["test"] < rows["test_half"] < rows["test_blurred_3x3"] < rows["noise"]


def test_a_stream_gives_what_one_tensor_gives():
    images = noise_images((150, 1, 28, 28))
    together, streamed = frechet_features(images), frechet_features(iter(images.split(40)))
    with_interval = frechet_features(images, bootstrap=4)
    assert together.n == streamed.n == with_interval.n == 150
    assert streamed.value == pytest.approx(together.value, rel=1e-6)
    assert with_interval.value == pytest.approx(together.value, rel=1e-6)
    assert together.low is None
    assert with_interval.low < with_interval.high


def test_only_8_bit_images_of_the_right_shape():
    with pytest.raises(OptionError, match=r"torch\.float32: torch\.uint8 is accepted"):
        frechet_features(torch.zeros(4, 1, 28, 28))
    with pytest.raises(OptionError, match=r"\(3, 32, 32\): .* \(1, 28, 28\)"):
        frechet_features(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(OptionError, match="samples=1 is too few for the metric frechet_features: it needs at least 2"):
        frechet_features(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_unknown_space_is_suggested():
    with pytest.raises(OptionError, match="unknown feature space 'fashion_mnist': did you mean 'fashion-mnist'"):
        frechet_features(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), "fashion_mnist")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("classifier.safetensors", flip_a_bit),
        ("statistics.safetensors", flip_a_bit),
        ("statistics.safetensors", lambda file: file.write_bytes(file.read_bytes()[:100])),
        ("statistics.safetensors", Path.unlink),
        ("record.json", lambda file: file.write_text('{"sha256": {')),
        ("record.json", lambda file: file.write_text(json.dumps({"sha256": {}}))),
        ("record.json", lambda file: file.write_text(json.dumps([]))),
    ],
)
def test_damaged_folder_is_refused(tmp_path, file, damage):
    folder = Path(shutil.copytree(PACKAGED, tmp_path / "space"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_feature_space(str(folder)).reference.n == 60000
    load_feature_space.cache_clear()
    damage(folder / file)
    with pytest.raises(OptionError, match="corrupt"):
        load_feature_space(str(folder))


def test_damaged_statistics_are_refused(tmp_path):
    path = tmp_path / "statistics.safetensors"
    good = GaussianStatistics.of(sample(20, 3))
    path.write_bytes(good.dump())
    read = GaussianStatistics.load(path)
    assert read.n == 20
    assert torch.equal(read.mean, good.mean)
    assert torch.allclose(read.covariance, good.covariance, rtol=1e-15)
    path.write_bytes(good.dump()[:-4])
    with pytest.raises(OptionError, match="cannot be read as safetensors"):
        GaussianStatistics.load(path)
    good.scatter[0, 1] += 1.0
    path.write_bytes(good.dump())
    with pytest.raises(OptionError, match="corrupt"):
        GaussianStatistics.load(path)
    path.write_bytes((PACKAGED / "classifier.safetensors").read_bytes())
    with pytest.raises(OptionError, match="holds something else"):
        GaussianStatistics.load(path)
    with pytest.raises(OptionError, match="does not exist"):
        GaussianStatistics.load(tmp_path / "none.safetensors")
