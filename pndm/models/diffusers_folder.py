"""Pipeline folders in the layout of diffusers, read and written without diffusers.

folder/model_index.json                                       the pipeline's class, and those of its parts
folder/unet/config.json, diffusion_pytorch_model.safetensors  a UNet2DModel (old folders: beside model_index.json)
folder/scheduler/scheduler_config.json                        the noise path and what the network predicts
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pndm.errors import OptionError
from pndm.models.checkpoint import write_atomic
from pndm.models.unet import UNet, UNetConfig

PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
FILES = (".safetensors", *PICKLES)
CONVERSION = "DiffusionPipeline.from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)"
# A network's entry in model_index.json, [library, class]: what diffusers reads too, and what UNet2DModel cannot hold.
THEIRS, OURS = ["diffusers", "UNet2DModel"], ["pndm.models.unet", "UNet"]


def is_pipeline(name: str | os.PathLike[str]) -> bool:
    """Whether `name` means a pipeline folder, or one on the hub (owner/name), rather than a file."""
    return Path(name).is_dir() or (not Path(name).exists() and _is_hub_name(str(name)))


def _is_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and Path(name).suffix not in FILES


def local_folder(name: str | os.PathLike[str], **download: Any) -> Path:
    """The folder itself, or the hub's files of that name: configurations and safetensors only, fetched once.

    download: options of huggingface_hub's `snapshot_download` (revision, token, cache_dir, ...).
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or not _is_hub_name(str(name)):
        raise OptionError(f"pipeline {name}: there is no such folder, and a name on the hub has the form owner/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise OptionError(
            f"pipeline {name}: there is no such folder, and a name on the hub needs: pip install 'pndm[diffusers]'"
        ) from error
    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"], **download))
    except Exception as error:
        raise OptionError(
            f"pipeline {name}: there is no such folder, and the hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """The content of model_index.json. Raises OptionError if it is missing or of another kind of pipeline."""
    if not (folder / INDEX).is_file():
        raise OptionError(f"pipeline folder {folder}: there is no {INDEX}, so it is not a diffusers pipeline")
    index = _read_json(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise OptionError(f"pipeline folder {folder}: class {kind!r} is not known; known are {', '.join(PIPELINES)}")
    network = index.get("unet")
    if not isinstance(network, list) or network not in (THEIRS, OURS):
        raise OptionError(f"pipeline folder {folder}: its unet is {network!r}, not a UNet2DModel of diffusers")
    return index


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """The content of scheduler_config.json. Raises OptionError if it is missing."""
    file = part(folder, "scheduler") / SCHEDULER_CONFIG
    if not file.is_file():
        raise OptionError(f"pipeline folder {folder}: there is no {file.relative_to(folder)}")
    return _read_json(file)


def read_unet_config(folder: Path) -> dict[str, Any]:
    """The content of unet/config.json. Raises OptionError if it is missing."""
    file = part(folder, "unet") / CONFIG
    if not file.is_file():
        raise OptionError(f"pipeline folder {folder}: there is no {file.relative_to(folder)}")
    return _read_json(file)


def is_ours(folder: Path) -> bool:
    """Whether the network is one that only this package can load."""
    return read_index(folder)["unet"] == OURS


def refuse_pickles(folder: Path) -> None:
    """Raise OptionError if the network's weights are there as a pickle only, or not at all."""
    unet = part(folder, "unet")
    if any(unet.glob("*.safetensors")):
        return
    for suffix in PICKLES:
        for file in sorted(unet.glob(f"*{suffix}")):
            raise OptionError(
                f"pipeline folder {folder}: {file.relative_to(folder)} is a pickle, which can run code when it is "
                f"opened, and is refused; get the safetensors of the same network, or convert it where you trust it: "
                f"{CONVERSION}"
            )
    raise OptionError(
        f"pipeline folder {folder}: there is no {(unet / WEIGHTS).relative_to(folder)}; weights are read from "
        f"safetensors only, and others converted where you trust them: {CONVERSION}"
    )


def load_network(folder: Path, dtype: torch.dtype = torch.float32) -> UNet:
    """The U-Net of a pipeline folder, on the CPU in evaluation mode."""
    refuse_pickles(folder)
    unet, values = part(folder, "unet"), read_unet_config(folder)
    if is_ours(folder):
        config = UNetConfig.from_dict({k: v for k, v in values.items() if not k.startswith("_")})
    else:
        config = UNetConfig.from_diffusers(values)
    if not (unet / WEIGHTS).is_file():
        found = ", ".join(sorted(file.name for file in unet.glob("*.safetensors")))
        raise OptionError(f"pipeline folder {folder}: there is no {(unet / WEIGHTS).relative_to(folder)}, only {found}")
    with torch.device("meta"):  # no memory and no random initialisation that the file would overwrite
        network = UNet(config)
    try:
        tensors = load_file(unet / WEIGHTS)
        network.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    except (SafetensorError, OSError) as error:
        raise OptionError(f"pipeline folder {folder}: {WEIGHTS} is truncated or damaged ({error})") from error
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:])
        raise OptionError(f"pipeline folder {folder}: {WEIGHTS} does not fit its {CONFIG}: {first}") from error
    return network.eval()


def save_network(network: UNet, folder: Path) -> list[str]:
    """Write unet/ and give its entry of model_index.json: [library, class].

    As a UNet2DModel, which diffusers loads too, unless the network has the folded stem that diffusers lacks.
    """
    folded = network.config.patch > 1
    entries = {"_class_name": OURS[1], **network.config.to_dict()} if folded else to_diffusers(network.config)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_json(folder / "unet" / CONFIG, entries)
    write_atomic(folder / "unet" / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return OURS if folded else THEIRS


def save_pipeline(network: UNet, scheduler: Mapping[str, Any], folder: Path) -> None:
    """Write a whole pipeline: a DDPMPipeline, which diffusers runs as it is and `PNDMPipeline` takes too.

    scheduler: what `diffusers_config.config_of` gives. Raises OSError.
    """
    entry = save_network(network, folder)
    write_json(folder / "scheduler" / SCHEDULER_CONFIG, {"_class_name": "DDPMScheduler", **scheduler})
    index = {"_class_name": "DDPMPipeline", "unet": entry, "scheduler": ["diffusers", "DDPMScheduler"]}
    write_json(folder / INDEX, index)  # last: with it the folder is one that can be loaded


def to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The content of a diffusers `unet/config.json`: the inverse of `UNetConfig.from_diffusers`, for patch 1."""
    return {
        "_class_name": "UNet2DModel",
        "sample_size": config.image_size,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.blocks,
        "down_block_types": ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention],
        "up_block_types": ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in config.attention[::-1]],
        "dropout": config.dropout,
        "norm_num_groups": config.groups,
        "attention_head_dim": config.attention_head_dim,
        "norm_eps": config.eps,
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": config.freq_shift,
        "downsample_padding": config.downsample_padding,
    }


def write_json(file: Path, entries: Mapping[str, Any]) -> None:
    """Sorted and indented, whole or not at all."""
    write_atomic(file, (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode())


def part(folder: Path, name: str) -> Path:
    """A part's own folder; in the oldest pipelines all parts lie in one."""
    return folder / name if (folder / name).is_dir() else folder


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise OptionError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise OptionError(f"{file}: holds a {type(content).__name__} where an object with fields was expected")
    return content
