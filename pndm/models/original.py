"""The .ckpt files of the DDIM and PNDM repositories (ermongroup/ddim, luping-liu/PNDM), as networks of ours.

Such a file is a pickle of the state dictionary of their U-Net, or, of a training run, of the list [state dictionary,
optimizer, epoch, iteration, averaged weights (if any)]. It is read with `torch.load(weights_only=True)`, which builds
tensors and plain containers and runs nothing. Their U-Net is DDPM's, translated from the TensorFlow original: ours
under other names, with 1x1 convolutions for the matrices of attention.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pndm.errors import OptionError
from pndm.models.checkpoint import check_tensors
from pndm.models.unet import UNet, UNetConfig

ATTENDS_AT = 16  # their configurations all say attn_resolutions: [16]
# Their names and ours (which are diffusers'), in this order. Their levels on the way up count from the other end.
_NAMES = {
    r"^temb\.dense\.0\.": "time_embedding.linear_1.",
    r"^temb\.dense\.1\.": "time_embedding.linear_2.",
    r"^norm_out\.": "conv_norm_out.",
    r"^down\.": "down_blocks.",
    r"^mid\.block_1\.": "mid_block.resnets.0.",
    r"^mid\.attn_1\.": "mid_block.attentions.0.",
    r"^mid\.block_2\.": "mid_block.resnets.1.",
    r"\.block\.": ".resnets.",
    r"\.attn\.": ".attentions.",
    r"\.(down|up)sample\.": r".\1samplers.0.",
    r"\.temb_proj\.": ".time_emb_proj.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"(\.attentions\.\d+)\.norm\.": r"\1.group_norm.",
    r"(\.attentions\.\d+)\.([qkv])\.": r"\1.to_\2.",
    r"(\.attentions\.\d+)\.proj_out\.": r"\1.to_out.0.",
}


def load_original(path: str | os.PathLike[str], image_size: int | None = None) -> tuple[UNet, bool]:
    """The network of a checkpoint (float32, on the CPU, in evaluation mode), and whether its weights are averages.

    Averaged weights are taken where the file has them, as the repositories' own sampling does.
    image_size: height and width of the images. The file does not hold it; None finds it from the level with attention,
        which in all configurations of the two repositories is at 16x16.
    Raises OptionError for a file that is missing or damaged, holds more than tensors and plain values, or is not of
    their U-Net.
    """
    path = Path(path)
    theirs, averaged = _state_dict(path, _unpickled(path))
    config = _architecture(path, theirs, image_size)
    ours = {}
    for name, tensor in theirs.items():
        renamed = _renamed(name, len(config.channels) - 1)
        matrix = ".attentions." in renamed and tensor.ndim == 4
        ours[renamed] = (tensor.flatten(1) if matrix else tensor).float()
    with torch.device("meta"):
        network = UNet(config)
    check_tensors(path, network, ours)
    network.load_state_dict(ours, assign=True)
    return network.eval().requires_grad_(False), averaged


def _unpickled(path: Path) -> Any:
    if not path.is_file():
        raise OptionError(f"original checkpoint {path}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise OptionError(
            f"original checkpoint {path}: holds more than tensors and plain values, which could run code when it is "
            "opened, or is not a pickle at all: refused; save its state dictionary alone where you trust it"
        ) from error
    except Exception as error:  # damaged bytes run as instructions of the unpickler, which may fail in any way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise OptionError(f"original checkpoint {path}: is truncated or damaged ({first}); get it again") from error


def _state_dict(path: Path, found: Any) -> tuple[dict[str, Tensor], bool]:
    """Names without DataParallel's prefix; and whether they are the averaged weights of a training run."""
    averaged = isinstance(found, (list, tuple)) and len(found) > 4
    if isinstance(found, (list, tuple)) and found:
        found = found[4] if averaged else found[0]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise OptionError(
            f"original checkpoint {path}: is neither a state dictionary nor a list that begins with one, as the DDIM "
            "and PNDM repositories save them"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}, averaged


def _architecture(path: Path, tensors: Mapping[str, Tensor], image_size: int | None) -> UNetConfig:
    """All of it but the image size follows from the names and shapes of the tensors."""
    # As many levels as there are numbers: one that is left out is then found missing, and a huge one is not counted to.
    levels = range(len({"0"} | {found[1] for name in tensors if (found := re.match(r"down\.(\d+)\.", name))}))
    convolutions = [f"down.{i}.block.0.conv1.weight" for i in levels]
    for name in ("conv_in.weight", "temb.dense.0.weight", *convolutions):
        if name not in tensors or tensors[name].ndim < 2:
            raise OptionError(
                f"original checkpoint {path}: has no tensor {name}, so it is not of the DDIM U-Net (Improved DDPM's "
                "and Score SDE's networks are others)"
            )
    attends = [any(name.startswith(f"down.{i}.attn.") for name in tensors) for i in levels]
    if image_size is None:
        if sum(attends) != 1:
            raise OptionError(
                f"original checkpoint {path}: has attention at {sum(attends)} levels, so the size of its images cannot "
                "be told from it: give image_size"
            )
        image_size = ATTENDS_AT * 2 ** attends.index(True)
    return UNetConfig(
        image_size=image_size,
        in_channels=tensors["conv_in.weight"].shape[1],
        channels=tuple(tensors[name].shape[0] for name in convolutions),
        blocks=sum(re.fullmatch(r"down\.0\.block\.\d+\.conv1\.weight", name) is not None for name in tensors),
        attention=tuple(attends),
    )


def _renamed(name: str, last: int) -> str:
    """Our name of one of their tensors; an unknown name as it is. last: the index of the last level."""
    # 9 digits: int refuses thousands of them, and no network has so many levels.
    name = re.sub(r"^up\.(\d{1,9})\.", lambda found: f"up_blocks.{last - int(found[1])}.", name)
    for theirs, ours in _NAMES.items():
        name = re.sub(theirs, ours, name)
    return name
