"""A network compiled ahead of time for one CPU, one batch size and one set of weights, and kept for later processes.

torch's ahead-of-time compiler takes the weights as constants: it lays them out for the processor once, in the type that
they are multiplied in, and leaves no Python between the operations. A package is read back in milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pndm.denoisers import Model

Shape = tuple[int, int, int]


class Halved(nn.Module):
    """A network under bfloat16 autocast, as a module: what is compiled must hold the casts."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, t)


def folder() -> Path:
    """Where packages are kept: `pndm/compiled` in the user's cache. It may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pndm" / "compiled"


def ahead_of_time(network: nn.Module, batch: int, shape: Shape) -> Model:
    """`network` for states of exactly `batch` samples of `shape`, in the type of its weights, on the CPU.

    Compiling takes a minute or so, and milliseconds when a former process has done it. The package takes the size of
    the weights on disk. States must be contiguous. Raises RuntimeError or OSError where compiling fails.
    """
    package = folder() / f"{_key(network, batch, shape)}.pt2"
    if not package.exists():
        _compile(network, example(network, batch, shape), package)
    try:
        return torch._inductor.aoti_load_package(str(package))
    except RuntimeError:  # damaged, or of another build of torch under the same version: made again next time
        package.unlink(missing_ok=True)
        raise


def example(network: nn.Module, batch: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """A state and times as the driver asks with them; contents do not matter."""
    weight = next(network.parameters())
    time = torch.promote_types(weight.dtype, torch.float32)
    return weight.new_zeros(batch, *shape), weight.new_full((batch,), 500.0, dtype=time)


def _compile(network: nn.Module, example: tuple[Tensor, Tensor], package: Path) -> None:
    package.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there is run as code
    with tempfile.TemporaryDirectory(dir=package.parent) as aside, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
        exported = torch.export.export(network, example)
        with torch._inductor.config.patch(freezing=True):
            made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(aside) / "made.pt2"))
        os.replace(made, package)


def _key(network: nn.Module, batch: int, shape: Shape) -> str:
    """What a package depends on: code, weights, states, processor and threads."""
    found = hashlib.sha256(_code())
    threads = torch.get_num_threads()  # which the generated loops are cut for
    found.update(f"{torch.__version__} {network} {batch} {shape} {threads} {_processor()}".encode())
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


@cache
def _code() -> bytes:
    """The sources of the networks."""
    return b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*unet*.py")))


@cache
def _processor() -> str:
    """The instructions it has: a cache may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"
