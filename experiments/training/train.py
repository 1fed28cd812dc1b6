"""Train a U-Net to predict the noise, on a CPU or a GPU, so that a killed run goes on with the same result.

    record = train(TrainConfig(iterations=40_000), UNetConfig(...), Path("outputs/train"), "cpu")

Every random number of iteration i is made from (seed, i), and the order of the images from (seed, epoch); so the state
of a run is its tensors and one integer, and a run that was killed and continued ends with the same bits on the same
machine. The whole data set stays on the device as bytes, and nothing in the loop waits for the device except to read
the loss once in `LOSS_EVERY` iterations.

Written to the output folder, each whole or not at all: `checkpoint-*` (checkpoints.py), `model.safetensors` (the
averaged weights), `record.json`, `loss.png` and `loss.svg`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import pndm.data
import pndm.schedules
from experiments.config.training import (
    FREE_OPTIONS,
    TrainConfig,
    check,
    learning_rate,
    wants_bf16,
    wants_channels_last,
)
from experiments.runs import records, tensorboard
from experiments.training import checkpoints, loss_curve
from experiments.training.matrix_peak import throughput
from pndm.errors import ModelError, OptionError
from pndm.models.checkpoint import load_checkpoint, save_checkpoint
from pndm.models.unet import UNet, UNetConfig

LOSS_EVERY = 20
MEASURED_SECONDS = 60.0  # a shorter run's images a second are those of its start
FIGURE_SECONDS = 60.0  # the figure is drawn no more often than this, but always at the end
BETAS = (0.9, 0.999)
_STREAM_TRAIN, _STREAM_EPOCH, _STREAM_VALIDATE, _STREAM_INIT = range(4)


def train(
    config: TrainConfig, architecture: UNetConfig, out: Path, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Train, or continue the run in `out`, and return its record.

    Raises OptionError for what cannot be used, and ModelError when the loss is no longer finite.
    """
    check(config, torch.device(device))
    out = Path(out)
    _make_folder(out)
    checkpoints.clean(out)
    return Trainer(config, architecture, out, torch.device(device)).run()


class Trainer:
    """One run: its tensors, its iteration, and what it has measured."""

    def __init__(self, config: TrainConfig, architecture: UNetConfig, out: Path, device: torch.device):
        self.config, self.architecture, self.out, self.device = config, architecture, out, device
        self.bf16 = wants_bf16(config.amp, device)
        self.channels_last = wants_channels_last(config, device)
        schedule = pndm.schedules.create(config.schedule)
        if not schedule.train_steps:
            raise OptionError(
                f"schedule {config.schedule!r} has no discrete training steps: linear, scaled_linear and cosine have"
            )
        self.train_steps = schedule.train_steps
        times = np.arange(self.train_steps, dtype=np.float64)
        self.alpha, self.sigma = (
            torch.as_tensor(np.asarray(values), dtype=torch.float32, device=device).view(-1, 1, 1, 1)
            for values in (schedule.alpha(times), schedule.sigma(times))
        )
        # The test images are the held-out ones: the training set's are all trained on.
        images = pndm.data.load(config.data, config.data_folder, "train", config.limit).images
        if len(images) < config.batch:
            raise OptionError(f"batch {config.batch} is more than the {len(images)} training images of {config.data!r}")
        self.images = images.to(device)
        self.held_out: Tensor | None = None
        if config.validate_every:
            held_out = pndm.data.load(config.data, config.data_folder, "test", config.validate_images).images
            self.held_out = held_out.to(device)

        torch.manual_seed(_mix(config.seed, 0, _STREAM_INIT))  # the layers draw their weights from the global generator
        self.model = UNet(architecture).to(device).train()
        if config.weights:
            self.model.load_state_dict(_matching_weights(config.weights, architecture))
        self.average = UNet(architecture).to(device).eval().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        if self.channels_last:
            for parameter in (*self.model.parameters(), *self.average.parameters()):
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.network = torch.compile(self.model) if config.compile else self.model
        self.weights: list[Tensor] = list(self.model.parameters())
        self.average_weights: list[Tensor] = list(self.average.parameters())
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, fused=True
        )
        for weight in self.weights:  # made here and not at the first step, so that a continued run is no special case
            self.optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        self.iteration = 0
        self.seconds = 0.0
        self.losses: list[list[float]] = []
        self.validation: list[list[float]] = []
        self.loss_sum = torch.zeros((), device=device)
        self.continued_from: list[int] = []
        self.generator = torch.Generator(device)
        self.stopped_by: str | None = None
        self.throughput: dict[str, float] | None = None
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._drawn = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """The loop: iterations, with checkpoints by the clock and at the end, until done or told to stop."""
        config = self.config
        self._continue()
        first, started, saved = self.iteration, time.perf_counter(), time.perf_counter()
        before = self.seconds
        bar = tqdm(
            total=config.iterations, initial=first, desc="train", unit_scale=config.batch, unit=" images",
            disable=not config.progress, mininterval=1.0, smoothing=0.05, dynamic_ncols=True,
        )  # fmt: skip
        with bar, self._signals():
            while self.iteration < config.iterations and not self.stopped_by:
                self._step()
                self.iteration += 1
                if self.iteration % LOSS_EVERY == 0 or self.iteration == config.iterations:
                    self._note_loss(bar)
                if config.validate_every and self._due(config.validate_every):
                    self.validation.append([self.iteration, self.validate()])
                self.seconds = before + time.perf_counter() - started
                bar.update()
                if time.perf_counter() - saved > 60 * config.checkpoint_minutes:
                    self.save()
                    saved = time.perf_counter()
            if self.seconds - before > MEASURED_SECONDS:
                one, images = pndm.data.to_model(self.images[:1]), (self.iteration - first) * config.batch
                self.throughput = throughput(self.model, one, self.bf16, images, self.seconds - before)
            return self.save(figure=True)

    def save(self, figure: bool = False) -> dict[str, Any]:
        """Write the checkpoint, the averaged weights as a model, the record, and the figure when asked for or old."""
        norms = torch._foreach_norm([weight.detach() for weight in self.weights])
        self._check_finite(float(torch.stack(norms).sum()), "sum of the weights' norms")
        state = {
            "iteration": self.iteration,
            "config": dataclasses.asdict(self.config),
            "architecture": _plain(self.architecture),
            "seconds": self.seconds,
            "losses": self.losses,
            "validation": self.validation,
            "loss_sum": float(self.loss_sum),
            "continued_from": self.continued_from,
        }
        groups = self._groups()
        for moment in ("exp_avg", "exp_avg_sq"):
            groups[moment] = {
                name: value.to(getattr(torch, self.config.moments)) for name, value in groups[moment].items()
            }
        checkpoints.save(self.out, groups, state)
        save_checkpoint(
            self.out / "model.safetensors", self.average, half=True,
            schedule=self.config.schedule, predicts=self.config.predicts, data=self.config.data,
            iteration=self.iteration,
        )  # fmt: skip
        record = self.record()
        records.write_record(self.out, record)
        if self.config.tensorboard:
            tensorboard.write(self.out)
        if figure or time.perf_counter() - self._drawn > FIGURE_SECONDS:
            loss_curve.plot(self.out, record)
            self._drawn = time.perf_counter()
        return record

    def record(self) -> dict[str, Any]:
        """All that the run was and has measured."""
        return {
            "schema": records.SCHEMA,
            "experiment": "train",
            "config": dataclasses.asdict(self.config),
            "architecture": _plain(self.architecture),
            **records.environment(self.device),
            "amp": "bf16" if self.bf16 else "none",
            "channels_last": self.channels_last,
            "dtype": "float32",
            "parameters": sum(weight.numel() for weight in self.weights),
            "iteration": self.iteration,
            "finished": self.iteration >= self.config.iterations,
            "stopped_by": self.stopped_by,
            "continued_from": self.continued_from,
            "images_seen": self.iteration * self.config.batch,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.iteration * self.config.batch / self.seconds, 2) if self.seconds else None,
            "throughput": self.throughput,
            "final_loss": loss_curve.tail_mean(self.losses),
            "final_validation_loss": self.validation[-1][1] if self.validation else None,
            "loss": loss_curve.thin(self.losses),
            "validation_loss": self.validation,
        }

    # One iteration ----------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One optimizer step on one batch."""
        config, iteration = self.config, self.iteration
        x0, t, noise = self._batch(iteration)
        loss = self._loss(self.network, x0, t, noise)
        loss.backward()
        if config.grad_clip:
            nn.utils.clip_grad_norm_(self.weights, config.grad_clip)
        self.optimizer.param_groups[0]["lr"] = learning_rate(config, iteration)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(config.ema, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.average_weights, self.weights, 1 - decay)
        self.loss_sum += loss.detach()

    def _batch(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, times and noise of an iteration, from (seed, iteration) alone."""
        batch, generator = self.config.batch, self.generator
        epoch, place = divmod(iteration, len(self.images) // batch)
        if self._order[0] != epoch:
            generator.manual_seed(_mix(self.config.seed, epoch, _STREAM_EPOCH))
            self._order = epoch, torch.randperm(len(self.images), generator=generator, device=self.device)
        x0 = pndm.data.to_model(self.images[self._order[1][place * batch : (place + 1) * batch]])
        seed = _mix(self.config.seed, iteration, _STREAM_TRAIN)
        torch.manual_seed(seed)  # dropout, where the network has it, draws from the global generator
        generator.manual_seed(seed)
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        # Antithetic times: each t comes with T-1-t, which evens out the loss over the times within a batch.
        t = torch.randint(self.train_steps, ((batch + 1) // 2,), generator=generator, device=self.device)
        t = torch.cat((t, self.train_steps - 1 - t))[:batch]
        if self.config.flip:
            mirrored = torch.rand((batch, 1, 1, 1), generator=generator, device=self.device) < 0.5
            x0 = torch.where(mirrored, x0.flip(-1), x0)
        return x0, t, noise

    def _loss(self, network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the prediction."""
        alpha, sigma = self.alpha[t], self.sigma[t]
        x = alpha * x0 + sigma * noise
        target = noise if self.config.predicts == "eps" else alpha * noise - sigma * x0
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            predicted = network(x, t)
        return nn.functional.mse_loss(predicted.float(), target)

    @torch.no_grad()
    def validate(self) -> float:
        """Loss of the averaged weights on held-out images, with the same noise and evenly spread times every time."""
        assert self.held_out is not None
        count, batch, total = len(self.held_out), self.config.batch, 0.0
        generator = torch.Generator(self.device).manual_seed(_mix(0, 0, _STREAM_VALIDATE))
        noise = torch.randn(self.held_out.shape, generator=generator, device=self.device)
        times = torch.linspace(0, self.train_steps - 1, count, device=self.device).round().long()
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            x0 = pndm.data.to_model(self.held_out[part])
            total += float(self._loss(self.average, x0, times[part], noise[part])) * len(x0)
        return total / count

    def _note_loss(self, bar: tqdm) -> None:
        since = self.iteration - (int(self.losses[-1][0]) if self.losses else 0)
        loss = float(self.loss_sum) / since
        self._check_finite(loss, "loss")
        self.losses.append([self.iteration, loss])
        self.loss_sum.zero_()
        shown = {"loss": f"{loss_curve.tail_mean(self.losses):.4f}"}
        if self.validation:
            shown["held out"] = f"{self.validation[-1][1]:.4f}"
        bar.set_postfix(shown, refresh=False)

    def _check_finite(self, value: float, what: str) -> None:
        """A run that has diverged ends here, and not in a checkpoint."""
        if not math.isfinite(value):
            raise ModelError(
                f"training has diverged, the {what} is {value} at iteration {self.iteration}: a lower lr than "
                f"{self.config.lr}, or amp=none, may help (any checkpoint in {self.out} is from before)"
            )

    def _due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.iteration == self.config.iterations

    # Continuing and stopping ------------------------------------------------------------------------------------------

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors that are the state of the run, by name."""
        names = [name for name, _ in self.model.named_parameters()]
        moments = [self.optimizer.state[weight] for weight in self.weights]
        return {
            "weights": dict(zip(names, self.weights, strict=True)),
            "ema": dict(zip(names, self.average_weights, strict=True)),
            "exp_avg": dict(zip(names, (moment["exp_avg"] for moment in moments), strict=True)),
            "exp_avg_sq": dict(zip(names, (moment["exp_avg_sq"] for moment in moments), strict=True)),
        }

    def _continue(self) -> None:
        """Take up the newest checkpoint, if there is one and it is of this run."""
        checkpoint = checkpoints.latest(self.out)
        if checkpoint is None and self.config.resume:
            checkpoint = checkpoints.latest(Path(self.config.resume))
            if checkpoint is None:
                raise OptionError(f"resume {self.config.resume!r} has no checkpoint: give the folder of a training run")
        if checkpoint is None:
            return
        state = checkpoints.read_state(checkpoint)
        for title, mine in (("config", self.config), ("architecture", self.architecture)):
            defaults = {field.name: field.default for field in dataclasses.fields(mine)}
            for key, value in _plain(mine).items():
                stored = state[title].get(key, defaults[key])  # an option that is newer than the checkpoint
                if key not in FREE_OPTIONS and stored != value:
                    raise OptionError(
                        f"{key} {value!r} is not the {stored!r} with which the run in {checkpoint.parent} "
                        f"was started: give that value, or another output folder"
                    )
        if state["iteration"] > self.config.iterations:
            raise OptionError(
                f"iterations {self.config.iterations} is below the {state['iteration']} that the run in "
                f"{checkpoint.parent} has done: give at least that many"
            )
        checkpoints.load(checkpoint, self._groups())
        self.iteration = state["iteration"]
        self.seconds = state["seconds"]
        self.losses, self.validation = state["losses"], state["validation"]
        self.loss_sum.fill_(state["loss_sum"])
        self.continued_from = [*state["continued_from"], self.iteration]
        for weight in self.weights:
            self.optimizer.state[weight]["step"].fill_(self.iteration)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the loop after the iteration at hand, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return

        def stop(number: int, frame: Any) -> None:
            if self.stopped_by:  # asked twice: at once
                raise KeyboardInterrupt
            self.stopped_by = signal.Signals(number).name

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _mix(seed: int, index: int, stream: int) -> int:
    """One 63-bit seed from three numbers, with no two of them alike."""
    return int(np.random.SeedSequence((seed, index, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _plain(thing: Any) -> dict[str, Any]:
    """A dataclass as JSON gives it back (tuples as lists), so that it can be compared with a stored one."""
    return json.loads(json.dumps(dataclasses.asdict(thing)))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"output folder {out} cannot be made ({error.strerror}): choose one that can be written"
        ) from None
    if not os.access(out, os.W_OK):
        raise OptionError(f"output folder {out} cannot be written: choose another")


def _matching_weights(path: str, architecture: UNetConfig) -> dict[str, Tensor]:
    """The weights of a checkpoint of just this architecture."""
    network, _ = load_checkpoint(path)
    if network.config != architecture:
        raise OptionError(f"weights {path!r} are of another architecture than the one to train")
    return network.state_dict()
