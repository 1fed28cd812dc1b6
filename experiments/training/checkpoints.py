"""The state of a training run on disk: whole or absent, in small pieces, never a pickle.

A checkpoint is a folder `checkpoint-<iteration>` that holds

    state.json                 iteration, configuration, architecture, loss history, list of pieces
    piece-0000.safetensors ... weights, averaged weights and Adam's two moments, at most 16 MB each

It is written under a hidden name, flushed, and renamed: a kill at any moment leaves either the old checkpoint or the
new one. Pieces are small so that a checkpoint can travel through stores that limit the size of a file; a tensor that
is larger than a piece is cut.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.runs import records
from pndm.errors import OptionError

PIECE_BYTES = 16_000_000
_HEADER_BYTES = 200_000  # kept free in each piece for the safetensors header
_PREFIX = "checkpoint-"
FORMAT = 1


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint in a run's folder."""
    return max(_whole(out), key=lambda path: int(path.name.removeprefix(_PREFIX)), default=None)


def clean(out: Path) -> None:
    """Remove what a killed run left half-written, and checkpoints that a newer one replaced."""
    for path in out.glob(f".{_PREFIX}*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for path in records.half_written(out):
        path.unlink(missing_ok=True)
    newest = latest(out)
    for path in _whole(out):
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


def remove(out: Path) -> None:
    """Remove all checkpoints of a run, which then starts anew."""
    for path in _whole(out):
        shutil.rmtree(path)


def _whole(out: Path) -> list[Path]:
    """The whole checkpoints in a run's folder: a folder of another name, as of a copy, is not ours."""
    return [path for path in out.glob(f"{_PREFIX}*") if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()]


def save(out: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write `groups` (such as {"weights": {name: tensor}}) and the JSON `state`, then remove the older checkpoint."""
    final = out / f"{_PREFIX}{state['iteration']:08d}"
    if final.exists():  # a run that is continued and stopped at once: the same state is there already
        return final
    part = out / f".{final.name}.part"
    try:
        _write(part, groups, state)
        os.replace(part, final)
        _flush(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OptionError(f"checkpoint {final} cannot be written ({error}); an older one in {out} is kept") from None
    clean(out)
    return final


def _write(folder: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """All files of a checkpoint, flushed to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pieces: list[str] = []
    for tensors in _pieces(groups):
        name = f"piece-{len(pieces):04d}.safetensors"
        save_file(tensors, folder / name)
        pieces.append(name)
    text = json.dumps({"format": FORMAT, **state, "pieces": pieces}, indent=1)
    (folder / "state.json").write_text(text, encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _flush(path)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"checkpoint {checkpoint} cannot be read ({error}): remove that folder to start anew"
        ) from None
    if state.get("format") != FORMAT:
        raise OptionError(f"checkpoint {checkpoint} has format {state.get('format')!r} where {FORMAT} is read")
    return state


def load(checkpoint: Path, groups: dict[str, dict[str, Tensor]]) -> None:
    """Copy a checkpoint's tensors into those of `groups`, which keep their device and memory layout."""
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    try:
        for name in read_state(checkpoint)["pieces"]:
            for key, value in load_file(checkpoint / name).items():
                whole, _, start = key.rpartition("@")
                parts.setdefault(whole, []).append((int(start), value))
    except (OSError, SafetensorError) as error:
        raise OptionError(
            f"checkpoint {checkpoint} cannot be read ({error}): remove that folder to start anew"
        ) from None
    wanted = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    for key in sorted(wanted.keys() ^ parts.keys()):
        side = "lacks" if key in wanted else "has an unknown"
        raise OptionError(f"checkpoint {checkpoint} {side} tensor {key}: it belongs to another architecture")
    with torch.no_grad():
        for key, tensor in wanted.items():
            flat = torch.cat([value for _, value in sorted(parts[key], key=lambda item: item[0])])
            if flat.numel() != tensor.numel():
                raise OptionError(
                    f"checkpoint {checkpoint} tensor {key} has {flat.numel()} values, not {tensor.numel()}"
                )
            tensor.copy_(flat.view(tensor.shape))


def _pieces(groups: dict[str, dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Flattened tensors, keyed `group/name@start`, packed in order into pieces below the limit."""
    room = PIECE_BYTES - _HEADER_BYTES
    piece: dict[str, Tensor] = {}
    used = 0
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            flat = tensor.detach().contiguous().reshape(-1).cpu()
            longest = room // flat.element_size()
            for start in range(0, flat.numel(), longest):
                value = flat[start : start + longest].clone()
                size = value.numel() * value.element_size()
                if piece and used + size > room:
                    yield piece
                    piece, used = {}, 0
                piece[f"{group}/{name}@{start}"] = value
                used += size
    if piece:
        yield piece


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk before anything depends on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
