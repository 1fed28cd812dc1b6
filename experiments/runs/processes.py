"""One run's samples over the processes of `torchrun --nproc_per_node=N run.py ...`.

The processes share a folder, and exchange nothing but who draws which batches and when all are done. That goes through
the CPUs (gloo) on every kind of device: no tensor of a GPU is exchanged, so NCCL would only cost its start and memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta

import torch
from torch import distributed

LONGEST = timedelta(days=30)  # that one process may wait for another; torchrun ends all when one fails


def size() -> int:
    """How many processes make this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this is. The first one also measures, writes the record, and speaks."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def joined() -> Iterator[None]:
    """Join the others of torchrun, if there are any; all but the first are silent."""
    if size() == 1:
        yield
        return
    distributed.init_process_group("gloo", timeout=LONGEST)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            if rank():
                with redirect_stdout(nowhere):
                    yield
            else:
                yield
    finally:
        distributed.destroy_process_group()


def agreed(flags: list[bool]) -> list[bool]:
    """The first process's flags, in all of them, which have as many."""
    if size() == 1:
        return flags
    shared = torch.tensor(flags)
    distributed.broadcast(shared, 0)
    return [bool(flag) for flag in shared]


def wait_for_all() -> None:
    """Return when every process has come here."""
    if size() > 1:
        distributed.barrier()
