"""Every solver of the registry as a diffusers scheduler.

    pipe.scheduler = pndm.diffusers.scheduler("plms", pipe.scheduler.config)
    pipe.scheduler = pndm.diffusers.scheduler("dpmpp_2m", pipe.scheduler.config, timestep_spacing="logsnr")

The generators that `pndm.solve` runs are run here too: `set_timesteps` lists the times of their questions, and `step`
hands in one answer and gives back the state of the next question.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm import grids, solvers
from pndm.diffusers.bases import (
    INTERCHANGEABLE,
    ConfigMixin,
    SchedulerMixin,
    SchedulerOutput,
    library,
    register_to_config,
)
from pndm.diffusers.compat import THEIRS, single_precision
from pndm.diffusers.questions import Questions, Run, SolverRun
from pndm.errors import OptionError
from pndm.models.diffusers_config import DEFAULTS, filled, predicts_of, schedule_of
from pndm.noise import as_noise

_NEAR = 1e-3  # timesteps are handed in as float32 or int, and compared with float64


def scheduler(name: str = "plms", config: Mapping[str, Any] | None = None, **options: Any) -> SolverScheduler:
    """A diffusers scheduler that drives the solver `name`, for the network that `config` was written for.

    config: of the scheduler that it replaces (`pipe.scheduler.config`, or the content of a scheduler_config.json): the
        noise path, the prediction type, timestep_spacing, steps_offset, set_alpha_to_one. Without it: DDPM's linear
        path, eps, a uniform grid to the clean end, as `pndm.solve`.
    options: any option of the solver (order, startup, ...), of the grid (power, ...), or of `SolverScheduler`, which
        take the place of the configuration's.
    Raises OptionError for an option that none of the three has, a configuration with unknown fields, and a solver that
    chooses its own steps.
    """
    if not isinstance(name, str):
        raise OptionError("scheduler takes a solver by its name, and its options beside it: they are saved with it")
    config = _configuration(config)
    of_solver = solvers.solvers.options(name)
    spacing = {**DEFAULTS.get(str(config.get("_class_name")), {}), **config, **options}.get(
        "timestep_spacing", "uniform"
    )
    of_grid = grids.grids.options(spacing)
    own = SolverScheduler.options()
    kept: dict[str, Any] = {"solver_options": {}}
    if "timestep_spacing" in options:
        kept["grid_options"] = {}
    for option, value in options.items():
        if option in of_solver:
            kept["solver_options"][option] = value
        elif option in of_grid:
            kept.setdefault("grid_options", {})[option] = value
        elif option in own:
            kept[option] = value
        else:
            known = ", ".join([*of_solver, *of_grid, *own])
            raise OptionError(f"scheduler {name!r} has no option {option!r}: known are {known}")
    return SolverScheduler.from_config(config, solver=name, **kept)


class SolverScheduler(SchedulerMixin, ConfigMixin):
    """A solver of pndm behind diffusers' scheduler interface.

    solver, solver_options: by name, with the options of that name. Stochastic ones draw from the `generator` of `step`.
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise path (`diffusers_config`).
    prediction_type: epsilon, sample or v_prediction, each converted to eps at its own time before anything else.
    timestep_spacing, grid_options: any grid of pndm. leading, trailing and linspace are diffusers'; on the others the
        times are real numbers.
    steps_offset: is added to the times of leading.
    set_alpha_to_one: whether the run ends at ᾱ = 1 or at the ᾱ of index 0. A run whose last evaluation is at 0 already
        ends at ᾱ = 1 in any case: a step from 0 to 0 would do nothing with it.
    skip_prk_steps: a solver that would start with Runge-Kutta starts at low order instead, one evaluation a step
        (theirs evaluates at the second timestep twice, for a Heun step: startup="heun").
    compat: compute what diffusers' PNDMScheduler (solver plms) or DDIMScheduler (ddim) computes, faults included.
    clip_sample, clip_sample_range: only for ddim with compat; clipping x0 has no place in an ODE.
    thresholding, rescale_betas_zero_snr: only False.

    A run that starts in the middle of the timesteps (set_begin_index, or a first step at a later timestep) starts the
    solver anew there. Where the list holds what only a Runge-Kutta start-up asks for, a multistep solver starts at low
    order instead and passes over those evaluations, with a warning.
    """

    _compatibles = INTERCHANGEABLE
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        solver: str = "plms",
        solver_options: Mapping[str, Any] | None = None,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "uniform",
        grid_options: Mapping[str, Any] | None = None,
        steps_offset: int = 0,
        set_alpha_to_one: bool = True,
        skip_prk_steps: bool = False,
        compat: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        if thresholding:
            raise OptionError("scheduler configuration: thresholding=True is not supported; only False")
        self.schedule = schedule_of(self.config)
        self.predicts = predicts_of(self.config)
        grids.create(timestep_spacing, **(grid_options or {}))
        options = dict(solver_options or {})
        if skip_prk_steps and solvers.solvers.options(solver).get("startup", (None, None))[1] == "rk":
            options = {"startup": "low_order", **options}
        self._solvers = [solvers.create(solver, **options)]
        if "startup" in solvers.solvers.options(solver):
            self._solvers.append(solvers.create(solver, **{**options, "startup": "low_order"}))
        if self._solvers[0].evaluations_per_step is None:
            raise OptionError(
                f"solver {solver!r} chooses its own steps, so no list of timesteps can drive it; use pndm.solve"
            )
        self.order = self._solvers[0].evaluations_per_step
        if compat and solver not in THEIRS:
            raise OptionError(
                f"solver={solver!r}: compat=True knows plms (diffusers' PNDMScheduler) and ddim (DDIMScheduler)"
            )
        steps = np.arange(float(self.schedule.train_steps or 0))
        self.alphas_cumprod = torch.tensor(self.schedule.alpha(steps) ** 2, dtype=torch.float32)
        if compat:
            self.alphas_cumprod = single_precision(self.config, self.schedule)
        self.timesteps = torch.from_numpy(steps[::-1].astype(np.int64))
        self.num_inference_steps: int | None = None
        self._begin_index: int | None = None
        self._reset()

    @classmethod
    def options(cls) -> list[str]:
        """The names of the constructor's arguments."""
        return list(inspect.signature(cls.__init__).parameters)[1:]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """From the configuration of any diffusers scheduler for discrete times, whose absent fields mean what they mean
        to the class that wrote it. Raises OptionError for unknown fields."""
        given = _configuration(config)
        name = kwargs.get("solver", given.get("solver", "plms"))
        classes = [getattr(library, each) for each in INTERCHANGEABLE if hasattr(library, each)]
        extra = set().union(*(cls._get_init_keys(each) for each in classes))
        if kwargs.get("compat", given.get("compat")) and name in THEIRS and "solver" not in given:
            # As diffusers does: its class's own defaults for what the other class had not been told either.
            given = {k: v for k, v in given.items() if k not in given.get("_use_default_values", ())}
            given["_class_name"] = THEIRS[name][0]
        filled_in = filled(given, extra)
        filled(kwargs)  # refuses unknown names
        if return_unused_kwargs:
            return super().from_config(filled_in, return_unused_kwargs=True, **kwargs)
        return super().from_config(filled_in, **kwargs)

    def grid_times(self, steps: int) -> np.ndarray:
        """The times of the steps of a run, shape (steps + 1,), decreasing."""
        spacing, options = self.config["timestep_spacing"], dict(self.config["grid_options"] or {})
        if spacing == "leading":
            options.setdefault("offset", self.config["steps_offset"])
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
            raise OptionError(f"num_inference_steps={steps!r} must be a whole number of at least 1")
        if steps > len(self):
            raise OptionError(
                f"num_inference_steps={steps} is more than the {len(self)} that the network was trained on"
            )
        end = self._final()
        placed = grids.create(spacing, **options).place(int(steps), self.schedule, self.schedule.t_noise, end)
        if placed[-2] <= 0:
            placed[-1] = -1.0
        return grids.times(placed, steps, self.schedule)

    def _final(self) -> float:
        return -1.0 if self.config["set_alpha_to_one"] else 0.0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | np.ndarray | Tensor | None = None,
    ) -> None:
        """Begin a run anew: `timesteps` becomes the times of all its evaluations, int64 if all are whole.

        timesteps: the decreasing times at which steps start, in place of num_inference_steps and the spacing.
        Raises OptionError for a number of steps or times that no run can have.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise OptionError("set_timesteps: give either num_inference_steps or timesteps")
        if timesteps is not None:
            starts = torch.as_tensor(timesteps, dtype=torch.float64).cpu().reshape(-1).numpy()
            end = -1.0 if len(starts) and starts[-1] <= 0 else self._final()
            grid = grids.times(np.append(starts, end), 0, self.schedule)
        else:
            grid = self.grid_times(num_inference_steps)  # type: ignore[arg-type]
        steps = len(grid) - 1
        if not self.config["compat"]:
            self._run: Run = SolverRun(self._solvers, self.schedule, grid, self.predicts, self._draw)
        elif timesteps is not None:
            raise OptionError("set_timesteps: compat=True does not take timesteps, as diffusers' own does not")
        else:
            theirs = THEIRS[self.config["solver"]][1]
            self._run = theirs(self.config, self.predicts, self.schedule, self.alphas_cumprod, steps)
        self.num_inference_steps = steps
        listed = torch.tensor(self._run.times, dtype=torch.float64)
        whole = bool((listed == listed.round()).all())
        self.timesteps = listed.to(torch.int64 if whole else torch.float32).to(device)
        self._begin_index = None
        self._reset()

    def _reset(self) -> None:
        self._asking: Questions | None = None
        self._next: int | None = None  # index of the timestep whose answer is awaited

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start the run at this index of `timesteps`: an image-to-image pipeline's way in."""
        if not 0 <= begin_index <= len(self.timesteps):
            raise OptionError(
                f"begin_index={begin_index} must lie between 0 and {len(self.timesteps)}, the timesteps' end"
            )
        self._begin_index = begin_index

    @property
    def begin_index(self) -> int | None:
        """Where the run starts, when `set_begin_index` said so."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """Index of the timestep whose answer is awaited; None before the first."""
        return self._next

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Hand in the network's output at (sample, timestep); get the state to evaluate at the next timestep.

        sample: shape (B, *shape). One that is not the last `prev_sample` (an inpainting pipeline's) takes its place.
        Raises OptionError for a step out of order, and for shapes that differ.
        """
        if model_output.shape != sample.shape:
            raise OptionError(
                f"model_output has shape {tuple(model_output.shape)} and sample {tuple(sample.shape)}; they must be one"
            )
        index = self._index(timestep)
        self._generator = generator
        if self._next is None:
            self._asking, self._used = self._run.begin(sample.clone(), index)
            self._first, self._state = index, next(self._asking)[0]
            if not all(self._used):
                warnings.warn(
                    f"scheduler {self.config['solver']!r} starts at index {index} of {len(self.timesteps)} timesteps, "
                    f"where its start-up does not fit; evaluations not used: {self._used.count(False)} "
                    "(startup='low_order' lists none of them)",
                    stacklevel=2,
                )
        self._state.copy_(sample)  # which an inpainting pipeline, say, has changed since it was given
        if self._used[index - self._first]:
            assert self._asking is not None
            try:
                self._state = self._asking.send(model_output.to(sample.dtype))[0]
            except StopIteration as end:
                self._state, self._asking = end.value, None
        self._next = index + 1
        shown = self._state.clone()  # the pipeline may change it in place; the solver works on with its own
        return SchedulerOutput(prev_sample=shown) if return_dict else (shown,)

    def _index(self, timestep: float | Tensor) -> int:
        """The index of a timestep; OptionError if it is not the one that is due."""
        if self.num_inference_steps is None:
            raise OptionError("step: call set_timesteps first")
        listed = self._run.times
        index: int | None = None
        if isinstance(timestep, Tensor):
            timestep = timestep.reshape(-1)[0]
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                index = int(timestep.storage_offset() - self.timesteps.storage_offset())  # without stopping a GPU
        t = listed[index] if index is not None else float(timestep)
        due = self._next if self._next is not None else self._begin_index
        if due == len(listed):
            raise OptionError(
                f"step at timestep {t:g}: all {due} of this run are answered; call set_timesteps for another"
            )
        if due is None:
            near = [k for k, time in enumerate(listed) if abs(time - t) < _NEAR]
            if index is None and not near:
                raise OptionError(f"step at timestep {t:g}: it is not one of this run's timesteps, {_few(listed)}")
            return index if index is not None else near[0]
        if abs(listed[due] - t) >= _NEAR or index not in (None, due):
            raise OptionError(
                f"step out of order: timestep {t:g}, where {listed[due]:g} (number {due + 1} of {len(listed)}) is due; "
                "call step once for each of scheduler.timesteps, and set_timesteps before each run"
            )
        return due

    def _draw(self, x: Tensor) -> Tensor:
        return as_noise(self._generator)(x)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample itself: on a variance-preserving path networks take the state as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha(t) x0 + sigma(t) noise, at one time or one a sample; real times too. Shapes: (B, *shape), (B,)."""
        t = timesteps.detach().cpu().double().reshape(-1)
        column = (-1,) + (1,) * (original_samples.dim() - 1)
        alpha = self.schedule.alpha(t).view(column).to(original_samples)
        return alpha * original_samples + self.schedule.sigma(t).view(column).to(original_samples) * noise

    def __len__(self) -> int:
        return len(self.alphas_cumprod)


def _configuration(config: Any) -> dict[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise OptionError(
            f"scheduler configuration: config={repr(config).splitlines()[0]} must be one itself "
            "(pipe.scheduler.config); SolverScheduler.from_pretrained reads files"
        )
    return dict(config or {})


def _few(times: Sequence[float]) -> str:
    shown = [f"{t:g}" for t in times]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])
