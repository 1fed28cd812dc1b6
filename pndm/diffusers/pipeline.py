"""PNDMPipeline: images from an unconditional network, with the interface that diffusers' pipeline of this name has."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pndm import solvers
from pndm.denoisers import denoiser
from pndm.diffusers.bases import DiffusionPipeline, ImagePipelineOutput, library
from pndm.diffusers.schedulers import SolverScheduler
from pndm.errors import ModelError, OptionError
from pndm.models import diffusers_folder as folders
from pndm.models.unet import UNet, UNetConfig
from pndm.noise import as_noise
from pndm.solve import solve

OUTPUT_TYPES = ("pil", "np", "pt")
_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "revision", "token")


class PNDMPipeline(DiffusionPipeline):
    """Unconditional image generation by pseudo numerical methods, or by any other solver.

        pipe = pndm.PNDMPipeline.from_pretrained("folder or hub name").to("cuda")
        images = pipe(batch_size=4, num_inference_steps=50, generator=torch.Generator().manual_seed(0)).images
        images = pipe(4, 20, solver="dpmpp_2m").images

    unet: a diffusers `UNet2DModel` or a `pndm.models.unet.UNet`. scheduler: one of `pndm.diffusers`; any other becomes
    the plms one of the same noise path (`pipe.scheduler = ...` afterwards takes every scheduler as it is).
    A true `diffusers.DiffusionPipeline` where diffusers is installed; without it folders load into our own U-Net.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        if not hasattr(scheduler, "config"):
            raise OptionError(
                f"scheduler={scheduler!r} must be a diffusers scheduler, or one of pndm.diffusers.scheduler"
            )
        if not isinstance(scheduler, SolverScheduler):
            scheduler = SolverScheduler.from_config(scheduler.config)
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Make images.

        batch_size: how many. num_inference_steps: steps of the solver.
        generator: of the noise; a list of one a sample makes every image depend on its own generator alone.
        output_type: pil (a list of images), np (an array (B, H, W, C) in [0, 1]; so is None, as in diffusers) or pt (a
            tensor (B, C, H, W) in [0, 1], on the network's device).
        return_dict: an `ImagePipelineOutput` with `.images`; else a tuple whose first element they are.
        solver (keyword): a name or an object of `pndm.solvers`, adaptive ones included, for this call in place of the
            scheduler's own, on the same noise path and grid.
        Raises OptionError for a value that cannot be used, and ModelError when the images are not finite.
        """
        solver = kwargs.pop("solver", None)
        for name in kwargs:
            if name in SolverScheduler.options():
                raise OptionError(
                    f"{name} is an option of the scheduler, not of a call: "
                    f"PNDMPipeline.from_pretrained(folder, {name}=...)"
                )
            raise OptionError(f"PNDMPipeline has no argument {name!r}: known are {', '.join(_ARGUMENTS)}, solver")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size={batch_size!r} must be a whole number of at least 1")
        output_type = output_type or "np"
        if output_type not in OUTPUT_TYPES:
            raise OptionError(f"output_type={output_type!r} must be one of {', '.join(OUTPUT_TYPES)}")
        if not isinstance(generator, (Sequence, torch.Generator, type(None))):
            raise OptionError(f"generator={generator!r} must be a torch.Generator, or a list of one a sample")
        if isinstance(generator, Sequence) and len(generator) != batch_size:
            raise OptionError(
                f"generator is a list of {len(generator)}, but batch_size={batch_size}: give one a sample"
            )
        # The state is in float32 whatever the network computes in, so that its rounding does not add up.
        image = as_noise(generator)(torch.empty(batch_size, *self._shape(), device=self._execution_device))
        if solver is None:
            image = self._by_scheduler(image, num_inference_steps, generator)
        else:
            image = self._by_solver(image, num_inference_steps, generator, solver)
        self.maybe_free_model_hooks()
        if not image.isfinite().all():
            raise ModelError(f"the network answered with NaN or infinity on the way (it computes in {self.dtype})")
        images = _as_output((image / 2 + 0.5).clamp(0, 1), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _by_scheduler(self, image: Tensor, steps: int, generator: Any) -> Tensor:
        """The loop of diffusers' pipelines, which suits any scheduler."""
        scheduler = self.scheduler
        scheduler.set_timesteps(steps)
        draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        image = image * scheduler.init_noise_sigma
        for t in self.progress_bar(scheduler.timesteps):
            output = self._network(scheduler.scale_model_input(image, t), t)
            image = scheduler.step(output, t, image, **draws).prev_sample
        return image

    def _by_solver(self, image: Tensor, steps: int, generator: Any, solver: str | solvers.Solver) -> Tensor:
        path = self.scheduler
        if not isinstance(path, SolverScheduler):
            path = SolverScheduler.from_config(path.config)
        times = path.grid_times(steps)
        with self.progress_bar(total=len(times) - 1) as bar:
            return solve(
                denoiser(self._network, path.predicts, path.schedule),
                image,
                solver=solver,
                schedule=path.schedule,
                grid=times,
                generator=generator,
                callback=lambda k, t, x: bar.update(1),
            ).x

    def _network(self, x: Tensor, t: Tensor) -> Tensor:
        answer = self.unet(x.to(self.dtype), t.to(x.device))
        return (answer if isinstance(answer, Tensor) else answer.sample).to(x.dtype)

    def _shape(self) -> tuple[int, int, int]:
        config = self.unet.config
        size = config.image_size if isinstance(config, UNetConfig) else config.sample_size
        if size is None:
            raise OptionError("the unet's configuration has no sample_size, so the size of its images is not known")
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In what the network computes."""
        return next(self.unet.parameters()).dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the network: to(device), to(dtype), to(device, dtype), or by keyword."""
        if library and isinstance(self.unet, library.ModelMixin):
            return super().to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        self.unet.to(*args, **kwargs)
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """A pipeline from a folder in diffusers' layout, or by its name on the hub.

        kwargs: those of `DiffusionPipeline.from_pretrained` for a folder (dtype, unet, scheduler, variant, ...), and
            options of `SolverScheduler` (solver, compat, timestep_spacing, ...).
        Raises OptionError for a folder without model_index.json, another kind of pipeline, a scheduler configuration
        with unknown fields, and pickled weights.
        """
        if kwargs.pop("use_safetensors", True) is False:
            raise OptionError("use_safetensors=False: pickled weights can run code when they are opened; only True")
        download = {name: kwargs.pop(name) for name in _DOWNLOAD if name in kwargs}
        folder = folders.local_folder(pretrained_model_name_or_path, **download)
        folders.read_index(folder)
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in SolverScheduler.options()}
        scheduler = kwargs.pop("scheduler", None)
        if scheduler is None:
            scheduler = SolverScheduler.from_config(folders.read_scheduler_config(folder), **own)
        elif own:
            raise OptionError(f"from_pretrained: scheduler is given, so {', '.join(own)} must be set on it")
        unet = kwargs.pop("unet", None)
        if unet is None:
            folders.refuse_pickles(folder)
            if library and not folders.is_ours(folder):
                return super().from_pretrained(str(folder), scheduler=scheduler, use_safetensors=True, **kwargs)
            dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or torch.float32
            unet = folders.load_network(folder, dtype)
        for name in kwargs:
            raise OptionError(
                f"from_pretrained of a pndm U-Net has no option {name!r}; known are dtype, unet, scheduler"
            )
        return cls(unet=unet, scheduler=scheduler)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the pipeline as a folder in diffusers' layout, weights as safetensors."""
        if not kwargs.pop("safe_serialization", True):
            raise OptionError("safe_serialization=False: pickles are not written; only True")
        if not isinstance(self.unet, UNet):
            super().save_pretrained(save_directory, **kwargs)
            return
        for name in kwargs:
            raise OptionError(f"save_pretrained of a pndm U-Net has no option {name!r}; known is safe_serialization")
        folder, kind = Path(save_directory), type(self.scheduler)
        entry = folders.save_network(self.unet, folder)
        self.scheduler.save_pretrained(folder / "scheduler")
        home = "diffusers" if kind.__module__.startswith("diffusers.") else kind.__module__
        index = {"_class_name": "PNDMPipeline", "unet": entry, "scheduler": [home, kind.__name__]}
        folders.write_json(folder / folders.INDEX, index)


_ARGUMENTS = [name for name in inspect.signature(PNDMPipeline.__call__).parameters if name not in ("self", "kwargs")]


def _as_output(images: Tensor, output_type: str) -> Any:
    """Images in [0, 1], (B, C, H, W), as what was asked for."""
    if output_type == "pt":
        return images
    array = images.cpu().permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return array
    from PIL import Image  # only needed here

    rounded = (array * 255).round().astype(np.uint8)
    return [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in rounded]
