"""pndm: numerical methods for diffusion sampling.

pndm.solve(model, x, solver="plms", steps=50)     carry noise to samples
pndm.solvers / pndm.schedules / pndm.grids        names(), create(name, **options), register(name)
pndm.PNDMPipeline, pndm.diffusers.scheduler       the same in diffusers (an optional dependency)
"""

from typing import Any

from pndm import grids, noise, schedules, solvers
from pndm.errors import ModelError, OptionError
from pndm.solve import Solution, solve

__version__ = "0.1.0"
__all__ = ["ModelError", "OptionError", "Solution", "grids", "noise", "schedules", "solve", "solvers"]


def __getattr__(name: str) -> Any:
    # Only when asked for: `import pndm` must not import diffusers.
    if name == "PNDMPipeline":
        from pndm.diffusers import PNDMPipeline

        return PNDMPipeline
    if name == "diffusers":
        import importlib

        return importlib.import_module("pndm.diffusers")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
