"""The few of diffusers' base classes that this package uses, for where diffusers is not installed.

Same names and behaviour as far as it goes: configurations that load and save, modules that a pipeline holds.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models.checkpoint import write_atomic


class Config(dict[str, Any]):
    """A dictionary whose entries are attributes too."""

    __getattr__ = dict.__getitem__


def register_to_config(init: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a constructor: its arguments, defaults included, become `self.config`."""

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(init).bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.config = Config({name: value for name, value in bound.arguments.items() if name != "self"})
        init(self, *args, **kwargs)

    return wrapped


class ConfigMixin:
    config_name: str
    config: Config

    @classmethod
    def from_config(cls, config: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Self:
        accepted = set(inspect.signature(cls.__init__).parameters)
        return cls(**{k: v for k, v in {**config, **kwargs}.items() if k in accepted})

    def save_config(self, save_directory: str | os.PathLike[str]) -> None:
        entries = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.config.items()}
        text = json.dumps({"_class_name": type(self).__name__, **entries}, indent=2, sort_keys=True)
        write_atomic(Path(save_directory) / self.config_name, (text + "\n").encode())


class SchedulerMixin:
    config_name = "scheduler_config.json"

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], subfolder: str = "", **kwargs: Any) -> Any:
        file = Path(path) / subfolder / cls.config_name
        if not file.is_file():
            raise OptionError(f"scheduler {path}: there is no {file}")
        return cls.from_config(json.loads(file.read_text()), **kwargs)  # type: ignore[attr-defined]

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        self.save_config(save_directory)  # type: ignore[attr-defined]


@dataclass
class SchedulerOutput:
    """prev_sample: the state for the next evaluation."""

    prev_sample: Tensor


@dataclass
class ImagePipelineOutput:
    """images: a list of PIL images, or an array (B, H, W, C), or a tensor (B, C, H, W)."""

    images: Any

    def __getitem__(self, index: int) -> Any:
        return (self.images,)[index]


class DiffusionPipeline:
    """Holds a network `unet` and a `scheduler`."""

    unet: torch.nn.Module

    def register_modules(self, **modules: Any) -> None:
        for name, module in modules.items():
            setattr(self, name, module)

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "scheduler": self.scheduler}  # type: ignore[attr-defined]

    @property
    def _execution_device(self) -> torch.device:
        return self.device  # type: ignore[attr-defined]

    def maybe_free_model_hooks(self) -> None:
        """Nothing to free: there is no offloading here."""

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        self._progress_bar_config = kwargs

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        from tqdm import tqdm

        return tqdm(iterable, total=total, **getattr(self, "_progress_bar_config", {}))
