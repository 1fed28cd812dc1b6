"""What a training run can be told, checked; and what follows from it: the learning rate and the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pndm.errors import OptionError, unknown_name
from pndm.models.fast import has_bfloat16, has_compiler


@dataclass
class TrainConfig:
    """What to train on, for how long, and how."""

    data: str = "fashion-mnist"
    data_folder: str | None = None
    schedule: str = "linear"
    predicts: str = "eps"
    """What the network's output means: eps, or v = alpha eps - sigma x0. With v the noise end, where eps needs x passed
    through the network to within alpha, costs a small network nothing; the loss is the mean squared error of either."""
    weights: str | None = None
    """A checkpoint whose weights the run starts from, in place of random ones."""
    batch: int = 128
    iterations: int = 40_000
    """Optimizer steps. The learning rate decays to zero over them; a run continued with more goes on at a higher."""
    lr: float = 4e-4
    warmup: int = 500
    """Iterations over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    ema: float = 0.9995
    """Decay of the averaged weights; lower at the start, where it would average in the initial weights."""
    grad_clip: float = 1.0
    flip: bool = False
    """Mirror images at random: for data that look the same from both sides."""
    seed: int = 0
    limit: int | None = None
    """Use only the first so many training images (tests, miniatures)."""
    amp: str = "auto"
    """bf16 autocast: "bf16", "none", or "auto" for bf16 where the processor multiplies it natively."""
    channels_last: bool | None = None
    """Memory layout of images and weights; null: channels last on a GPU, and on a CPU when compiled."""
    compile: bool = False
    """Compile the network: minutes at the start. On a CPU in bf16 it gained 0 to 15 %."""
    moments: str = "float32"
    """Type in which checkpoints keep Adam's moments, half of a checkpoint's bytes: float32, with which a continued run
    has the same bits as an uninterrupted one, or bfloat16 (float16 has no room for the squares of small gradients)."""
    checkpoint_minutes: float = 10.0
    validate_every: int = 2000
    """Iterations between measurements of the averaged weights' loss on test images (0: never)."""
    validate_images: int = 1024
    resume: str | None = None
    """Another run's folder to start from when the output folder has no checkpoint."""
    progress: bool = True
    tensorboard: bool = False
    """Also write the record's curves as an event file of TensorBoard."""


FREE_OPTIONS = {
    "iterations", "data_folder", "amp", "channels_last", "compile", "checkpoint_minutes", "moments",
    "validate_every", "validate_images", "resume", "progress", "tensorboard",
}  # fmt: skip
"""Options that may differ when a run is continued: where and how fast it runs, and for how long."""


def check(config: TrainConfig, device: torch.device) -> None:
    """Raise OptionError for the first value that cannot be used."""
    for name in ("batch", "iterations"):
        if getattr(config, name) < 1:
            raise OptionError(f"{name} {getattr(config, name)} must be at least 1")
    for name in ("warmup", "weight_decay", "grad_clip", "validate_every", "checkpoint_minutes", "seed"):
        if not getattr(config, name) >= 0:  # so that nan is refused too
            raise OptionError(f"{name} {getattr(config, name)} must not be negative")
    if not (config.lr > 0 and math.isfinite(config.lr)):
        raise OptionError(f"lr {config.lr} must be a positive number")
    if not 0 <= config.ema < 1:
        raise OptionError(f"ema {config.ema} must be at least 0 and below 1")
    if config.predicts not in ("eps", "v"):
        raise unknown_name("predicts", config.predicts, ("eps", "v"))
    if config.amp not in ("auto", "bf16", "none"):
        raise unknown_name("amp", config.amp, ("auto", "bf16", "none"))
    if config.moments not in ("float32", "bfloat16"):
        raise unknown_name("moments", config.moments, ("float32", "bfloat16"))
    if config.limit is not None and config.limit < 1:
        raise OptionError(f"limit {config.limit} must be at least 1, or null for all images")
    if config.validate_every and config.validate_images < 1:
        raise OptionError(f"validate_images {config.validate_images} must be at least 1; validate_every=0 turns it off")
    if config.compile and device.type == "cpu" and not has_compiler(device):  # else a long traceback from inside torch
        raise OptionError("compile=true needs a C++ compiler, and g++ is not installed: install it, or compile=false")


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Linear warm-up, then a cosine from `lr` to about zero at the last iteration."""
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    progress = (iteration - config.warmup) / max(1, config.iterations - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def wants_channels_last(config: TrainConfig, device: torch.device) -> bool:
    """As told, or the usual choice; an uncompiled CPU run in bf16 was measured at 206 images/s without, 154 with."""
    return device.type == "cuda" or config.compile if config.channels_last is None else config.channels_last


def wants_bf16(amp: str, device: torch.device) -> bool:
    """Whether to run the network in bf16: as told, or ("auto") where the processor multiplies bf16 natively."""
    if amp != "auto":
        return amp == "bf16"
    return has_bfloat16(device)


MOST_SHIFT = 8  # a quarter of CIFAR-10's images: what is moved further is another picture


@dataclass
class ClassifierTrainConfig:
    """How the classifier is trained. The defaults reach 93 % on Fashion-MNIST in minutes on two cores."""

    architecture: str = "residual"  # or "whitened": pndm/metrics/classifier.py and whitened.py
    data: str = "fashion-mnist"
    folder: str | None = None  # of the data files; None searches the usual places
    widths: tuple[int, ...] = (24, 48, 96)
    blocks: int = 1  # of the residual one
    epochs: int = 15
    batch: int = 256
    lr: float = 0.15  # the peak
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    shift: int = 2  # random translation by up to this many pixels
    flip: bool = True  # random mirror images
    bf16: bool = True  # autocast; half the time on processors that have it
    seed: int = 0
    limit: int = 0  # use only the first so many images of each split (0: all), for tests

    def __post_init__(self) -> None:
        if self.architecture not in ("residual", "whitened"):
            raise unknown_name("architecture", self.architecture, ("residual", "whitened"))
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}: a whole number of at least 1 is accepted")
        for name in ("lr", "shift", "limit", "weight_decay"):
            if not getattr(self, name) >= 0:  # so that nan is refused too
                raise OptionError(f"{name} is {getattr(self, name)}: a number of at least 0 is accepted")
        if self.shift > MOST_SHIFT:
            raise OptionError(f"shift is {self.shift}: at most {MOST_SHIFT} pixels are accepted")
        if self.limit == 1:
            raise OptionError("limit is 1: 0 for all images, or at least 2 are accepted")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}: a number from 0 up to but not 1 is accepted")
