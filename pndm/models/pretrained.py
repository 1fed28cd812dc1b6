"""Networks by name, by file or by pipeline folder, ready to answer with eps in the time of any schedule."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from pndm.denoisers import Model, denoiser, retimed
from pndm.errors import OptionError
from pndm.models import diffusers_folder as folders
from pndm.models.checkpoint import load_checkpoint
from pndm.models.diffusers_config import COMMON, filled, predicts_of, schedule_of
from pndm.models.diffusers_unet import DiffusersUNet, load_unet
from pndm.models.unet import UNet, UNetConfig
from pndm.schedules import Schedule, schedules

FOLDER = Path(str(resources.files("pndm.models"))) / "weights"


@dataclass(frozen=True)
class Pretrained:
    """A trained network and how it was trained.

    shape: of one sample, (C, H, W). schedule: the one it was trained on. predicts: eps, x0 or v. data: the data set.
    """

    network: UNet | DiffusersUNet
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


def path(name: str | os.PathLike[str]) -> Path:
    """The file or folder of a network, which need not be there; one that is named on the hub is fetched.

    Raises OptionError when that is not possible.
    """
    if name in names():
        return FOLDER / f"{name}.safetensors"
    return folders.local_folder(name) if folders.is_pipeline(name) else Path(name)


def existing(name: str | os.PathLike[str]) -> Path:
    """`path(name)`, which is there. Raises OptionError otherwise."""
    found = path(name)
    if not found.exists():
        raise OptionError(
            f"model {name}: there is no such file or folder; give a .safetensors file, the folder of a diffusers "
            "pipeline, or its name on the hub (owner/name)"
        )
    return found


def load(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    channels_last: bool = True,
) -> Pretrained:
    """A network by the name under which it ships, by the path of its .safetensors file, or from the folder (or the
    name on the hub, owner/name) of an unconditional diffusers pipeline: DDPM, DDIM or PNDM.

    Raises OptionError for a file or folder that is missing, damaged, pickled or of another kind, and for a pipeline
    with parts that have no counterpart here.
    """
    found = _from_folder(name, dtype) if folders.is_pipeline(name) and name not in names() else _from_file(name, dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found.network.to(device).to(memory_format=layout).requires_grad_(False)  # type: ignore[call-overload]
    return found


def _from_file(name: str | os.PathLike[str], dtype: torch.dtype) -> Pretrained:
    file = existing(name)
    network, metadata = load_checkpoint(file, dtype)
    for entry in ("schedule", "predicts", "data"):
        if entry not in metadata:
            raise OptionError(
                f"checkpoint {file}: its metadata lack {entry!r}, so it is not known how to sample from it"
            )
    try:
        schedule = schedules.create(metadata["schedule"])
    except OptionError as error:
        raise OptionError(f"checkpoint {file}: its metadata have no usable schedule: {error}") from error
    return Pretrained(network, _shape(network), schedule, metadata["predicts"], metadata["data"], metadata)


def _from_folder(name: str | os.PathLike[str], dtype: torch.dtype) -> Pretrained:
    folder = path(name)
    index = folders.read_index(folder)
    config = {**COMMON, **filled(folders.read_scheduler_config(folder))}
    network = _network(folder, dtype)
    metadata = {"pipeline": index["_class_name"], "scheduler": config}
    return Pretrained(network, _shape(network), schedule_of(config), predicts_of(config), "unknown", metadata)


def _network(folder: Path, dtype: torch.dtype) -> UNet | DiffusersUNet:
    """Our U-Net, or diffusers' own where the folder's has parts that ours lacks."""
    folders.refuse_pickles(folder)
    if not folders.is_ours(folder):
        try:
            UNetConfig.from_diffusers(folders.read_unet_config(folder))
        except OptionError as lacking:
            return load_unet(folders.part(folder, "unet"), dtype, lacking)
    return folders.load_network(folder, dtype)


def _shape(network: UNet | DiffusersUNet) -> tuple[int, int, int]:
    if isinstance(network, DiffusersUNet):
        return network.shape
    return network.config.in_channels, network.config.image_size, network.config.image_size
