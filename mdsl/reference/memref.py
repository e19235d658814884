"""Meaning of the memref dialect. A memref is a NumPy view, so that two views of one memory alias."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.dialects.memref import GetGlobal, Global, SubView
from mdsl.dialects.mvm import Constant
from mdsl.ir.core import Op
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, dtype_of
from mdsl.reference.evaluator import Scope
from mdsl.reference.memory import allocate
from mdsl.reference.numbers import constant_value
from mdsl.reference.registry import failure, semantics, structured
from mdsl.reference.slices import check_indices, region_of, without_units


@semantics("memref.alloc", "memref.alloca")
def alloc(op: Op, *sizes: Any) -> np.ndarray:
    type = memref_of(op.results[0])
    if type.is_static:
        return allocate(type)
    remaining = iter(sizes)
    return allocate(type, [int(next(remaining)) if d == DYNAMIC else d for d in type.shape])


@semantics("memref.dealloc")
def dealloc(op: Op, memory: np.ndarray) -> None:
    """Nothing: the memory lives as long as something refers to it."""


@structured("memref.get_global")
def get_global(scope: Scope, op: GetGlobal | Constant) -> np.ndarray:
    known = scope.evaluator.globals
    if op.symbol not in known:
        definition = scope.evaluator.symbol(op, op.symbol)
        if not isinstance(definition, Global):
            raise failure(op, f"@{op.symbol} is not a memref.global")
        known[op.symbol] = _initial(definition)
    return known[op.symbol]


def _initial(definition: Global) -> np.ndarray:
    value = definition.attributes.get("initial_value")
    if value is None or str(value) in ("unit", "uninitialized"):
        return allocate(definition.attr("type"))
    data = np.asarray(constant_value(value), order="C")  # a splat becomes as dense as its type says
    if "constant" not in definition.attributes:
        return np.array(data)
    view = data.view()
    view.flags.writeable = False
    return view


@semantics("memref.prefetch")
def prefetch(op: Op, memory: np.ndarray, *indices: Any) -> None:
    """Nothing: a hint to the hardware."""


@semantics("memref.load")
def load(op: Op, memory: np.ndarray, *indices: Any) -> Any:
    check_indices(op, memory.shape, indices)
    return memory[indices]


@semantics("memref.store")
def store(op: Op, value: Any, memory: np.ndarray, *indices: Any) -> None:
    check_indices(op, memory.shape, indices)
    writable(op, memory)[indices] = value


def writable(op: Op, memory: np.ndarray) -> np.ndarray:
    """`memory`, unless it is constant data."""
    if not memory.flags.writeable:
        raise failure(op, "writes to constant memory")
    return memory


@structured("memref.subview")
def subview(scope: Scope, op: SubView, source: np.ndarray, *_: Any) -> np.ndarray:
    return without_units(source[region_of(op, source.shape, scope.values)], memref_of(op.results[0]).shape)


@semantics("memref.collapse_shape", "memref.expand_shape")
def reshape(op: Op, source: np.ndarray, *_: Any) -> np.ndarray:
    view = source.reshape(memref_of(op.results[0]).shape)
    if view.size and not np.may_share_memory(view, source):
        raise failure(op, f"memory with strides of {source.strides} bytes cannot be seen in one piece")
    return view


@semantics("memref.view")
def view(op: Op, source: np.ndarray, shift: Any, *_: Any) -> np.ndarray:
    type = memref_of(op.results[0])
    if shift < 0 or shift + type.nbytes > source.size:
        raise failure(op, f"bytes {shift} to {shift + type.nbytes} of a buffer of {source.size}")
    return source[shift : shift + type.nbytes].view(dtype_of(type.element)).reshape(type.shape)


@semantics("memref.copy")
def copy(op: Op, source: np.ndarray, target: np.ndarray) -> None:
    writable(op, target)[...] = source


@semantics("memref.cast")
def cast(op: Op, source: np.ndarray) -> np.ndarray:
    return source
