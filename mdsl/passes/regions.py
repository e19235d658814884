"""Helpers that passes on structured ops share: building slices, cloning bodies, naming."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import linalg, tensor
from mdsl.ir.attributes import IntegerAttr
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.types import ShapedType, TensorType, Type


def shaped(value: Value) -> ShapedType:
    """The value's type, known to be shaped."""
    assert isinstance(value.type, ShapedType)
    return value.type


def inline_body(
    body: Block, arguments: Sequence[Value], builder: Builder, loops: Sequence[int] | None = None
) -> list[Value]:
    """Clones a scalar body at the builder with `arguments` for its arguments; returns what it yields.

    `loops` tells which loop around the builder each loop of the body becomes, if not the same one.
    """
    mapping: dict[Value, Value] = dict(zip(body.args, arguments, strict=True))
    for op in body.ops:
        if op.has("terminator"):
            return [mapping.get(v, v) for v in op.operands]
        copy = op.clone(mapping)
        builder.add(copy, *[r.name for r in op.results])
        if loops is not None and isinstance(copy, linalg.IndexOp):
            copy.attributes["dim"] = IntegerAttr(loops[copy.attr("dim")])
    raise AssertionError("a body without terminator")


def empty_like(type: Type, builder: Builder, name: str | None = None) -> Value:
    """A fresh `tensor.empty` of `type`."""
    assert isinstance(type, TensorType)
    return builder.value(tensor.Empty([], results=[type]), name)


def writes_old_content(op: linalg.LinalgOp) -> bool:
    """True if the op's body reads an output's old element (an accumulator)."""
    outs = op.body.args[len(op.inputs) :]
    return any(a.users for a in outs)


def captured(root: Op) -> list[Value]:
    """Values used under `root` but defined outside it, in order of first use."""
    inside: set[Value] = set()
    found: dict[Value, None] = {}
    for op in root.walk():
        if op is not root:
            for value in op.operands:
                if value not in inside:
                    found[value] = None
        inside.update(op.results)
        for region in op.regions:
            inside.update(region.block.args)
    return list(found)
