"""The same solvers in other libraries, each over a model that costs nothing: what is timed is solver and driver.

Every entry is a run of `STEPS` steps as that library's users write it, and gives back how often it asked the model.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import pndm

STEPS = 50
SHAPE = (16, 3, 32, 32)
LINEAR = pndm.schedules.create("linear")
STATE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
ANSWER = STATE.flip(0)


class Free:
    """The answer is at hand; counts how often it is asked for, whatever the library calls its arguments."""

    asked = 0

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        self.asked += 1
        return ANSWER


Run = Callable[[Free], Any]


def ours(name: str, **options: Any) -> Run:
    solver = pndm.solvers.create(name, **options)
    return lambda model: pndm.solve(model, STATE, solver=solver, steps=STEPS, schedule=LINEAR)


def diffusers(name: str, **options: Any) -> Run:
    import diffusers

    scheduler = getattr(diffusers, name)(**options)

    def run(model: Free) -> None:
        scheduler.set_timesteps(STEPS)
        x = STATE
        for t in scheduler.timesteps:
            x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample

    return run


@cache
def k_diffusion_sampling() -> Any:
    """Its `sampling` module alone: the package's __init__ imports all that training needs, and utils torchvision."""
    spec = find_spec("k_diffusion")
    assert spec is not None
    assert spec.origin is not None
    bare = types.ModuleType("k_diffusion")
    bare.__path__ = [str(Path(spec.origin).parent)]
    images = types.ModuleType("torchvision.transforms")
    images.functional = None  # type: ignore[attr-defined]
    unread = {"torchvision": types.ModuleType("torchvision"), "torchvision.transforms": images}
    with patch.dict(sys.modules, {"k_diffusion": bare, **unread}):
        return importlib.import_module("k_diffusion.sampling")


def k_diffusion(name: str) -> Run:
    sampling = k_diffusion_sampling()
    sample, sigmas = getattr(sampling, name), sampling.get_sigmas_karras(STEPS, 0.0292, 157.0)

    @torch.no_grad()
    def run(model: Free) -> None:
        sample(model, STATE * sigmas[0], sigmas, disable=True)

    return run


def azula(name: str, **options: Any) -> Run:
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule
    from azula.sample import __dict__ as samplers

    class Plain(Denoiser):
        def __init__(self, model: Free) -> None:
            super().__init__()
            self.schedule, self.model = VPSchedule(), model

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
            return DiracPosterior(mean=self.model(x_t, t))

    return lambda model: samplers[name](Plain(model), steps=STEPS, silent=True, **options)(STATE)


def torchdiffeq(method: str) -> Run:
    """On dx/dt of the same path, from eps, as `transfer=linear` has it, to the least noise (at none it is infinite)."""
    from torchdiffeq import odeint

    times = torch.linspace(999.0, 0.0, STEPS + 1)

    @torch.no_grad()
    def run(model: Free) -> None:
        def slope(t: Tensor, x: Tensor) -> Tensor:
            time = float(t)
            return LINEAR.dlog_alpha(time) * (x - model(x, t) / LINEAR.sigma(time))

        odeint(slope, STATE, times, method=method)

    return run


# Each of our solvers, and what is the same method elsewhere.
CONTENDERS: dict[str, dict[str, Callable[[], Run]]] = {
    "plms": {"pndm": lambda: ours("plms"), "diffusers": lambda: diffusers("PNDMScheduler")},
    "ddim": {
        "pndm": lambda: ours("ddim"),
        "diffusers": lambda: diffusers("DDIMScheduler"),
        "k-diffusion": lambda: k_diffusion("sample_euler"),
        "azula": lambda: azula("DDIMSampler"),
    },
    "pseudo_heun": {
        "pndm": lambda: ours("pseudo_heun"),
        "diffusers": lambda: diffusers("HeunDiscreteScheduler"),
        "k-diffusion": lambda: k_diffusion("sample_heun"),
        "azula": lambda: azula("HeunSampler"),
    },
    "dpm_solver_2": {"pndm": lambda: ours("dpm_solver_2"), "k-diffusion": lambda: k_diffusion("sample_dpm_2")},
    "rho_ab": {
        "pndm": lambda: ours("rho_ab"),
        "k-diffusion": lambda: k_diffusion("sample_lms"),
        "azula": lambda: azula("vABSampler", order=4),
    },
    "dpmpp_2m": {
        "pndm": lambda: ours("dpmpp_2m"),
        "diffusers": lambda: diffusers("DPMSolverMultistepScheduler", solver_order=2),
        "k-diffusion": lambda: k_diffusion("sample_dpmpp_2m"),
    },
    "deis": {
        "pndm": lambda: ours("deis"),
        "diffusers": lambda: diffusers("DEISMultistepScheduler", solver_order=3),
    },
    "unipc": {
        "pndm": lambda: ours("unipc"),
        "diffusers": lambda: diffusers("UniPCMultistepScheduler", solver_order=2),
    },
    "euler": {"pndm": lambda: ours("euler"), "torchdiffeq": lambda: torchdiffeq("euler")},
    "rk4": {"pndm": lambda: ours("rk4"), "torchdiffeq": lambda: torchdiffeq("rk4")},
    "fon": {"pndm": lambda: ours("fon"), "torchdiffeq": lambda: torchdiffeq("explicit_adams")},
}
LIBRARIES = {"diffusers": "diffusers", "k-diffusion": "k_diffusion", "azula": "azula", "torchdiffeq": "torchdiffeq"}


def installed() -> dict[str, str]:
    """The versions of those libraries that are here."""
    return {name: version(name) for name, module in LIBRARIES.items() if find_spec(module) is not None}
