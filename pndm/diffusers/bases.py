"""The classes of diffusers that ours derive from, or `standin`'s where diffusers is not installed."""

from __future__ import annotations

from typing import Any

from pndm.diffusers import standin

library: Any  # diffusers itself, or None
try:
    import diffusers as library
    from diffusers.configuration_utils import register_to_config as _register
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
    from diffusers.schedulers.scheduling_utils import SchedulerOutput as _SchedulerOutput

    # Those on a variance-preserving path with discrete times. EDM's has neither betas nor our noise path.
    INTERCHANGEABLE = [each.name for each in KarrasDiffusionSchedulers if each.name != "EDMEulerScheduler"]
except ImportError:
    library, INTERCHANGEABLE = None, []

ConfigMixin: Any = library.ConfigMixin if library else standin.ConfigMixin
SchedulerMixin: Any = library.SchedulerMixin if library else standin.SchedulerMixin
SchedulerOutput: Any = _SchedulerOutput if library else standin.SchedulerOutput
DiffusionPipeline: Any = library.DiffusionPipeline if library else standin.DiffusionPipeline
ImagePipelineOutput: Any = library.ImagePipelineOutput if library else standin.ImagePipelineOutput
register_to_config: Any = _register if library else standin.register_to_config
