"""fold-shapes: reshapes, transposes and slices become part of the indexing maps around them, or cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from mdsl.analysis.regions import RESHAPES
from mdsl.dialects import linalg, tensor
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineMap
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.linalg.fold_shapes.shuffles import move_shuffle
from mdsl.passes.linalg.fold_shapes.transposes import compute_first, read_through, slice_first
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import drop_loops, empty_like, reshaped, transpose, with_maps, without_dims

Shape = Sequence[int]


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Move reshapes, transposes and slices past computation, and into how a contraction reads its operands.

    Before:

        %rows = tensor.expand_shape %x [[0, 1], [2]] output_shape [1, 128, 64] : tensor<128x64xf32> into tensor<1x128x64xf32>
        %y = linalg.generic (d0, d1, d2: relu) ins(%rows : tensor<1x128x64xf32>) ... -> tensor<1x128x64xf32>
        %flat = tensor.collapse_shape %y [[0, 1], [2]] : tensor<1x128x64xf32> into tensor<128x64xf32>
        %t = linalg.transpose ins(%k : tensor<128x64xf32>) outs(%e : tensor<64x128xf32>) permutation = [1, 0]
        %s = linalg.matmul ins(%flat, %t : tensor<128x64xf32>, tensor<64x128xf32>) outs(%z : ...) -> tensor<128x128xf32>

    After:

        %flat = linalg.generic (d0, d1: relu) ins(%x : tensor<128x64xf32>) ... -> tensor<128x64xf32>
        %s = linalg.generic ((d0, d2), (d1, d2) -> (d0, d1)) ins(%flat, %k : tensor<128x64xf32>, tensor<128x64xf32>) ...

    Exporters put such ops between a layer and its activation, where they keep `fuse` from joining the two,
    and around attention, where each would copy a tensor. Chains of reshapes become the shortest one; a
    reshape that only adds dimensions of 1 moves behind the op that reads it, which loses these loops, and one
    that merges dimensions (the groups of a convolution) behind an activation; a slice moves in front of a transpose; a transpose is composed with the indexing map of what reads it. A shuffle
    of channels moves behind what works on each channel, and into the sum that reads it (`shuffles.py`).
    """

    name: ClassVar[str] = "fold-shapes"
    level: ClassVar[str | None] = "linalg"
    subject = "reshape, transpose or slice that can move"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            changed = True
            while changed:
                changed = False
                for op in func.body.ops:
                    changed |= op.block is not None and bool(op.results) and _visit(op)
                changed |= drop_unused(func)


def _visit(op: Op) -> bool:
    """Applies the first rule that fits; True if one did."""
    tell = remarks.begun(op)
    for kind, rule, message in _RULES:
        if isinstance(op, kind) and rule(op):
            tell(message)
            return True
    return False


# Chains of reshapes -------------------------------------------------------------------------------------------


def _shorten_chain(op: Op) -> bool:
    """Of a reshape of a reshape, one reshape, or none."""
    inner = op.operands[0].owner
    if not isinstance(inner, RESHAPES):
        return False
    source, shape = inner.operands[0], shaped_of(op.result).shape
    for origin in _origins(op):
        if shaped_of(origin).shape == shape:
            op.replace_by(origin)
            return True
    if _added_ones(op) and not _is_plain(inner):
        return False  # the form that `_add_ones_last` makes
    builder = Builder.before(op)
    new = reshaped(source, shape, builder, op.result.name)
    if new is None and isinstance(inner, tensor.ExpandShape) and isinstance(op, tensor.CollapseShape):
        # Dimensions of 1 come and go: first all go, then come those of the result.
        ones = [d for d, size in enumerate(shaped_of(source).shape) if size == 1]
        flat = without_dims(source, ones, builder) if ones else source
        new = None if not shaped_of(flat).shape else reshaped(flat, shape, builder, op.result.name)
        if new is None:
            _discard(flat, source)
    if new is None:
        return False
    op.replace_by(new, rename=True)
    return True


def _origins(op: Op) -> Iterator[Value]:
    """What the reshapes in front of `op` reshape."""
    owner: object = op.operands[0].owner
    while isinstance(owner, RESHAPES):
        yield owner.operands[0]
        owner = owner.operands[0].owner


def _add_ones_last(op: Op) -> bool:
    """A reshape that splits or merges, and adds dimensions of 1: two reshapes, the ones added by the second."""
    if not isinstance(op, tensor.ExpandShape) or not _new_ones(op) or _is_plain(op):
        return False
    source, shape = op.operands[0], shaped_of(op.result).shape
    ones = set(_new_ones(op))
    middle = [size for d, size in enumerate(shape) if d not in ones]
    builder = Builder.before(op)
    name = op.result.name
    split = reshaped(source, middle, builder, f"{name}_split" if name else None)
    whole = None if split is None else reshaped(split, shape, builder, name)
    if whole is None:
        _discard(split, source)
        return False
    op.replace_by(whole, rename=True)
    return True


def _discard(value: Value | None, source: Value) -> None:
    """Takes back a view of `source` that was made in vain: what is left over would count as a change, for ever."""
    if value is not None and value is not source and isinstance(value.owner, Op) and not value.users:
        value.owner.erase()


def _is_plain(op: Op) -> bool:
    """True if the reshape only adds or drops dimensions of 1."""
    before, after = shaped_of(op.operands[0]).shape, shaped_of(op.result).shape
    return [s for s in before if s != 1] == [s for s in after if s != 1]


def _new_ones(op: tensor.ExpandShape) -> list[int]:
    """The dimensions of 1 that the result has and the source lacks."""
    source, shape = shaped_of(op.operands[0]).shape, shaped_of(op.result).shape
    found: list[int] = []
    for size, group in zip(source, op.groups, strict=True):
        ones = [d for d in group if shape[d] == 1]
        found += ones[1:] if size == 1 else ones
    return found if op.groups else list(range(len(shape)))


def _added_ones(op: Op) -> list[int]:
    """The dimensions of the result that an expansion which splits nothing adds."""
    return _new_ones(op) if isinstance(op, tensor.ExpandShape) and _is_plain(op) else []


def _merge_last(op: linalg.LinalgOp) -> bool:
    """f(merge(g(x))) -> merge(f(g(x))) of a formula of one operand: so that `fuse` can join the two."""
    tensors = [value for value, map in zip(op.inputs, op.maps, strict=False) if map.results]
    if (
        len(tensors) != 1
        or not isinstance(op, linalg.Generic)
        or not op.is_elementwise
        or len(op.results) != 1
    ):
        return False
    merge = tensors[0].owner
    if not isinstance(merge, tensor.CollapseShape) or _is_plain(merge) or len(merge.result.users) != 1:
        return False
    source = merge.operands[0]
    producer = source.owner
    if not isinstance(producer, linalg.LinalgOp) or len(source.users) != 1:
        return False
    if isinstance(producer.body.first, linalg.Yield):
        return False  # it only moves elements, and may yet cancel
    if any(map.results and map != AffineMap.identity(op.num_loops) for map in op.maps) or _reads_place(op):
        return False
    builder, rank, name = Builder.before(op), shaped_of(source).rank, op.result.name
    type = TensorType(shaped_of(source).shape, shaped_of(op.result).element)
    operands = [source if value is tensors[0] else value for value in op.inputs]
    maps = [AffineMap.select(rank, range(rank) if map.results else ()) for map in op.maps]
    empty = empty_like(type, builder, op.outputs[0].name)
    (new,) = with_maps(op, [*operands, empty], maps, [linalg.PARALLEL] * rank, builder)
    op.replace_by(builder.value(tensor.CollapseShape.of(new, merge.groups), name), rename=True)
    return True


def _reads_place(op: linalg.LinalgOp) -> bool:
    """True if the body reads where it is, or what was there."""
    indexed = any(isinstance(inner, linalg.IndexOp) for inner in op.body.ops)
    return indexed or any(arg.users for arg in op.body.args[len(op.inputs) :])


# Slices -------------------------------------------------------------------------------------------------------


def _slice_below_ones(op: tensor.ExtractSlice) -> bool:
    """slice(add ones(x)) -> add ones(slice(x))."""
    grown = op.operands[0].owner
    ones = set(_added_ones(grown)) if isinstance(grown, Op) else set()
    shape = shaped_of(op.result).shape
    if not ones or len(shape) != len(op.attr("static_sizes")) or _is_dynamic(op):
        return False
    builder = Builder.before(op)
    offsets, sizes, strides = (
        [v for d, v in enumerate(op.attr(f"static_{which}")) if d not in ones]
        for which in ("offsets", "sizes", "strides")
    )
    assert isinstance(grown, Op)
    part = builder.value(tensor.ExtractSlice.of(grown.operands[0], offsets, sizes, strides), op.result.name)
    op.replace_by(_with_ones(part, shape, ones, builder), rename=True)
    return True


def _is_dynamic(op: tensor.ExtractSlice) -> bool:
    return len(op.operands) > 1


def _with_ones(value: Value, shape: Shape, ones: set[int], builder: Builder) -> Value:
    """`value` with dimensions of 1 put in at `ones`, which makes `shape`."""
    kept = [d for d in range(len(shape)) if d not in ones]
    if not kept:
        return builder.value(tensor.ExpandShape.of(value, [], shape), value.name)
    starts = [0, *kept[1:], len(shape)]
    groups = [list(range(a, b)) for a, b in pairwise(starts)]
    return builder.value(tensor.ExpandShape.of(value, groups, shape), value.name)


def _split_below_slice(op: Op) -> bool:
    """expand(slice(x)) -> slice(expand(x)) where the split dimensions are whole in the slice: so nothing has to
    split what lies in memory with gaps. Dimensions of 1 that the slice leaves may be dropped in between."""
    if not isinstance(op, tensor.ExpandShape) or _is_plain(op):
        return False
    dropped = op.operands[0].owner
    cut = dropped.operands[0].owner if isinstance(dropped, tensor.CollapseShape) else dropped
    if not isinstance(cut, tensor.ExtractSlice) or _is_dynamic(cut):
        return False
    if isinstance(dropped, tensor.CollapseShape) and not _is_plain(dropped):
        return False
    whole, part = shaped_of(cut.operands[0]).shape, shaped_of(cut.result).shape
    if len(whole) != len(part) or not op.groups:
        return False
    middle, shape = shaped_of(op.operands[0]).shape, shaped_of(op.result).shape
    kept = _dims_kept(part, middle)
    if kept is None:
        return False
    pieces: list[list[int]] = [[size] for size in whole]
    bounds = list(zip(*(cut.attr(f"static_{w}") for w in ("offsets", "sizes", "strides")), strict=True))
    spans: list[list[tuple[int, int, int]]] = [[b] for b in bounds]
    for d, group in zip(kept, op.groups, strict=True):
        if len(group) == 1:
            continue
        if bounds[d] != (0, whole[d], 1):
            return False
        pieces[d] = [shape[g] for g in group]
        spans[d] = [(0, shape[g], 1) for g in group]
    builder = Builder.before(op)
    name = op.result.name
    split = reshaped(cut.operands[0], [s for p in pieces for s in p], builder, cut.operands[0].name)
    assert split is not None
    offsets, sizes, strides = ([s[i] for span in spans for s in span] for i in range(3))
    taken = builder.value(tensor.ExtractSlice.of(split, offsets, sizes, strides), name)
    final = taken if tuple(sizes) == tuple(shape) else reshaped(taken, shape, builder, name)
    assert final is not None
    op.replace_by(final, rename=True)
    return True


def _dims_kept(shape: Shape, smaller: Shape) -> list[int] | None:
    """The dimensions of `shape` that `smaller` has when some of 1 are dropped; None if it cannot be told."""
    kept: list[int] = []
    at = 0
    for size in smaller:
        while at < len(shape) and shape[at] != size:
            if shape[at] != 1:
                return None
            at += 1
        if at == len(shape):
            return None
        kept.append(at)
        at += 1
    return kept if all(size == 1 for size in shape[at:]) else None


# Dimensions of 1 ----------------------------------------------------------------------------------------------


def _moves_only_ones(op: linalg.Transpose) -> bool:
    """A transpose that leaves the other dimensions in order moves no element: a reshape."""
    source, shape = op.inputs[0], shaped_of(op.result).shape
    order = [d for d in op.attr("permutation") if shaped_of(source).shape[d] != 1]
    if order != sorted(order):
        return False
    builder = Builder.before(op)
    kept = [d for d, size in enumerate(shaped_of(source).shape) if size != 1]
    flat = without_dims(source, [d for d in range(shaped_of(source).rank) if d not in kept], builder)
    ones = {d for d, size in enumerate(shape) if size == 1}
    if ones:
        op.replace_by(_with_ones(flat, shape, ones, builder), rename=True)
    else:
        op.replace_by(flat)
    return True


def _sink_ones(op: linalg.LinalgOp) -> bool:
    """f(add ones(x)) -> add ones(f(x)): the loops that run once over the added dimensions go."""
    loops: set[int] = set()
    for value, map in zip(op.inputs, op.maps, strict=False):
        if isinstance(value.owner, tensor.ExpandShape):
            positions = map.dim_positions()
            if positions is not None:
                loops |= {positions[d] for d in _added_ones(value.owner)}
    if not loops or not _can_lose(op, loops):
        return False
    builder = Builder.before(op)
    if isinstance(op, linalg.Transpose):
        gone = {op.attr("permutation")[loop] for loop in loops}
        kept = [d for d in op.attr("permutation") if d not in gone]
        flat = without_dims(op.inputs[0], gone, builder)
        new = [transpose(flat, [sorted(kept).index(d) for d in kept], builder, op.result.name)]
    else:
        new = drop_loops(op, loops, builder)
    grown: list[Value] = []
    for result, value, map in zip(op.results, new, op.maps[len(op.inputs) :], strict=True):
        positions = map.dim_positions()
        assert positions is not None
        ones = {d for d, loop in enumerate(positions) if loop in loops}
        grown.append(_with_ones(value, shaped_of(result).shape, ones, builder) if ones else value)
    op.replace_by(*grown, rename=True)
    return True


def _can_lose(op: linalg.LinalgOp, loops: set[int]) -> bool:
    """True if the op works without `loops`, all of extent 1, and no other operand has to be computed anew for it."""
    maps = op.maps
    if any(m.dim_positions() is None for m in maps) or not loops <= set(op.parallel_dims):
        return False
    if len(loops) == op.num_loops or isinstance(op, linalg.Fill):
        return False
    if op.is_contraction and any(not loops <= m.dims() for m in maps):
        return False
    if any(isinstance(i, linalg.IndexOp) and i.attr("dim") in loops for i in op.body.ops):
        return False
    # What a convolution or another op makes keeps its shape, or the two could not be joined.
    others = [v.owner for v, m in zip(op.inputs, maps, strict=False) if m.dims() & loops]
    return not any(isinstance(o, linalg.LinalgOp) and not isinstance(o, linalg.Fill) for o in others)


_RULES: Sequence[tuple[type[Op] | tuple[type[Op], ...], Callable[[Any], bool], str]] = (
    (RESHAPES, _shorten_chain, "is one with the reshapes before it"),
    (RESHAPES, _split_below_slice, "splits dimensions before the slice that it reads is cut"),
    (RESHAPES, _add_ones_last, "adds its dimensions of 1 by a reshape of their own"),
    (tensor.ExtractSlice, _slice_below_ones, "is cut before dimensions of 1 are added"),
    (linalg.Transpose, _moves_only_ones, "moves only dimensions of 1: it is a reshape"),
    (linalg.LinalgOp, _sink_ones, "loses its loops over dimensions of 1"),
    (linalg.LinalgOp, _merge_last, "is computed before the dimensions of its operand are merged"),
    (Op, move_shuffle, "comes before the shuffle of channels, or reads through it"),
    (tensor.ExtractSlice, slice_first, "is cut before it is transposed"),
    (linalg.LinalgOp, read_through, "reads its operand as that lies, by a map that transposes"),
    (linalg.LinalgOp, compute_first, "is computed as its operand lies, and read by maps that transpose"),
)
"""Which ops a rule is for, the rule, True if it has changed something, and what that was."""
