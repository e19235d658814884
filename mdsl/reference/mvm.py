"""Meaning of the mvm dialect: one worker runs everything; buffers are seen as their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.dialects.mvm import Dispatch
from mdsl.ir.core import Op
from mdsl.ir.types import MemRefType, Type, dtype_of, i8
from mdsl.reference.evaluator import Scope
from mdsl.reference.memref import get_global
from mdsl.reference.numbers import fma
from mdsl.reference.registry import failure, semantics, structured
from mdsl.reference.scf import branch, for_loop
from mdsl.reference.ukernel import call, kernel

structured("mvm.loop", "mvm.parallel")(for_loop)
structured("mvm.if")(branch)
structured("mvm.constant")(get_global)


@semantics("mvm.lea")
def lea(op: Op, base: Any, index: Any) -> Any:
    return np.int64(base + index * op.attr("stride") + op.attr("offset"))


def elements(op: Op, buffer: np.ndarray, element: Type) -> np.ndarray:
    """The buffer as a row of `element`s."""
    flat = buffer.reshape(-1)
    if flat.size and not np.shares_memory(flat, buffer):
        raise failure(op, "a buffer must be laid out densely")
    return flat.view(dtype_of(element))


def _place(op: Op, places: tuple[Any, ...], limit: int, count: int = 1, stride: str = "stride") -> int:
    at = int(places[0] + (places[1] * op.attr(stride) if len(places) > 1 else 0))
    if not 0 <= at <= limit - count:
        raise failure(op, f"element {at} is outside of the buffer's {limit}")
    return at


@semantics("mvm.load")
def load(op: Op, buffer: np.ndarray, *places: Any) -> Any:
    row = elements(op, buffer, op.results[0].type)
    return row[_place(op, places, row.size)]


@semantics("mvm.store")
def store(op: Op, value: Any, buffer: np.ndarray, *places: Any) -> tuple[Any, ...]:
    row = elements(op, buffer, op.operands[0].type)
    row[_place(op, places, row.size)] = value
    return ()


@semantics("mvm.dot")
def dot(op: Op, total: Any, *operands: Any) -> Any:
    left = elements(op, operands[0], op.results[0].type)
    right = elements(op, operands[3], op.results[0].type)
    a = left[_place(op, operands[1:3], left.size, stride="left_stride")]
    b = right[_place(op, operands[4:6], right.size, stride="right_stride")]
    return fma(a, b, total)


@semantics("mvm.copy")
def copy(op: Op, target: np.ndarray, target_at: Any, source: np.ndarray, source_at: Any) -> tuple[Any, ...]:
    count, element = op.attr("count"), op.attr("element")
    to, origin = elements(op, target, element), elements(op, source, element)
    at, start = _place(op, (target_at,), to.size, count), _place(op, (source_at,), origin.size, count)
    to[at : at + count] = origin[start : start + count].copy()
    return ()


@semantics("mvm.fill")
def fill(op: Op, value: Any, buffer: np.ndarray, base: Any) -> tuple[Any, ...]:
    row, count = elements(op, buffer, op.operands[0].type), op.attr("count")
    at = _place(op, (base,), row.size, count)
    row[at : at + count] = value
    return ()


@structured("mvm.dispatch")
def dispatch(scope: Scope, op: Dispatch, *operands: Any) -> tuple[Any, ...]:
    callee = kernel(scope, op, op.symbol)
    types = callee.type.inputs
    arguments = op.arguments()
    for start in range(0, len(arguments), len(types)):
        given = [_argument(scope, op, a, t) for a, t in zip(arguments[start:], types, strict=False)]
        call(scope, callee, given)
    return ()


def _argument(scope: Scope, op: Op, argument: tuple[Any, Any, int, int], type: Type) -> Any:
    buffer, register, stride, offset = argument
    if buffer is None:
        return scope.values[register]
    assert isinstance(type, MemRefType)
    at = offset + (int(scope.values[register]) * stride if register is not None else 0)
    size = dtype_of(type.element).itemsize
    raw = elements(op, scope.values[buffer], i8)
    if at < 0 or at + type.span * size > raw.size:
        raise failure(
            op, f"an argument from byte {at} to {at + type.span * size} leaves a buffer of {raw.size}"
        )
    memory = raw[at : at + type.span * size].view(dtype_of(type.element))
    return np.lib.stride_tricks.as_strided(memory, type.shape, [s * size for s in type.layout])
