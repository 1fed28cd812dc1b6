"""What a model may answer: one real tensor in the shape of the state that it was asked about."""

from __future__ import annotations

from typing import Any

from torch import Size, Tensor

from pndm.errors import ModelError


def checked(answer: Any, shape: Size) -> Tensor:
    """The answer itself, when it is a real tensor of the state's shape (B, *shape). Raises ModelError otherwise.

    Whatever computes with an answer asks this first: arithmetic would broadcast a wrong shape to the right one, and a
    cast to the state's dtype would drop an imaginary part.
    """
    if not isinstance(answer, Tensor) or answer.shape != shape:
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(f"the model's answer has shape {found} where {tuple(shape)} was expected")
    if answer.is_complex():
        raise ModelError(f"the model's answer is {answer.dtype} where real numbers were expected")
    return answer
