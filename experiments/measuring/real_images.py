"""The real images that generated ones are compared with, and what networks see in them, kept on disk."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from pndm.data import load, to_model
from pndm.errors import OptionError
from pndm.metrics.frechet import GaussianStatistics
from pndm.metrics.measurement import Look
from pndm.models.checkpoint import write_atomic

CACHE = Path("outputs/.real")
BATCH = 500


@lru_cache(maxsize=2)
def chosen(data: str, count: int | None) -> Tensor:
    """`count` training images drawn without regard to their order, or all, as a network sees them (N, C, H, W)."""
    images = load(data).images
    if count is not None and count > len(images):
        raise OptionError(f"real={count} is more than the {len(images)} training images of {data}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return to_model(images[order[: count or len(images)]])


@torch.no_grad()
def features(data: str, count: int | None, look: Look, place: str) -> Tensor:
    """What `look` sees in real images, (N, d). `place` names it to the last bit of its weights."""

    def seen() -> dict[str, Tensor]:
        return {"features": torch.cat([part.cpu() for part in _looked_at(data, count, look)])}

    return _kept(f"features {data} {count} {place}", seen)["features"]


@torch.no_grad()
def statistics(data: str, count: int | None, look: Look, place: str, dimension: int) -> GaussianStatistics:
    """Mean and covariance of what `look` sees in real images."""

    def seen() -> dict[str, Tensor]:
        found = GaussianStatistics(dimension)
        for part in _looked_at(data, count, look):
            found.update(part)
        return {"mean": found.mean, "scatter": found.scatter, "n": torch.tensor(found.n)}

    kept, found = _kept(f"statistics {data} {count} {place}", seen), GaussianStatistics(dimension)
    found.mean, found.scatter, found.n = kept["mean"], kept["scatter"], int(kept["n"])
    return found


def _looked_at(data: str, count: int | None, look: Look) -> Iterator[Tensor]:
    """What `look` sees in real images, in batches."""
    for part in tqdm(chosen(data, count).split(BATCH), desc="real images", leave=False, disable=None):
        yield look(part)


def _kept(identity: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the file that an earlier call with the same identity wrote, or made now."""
    path = CACHE / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError):  # not there, or damaged
        found = make()
    try:
        write_atomic(path, save({name: tensor.contiguous() for name, tensor in found.items()}))
    except OSError as error:
        print(f"features of real images are not kept: {path} cannot be written ({error.strerror})", file=sys.stderr)
    return found
