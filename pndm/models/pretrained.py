"""Networks by name or by file, ready to answer with eps in the time of any schedule."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from pndm.denoisers import Model, denoiser, retimed
from pndm.errors import OptionError
from pndm.models.checkpoint import load_checkpoint
from pndm.models.unet import UNet
from pndm.schedules import Schedule, schedules

FOLDER = Path(str(resources.files("pndm.models"))) / "weights"


@dataclass(frozen=True)
class Pretrained:
    """A trained network and how it was trained.

    shape: of one sample, (C, H, W). schedule: the one it was trained on. predicts: eps, x0 or v. data: the data set.
    """

    network: UNet
    shape: tuple[int, int, int]
    schedule: Schedule
    predicts: str
    data: str
    metadata: dict[str, Any]

    def eps(self, schedule: Schedule) -> Model:
        """The model of eps in the time of `schedule`, which may be another than the network was trained on."""
        own = denoiser(self.network, self.predicts, self.schedule)
        return own if schedule.same_path(self.schedule) else retimed(own, self.schedule, schedule)


def names() -> list[str]:
    """The networks that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """Where the weights of a shipped network, or of the one that is named by its file, lie."""
    return FOLDER / f"{name}.safetensors" if name in names() else Path(name)


def load(
    name: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", channels_last: bool = True
) -> Pretrained:
    """A network by the name under which it ships, or by the path of its .safetensors file.

    Raises OptionError for a file that is missing, damaged, pickled or of another kind.
    """
    file = path(name)
    network, metadata = load_checkpoint(file, dtype)
    for entry in ("schedule", "predicts", "data"):
        if entry not in metadata:
            raise OptionError(
                f"checkpoint {file}: its metadata lack {entry!r}, so it is not known how to sample from it"
            )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout).requires_grad_(False)  # type: ignore[call-overload]
    config = network.config
    shape = (config.in_channels, config.image_size, config.image_size)
    schedule = schedules.create(metadata["schedule"])
    return Pretrained(network, shape, schedule, metadata["predicts"], metadata["data"], metadata)
