"""ONNX's tensors and types as NumPy arrays and mdsl types."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from mdsl.errors import MdslError
from mdsl.frontends.onnx.registry import Malformed, Unsupported
from mdsl.frontends.onnx.wire import HERE
from mdsl.ir.types import DYNAMIC, MAX_RANK, TensorType, Type, type_of_dtype

if TYPE_CHECKING:
    from onnx import TensorProto, TypeProto, ValueInfoProto

# The numbers of TensorProto.DataType, with the field that holds values which are not raw.
_TYPES: dict[int, tuple[np.dtype, str]] = {
    1: (np.dtype(np.float32), "float_data"),
    3: (np.dtype(np.int8), "int32_data"),
    5: (np.dtype(np.int16), "int32_data"),
    6: (np.dtype(np.int32), "int32_data"),
    7: (np.dtype(np.int64), "int64_data"),
    9: (np.dtype(np.bool_), "int32_data"),
    10: (np.dtype(np.float16), "int32_data"),
    11: (np.dtype(np.float64), "double_data"),
    16: (np.dtype(ml_dtypes.bfloat16), "int32_data"),
}

_NUMBERS = {type_of_dtype(dtype): number for number, (dtype, _) in _TYPES.items()}

_EXTERNAL = 1
"""TensorProto.DataLocation"""


def type_name(number: int) -> str:
    """`uint8` for 2."""
    from onnx import TensorProto

    names = {value: name for name, value in TensorProto.DataType.items()}
    return names.get(number, f"number {number}").lower()


def element_type(number: int) -> Type:
    """The element type of an ONNX data type. Raises Unsupported."""
    if number not in _TYPES:
        raise Unsupported(f"elements of type {type_name(number)} are not supported")
    return type_of_dtype(_TYPES[number][0])


def onnx_type(element: Type) -> int:
    """The ONNX data type of an element type that `element_type` gives."""
    return _NUMBERS[element]


def tensor_type(
    type: TypeProto, names: Sequence[tuple[str, str]] = (), bind: Mapping[str, int] | None = None
) -> TensorType:
    """The type of a graph's input, whose open dimensions have `names` (see `open_names`) and take their sizes from
    `bind`; else they are `?`. Raises Unsupported."""
    kind = type.WhichOneof("value")
    if kind != "tensor_type":
        raise Unsupported(f"a value of kind {kind or 'nothing'} is not supported")
    element = element_type(type.tensor_type.elem_type)
    if not type.tensor_type.HasField("shape"):
        raise Unsupported("its shape is unknown, not even how many dimensions it has")
    shape = [DYNAMIC if s < 0 else s for s in _sizes(type)]
    for i, (given, name) in enumerate(names):
        if name and bind:
            shape[i] = bind.get(given, bind.get(name, shape[i]))
    if len(shape) > MAX_RANK:
        raise Unsupported(f"{len(shape)} dimensions are more than {MAX_RANK}")
    return TensorType(tuple(shape), element)


def _sizes(type: TypeProto) -> list[int]:
    """The sizes that a type states, -1 where it states none."""
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else -1
        for d in type.tensor_type.shape.dim
    ]


def open_names(inputs: Sequence[ValueInfoProto]) -> dict[str, list[tuple[str, str]]]:
    """For each input by name, what its open dimensions are called in the model and in mdsl; "" for those of known size.

    mdsl's names have letters, digits, `_`, `.` and `-`, and no two dimensions that the model calls differently share one.
    A dimension that has no name, or one without a letter such as "?", is called `input.2`.
    """
    owners: dict[str, str | tuple[str, int]] = {}

    def named(given: str, info: ValueInfoProto, i: int) -> tuple[str, str]:
        given = given if re.search(r"[^\W\d_]", given) else ""
        name = re.sub(r"[^\w.-]", "_", given, flags=re.ASCII) if given else f"{info.name}.{i}"
        name = f"_{name}" if given and not re.match(r"[a-zA-Z_]", name) else name
        owner = given or (info.name, i)
        while owners.setdefault(name, owner) != owner:
            name += "_"
        return given, name

    return {
        info.name: [
            named(dim.dim_param, info, i) if size < 0 else ("", "")
            for i, (dim, size) in enumerate(
                zip(info.type.tensor_type.shape.dim, _sizes(info.type), strict=True)
            )
        ]
        for info in inputs
    }


class TensorReader:
    """Reads TensorProtos; `folder` is where a model's external data lies (None: nowhere).

    `whole` is the model's own file, mapped, to which tensors refer whose raw data was left there (`wire.py`).
    """

    def __init__(self, folder: Path | None, whole: np.ndarray | None = None) -> None:
        self.folder = folder
        self.whole = whole
        self._files: dict[Path, np.ndarray] = {}

    def files(self) -> list[Path]:
        """The files of external data that tensors were read from."""
        return list(self._files)

    def array(self, tensor: TensorProto) -> np.ndarray:
        """The tensor's data, without a copy where it is raw. Raises Unsupported, Malformed, MdslError."""
        if tensor.data_type not in _TYPES:
            raise Unsupported(f"elements of type {type_name(tensor.data_type)} are not supported")
        dtype, field = _TYPES[tensor.data_type]
        shape = tuple(tensor.dims)
        if len(shape) > MAX_RANK or any(d < 0 for d in shape):
            raise Malformed(f"tensor '{tensor.name}' has the dimensions {list(shape)[:MAX_RANK]}")
        count = prod(shape)
        if tensor.data_location == _EXTERNAL:
            return self._typed(tensor.name, self._external(tensor), dtype, shape)
        if tensor.HasField("raw_data"):
            return self._typed(tensor.name, np.frombuffer(tensor.raw_data, np.uint8), dtype, shape)
        values = getattr(tensor, field)
        if len(values) != count:
            raise Malformed(
                f"tensor '{tensor.name}' of shape {list(shape)} holds {len(values)} elements, not {count}"
            )
        if dtype.itemsize == 2 and dtype.kind != "i":  # f16 and bf16: their bits
            return np.array(values, np.int64).astype(np.uint16).view(dtype).reshape(shape)
        return (
            np.array(values, np.int64 if field == "int32_data" else dtype)
            .astype(dtype, copy=False)
            .reshape(shape)
        )

    @staticmethod
    def _typed(name: str, data: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        wanted = prod(shape) * dtype.itemsize
        if data.size != wanted:
            raise Malformed(
                f"tensor '{name}' of shape {list(shape)} takes {wanted} bytes, it has {data.size}"
            )
        return data.view(dtype).reshape(shape)

    def _external(self, tensor: TensorProto) -> np.ndarray:
        """The bytes of a tensor that lies in a file of its own, mapped."""
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
        except ValueError:
            raise Malformed(
                f"tensor '{tensor.name}': offset and length of its external data must be numbers"
            ) from None
        if location == HERE and self.whole is not None:
            path, data = Path("<model>"), self.whole
        else:
            path = self._locate(tensor.name, location)
            data = self._map(path, tensor.name)
        length = data.size - offset if "length" not in entries else length
        if offset < 0 or length < 0 or offset + length > data.size:
            raise MdslError(
                f"{path}: error: tensor '{tensor.name}' wants bytes {offset} to {offset + length}, the file has {data.size}"
            )
        return data[offset : offset + length]

    def _locate(self, name: str, location: str) -> Path:
        """The file of external data, which must lie in the model's folder, links followed."""
        if self.folder is None:
            raise MdslError(
                f"error: tensor '{name}' lies in the file '{location}', and the model has no folder"
            )
        if not location or "\0" in location:
            raise Malformed(f"tensor '{name}' has external data without a location")
        root = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(root, location))
        if os.path.isabs(location) or os.path.commonpath([root, path]) != root:
            raise MdslError(
                f"error: tensor '{name}': its external data '{location}' would lie outside the model's folder"
            )
        return Path(path)

    def _map(self, path: Path, name: str) -> np.ndarray:
        if path not in self._files:
            try:
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):
                    raise MdslError(
                        f"{path}: error: the external data of tensor '{name}' is not a regular file"
                    )
                empty = found.st_size == 0
                self._files[path] = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            except OSError as error:
                raise MdslError(
                    f"{path}: error: cannot read the external data of tensor '{name}': {error.strerror}"
                ) from None
        return np.asarray(self._files[path])


def plain_attribute(value: Any) -> str:
    """An attribute as `--check` shows it."""
    if isinstance(value, np.ndarray):
        return f"tensor of shape {list(value.shape)}"
    if isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, list):
        shown = ", ".join(plain_attribute(v) for v in value[:8])
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    return type(value).__name__
