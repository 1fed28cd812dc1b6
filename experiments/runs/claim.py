"""A run is made by one process at a time, and not again when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from experiments.runs import earlier, identity, processes, records, shards, tensorboard
from pndm.errors import OptionError

FOLDERS = ("", shards.FOLDER, tensorboard.FOLDER, "unet", "scheduler")  # of a run's own, where it writes


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold a run's folder, rid of what a killed process left half-written; of torchrun's processes the first does.

    Waits for another process that holds it; the system frees what a dead one held.
    """
    if processes.rank():
        yield
        return
    path = out / ".lock"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting: another process is making the run in {out}", flush=True)
            lock.acquire()
    except OSError as error:
        raise OptionError(f"output folder {out} cannot be written ({error.strerror or error})") from None
    try:
        for folder in FOLDERS:
            for left in records.half_written(out / folder):
                left.unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waited for it sees that and makes a new one
        lock.release()


def is_done(cfg: DictConfig, out: Path) -> bool:
    """Whether the folder holds the result of this run, which is said. With force=true what is there is removed.

    Raises OptionError when it holds the result of another run, which is not to be lost.
    """
    return processes.agreed([not processes.rank() and _is_done(cfg, out)])[0]


def _is_done(cfg: DictConfig, out: Path) -> bool:
    path = out / earlier.RECORD
    if cfg.force:
        earlier.remove(out)
        return False
    if not path.exists():
        return False
    mine = identity.key(cfg)
    try:
        record = records.read_record(path)
    except OptionError as error:
        if not out.name.endswith(mine[: identity.DIGITS]):  # its name does not say whose it is
            raise earlier.unreadable(out, error) from None
        return _made_again(error)
    if record.get("key") != mine:
        raise earlier.of_another_run(out, _differences(cfg, record))
    try:
        if cfg.experiment.name == "sample":
            shards.check_whole(out, record["samples"])
    except OptionError as error:
        return _made_again(error)
    shards.tidy(out)
    print(f"done already: {out} (of {record['time']}; --force makes it again)", flush=True)
    return True


def _made_again(error: OptionError) -> bool:
    print(f"made again: {error}", flush=True)
    return False


def _differences(cfg: DictConfig, record: dict[str, Any]) -> list[str]:
    """The options in which a run differs from that of a record."""
    if record.get("experiment") != cfg.experiment.name:
        return ["experiment"]
    config, stored = _options(OmegaConf.to_container(cfg, resolve=True)), _options(record["config"])
    return [name for name in config if name not in identity.WITHOUT_EFFECT and config[name] != stored.get(name)]


def _options(config: Any) -> dict[str, Any]:
    """A configuration's options by name, with those of its experiment as they are typed: experiment.seed."""
    own = {f"experiment.{name}": value for name, value in config["experiment"].items()}
    return {name: value for name, value in config.items() if name != "experiment"} | own
