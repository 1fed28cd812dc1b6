"""From the chosen metrics of a configuration to a measurement that a run's samples are fed to, in batches.

Metrics look at the 8-bit images that would be saved, and compare them with the images that the network was trained on;
the paired error looks at the states, and compares them with the reference solution from the same noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from experiments import build, target
from experiments.metric_config import LOOKS
from experiments.reference_cache import Cache
from pndm.data import load, to_model
from pndm.errors import OptionError, unknown_name
from pndm.metrics import inception
from pndm.metrics.estimate import Estimate, Metric, Resampling, check_enough
from pndm.metrics.frechet import FrechetDistance, GaussianStatistics, load_feature_space, shipped
from pndm.metrics.kernel import KernelDistance
from pndm.metrics.measurement import Look, Measurement, as_they_are, features_of, pixels
from pndm.metrics.paired import PairedError
from pndm.metrics.precision_recall import PrecisionRecall
from pndm.metrics.sliced import SlicedWasserstein
from pndm.noise import SampleNoise

CACHE = Path("outputs/.references")
BLOCK = 32  # samples whose reference solution is computed and kept together, so that it is found whatever the batch
REAL_BATCH = 500
LEAST = {"frechet_features": 2, "fid": 2, "kid": 2, "sliced_wasserstein": 2, "paired": 1}  # samples


def chosen(cfg: DictConfig) -> dict[str, DictConfig]:
    """The chosen metrics and their options."""
    return {str(name): options for name, options in cfg.metric.items() if options is not None}


def check(cfg: DictConfig) -> None:
    """Raise OptionError for the first metric that cannot be measured, before anything runs."""
    for name, options in chosen(cfg).items():
        check_enough(name, cfg.samples, options.neighbours + 1 if name == "precision_recall" else LEAST[name])
        Resampling(options.bootstrap)
        for option, least in (("real", 2), ("directions", 1), ("neighbours", 1), ("samples", 1)):
            if options.get(option) is not None and options[option] < least:
                raise OptionError(f"metric.{name}.{option}={options[option]} must be at least {least}")
        if options.get("features", LOOKS[0]) not in LOOKS:
            raise unknown_name(f"metric.{name}.features", options.features, LOOKS)
        if name == "fid" or options.get("features") == "inception":
            inception.find(options.weights)
            inception.check_installed()
        if name == "paired":
            solver = build.method(cfg).solver
            target.refuse_stochastic({solver.name: solver})
            if options.tolerance is not None and not options.tolerance > 0:
                raise OptionError(f"metric.paired.tolerance={options.tolerance} must be positive")


def make(cfg: DictConfig, data: str, device: torch.device) -> Measurement:
    """The measurement of a configuration, on a network that was trained on `data`. Raises OptionError."""
    groups: dict[Any, tuple[Look, list[Metric]]] = {}
    for name, options in chosen(cfg).items():
        kept = {"bootstrap": options.bootstrap, "seed": cfg.seed}
        if name == "paired":
            found: tuple[Any, Look, Metric] = (name, as_they_are, paired(cfg, data, device))
        elif name == "sliced_wasserstein":
            metric = SlicedWasserstein(pixels_of(data, options.real), directions=options.directions, **kept)
            found = (name, pixels, metric)
        elif name == "frechet_features":
            space = load_feature_space(data)
            found = ("classifier", features_of(space.classifier, device), FrechetDistance(space.reference, name, **kept))
        elif name == "fid":
            path = inception.find(options.weights)
            statistics = GaussianStatistics(inception.DIMENSION)
            for part in seen(data, options.real, "inception", str(path), device):
                statistics.update(part)
            found = (path, look(data, "inception", str(path), device), FrechetDistance(statistics, name, **kept))
        else:
            weights = str(inception.find(options.weights)) if options.features == "inception" else None
            real = torch.cat(seen(data, options.real, options.features, weights, device))
            if name == "kid":
                metric_: Metric = KernelDistance(real, **kept)
            else:
                metric_ = PrecisionRecall(real, neighbours=options.neighbours, **kept)
            found = (weights or "classifier", look(data, options.features, weights, device), metric_)
        groups.setdefault(found[0], (found[1], []))[1].append(found[2])
    return Measurement(list(groups.values()))
