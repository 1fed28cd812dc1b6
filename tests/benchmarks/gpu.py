"""What a GPU makes of a sampling run: images a second against diffusers, and the share of its matrix peak.

    python -m tests.benchmarks.gpu speed-gpu.json        on a machine with a GPU; wants torch, numpy and diffusers

The CIFAR-10 network of 35.7 M parameters with random weights, 50 steps, in batches of 1 and 64. Every figure is the
median of rounds in which the contenders take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.training.matrix_peak import matrix_peak, operations, wait
from pndm.models.fast import fast, has_compiler
from pndm.models.pretrained import Pretrained
from pndm.noise import SampleNoise
from tests.benchmarks.bench import CIFAR, both, solved, their_loop
from tests.benchmarks.peers import LINEAR, STEPS
from tests.benchmarks.timing import in_turn, median_ratio

Images = Callable[[], Tensor]


def measure(
    theirs: Any, trained: Pretrained, batches: Sequence[int], steps: int = STEPS, rounds: int = 3
) -> dict[str, Any]:
    """All contenders at each batch size, on the device of the networks. `steps` are ours; diffusers makes its 50."""
    device = next(trained.network.parameters()).device
    peak = matrix_peak(device, torch.bfloat16)
    each = operations(trained.network, torch.zeros(1, *trained.shape, device=device), training=False)
    rows: dict[int, Any] = {}
    for batch in batches:
        x = SampleNoise(0, range(batch)).draw(trained.shape, device=device)
        quick = fast(trained, LINEAR, batch)
        runs: dict[str, Images] = {
            **their_runs(theirs, x),
            "exact": lambda x=x: solved(trained.network, x, "ipndm", steps),
            "fast": lambda x=x, quick=quick: solved(quick.model, x, "ipndm", steps),
        }
        seconds = in_turn({name: waited(run, device) for name, run in runs.items()}, rounds)
        rows[batch] = {
            name: {
                "images_per_second": batch / statistics.median(taken),
                "seconds_of_diffusers": median_ratio(taken, seconds["diffusers"]),
            }
            for name, taken in seconds.items()
        }
        used = each * steps * rows[batch]["fast"]["images_per_second"]
        rows[batch]["fast"] |= {
            "share_of_matrix_peak": used / peak,
            "compiled": quick.compiled,
            "bfloat16": quick.bfloat16,
            "synchronisations": synchronisations(runs["fast"], device),
        }
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__, "seed": 0, "steps": steps, "evaluations": {"diffusers": STEPS + 9, "ours": steps},
        "matrix_peak": peak, "operations_per_evaluation": each, "batches": rows,
    }  # fmt: skip


def their_runs(theirs: Any, x: Tensor) -> dict[str, Images]:
    """diffusers as it comes, in bfloat16, and compiled in bfloat16."""
    networks: dict[str, Any] = {"diffusers": lambda x, t: theirs(x, t).sample}
    networks["diffusers, bfloat16"] = halved(networks["diffusers"])
    if has_compiler(x.device):
        mode = "reduce-overhead" if x.device.type == "cuda" else None
        compiled = torch.compile(theirs, dynamic=False, mode=mode)
        networks["diffusers, bfloat16, compiled"] = halved(lambda x, t: compiled(x, t).sample.clone())
    return {name: lambda network=network: their_loop(network, x) for name, network in networks.items()}


def halved(network: Any) -> Any:
    def call(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return network(x, t).float()

    return call


def waited(run: Images, device: torch.device) -> Images:
    """The run until its images are there, and not only asked for."""

    def call() -> Tensor:
        images = run()
        wait(device)
        return images

    return call


def synchronisations(run: Images, device: torch.device) -> int | None:
    """How often a run waits for the GPU, as torch counts it: once, when it reads whether all answers were finite."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no GPU: this benchmark is for one; `make bench` is for a CPU")
    found = measure(*both(CIFAR, "cuda"), batches=(1, 64))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
