"""Building structured ops and what they read: scalar bodies inlined, loops dropped, tensors reshaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from mdsl.dialects import arith, linalg, scf, tensor
from mdsl.dialects.affine import Apply
from mdsl.dialects.indices import Index
from mdsl.dialects.reassociation import groups_between
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import DenseArrayAttr, IntegerAttr
from mdsl.ir.core import Block, Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, Type, i64, index


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


def transpose(value: Value, order: Sequence[int], builder: Builder, name: str | None) -> Value:
    """`value` with its dimensions in `order`."""
    type = shaped_of(value)
    shape = TensorType(tuple(type.shape[d] for d in order), type.element)
    empty = empty_like(shape, builder, f"{name}_init" if name else None)
    permutation = DenseArrayAttr(i64, tuple(order))
    return builder.value(linalg.Transpose.make([value], [empty], permutation=permutation), name)


def offset(terms: Sequence[tuple[Value, int]], constant: int, builder: Builder) -> Index:
    """The sum of values times factors, and of `constant`: a number, a value, or an `affine.apply` at the builder."""
    if not terms:
        return constant
    values = [value for value, _ in terms]
    if constant == 0 and len(terms) == 1 and terms[0][1] == 1:
        return values[0]
    total: AffineExpr = Dim(0) * terms[0][1]
    for i, (_, factor) in enumerate(terms[1:], 1):
        total = total + Dim(i) * factor
    map = AffineMap(len(terms), 0, (total + constant,))
    return builder.value(Apply(values, map=map, results=[index]), f"{values[0].name}_at")


def counted_loop(
    span: range, builder: Builder, inits: Sequence[Value], iv: str, names: Sequence[str | None] = ()
) -> scf.For:
    """An empty loop over `span`, whose bounds become constants at the builder; the loop itself is still to be added."""

    def number(n: int) -> Value:
        return builder.value(arith.Constant.of(n, index), f"c{n}")

    return scf.For.counted(span, number, inits, iv, names)


def reshaped(value: Value, shape: Sequence[int], builder: Builder, name: str | None) -> Value | None:
    """`value` in `shape` by one reshape, or itself; None if that takes two."""
    old, shape = shaped_of(value).shape, tuple(shape)
    if old == shape:
        return value
    if len(shape) == len(old):
        return None
    if len(shape) < len(old):
        groups = groups_between(shape, old)
        return None if groups is None else builder.value(tensor.CollapseShape.of(value, groups), name)
    groups = groups_between(old, shape)
    return None if groups is None else builder.value(tensor.ExpandShape.of(value, groups, shape), name)


def without_dims(value: Value, dims: Collection[int], builder: Builder) -> Value:
    """`value` without the dimensions `dims`, all of 1; a tensor that holds nothing yet is made anew."""
    type = shaped_of(value)
    kept = [d for d in range(type.rank) if d not in dims]
    if len(kept) == type.rank:
        return value
    shape = tuple(type.shape[d] for d in kept)
    owner = value.owner
    if isinstance(owner, tensor.Empty):
        return empty_like(TensorType(shape, type.element), builder, value.name)
    if isinstance(owner, linalg.Fill):
        empty = empty_like(TensorType(shape, type.element), builder, owner.outputs[0].name)
        return builder.value(linalg.Fill.make(owner.inputs, [empty]), value.name)
    starts = [0, *kept[1:], type.rank]
    groups = [list(range(a, b)) for a, b in pairwise(starts)] if kept else []
    return builder.value(tensor.CollapseShape.of(value, groups), value.name)


def drop_loops(op: linalg.LinalgOp, loops: Collection[int], builder: Builder) -> list[Value]:
    """The results of `op` without `loops`, all parallel and of extent 1, and without the dimensions that they
    run over. Maps are projected permutations."""
    kept = [d for d in range(op.num_loops) if d not in loops]
    operands: list[Value] = []
    maps: list[AffineMap] = []
    for value, map in zip(op.operands, op.maps, strict=True):
        positions = map.dim_positions()
        assert positions is not None
        gone = [d for d, loop in enumerate(positions) if loop in loops]
        operands.append(without_dims(value, gone, builder) if positions else value)
        maps.append(AffineMap.select(len(kept), [kept.index(p) for p in positions if p not in loops]))
    return with_maps(op, operands, maps, [op.iterators[d] for d in kept], builder, kept)


def with_maps(
    op: linalg.LinalgOp,
    operands: Sequence[Value],
    maps: Sequence[AffineMap],
    iterators: Sequence[str],
    builder: Builder,
    kept: Sequence[int] | None = None,
) -> list[Value]:
    """The results of a `linalg.generic` with the body of `op`, inserted at the builder; `kept` lists the loops
    of `op` that it has, in its order (default: all)."""
    split = len(op.inputs)
    new = linalg.Generic.make(operands[:split], operands[split:], maps, iterators)
    new.location = op.location
    for argument, old in zip(new.body.args, op.body.args, strict=True):
        argument.name = old.name
    loops = list(range(op.num_loops)) if kept is None else list(kept)
    renumbered = [loops.index(d) if d in loops else -1 for d in range(op.num_loops)]
    values = inline_body(op.body, new.body.args, Builder(new.body), renumbered)
    new.body.append(linalg.Yield(values, results=[]))
    builder.add(new, *[r.name for r in op.results])
    return list(new.results)
