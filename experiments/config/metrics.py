"""The metrics that a run can be measured by, with their options: `metric=[paired,kid] metric.kid.real=5000`."""

from __future__ import annotations

from dataclasses import dataclass

LOOKS = ("classifier", "inception")  # whose features a metric can be measured in


@dataclass
class FrechetFeatures:
    """Fréchet distance in the shipped classifier's features."""

    bootstrap: int = 200  # resamples behind the interval; 0: no interval


@dataclass
class Fid:
    """Fréchet distance in Inception's features."""

    weights: str | None = None  # a file; null: where torch-fidelity keeps its own
    real: int | None = None  # training images that are the reference; null: all of them
    bootstrap: int = 20  # each takes 34 MB


@dataclass
class InFeatures:
    """A comparison with some real images in the features of either network."""

    features: str = "classifier"
    weights: str | None = None  # of Inception
    real: int = 10000
    bootstrap: int = 200


@dataclass
class Kid(InFeatures):
    """Kernel distance."""


@dataclass
class PrecisionRecall(InFeatures):
    """Precision and recall; at most `real` generated images are looked at."""

    neighbours: int = 3


@dataclass
class SlicedWasserstein:
    """Sliced Wasserstein distance in pixels."""

    directions: int = 64
    real: int = 10000
    bootstrap: int = 100


@dataclass
class Paired:
    """Error to the reference solution from the same noise."""

    samples: int = 64  # at most so many, as each needs a reference solution
    tolerance: float | None = None  # of the reference solution; null: 1e-4
    bootstrap: int = 200


@dataclass
class Metrics:
    """All metrics; those that are not chosen are null."""

    frechet_features: FrechetFeatures | None = None
    fid: Fid | None = None
    kid: Kid | None = None
    precision_recall: PrecisionRecall | None = None
    sliced_wasserstein: SlicedWasserstein | None = None
    paired: Paired | None = None
