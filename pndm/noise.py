"""Gaussian noise that belongs to a sample: determined by (seed, index) alone, whatever the batch, device or order."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm.errors import OptionError

# Draws standard normal noise of the shape, dtype and device of the given state.
Noise = Callable[[Tensor], Tensor]


class SampleNoise:
    """A stream of standard normal noise for each of some samples.

    Sample i has a counter-based generator of its own, keyed by (seed, i). Its first draw is its starting noise and the
    later ones are the noise of a stochastic solver's steps. Draws are made in float64 on the CPU, then rounded and
    moved, so that every dtype and device sees the same numbers.
    """

    def __init__(self, seed: int, indices: Iterable[int]):
        """Raises OptionError for a seed or an index that is not a whole number from 0 to 2^63 - 1."""
        seed = _whole("seed", seed)
        keys = [[seed, _whole("index", index)] for index in indices]
        self._streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def draw(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The next noise of every sample: (B, *shape) for B samples, each of the given shape."""
        noise = np.empty((len(self._streams), *shape))
        for k, stream in enumerate(self._streams):
            noise[k] = stream.standard_normal(tuple(shape))
        return torch.from_numpy(noise).to(dtype).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Noise like the state x of shape (B, *shape). Raises OptionError when B is not the number of samples."""
        if len(x) != len(self._streams):
            raise OptionError(f"the state holds {len(x)} samples, the noise source {len(self._streams)}")
        return self.draw(x.shape[1:], x.dtype, x.device)


def as_noise(generator: torch.Generator | Sequence[torch.Generator] | Noise | None) -> Noise:
    """A noise source from what users have: nothing, a torch generator, one a sample, or a source already.

    Raises OptionError for anything else, such as a seed.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=_home(generator, x)).to(
            x.device
        )
    if callable(generator) and not isinstance(generator, type):
        return generator
    if not isinstance(generator, Sequence) or not all(isinstance(each, torch.Generator) for each in generator):
        seeded = f", such as torch.Generator().manual_seed({generator})" if isinstance(generator, int) else ""
        raise OptionError(
            f"generator={reprlib.repr(generator)} must be a torch.Generator{seeded}, a list of one a sample, "
            "or a noise source"
        )

    def one_each(x: Tensor) -> Tensor:
        if len(generator) != len(x):
            raise OptionError(f"generator is a list of {len(generator)}, but the state holds {len(x)} samples")
        return torch.stack([as_noise(each)(one) for each, one in zip(generator, x, strict=True)])

    return one_each


def _whole(option: str, value: Any) -> int:
    """`value` as an int; one that is not whole would share the noise of the whole number below it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise OptionError(f"{option}={value!r} must be a whole number from 0 to 2^63 - 1")
    return number


def _home(generator: torch.Generator | None, x: Tensor) -> torch.device:
    """Where the generator draws: its own device, so that a CPU generator gives the same noise to a GPU run."""
    return x.device if generator is None else generator.device
