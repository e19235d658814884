"""A graph's inputs: what their open dimensions are called, and which sizes and values they are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsl.errors import MdslError, nearest
from mdsl.frontends.onnx.tensors import open_names, tensor_type
from mdsl.frontends.values import as_array, as_size
from mdsl.ir.types import DYNAMIC, TensorType

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto


class Arguments:
    """The inputs of a model but for the weights that are listed among them, and what `bind` says of them. Raises MdslError
    for a name that is neither a dimension's nor an input's, and for what such a one cannot be."""

    def __init__(self, proto: ModelProto, bind: Mapping[str, Any]) -> None:
        given = {t.name for t in proto.graph.initializer}
        self.inputs = [i for i in proto.graph.input if i.name not in given]
        self.dims = open_names(self.inputs)
        """For each input the names of its open dimensions, see `open_names`."""
        self.sizes: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        known = {name for names in self.dims.values() for pair in names for name in pair if name}
        for name, what in bind.items():
            if name in known:
                self.sizes[name] = as_size(name, what)
                if self.sizes[name] < 0:
                    raise MdslError(f"error: dimension '{name}' cannot be {what}")
            elif name in self.dims:
                self.values[name] = what
            else:
                raise self._unknown(name)

    def _unknown(self, name: str) -> MdslError:
        dims = list(dict.fromkeys(mine for names in self.dims.values() for _, mine in names if mine))
        guess = nearest(name, [*dims, *self.dims])
        listed = f"named dimensions: {', '.join(dims) or 'none'}; inputs: {', '.join(self.dims) or 'none'}"
        return MdslError(f"error: no dimension '{name}' to bind{guess} ({listed})")

    def type(self, info: ValueInfoProto) -> TensorType:
        """The type of an input. Raises Unsupported."""
        return tensor_type(info.type, self.dims[info.name], self.sizes)

    def value(self, info: ValueInfoProto, type: TensorType) -> np.ndarray | None:
        """What an input of this type is bound to, None if it is an argument of the program. Raises MdslError."""
        given = self.values.get(info.name)
        return None if given is None else as_array(info.name, type, given)

    def open_dims(self, name: str, type: TensorType) -> tuple[str, ...]:
        """What the dimensions of an input are called that have no size, "" for the others."""
        pairs = zip(self.dims[name], type.shape, strict=True)
        return tuple(mine if size == DYNAMIC else "" for (_, mine), size in pairs)
