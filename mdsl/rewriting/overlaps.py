"""Structured ops whose output overlaps what they read: their inputs are put aside first."""

from __future__ import annotations

from mdsl.analysis.alias import Alias, AliasAnalysis
from mdsl.dialects import linalg, memref
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType


def put_inputs_aside(function: Op, aliases: AliasAnalysis) -> None:
    """Copies each input that an op on memory may overwrite before it has read all of it. (Upstream leaves it open
    what such an op computes; here it is what it computes of the old content, as in the reference.)"""
    for op in function.walk():
        if not isinstance(op, linalg.LinalgOp | memref.Copy):
            continue
        for position, value in enumerate(op.operands):
            if isinstance(value.type, MemRefType) and _overwrites(op, position, aliases):
                op.operands = _with(op.operands, position, _copied(value, op))


def _overwrites(op: linalg.LinalgOp | memref.Copy, position: int, aliases: AliasAnalysis) -> bool:
    value = op.operands[position]
    if not memref_of(value).is_static:
        return False
    if isinstance(op, memref.Copy):
        return position == 0 and aliases.relation(value, op.operands[1]) is Alias.MAY
    if position >= len(op.inputs) or not op.body.args[position].users:
        return False
    return not all(
        aliases.apart(value, out) or (_is_pointwise(op, position, k) and _is_same(aliases, value, out))
        for k, out in enumerate(op.outputs)
    )


def _is_same(aliases: AliasAnalysis, left: Value, right: Value) -> bool:
    return aliases.relation(left, right) is Alias.SAME


def _is_pointwise(op: linalg.LinalgOp, position: int, out: int) -> bool:
    """True if the op reads each element of an input where it writes that of an output, and once."""
    maps = op.maps
    written = maps[len(op.inputs) + out]
    return not op.reduction_dims and written.is_permutation and maps[position] == written


def _with(operands: list[Value], position: int, value: Value) -> list[Value]:
    return [*operands[:position], value, *operands[position + 1 :]]


def _copied(value: Value, op: Op) -> Value:
    builder, type = Builder.before(op), memref_of(value)
    aside = memref.Alloc.of(MemRefType(type.shape, type.element))
    copy = builder.value(aside, f"{value.name}_kept" if value.name else None)
    builder.add(memref.Copy(value, copy))
    return copy
