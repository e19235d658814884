"""Which tensors of a model are parameters: what the framework it is from would train.

The format knows initializers, and no parameters among them. A number in a `Constant` node is none. Of initializers those of floats are, but for:

- what PyTorch's exporter says to be something else, a buffer or a constant, in the model's metadata;
- those that hold infinities, or numbers as large as there are: masks of attention;
- single numbers, unless PyTorch wrote them under the name of a parameter: other exporters make initializers of every constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from mdsl.ir.types import is_float, type_of_dtype

if TYPE_CHECKING:
    from onnx import ModelProto

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
"""The key under which PyTorch's exporter says what an initializer was."""

_MADE = "onnx::"
"""How the names begin that PyTorch's older exporter gives to what it has computed."""


class Weights:
    """Tells the parameters among a model's initializers."""

    def __init__(self, model: ModelProto) -> None:
        self._is_torch = model.producer_name == "pytorch"
        infos = (*model.graph.value_info, *model.graph.input)
        said = {i.name: entry.value for i in infos for entry in i.metadata_props if entry.key == _KIND}
        self._parameters = {name for name, kind in said.items() if kind == "PARAMETER"} if said else None

    def __contains__(self, item: tuple[str, np.ndarray]) -> bool:
        """Whether the initializer of that name, with these numbers, is a parameter."""
        name, data = item
        if not is_float(type_of_dtype(data.dtype)):
            return False
        if self._parameters is not None and name not in self._parameters:
            return False
        if not data.ndim and not (self._is_torch and not name.startswith(_MADE)):
            return False
        return _is_ordinary(data)


def _is_ordinary(data: np.ndarray) -> bool:
    """True if no number is infinite, NaN, or within a factor of two of the largest."""
    largest = float(ml_dtypes.finfo(data.dtype).max)
    return bool((np.abs(data.astype(np.float32) if data.dtype.itemsize < 4 else data) < largest / 2).all())
