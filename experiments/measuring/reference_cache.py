"""Reference solutions on disk, so that each is computed once.

A file's name is a sha256 of everything that determines its content: the model, the schedule, the times, the starting
noise to the last bit, the method and its tolerance, the version and the source of the code that computes it. Nothing is
ever locked. Writers of the same solution at the same time write the same content, each aside and then renamed; one that
is killed leaves at most an aside, which later writers remove. A file that is damaged in any way is computed again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import pndm
from pndm.models.checkpoint import write_atomic
from pndm.reference import METHODS, Reference
from pndm.schedules import Schedule

FORMAT = 1
STALE_SECONDS = 3600.0  # an aside older than this belongs to no living writer


@dataclass(frozen=True)
class Cache:
    """A folder of reference solutions; `folder` None keeps nothing."""

    folder: Path | None

    def get(
        self,
        make: Callable[..., Reference],
        model: Any,
        x: Tensor,
        schedule: Schedule,
        times: np.ndarray,
        *,
        identity: dict[str, Any],
        **options: Any,
    ) -> Reference:
        """make(model, x, schedule, times, **options), or what an earlier call with the same of all gave."""
        if self.folder is None:
            return make(model, x, schedule, times, **options)
        name = key(make, x, schedule, times, identity, options)
        path = self.folder / f"{name}.safetensors"
        found = read(path, name)
        if found is None:
            found = make(model, x, schedule, times, **options)
            try:
                write(path, name, found)
            except OSError as error:
                print(f"the reference solution is not kept: {path} cannot be written ({error.strerror or error})",
                      file=sys.stderr)  # fmt: skip
        return found


def key(
    make: Callable[..., Reference],
    x: Tensor,
    schedule: Schedule,
    times: np.ndarray,
    identity: dict[str, Any],
    options: dict[str, Any],
) -> str:
    """The sha256 of everything that determines a reference solution."""
    probe = np.linspace(schedule.t_clean, schedule.t_noise, 4097)
    defaults = {name: each.default for name, each in inspect.signature(make).parameters.items()
                if each.default is not inspect.Parameter.empty}  # fmt: skip
    everything = {
        "format": FORMAT,
        "version": pndm.__version__,
        "code": _code(),
        "method": METHODS[make.__name__],
        "options": {**defaults, **options},
        "model": identity,
        "schedule": _sha256(schedule.log_alpha(probe)),
        "times": np.asarray(times, dtype=np.float64).tolist(),
        "noise": _sha256(x.detach().cpu().double().numpy()),
        "dtype": str(x.dtype),
        "shape": list(x.shape),
        "device": x.device.type,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def read(path: Path, name: str) -> Reference | None:
    """The solution in a file; None, and a note when the file is there, if it is not whole and the one sought."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads(file.metadata()["reference"])
            states, times = file.get_tensor("states"), file.get_tensor("times").numpy()
        if entry.pop("key") != name or entry.pop("sha256") != _checksum(states, times):
            raise ValueError("its content is not what was written")
        return Reference(times, states, **entry)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if "No such file" in str(error):  # another process removed it since it was seen; safetensors says RuntimeError
            return None
        print(f"reference solution {path} is damaged ({error}): computing it again", file=sys.stderr)
        return None


def write(path: Path, name: str, found: Reference) -> None:
    """Put a solution where `read` finds it, whole or not at all; and remove what killed writers left."""
    states, times = found.states.contiguous(), np.asarray(found.times, dtype=np.float64)
    entry = {
        "key": name,
        "sha256": _checksum(states, times),
        "method": found.method,
        "tolerance": found.tolerance,
        "difference": found.difference,
        "converged": found.converged,
        "nfe": found.nfe,
    }
    tensors = {"states": states, "times": torch.from_numpy(times.copy())}
    write_atomic(path, save(tensors, {"reference": json.dumps(entry)}))
    for aside in path.parent.glob(".*.tmp"):
        try:
            if time.time() - aside.stat().st_mtime > STALE_SECONDS:
                aside.unlink()
        except OSError:  # another writer's, already gone
            continue


def _checksum(states: Tensor, times: np.ndarray) -> str:
    return _sha256(states.numpy(), times)


def _sha256(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


@cache
def _code() -> str:
    """The sha256 of the sources through which a reference solution is computed."""
    package = Path(pndm.__file__).parent
    files = [
        package / f"{name}.py" for name in ("reference", "schedules", "clocks", "transfer", "gradient", "denoisers")
    ]
    files += [package / "solvers" / f"{name}.py" for name in ("base", "adams_bashforth", "runge_kutta")]
    files += sorted((package / "models").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
