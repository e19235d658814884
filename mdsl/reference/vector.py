"""Meaning of the vector dialect, in the vectors' own dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdsl.dialects.vector import Extract, Insert, Reduction, Transfer, TransferRead, TransferWrite
from mdsl.ir.core import Op
from mdsl.ir.types import VectorType
from mdsl.reference.memref import writable
from mdsl.reference.numbers import fma
from mdsl.reference.registry import failure, meaning, semantics
from mdsl.reference.slices import check_indices

KINDS = {
    "add": {"f": "arith.addf", "i": "arith.addi"},
    "mul": {"f": "arith.mulf", "i": "arith.muli"},
    **{kind: {"f": f"arith.{kind}"} for kind in ("minimumf", "maximumf", "minnumf", "maxnumf")},
    **{kind: {"i": f"arith.{kind}"} for kind in ("minsi", "maxsi", "minui", "maxui")},
    "and": {"i": "arith.andi"},
    "or": {"i": "arith.ori"},
    "xor": {"i": "arith.xori"},
}
"""The scalar op that each kind of reduction repeats, for floats and integers."""


def _part(op: Op, memory: np.ndarray, indices: Sequence[Any], size: int) -> np.ndarray:
    """The `size` elements along the last dimension from `indices` on, as a view."""
    *outer, first = indices
    check_indices(op, memory.shape[:-1], outer)
    if first < 0 or first + size > memory.shape[-1]:
        raise failure(op, f"elements {first} to {first + size} of a last dimension of {memory.shape[-1]}")
    return memory[(*outer, slice(first, first + size))]


@semantics("vector.load")
def load(op: Op, memory: np.ndarray, *indices: Any) -> np.ndarray:
    type = op.results[0].type
    assert isinstance(type, VectorType)
    return _part(op, memory, indices, type.shape[0]).copy()


@semantics("vector.store")
def store(op: Op, value: np.ndarray, memory: np.ndarray, *indices: Any) -> None:
    _part(op, writable(op, memory), indices, value.shape[0])[...] = value


def _window(op: Transfer, memory: np.ndarray, indices: Sequence[Any]) -> np.ndarray:
    """The part that a transfer touches, as a view with the vector's dimensions, those of 1 that repeat."""
    sizes = op.window
    for d, (start, size, extent) in enumerate(zip(indices, sizes, memory.shape, strict=True)):
        if start < 0 or start + size > extent:
            raise failure(op, f"elements {start} to {start + size} of {extent} along dimension {d}")
    order = [place for place in op.places if place is not None]
    rest = [d for d in range(memory.ndim) if d not in order]
    part = memory[tuple(slice(i, i + size) for i, size in zip(indices, sizes, strict=True))]
    moved = part.transpose(*rest, *order)[(0,) * len(rest)]
    return np.expand_dims(moved, tuple(d for d, place in enumerate(op.places) if place is None))


@semantics("vector.transfer_read")
def transfer_read(op: TransferRead, memory: np.ndarray, *operands: Any) -> np.ndarray:
    part = _window(op, memory, operands[: memory.ndim])
    return np.broadcast_to(part, op.vector_type.shape).copy()


@semantics("vector.transfer_write")
def transfer_write(op: TransferWrite, value: np.ndarray, memory: np.ndarray, *indices: Any) -> None:
    _window(op, writable(op, memory), indices)[...] = value


@semantics("vector.broadcast")
def broadcast(op: Op, source: Any) -> np.ndarray:
    type = op.results[0].type
    assert isinstance(type, VectorType)
    return np.full(type.shape, source, source.dtype)


@semantics("vector.fma")
def multiply_add(op: Op, lhs: np.ndarray, rhs: np.ndarray, acc: np.ndarray) -> np.ndarray:
    return fma(lhs, rhs, acc)


@semantics("vector.reduction")
def reduction(op: Reduction, vector: np.ndarray, *acc: Any) -> Any:
    kinds = KINDS[op.word]
    found = meaning(kinds.get("i" if vector.dtype.kind in "bi" else "f") or next(iter(kinds.values())))
    assert found is not None
    combine, _ = found
    total, *rest = [*acc, *vector]
    for element in rest:
        total = combine(op, total, element)
    return total


@semantics("vector.extract")
def extract(op: Extract, source: np.ndarray, *_: Any) -> Any:
    return source[op.position]


@semantics("vector.insert")
def insert(op: Insert, value: Any, dest: np.ndarray, *_: Any) -> np.ndarray:
    result = np.array(dest)
    result[op.position] = value
    return result


@semantics("vector.shuffle")
def shuffle(op: Op, v1: np.ndarray, v2: np.ndarray) -> np.ndarray:
    return np.concatenate([v1, v2])[list(op.attr("mask"))]


@semantics("vector.step")
def step(op: Op) -> np.ndarray:
    type = op.results[0].type
    assert isinstance(type, VectorType)
    return np.arange(type.shape[0], dtype=np.int64)
