"""Fréchet distance between two sets of images, each seen as a Gaussian in the features of a network.

For Gaussians N(μ₁, Σ₁) and N(μ₂, Σ₂) the squared 2-Wasserstein (Fréchet) distance is

    |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½              (Dowson and Landau, 1982)

With Inception's features this is the FID (Heusel et al., 2017). With those of the small classifier that ships with the
package it is called `frechet_features`, and compares with itself only, never with a published FID.
Both real and generated images enter as the 8-bit images that would be saved.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pndm.data import to_model
from pndm.errors import OptionError, unknown_name
from pndm.metrics.classifier import Network, load_classifier
from pndm.metrics.estimate import Estimate, Resampling, check_enough, estimate

CLASSIFIER, STATISTICS, RECORD = "classifier.safetensors", "statistics.safetensors", "record.json"
KIND = "pndm.gaussian_statistics"


class GaussianStatistics:
    """Mean and covariance of vectors that arrive in batches: float64, memory independent of their number.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which subtracts means before it squares
    and so loses no digits when the mean is large beside the spread. `merge` joins the statistics of two workers.
    """

    def __init__(self, dimension: int):
        self.n = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64)  # Σ (f − mean)(f − mean)ᵀ

    @classmethod
    def of(cls, features: Tensor) -> GaussianStatistics:
        """Statistics of all rows of `features` (N, d) at once."""
        return cls(features.shape[-1]).update(features)

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (d, d). Raises OptionError below two samples, where there is none."""
        if self.n < 2:
            raise OptionError(f"samples is {self.n}: a covariance needs at least 2")
        return self.scatter / (self.n - 1)

    def update(self, features: Tensor) -> GaussianStatistics:
        """Add the rows of `features` (B, d); returns itself."""
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise OptionError(f"features have shape {tuple(features.shape)}: (B, {self.dimension}) is accepted")
        if len(features):
            batch = GaussianStatistics(self.dimension)
            rows = features.detach().to("cpu", torch.float64)
            if not rows.isfinite().all():
                raise OptionError("features hold NaN or infinity: only finite features are accepted")
            batch.n, batch.mean = len(rows), rows.mean(0)
            centred = rows - batch.mean
            batch.scatter = centred.T @ centred
            self.merge(batch)
        return self

    def merge(self, other: GaussianStatistics) -> GaussianStatistics:
        """Add the samples behind `other`; returns itself."""
        if other.dimension != self.dimension:
            raise OptionError(f"statistics have dimension {other.dimension}: {self.dimension} is accepted")
        n = self.n + other.n
        if other.n:
            shift = other.mean - self.mean
            self.mean = self.mean + shift * (other.n / n)
            self.scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.n * other.n / n)
            self.n = n
        return self

    def dump(self) -> bytes:
        """As a safetensors file: mean, cov (float64) and n."""
        tensors = {"mean": self.mean, "cov": self.covariance, "n": torch.tensor(self.n)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"kind": KIND})

    @classmethod
    def load(cls, path: str | Path) -> GaussianStatistics:
        """Read a file of `dump`. Raises OptionError for a file that is missing, truncated or something else."""
        path = Path(path)
        try:
            with safe_open(path, framework="pt") as file:
                kind = (file.metadata() or {}).get("kind")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        except FileNotFoundError:
            raise OptionError(f"statistics file {str(path)!r} does not exist") from None
        except (SafetensorError, OSError) as error:
            raise OptionError(f"statistics file {str(path)!r} cannot be read as safetensors ({error})") from None
        if kind != KIND or set(tensors) != {"mean", "cov", "n"}:
            raise OptionError(f"statistics file {str(path)!r} holds something else: {KIND!r} is accepted")
        mean, covariance, n = tensors["mean"], tensors["cov"], int(tensors["n"])
        sound = mean.ndim == 1 and covariance.shape == (len(mean), len(mean)) and n >= 2
        if not (sound and mean.isfinite().all() and torch.allclose(covariance, covariance.T, rtol=1e-12)):
            raise OptionError(f"statistics file {str(path)!r} is corrupt: its mean and covariance do not fit together")
        statistics = cls(len(mean))
        statistics.n, statistics.mean, statistics.scatter = n, mean.double(), covariance.double() * (n - 1)
        return statistics


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The formula of this file's head, from means (d,) and covariances (d, d) in float64.

    tr (Σ₁^½ Σ₂ Σ₁^½)^½ is the sum of the roots of the eigenvalues of a symmetric matrix, so that no general matrix
    square root (slow, and complex for singular covariances) is needed.
    """
    return _distance_from_root(mean_a, covariance_root(cov_a), mean_b, cov_b)


def covariance_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * _clean(values).sqrt()) @ vectors.T


def _distance_from_root(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    cross = _clean(torch.linalg.eigvalsh(root_a @ cov_b @ root_a)).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + root_a.square().sum() + cov_b.trace() - 2 * cross
    return max(squared.item(), 0.0)  # rounding may leave −1e-15 between equals


def _clean(values: Tensor) -> Tensor:
    """Eigenvalues without those at rounding level.

    Their roots would be 1e-8 of the largest, and covariances of few samples have many.
    """
    floor = values.max().clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > floor, values, 0.0)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Fréchet distance of two Gaussians given by their statistics. Warns where a covariance is rank-deficient."""
    if a.dimension != b.dimension:
        raise OptionError(f"statistics have dimensions {a.dimension} and {b.dimension}: equal ones are accepted")
    distance = gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)
    n = min(a.n, b.n)
    if n <= a.dimension:
        warnings.warn(
            f"{n} samples do not determine a covariance in {a.dimension} dimensions: this Fréchet distance is biased "
            f"upwards, take at least {10 * a.dimension}",
            stacklevel=2,
        )
    return distance


class FrechetDistance:
    """Fréchet distance of features that arrive in batches to a reference, with an interval; constant memory.

    Each of the `bootstrap` resamples keeps a mean and a covariance of its own: 74 KB at 96 features, 34 MB at
    Inception's 2048.
    """

    least = 2

    def __init__(self, reference: GaussianStatistics, name: str, *, bootstrap: int = 0, seed: int = 0):
        self.reference, self.name, self.resampling = reference, name, Resampling(bootstrap, seed)
        self.statistics = GaussianStatistics(d := reference.dimension)
        # sums under each resample's weights, about the reference's mean, so that they lose no digits
        self.weights = torch.zeros(bootstrap, dtype=torch.float64)
        self.sums = torch.zeros(bootstrap, d, dtype=torch.float64)
        self.products = torch.zeros(bootstrap, d, d, dtype=torch.float64)

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Add features (B, d)."""
        self.statistics.update(features)
        if not self.resampling.count:
            return
        rows = features.detach().to("cpu", torch.float64) - self.reference.mean
        drawn = self.resampling.weights(indices)
        self.weights += drawn.sum(1)
        self.sums += drawn @ rows
        for product, weights in zip(self.products, drawn, strict=True):
            product.addmm_((rows * weights[:, None]).T, rows)

    def merge(self, other: Self) -> None:
        """Add the samples behind `other`."""
        self.statistics.merge(other.statistics)
        self.weights += other.weights
        self.sums += other.sums
        self.products += other.products

    def compute(self) -> dict[str, Estimate]:
        """The distance, under the name that it was given. Its bias is that of few samples, upwards."""
        check_enough(self.name, self.statistics.n, self.least)
        value = frechet_distance(self.statistics, self.reference)
        centre, root = self.reference.mean, covariance_root(self.reference.covariance)
        spread = torch.full((self.resampling.count,), value, dtype=torch.float64)
        for k, n in enumerate(self.weights.tolist()):
            if n >= 2:  # of a handful of samples a resample may draw none
                mean = self.sums[k] / n
                covariance = (self.products[k] - n * torch.outer(mean, mean)) / (n - 1)
                spread[k] = _distance_from_root(centre, root, centre + mean, covariance)
        return {self.name: estimate(value, self.statistics.n, spread, least=0.0, biased=True)}


@dataclass(frozen=True)
class FeatureSpace:
    """A classifier and its features' statistics over the training set."""

    classifier: Network
    reference: GaussianStatistics
    record: dict


def shipped() -> list[str]:
    """Names of the feature spaces in the package and, where it runs from its repository, in weights/features."""
    return sorted(entry.name for place in _places() if place.is_dir() for entry in place.iterdir() if _whole(entry))


@lru_cache(maxsize=4)
def load_feature_space(name: str = "fashion-mnist") -> FeatureSpace:
    """A feature space by the name of its data set, or the folder that `train_classifier` wrote.

    The record holds the hash of both other files: features and statistics that do not belong together would give
    plausible wrong distances, so a mismatch raises OptionError.
    """
    folder = next((place / name for place in _places() if _whole(place / name)), Path(name))
    if not folder.is_dir():
        raise unknown_name("feature space", name, shipped())
    try:
        record = json.loads((folder / RECORD).read_text())
        hashes = record["files"] if "files" in record else record["sha256"]  # older ones have no checksum of their own
        for file in (CLASSIFIER, STATISTICS):
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != hashes[file]:
                raise OptionError(f"feature space {name!r} is corrupt: {file} is not the file that {RECORD} describes")
    except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(
            f"feature space {name!r} is incomplete or corrupt ({type(error).__name__}: {error})"
        ) from None
    return FeatureSpace(load_classifier(folder / CLASSIFIER), GaussianStatistics.load(folder / STATISTICS), record)


def _places() -> tuple[Path, Path]:
    """Where feature spaces lie: small ones in the package, larger ones in the repository's weights/features."""
    package = Path(str(resources.files("pndm")))
    return package / "metrics" / "data", package.parent / "weights" / "features"


def _whole(folder: Path) -> bool:
    return (folder / RECORD).is_file()


@torch.inference_mode()
def feature_batches(images: Tensor | Iterable[Tensor], classifier: Network, *, batch: int = 250) -> Iterator[Tensor]:
    """Features (B, d) of 8-bit images, at most `batch` images at a time, on the classifier's device."""
    device = next(classifier.parameters()).device
    for group in [images] if isinstance(images, Tensor) else images:
        if group.dtype != torch.uint8:
            raise OptionError(f"images have type {group.dtype}: torch.uint8 is accepted, what would be saved")
        for part in group.split(batch):
            yield classifier.features(to_model(part.to(device)))


def frechet_features(
    images: Tensor | Iterable[Tensor],
    space: str = "fashion-mnist",
    *,
    bootstrap: int = 0,
    seed: int = 0,
    batch: int = 250,
    device: str | torch.device = "cpu",
) -> Estimate:
    """Fréchet distance of images to the training set in the features of the shipped classifier (not an FID).

    `images` is uint8 (N, C, H, W), or an iterable of such batches, which is read once: memory does not grow with N.
    """
    feature_space = load_feature_space(space)
    metric = FrechetDistance(feature_space.reference, "frechet_features", bootstrap=bootstrap, seed=seed)
    for features in feature_batches(images, feature_space.classifier.to(device), batch=batch):
        start = metric.statistics.n
        metric.update(features, range(start, start + len(features)))
    return metric.compute()["frechet_features"]
