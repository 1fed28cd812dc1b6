"""Inception's features, in which an FID and a KID are comparable with published ones, by torch-fidelity.

Its network is the one of the original FID (2015-12-05), with the resizing and pooling of its TensorFlow graph. As
there, images of any size are enlarged to 299 x 299, and grey ones have their channel three times. Weights are read
from a given file, or from where torch-fidelity keeps them, and never downloaded.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pndm.data import to_uint8
from pndm.errors import OptionError

DIMENSION = 2048
FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
BATCH = 50  # images at a time: the network works at 299 x 299


def find(weights: str | None) -> Path:
    """The file of weights: the given one, or torch-fidelity's. Raises OptionError when it is not there."""
    path = Path(torch.hub.get_dir(), "checkpoints", FILE) if weights is None else Path(weights)
    if not path.is_file():
        if weights is not None:
            raise OptionError(f"Inception weights {str(path)!r}: there is no such file")
        raise OptionError(f"Inception weights are not at {path}: put {URL} there, or name a file that holds them with "
                          "the metric's option weights")  # fmt: skip
    return path


def check_installed() -> None:
    """Raise OptionError when torch-fidelity cannot be imported."""
    try:
        import torch_fidelity  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({str(error).splitlines()[0]})"
        raise OptionError("Inception features need torch-fidelity, which cannot be imported"
                          f"{reason}: pip install 'pndm[fid]'") from None  # fmt: skip


def digest(path: Path) -> str:
    """sha256 of a file of weights; warns when they are not the standard ones."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(FILE.removesuffix(".pth").rpartition("-")[2]):  # torch.hub's rule for names
        warnings.warn(f"{path} does not hold the standard Inception weights: distances do not compare with published "
                      "ones", stacklevel=2)  # fmt: skip
    return found


def load(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """States (B, C, H, W), images in [-1, 1] with C = 1 or 3 -> features (B, 2048).

    Raises OptionError when torch-fidelity is not installed or the file does not hold its network.
    """
    check_installed()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        network = FeatureExtractorInceptionV3("inception", [str(DIMENSION)], feature_extractor_weights_path=buffer)
    except Exception as error:  # damaged bytes run as instructions of the unpickler, which may fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OptionError(f"Inception weights {str(path)!r} are not those of torch-fidelity ({reason})") from None
    network.eval().to(device)

    def features(x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise OptionError(f"images have {x.shape[1]} channels: Inception accepts 1 or 3")
        images = to_uint8(x).expand(-1, 3, -1, -1)
        return torch.cat([network(part.to(device))[0] for part in images.split(BATCH)])

    return features
