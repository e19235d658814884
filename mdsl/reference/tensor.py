"""Meaning of the tensor dialect. Tensors are never changed in place: parts may be views of their source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdsl.dialects.indices import Index, join_indices
from mdsl.dialects.tensor import ExtractSlice, InsertSlice, Pad
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import DYNAMIC, dtype_of
from mdsl.reference.evaluator import Scope
from mdsl.reference.memory import poisoned
from mdsl.reference.registry import failure, semantics, structured
from mdsl.reference.slices import check_indices, region_of, without_units


@semantics("tensor.empty")
def empty(op: Op, *sizes: Any) -> np.ndarray:
    remaining = iter(sizes)
    shape = [int(next(remaining)) if d == DYNAMIC else d for d in shaped_of(op.result).shape]
    return poisoned(shape, dtype_of(shaped_of(op.result).element))


@structured("tensor.extract_slice")
def extract_slice(scope: Scope, op: ExtractSlice, source: np.ndarray, *_: Any) -> np.ndarray:
    return without_units(source[region_of(op, source.shape, scope.values)], shaped_of(op.result).shape)


@structured("tensor.insert_slice")
def insert_slice(scope: Scope, op: InsertSlice, source: np.ndarray, dest: np.ndarray, *_: Any) -> np.ndarray:
    result = np.array(dest)
    part = region_of(op, dest.shape, scope.values)
    result[part] = source.reshape(result[part].shape)
    return result


@semantics("tensor.collapse_shape", "tensor.expand_shape")
def reshape(op: Op, source: np.ndarray, *sizes: Any) -> np.ndarray:
    remaining = iter(sizes)
    shape = [int(next(remaining, -1)) if d == DYNAMIC else d for d in shaped_of(op.result).shape]
    return source.reshape(shape)


@structured("tensor.pad")
def pad(scope: Scope, op: Pad, source: np.ndarray, *_: Any) -> np.ndarray:
    def numbers(entries: Sequence[Index]) -> list[int]:
        return [int(scope.values[e]) if isinstance(e, Value) else e for e in entries]

    low = numbers(join_indices(op.low, op.attr("static_low")))
    high = numbers(join_indices(op.high, op.attr("static_high")))
    if any(n < 0 for n in (*low, *high)):
        raise failure(op, f"low {low} and high {high} must not be negative")
    shape = tuple(lo + d + hi for lo, d, hi in zip(low, source.shape, high, strict=True))
    border = scope.run(op.body, *np.indices(shape, np.int64, sparse=True))[0]
    result = np.array(np.broadcast_to(border, shape), source.dtype)
    result[tuple(slice(lo, lo + d) for lo, d in zip(low, source.shape, strict=True))] = source
    return result


@semantics("tensor.extract")
def extract(op: Op, source: np.ndarray, *indices: Any) -> Any:
    check_indices(op, source.shape, indices)
    return source[indices]


@semantics("tensor.insert")
def insert(op: Op, scalar: Any, dest: np.ndarray, *indices: Any) -> np.ndarray:
    check_indices(op, dest.shape, indices)
    result = np.array(dest)
    result[indices] = scalar
    return result


@semantics("tensor.from_elements")
def from_elements(op: Op, *elements: Any) -> np.ndarray:
    return np.array(elements, dtype_of(shaped_of(op.result).element)).reshape(shaped_of(op.result).shape)


@semantics("tensor.splat")
def splat(op: Op, value: Any) -> np.ndarray:
    return np.full(shaped_of(op.result).shape, value, dtype_of(shaped_of(op.result).element))


@semantics("tensor.concat")
def concat(op: Op, *inputs: np.ndarray) -> np.ndarray:
    return np.concatenate(inputs, axis=op.attr("dim"))


@semantics("tensor.cast")
def cast(op: Op, source: np.ndarray) -> np.ndarray:
    if any(
        known not in (DYNAMIC, size)
        for known, size in zip(shaped_of(op.result).shape, source.shape, strict=True)
    ):
        raise failure(op, f"a tensor of shape {list(source.shape)} is not a {shaped_of(op.result)}")
    return source


@semantics("tensor.dim")
def dim(op: Op, source: np.ndarray, dimension: Any) -> Any:
    if not 0 <= dimension < source.ndim:
        raise failure(op, f"dimension {dimension} of a tensor of rank {source.ndim}")
    return np.int64(source.shape[int(dimension)])
