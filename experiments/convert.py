"""Make a pipeline folder of a checkpoint of the original DDIM and PNDM repositories.

python run.py experiment=convert experiment.source=ema_cifar10.ckpt output=weights/ddim-cifar10
python run.py model=weights/ddim-cifar10 solver=plms steps=50
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.config.schema import GROUPS, create
from experiments.runs import identity, records
from pndm.errors import OptionError
from pndm.models.diffusers_config import config_of
from pndm.models.diffusers_folder import save_pipeline
from pndm.models.original import load_original


def convert(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Write the folder `out` in the layout of diffusers, with a record of where it came from, and return the record.

    The noise path is `schedule`, which the checkpoints do not hold; their networks predict eps.
    """
    if cfg.experiment.source is None:
        raise OptionError("experiment=convert needs a checkpoint: experiment.source=path/to/ema_cifar10.ckpt")
    source = Path(cfg.experiment.source)
    scheduler = config_of(create(GROUPS["schedule"], cfg.schedule), "eps")
    network, averaged = load_original(source, cfg.experiment.image_size)
    try:
        save_pipeline(network, scheduler, out)
    except OSError as error:
        raise OptionError(f"output={out} cannot be written ({error.strerror or error})") from error
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        **identity.head(cfg, torch.device("cpu")),
        "source": {"path": str(source), "sha256": digest},
        "weights": "averaged" if averaged else "as saved",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "architecture": network.config.to_dict(),
        "scheduler": scheduler,
    }
    records.write_record(out, record)
    size = network.config.image_size
    print(
        f"network    {record['parameters']} parameters ({record['weights']}), images of {size}x{size}\n"
        f"schedule   {cfg.schedule.name}\n"
        f"wrote      {out}\n"
        f"try        python run.py model={out} solver=plms steps=50"
    )
    return record
