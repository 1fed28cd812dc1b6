"""From the chosen metrics of a configuration to a measurement that a run's samples are fed to, in batches.

Metrics look at the 8-bit images that would be saved, and compare them with the images that the network was trained on;
the paired error looks at the states, and compares them with the reference solution from the same noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.config import build
from experiments.config.metrics import LOOKS
from experiments.measuring import real_images, target
from pndm.errors import OptionError, unknown_name
from pndm.metrics import inception
from pndm.metrics.estimate import Metric, Resampling, check_enough
from pndm.metrics.frechet import CLASSIFIER, FrechetDistance, load_feature_space, shipped
from pndm.metrics.kernel import KernelDistance
from pndm.metrics.measurement import Look, Measurement, as_they_are, features_of, labels_of, pixels
from pndm.metrics.paired import PairedError
from pndm.metrics.precision_recall import PrecisionRecall
from pndm.metrics.sliced import SlicedWasserstein

CACHE = Path("outputs/.references")
BLOCK = 32  # samples whose reference solution is computed and kept together, so that it is found whatever the batch
LEAST = {"frechet_features": 2, "fid": 2, "kid": 2, "sliced_wasserstein": 2, "paired": 1}  # samples


def chosen(cfg: DictConfig) -> dict[str, DictConfig]:
    """The chosen metrics and their options."""
    return {str(name): options for name, options in cfg.metric.items() if options is not None}


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first metric that cannot be measured, before anything runs."""
    for name, options in chosen(cfg).items():
        check_enough(name, cfg.samples, options.neighbours + 1 if name == "precision_recall" else LEAST[name])
        try:
            Resampling(options.bootstrap)
        except OptionError as error:
            raise OptionError(f"metric.{name}.{error}") from None
        for option, least in (("real", 2), ("directions", 1), ("neighbours", 1), ("samples", 1)):
            if options.get(option) is not None and options[option] < least:
                raise OptionError(f"metric.{name}.{option}={options[option]} must be at least {least}")
        if options.get("features", LOOKS[0]) not in LOOKS:
            raise unknown_name(f"metric.{name}.features", options.features, LOOKS)
        if name == "fid" or options.get("features") == "inception":
            inception.check_installed()
            inception.find(options.weights)
        if name == "paired":
            solver = build.method(cfg).solver
            target.refuse_stochastic({solver.name: solver})
            if options.tolerance is not None and not options.tolerance > 0:
                raise OptionError(f"metric.paired.tolerance={options.tolerance} must be positive")


def make(cfg: DictConfig, data: str, device: torch.device) -> Measurement:
    """The measurement of a configuration, on a network that was trained on `data`. Raises OptionError."""
    maker, groups = _Maker(cfg, data, device), {}  # type: tuple[_Maker, dict[str, tuple[Look, list[Metric]]]]
    for name, options in chosen(cfg).items():
        place, look, metric = getattr(maker, name)(options)
        groups.setdefault(place, (look, []))[1].append(metric)
    return Measurement(list(groups.values()))


class _Maker:
    """A method for every metric: the name of where it looks (those that look at the same share it), how, and itself."""

    def __init__(self, cfg: DictConfig, data: str, device: torch.device):
        self.cfg, self.data, self.device, self.seed = cfg, data, device, cfg.seed

    def frechet_features(self, options: DictConfig) -> tuple[str, Look, Metric]:
        reference = load_feature_space(self.data).reference
        metric = FrechetDistance(reference, "frechet_features", bootstrap=options.bootstrap, seed=self.seed)
        return *self._look("classifier", None), metric

    def fid(self, options: DictConfig) -> tuple[str, Look, Metric]:
        place, look = self._look("inception", options.weights)
        reference = real_images.statistics(self.data, options.real, look, place, inception.DIMENSION)
        return place, look, FrechetDistance(reference, "fid", bootstrap=options.bootstrap, seed=self.seed)

    def kid(self, options: DictConfig) -> tuple[str, Look, Metric]:
        place, look = self._look(options.features, options.weights)
        real = real_images.features(self.data, options.real, look, place)
        return place, look, KernelDistance(real, bootstrap=options.bootstrap, seed=self.seed)

    def precision_recall(self, options: DictConfig) -> tuple[str, Look, Metric]:
        place, look = self._look(options.features, options.weights)
        real = real_images.features(self.data, options.real, look, place)
        metric = PrecisionRecall(real, neighbours=options.neighbours, bootstrap=options.bootstrap, seed=self.seed)
        return place, look, metric

    def sliced_wasserstein(self, options: DictConfig) -> tuple[str, Look, Metric]:
        real = pixels(real_images.chosen(self.data, options.real))
        metric = SlicedWasserstein(real, directions=options.directions, bootstrap=options.bootstrap, seed=self.seed)
        return "pixels", pixels, metric

    def paired(self, options: DictConfig) -> tuple[str, Look, Metric]:
        truth = References(self.cfg, options)
        classify = labels_of(load_feature_space(self.data).classifier, self.device) if self.data in shipped() else None
        metric = PairedError(
            truth, classify, truth.floor, most=options.samples, bootstrap=options.bootstrap, seed=self.seed
        )
        return "states", as_they_are, metric

    def _look(self, features: str, weights: str | None) -> tuple[str, Look]:
        if features == "classifier":
            space = load_feature_space(self.data)
            return f"classifier {space.record['sha256'][CLASSIFIER]}", features_of(space.classifier, self.device)
        path = inception.find(weights)
        return f"inception {inception.digest(path)}", inception.load(path, self.device)


class References:
    """The reference solutions of a run's samples, by index; computed in blocks, and kept on disk."""

    def __init__(self, cfg: DictConfig, options: DictConfig):
        least = {"bfloat16": "float32", "float16": "float32"}  # a reference must be better than what it judges
        self.goal = target.make(OmegaConf.merge(cfg, {"dtype": least.get(cfg.dtype, cfg.dtype)}))  # type: ignore[arg-type]
        self.seed, self.tolerance, self.most = cfg.seed, options.tolerance, min(cfg.samples, options.samples)
        self.differences: dict[int, float] = {}
        self.last: tuple[int, Tensor] | None = None

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """States (B, *shape) in float64."""
        return torch.stack([self._block(index // BLOCK)[index % BLOCK] for index in indices])

    def floor(self) -> float:
        """The largest of the differences between the last two answers that the references were taken from."""
        return max(self.differences.values())

    def _block(self, number: int) -> Tensor:
        if self.last is None or self.last[0] != number:
            indices = range(number * BLOCK, min((number + 1) * BLOCK, self.most))
            noise = self.goal.noise(self.seed, indices)
            found = self.goal.reference(noise, self.goal.ends, self.tolerance, CACHE)
            self.differences[number], self.last = found.difference, (number, found.x)
        return self.last[1]


def measured(measurement: Measurement, samples: Iterable[tuple[range, Tensor]]) -> dict[str, Any]:
    """What a record says of samples, given some at a time with their indices; resamples as a line of text each."""
    for indices, x in samples:
        measurement.update(x.float(), indices)
    return {
        name: {**vars(found), "resamples": " ".join(f"{value:.7g}" for value in found.resamples)}
        for name, found in measurement.compute().items()
    }
