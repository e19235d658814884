"""bind: the static op that each op with a computed shape becomes, once its shape is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import NnOp, broadcast_shapes
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType

Emit = Callable[[NnOp, str | None], Value]
"""`emit(op, suffix)` inserts an op, infers its result and returns it, named `<name>_<suffix>`; without a suffix
it takes the name of the result that it stands for."""

Rule = Callable[..., Value | None]

RULES: dict[str, Rule] = {}
"""`f(op, emit, *numbers)`: the value of op's result by static ops, or None if x's type does not tell enough yet.
`numbers` are the values of the operands after the first."""


def binds(name: str) -> Callable[[Rule], Rule]:
    """Registers the rule for the op `name`."""

    def register(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return register


@binds("nn.dynamic_reshape")
def reshape(op: nn.DynamicReshape, emit: Emit, shape: np.ndarray) -> Value | None:
    x = op.operands[0]
    type = tensor_of(x)
    sizes: list[int] = []
    for d, size in enumerate(shape.tolist()):
        if size < -1 or (size == 0 and d >= type.rank):
            raise op.error(f"shape {shape.tolist()} does not fit {type}")
        sizes.append(type.shape[d] if size == 0 else DYNAMIC if size == -1 else size)
    if shape.tolist().count(-1) > 1:
        raise op.error(f"shape {shape.tolist()} leaves more than one size open")
    if sizes.count(DYNAMIC) > 1:
        return None
    return emit(nn.Reshape(x, results=[TensorType(tuple(sizes), type.element)]), None)


@binds("nn.dynamic_broadcast")
def broadcast(op: nn.DynamicBroadcast, emit: Emit, shape: np.ndarray) -> Value | None:
    x = op.operands[0]
    sizes = broadcast_shapes(op, tensor_of(x).shape, shape.tolist())
    if DYNAMIC in sizes:
        return None
    return emit(nn.Broadcast(x, results=[TensorType(sizes, tensor_of(x).element)]), None)


@binds("nn.dynamic_slice")
def slice_(op: nn.DynamicSlice, emit: Emit, starts: np.ndarray, ends: np.ndarray) -> Value | None:
    parts: dict[str, Any] = {n: op.attr(n) for n in ("axes", "steps")}
    return emit(nn.Slice(op.operands[0], starts=starts.tolist(), ends=ends.tolist(), **parts), None)


@binds("nn.dynamic_pad")
def pad(op: nn.DynamicPad, emit: Emit, pads: np.ndarray) -> Value | None:
    return emit(nn.Pad(op.operands[0], pads=pads.tolist(), value=op.attr("value")), None)


@binds("nn.dynamic_tile")
def tile(op: nn.DynamicTile, emit: Emit, repeats: np.ndarray) -> Value | None:
    """Every repeated dimension gets one before it, which stretches; then the two are merged."""
    x = op.operands[0]
    type = tensor_of(x)
    if not type.is_static:
        return None
    times = repeats.tolist()
    if any(n < 0 for n in times):
        raise op.error(f"repeats must be at least 0, got {times}")
    pairs = [
        ((1, size), (n, size)) if n != 1 else ((size,), (size,))
        for n, size in zip(times, type.shape, strict=True)
    ]
    apart, stretched = (tuple(s for pair in pairs for s in pair[k]) for k in (0, 1))
    merged = tuple(n * size for n, size in zip(times, type.shape, strict=True))
    split = emit(nn.Reshape(x, results=[TensorType(apart, type.element)]), "split")
    repeated = emit(nn.Broadcast(split, results=[TensorType(stretched, type.element)]), "repeated")
    return emit(nn.Reshape(repeated, results=[TensorType(merged, type.element)]), None)
