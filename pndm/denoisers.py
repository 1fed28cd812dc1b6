"""eps from a network that predicts something else, and guidance: wrappers from models to models."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pndm.answers import checked
from pndm.errors import unknown_name
from pndm.schedules import Schedule, schedules

Model = Callable[[Tensor, Tensor], Tensor]

PREDICTIONS = ("eps", "x0", "v")


def denoiser(network: Model, predicts: str, schedule: str | Schedule) -> Model:
    """A model of eps from a network that predicts eps, x0 or v, each converted at its own time.

    x0: eps = (x - alpha x0) / sigma. v = alpha eps - sigma x0 (Salimans & Ho 2022): eps = alpha v + sigma x.
    Shapes: x (B, *shape), t (B,). Raises OptionError for another prediction, and ModelError for an answer that is not
    shaped like x. At a time without noise eps of an x0 prediction does not exist (0/0); solvers do not ask there.
    """
    if predicts not in PREDICTIONS:
        raise unknown_name("prediction", predicts, PREDICTIONS)
    path = schedules.resolve(schedule)
    if predicts == "eps":
        return network

    def eps(x: Tensor, t: Tensor) -> Tensor:
        column = (-1,) + (1,) * (x.dim() - 1)
        time = t.double()
        alpha = path.alpha(time).to(x.dtype).view(column)
        sigma = path.sigma(time).to(x.dtype).view(column)
        answer = checked(network(x, t), x.shape)
        return to_eps(predicts, answer, x, alpha, sigma)

    return eps


def to_eps(predicts: str, output: Tensor, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
    """eps from a network's output at x (B, *shape), where the noise path has alpha and sigma."""
    if predicts == "eps":
        return output
    return (x - alpha * output) / sigma if predicts == "x0" else alpha * output + sigma * x


def retimed(model: Model, trained: Schedule, used: Schedule) -> Model:
    """A model in the time of the schedule `used`, from one trained in the time of another.

    Two variance-preserving paths with equal alpha are the same noise level, so a network trained on one serves on any
    other once its time is looked up there. Beyond the trained levels the nearest is asked, and its x0 kept: eps is then
    what leads from x at its true level to that x0. Shapes: x (B, *shape), t (B,). Raises ModelError for an answer that
    is not shaped like x.
    """

    def eps(x: Tensor, t: Tensor) -> Tensor:
        time = t.double()
        there = trained.t_of_log_alpha(used.log_alpha(time))
        ratio = used.alpha(time) / trained.alpha(there)  # 1 within the trained levels
        along_x = (1 - ratio) / used.sigma(time)
        along_eps = ratio * trained.sigma(there) / used.sigma(time)
        column = (-1,) + (1,) * (x.dim() - 1)
        answer = checked(model(x, there.to(t.dtype)), x.shape)
        return along_x.to(x.dtype).view(column) * x + along_eps.to(x.dtype).view(column) * answer

    return eps


def guided(conditional: Model, unconditional: Model, scale: float) -> Model:
    """Classifier-free guidance: eps_u + scale (eps_c - eps_u), Ho & Salimans 2022 in the form with scale 1 unguided.

    It counts as one evaluation of the guided model; each costs two of the network. Shapes: x (B, *shape), t (B,).
    Raises ModelError for an answer of either that is not shaped like x.
    """

    def eps(x: Tensor, t: Tensor) -> Tensor:
        without = checked(unconditional(x, t), x.shape)
        return without + scale * (checked(conditional(x, t), x.shape) - without)

    return eps
