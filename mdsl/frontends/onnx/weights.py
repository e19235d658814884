"""Which tensors of a model are parameters: what the framework it is from would train.

The format knows initializers, and no parameters among them. A number in a `Constant` node is none. Of initializers those of floats are, but for:

- what PyTorch's newer exporter says to be something else, a buffer or a constant, in the model's metadata (`signature.py`);
- those that hold infinities, or numbers as large as there are: masks of attention;
- single numbers, unless PyTorch wrote them under the name of a parameter: other exporters make initializers of every constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from mdsl.frontends.onnx.signature import Signature
from mdsl.ir.types import is_float, type_of_dtype

if TYPE_CHECKING:
    from onnx import ModelProto

_MADE = "onnx::"
"""How the names begin that PyTorch's older exporter gives to what it has computed."""


class Weights:
    """Tells the parameters among a model's initializers."""

    def __init__(self, model: ModelProto, signature: Signature) -> None:
        self._is_torch = model.producer_name == "pytorch"
        self._signature = signature

    def __contains__(self, item: tuple[str, np.ndarray]) -> bool:
        """Whether the initializer of that name, with these numbers, is a parameter."""
        name, data = item
        if not is_float(type_of_dtype(data.dtype)):
            return False
        if not self._signature.is_silent and not self._signature.is_parameter(name):
            return False
        if not data.ndim and not (self._is_torch and not name.startswith(_MADE)):
            return False
        return _is_ordinary(data)


def _is_ordinary(data: np.ndarray) -> bool:
    """True if no number is infinite, NaN, or within a factor of two of the largest."""
    largest = float(ml_dtypes.finfo(data.dtype).max)
    return bool((np.abs(data.astype(np.float32) if data.dtype.itemsize < 4 else data) < largest / 2).all())


def moved_from(base: np.ndarray, data: np.ndarray) -> Sequence[int] | None:
    """How the dimensions of `base` must be permuted to give `data`, number by number; none where it has other dimensions, of which the numbers
    are in the same order. None if it is something else."""
    if base.dtype != data.dtype or base.size != data.size:
        return None
    if base.ndim != data.ndim:
        return () if np.array_equal(base.reshape(-1), data.reshape(-1)) else None
    if base.ndim > 4:  # no layer's weight has more that are not convolved
        return None
    for order in permutations(range(base.ndim)):
        turned = base.transpose(order)
        if turned.shape == data.shape and np.array_equal(turned, data):
            return order
    return None
