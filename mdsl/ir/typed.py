"""The type of a value that is known to be of a kind."""

from __future__ import annotations

from mdsl.ir.core import Value
from mdsl.ir.types import MemRefType, ShapedType, TensorType


def shaped_of(value: Value) -> ShapedType:
    """The value's type, known to have a shape."""
    assert isinstance(value.type, ShapedType)
    return value.type


def tensor_of(value: Value) -> TensorType:
    """The value's type, known to be a tensor's."""
    assert isinstance(value.type, TensorType)
    return value.type


def memref_of(value: Value) -> MemRefType:
    """The value's type, known to be a memref's."""
    assert isinstance(value.type, MemRefType)
    return value.type
