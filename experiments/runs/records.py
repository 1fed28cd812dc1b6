"""What a run leaves behind: files that appear whole or not at all, and a record that says how they came about."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pndm.errors import OptionError
from pndm.models.checkpoint import write_atomic

SCHEMA = 2
PACKAGES = ("pndm", "torch", "numpy", "scipy", "hydra-core", "safetensors", "matplotlib")
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # the names that pndm.models.checkpoint.write_atomic gives


def write(path: Path, content: bytes | str) -> None:
    """A file, whole or not at all. Raises OptionError, with the reason, when the disk or folder refuses it."""
    try:
        write_atomic(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OptionError(f"output file {path} cannot be written ({error.strerror or error})") from None


def half_written(folder: Path) -> list[Path]:
    """What a killed `write` left in a folder: not in those below it, and no file of another name, which is not ours."""
    return [path for path in folder.glob(".*.tmp") if _ASIDE.fullmatch(path.name) and path.is_file()]


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """record.json, with a checksum by which `read_record` sees that nobody has edited it."""
    plain = json.loads(json.dumps(record))  # as it will be read: with lists for tuples and words for keys
    whole = {**plain, "sha256": hashlib.sha256(canonical(plain)).hexdigest()}
    write(folder / "record.json", json.dumps(whole, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file. Raises OptionError, which says why, for one that cannot be relied on."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"record {path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise OptionError(f"record {path} is truncated or damaged ({error})") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise OptionError(f"record {path} has schema {schema}, and this version reads schema {SCHEMA}: run it again")
    if record.pop("sha256", None) != hashlib.sha256(canonical(record)).hexdigest():
        raise OptionError(f"record {path} has been edited: its checksum is of other content")
    return record


def canonical(content: Any) -> bytes:
    """The one way in which JSON is written here before it is hashed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def write_figure(folder: Path, name: str, figure: Any) -> None:
    """A matplotlib figure as `name`.png at 150 dpi and `name`.svg."""
    for kind in ("png", "svg"):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=150, bbox_inches="tight")
        write(folder / f"{name}.{kind}", drawn.getvalue())


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and machine."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # not installed, as hydra where only training runs
            continue
    return {
        "versions": versions,
        "git_commit": git_commit(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str | None:
    """The commit of this code, with a plus when tracked files differ from it; None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    if os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
