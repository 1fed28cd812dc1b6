"""Networks on disk: safetensors with everything needed to use them again. Nothing here ever unpickles.

The header entry "pndm" is JSON: the architecture (`UNetConfig.to_dict`), a checksum of the tensors, and whatever
the caller adds (schedule and its options, prediction type, training record).
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pndm.errors import OptionError
from pndm.models.unet import UNet, UNetConfig

KEY = "pndm"
FORMAT = 1


def save_checkpoint(path: str | os.PathLike[str], model: UNet, *, half: bool, **metadata: Any) -> None:
    """Write `model` and JSON-able `metadata` to `path`, whole or not at all.

    `half` stores float16 (11 significant bits; bfloat16 has 8), which halves the file. Raises OptionError when the
    file cannot be written or when a weight does not fit float16.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the network and prefixes its names
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        halves = {name: tensor.half() for name, tensor in tensors.items()}
        for name, tensor in halves.items():
            if not torch.isfinite(tensor).all():
                raise OptionError(
                    f"checkpoint {path}: tensor {name} does not fit half precision; save it with half=False"
                )
        tensors = halves
    entry = {**metadata, "format": FORMAT, "architecture": model.config.to_dict(), "crc32": _checksum(tensors)}
    try:
        write_atomic(path, save(tensors, metadata={KEY: json.dumps(entry)}))
    except OSError as error:
        raise OptionError(f"checkpoint {path}: cannot be written ({error.strerror or error})") from error


def load_checkpoint(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> tuple[UNet, dict[str, Any]]:
    """The network (on the CPU, in `dtype`, in evaluation mode) and the metadata that `save_checkpoint` was given.

    Raises OptionError for a file that is missing, damaged, pickled, without metadata, or whose tensors are not those
    of its architecture.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise OptionError(f"checkpoint {path}: the file is truncated or damaged ({error}); get it again") from error

    try:
        entry = json.loads(header[KEY])
        architecture, crc32, version = entry["architecture"], entry["crc32"], entry["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"checkpoint {path}: has no usable {KEY!r} entry in its metadata, so its architecture is unknown; "
            "give a file written by pndm"
        ) from error
    if version != FORMAT:
        raise OptionError(f"checkpoint {path}: has format {version!r}, and this version of pndm reads format {FORMAT}")

    try:
        config = UNetConfig.from_dict(architecture)
    except (OptionError, TypeError, AttributeError) as error:
        raise OptionError(f"checkpoint {path}: its architecture entry is not valid: {error}") from error
    with torch.device("meta"):  # no memory and no random initialisation that the file would overwrite
        model = UNet(config)
    check_tensors(path, model, tensors)
    if _checksum(tensors) != crc32:
        raise OptionError(f"checkpoint {path}: the tensors are damaged (their checksum differs); get the file again")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return model.eval(), entry


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, and rename: readers see the old file or the new one.

    Creates the folder. On any failure nothing new remains. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")  # no two writers share it, on any machine
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _check_kind(path: Path) -> None:
    """Refuse, from the first bytes alone, what is not safetensors."""
    if not path.exists():
        raise OptionError(f"checkpoint {path}: there is no such file; give a .safetensors file")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise OptionError(f"checkpoint {path}: cannot be read ({error.strerror}); give a .safetensors file") from error
    if start[8:9] == b"{":  # after 8 bytes of header length; tested first, as a length can look like a pickle's mark
        return
    if start[:2] == b"PK" or start[:1] == b"\x80":  # torch.save: a zip of pickles, or in old files a bare pickle
        raise OptionError(f"checkpoint {path}: is a pickle (.pt, .ckpt, .bin), which can run code when it is opened, "
                          "and is refused; convert it to safetensors (an original DDIM or PNDM checkpoint: with "
                          "run.py experiment=convert)")  # fmt: skip
    raise OptionError(f"checkpoint {path}: is not a safetensors file, or is truncated or damaged; get it again")


def check_tensors(path: Path, model: UNet, tensors: dict[str, Tensor]) -> None:
    """Raise OptionError that names the first tensor that differs from the architecture."""
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise OptionError(f"checkpoint {path}: tensor {name} {tuple(tensor.shape)} of its architecture is missing")
        if tensors[name].shape != tensor.shape:
            raise OptionError(f"checkpoint {path}: tensor {name} has shape {tuple(tensors[name].shape)}, but its "
                              f"architecture needs {tuple(tensor.shape)}")  # fmt: skip
    for name, tensor in tensors.items():
        if name not in expected:
            raise OptionError(f"checkpoint {path}: tensor {name} {tuple(tensor.shape)} is not in its architecture")


def _checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 of all tensors' bytes in the order of their names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value
