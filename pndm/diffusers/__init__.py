"""pndm in diffusers: its solvers as schedulers, and the pipeline.

    pipe.scheduler = pndm.diffusers.scheduler("plms", pipe.scheduler.config)      any diffusers pipeline
    pndm.PNDMPipeline.from_pretrained(folder)(batch_size=4, num_inference_steps=50).images

Nothing is imported before it is asked for: `import pndm.diffusers` does not import diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pndm.diffusers.pipeline import PNDMPipeline
    from pndm.diffusers.schedulers import SolverScheduler, scheduler

_HOME = {"scheduler": "schedulers", "SolverScheduler": "schedulers", "PNDMPipeline": "pipeline"}

__all__ = ["PNDMPipeline", "SolverScheduler", "scheduler"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
