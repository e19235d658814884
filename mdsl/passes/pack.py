"""pack: data tiling. Contractions work on blocked layouts; the layouts travel through the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from mdsl.codegen.target import Target
from mdsl.dialects import arith, linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.types import TensorType, dtype_of
from mdsl.passes.base import Pass, option
from mdsl.passes.canonicalize import drop_unused
from mdsl.passes.fold import constant_data, fresh_resource, resource_name, tensor_attribute
from mdsl.passes.regions import empty_like, inline_body, shaped


@dataclass(frozen=True)
class Pack(Pass):
    """Block channels and columns by the vector length; pack weights at compile time; cancel pack/unpack pairs.

    Before:

        %c = linalg.matmul ins(%a, %w : tensor<8x64xf32>, tensor<64x32xf32>) outs(%z : tensor<8x32xf32>) -> tensor<8x32xf32>

    After (with blocks of 16):

        %w_packed = linalg.pack %w outer_dims_perm = [1, 0] inner_dims_pos = [1] inner_tiles = [16] into %0 : tensor<64x32xf32> -> tensor<2x64x16xf32>
        %c_packed = linalg.generic ... ins(%a, %w_packed : ...) outs(%z_packed : ...) -> tensor<8x2x16xf32>
        %c = linalg.unpack %c_packed inner_dims_pos = [1] inner_tiles = [16] into %z : tensor<8x2x16xf32> -> tensor<8x32xf32>

    A kernel then reads the columns of one vector, and of the next step of the reduction, next to each
    other in memory. A pack of a constant is done now ("pre-packed weights"). An elementwise op, a pooling
    or a padding that reads an unpacked tensor is moved in front of the unpack, and a pack of an unpack
    cancels, so that a layout is kept from one contraction to the next.
    The scheme is that of Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD
    Architectures" (SC 2018).
    """

    name: ClassVar[str] = "pack"
    level: ClassVar[str | None] = "linalg"

    block: int = option(0, "elements a block; 0: the target's vector length for the element type", least=0)
    propagate: bool = option(True, "move layouts through elementwise ops, poolings and paddings")

    def run(self, module: ModuleOp, target: Target) -> None:
        for func in module.body.ops:
            if func.name != "func.func":
                continue
            for op in func.body.ops:
                if isinstance(op, linalg.LinalgOp) and op.results:
                    self._visit(op, target)
                elif isinstance(op, tensor.Pad) and self.propagate:
                    _pad_below_unpack(op)
            _cancel_pairs(func)
            _pack_constants(func)
            drop_unused(func)

    def _visit(self, op: linalg.LinalgOp, target: Target) -> None:
        if op.is_contraction:
            tiles = contraction_tiles(op, self.block or target.lanes(str(shaped(op.result).element)))
        elif self.propagate and len(op.results) == 1:
            tiles = _inherited_tiles(op)
        else:
            return
        # A counter that is data of the body would count blocks.
        counted = {i.attr("dim") for i in op.body.ops if isinstance(i, linalg.IndexOp)}
        if tiles and not counted & set(tiles):
            pack_op(op, tiles)


_ROWS_WORTH_PACKING = (
    16  # what a pack of the weights at run time must serve: it costs about as much as two rows
)

Tiles = dict[int, int]
"""Loop dimension -> block. The last one becomes the innermost dimension of every operand that has it."""


def contraction_tiles(op: linalg.LinalgOp, block: int) -> Tiles:
    """The loops to block: the innermost one that only the second operand and the output share (columns,
    output channels), and for a convolution the channels that are summed. Empty if there is none."""
    image, weight, out = op.maps
    if not (out.is_projected_permutation and weight.is_projected_permutation):
        return {}
    sizes = op.loop_sizes()
    columns = [d for d in (out.dim_positions() or ()) if d in weight.dims() and d not in image.dims()]
    if not columns or min(sizes) < 1:
        return {}
    rows = prod(sizes[d] for d in out.dim_positions() or () if d not in columns)
    if rows < _ROWS_WORTH_PACKING and constant_data(op.operands[1]) is None:
        return {}
    column = columns[-1]
    tiles: Tiles = {}
    if not image.is_projected_permutation:
        plain = [e.position for e in image.results if isinstance(e, Dim)]
        tiles = {d: min(block, sizes[d]) for d in op.reduction_dims if d in plain and d in weight.dims()}
        if len(tiles) > 1 or (any(sizes[d] % t for d, t in tiles.items()) and not _sums_products(op)):
            tiles = {}
    return {**tiles, column: min(block, sizes[column])}


def _sums_products(op: linalg.LinalgOp) -> bool:
    """True for a body `out + left * right`: the zeros that fill up a block of the sum add nothing to it."""
    *factors, out = op.body.args
    total = op.body.terminator.operands[0].owner
    if not isinstance(total, arith.AddF | arith.AddI) or out not in total.operands:
        return False
    product = total.operands[0 if total.operands[1] is out else 1].owner
    if not isinstance(product, arith.MulF | arith.MulI):
        return False
    return all(_unconverted(v) in factors for v in product.operands)


def _unconverted(value: Value) -> Value:
    """What `value` was before it was made wider."""
    while isinstance(value.owner, arith.ExtF | arith.ExtSI):
        value = value.owner.operands[0]
    return value


def _inherited_tiles(op: linalg.LinalgOp) -> Tiles:
    """The blocking that op's inputs were unpacked from, if the op can work on it."""
    found: Tiles = {}
    maps = op.maps
    for value, map in zip(op.inputs, maps, strict=False):
        unpack = value.owner
        if not isinstance(unpack, linalg.Unpack):
            continue
        for position, tile in zip(
            unpack.attr("inner_dims_pos"), unpack.attr("static_inner_tiles"), strict=True
        ):
            expr = map.results[position]
            if not isinstance(expr, Dim) or found.setdefault(expr.position, tile) != tile:
                return {}
    sizes = op.loop_sizes()
    for dim, tile in found.items():
        if dim not in op.parallel_dims or not _plain_everywhere(dim, maps):
            return {}
        if sizes[dim] % tile and not _harmless(op):
            return {}
    return found


def _plain_everywhere(dim: int, maps: Sequence[AffineMap]) -> bool:
    """True if `dim` occurs in the maps only as itself."""
    return all(isinstance(e, Dim) or dim not in e.dims() for m in maps for e in m.results) and all(
        dim in m.dims() for m in maps[-1:]
    )


_FINITE = {
    "arith.constant", "arith.addf", "arith.subf", "arith.mulf", "arith.maximumf", "arith.minimumf", "arith.maxnumf",
    "arith.minnumf", "arith.negf", "arith.cmpf", "arith.select", "math.tanh", "math.erf", "math.fma", "math.absf", "linalg.yield",
}  # fmt: skip


def _harmless(op: Op) -> bool:
    """True if the op makes no infinity or NaN of the zeros that fill up a block: they would spoil sums."""
    return all(inner.name in _FINITE for inner in op.body.ops)


def pack_op(op: linalg.LinalgOp, tiles: Tiles) -> None:
    """Replaces `op` by one on packed operands whose result is unpacked. New loops come last, in order of `tiles`."""
    builder = Builder.before(op)
    outer = op.num_loops
    inner = {dim: outer + i for i, dim in enumerate(tiles)}
    maps = [_packed_map(m, inner, outer + len(tiles)) for m in op.maps]
    packed = [_packed_operand(op, position, tiles, builder) for position in range(len(op.operands))]
    orders = [_order(op, position) for position in range(len(op.operands))]
    maps = [
        _permuted(m, o, len(s)) for m, o, s in zip(maps, orders, (m.results for m in op.maps), strict=True)
    ]
    iterators = [*op.iterators, *(op.iterators[d] for d in tiles)]
    split = len(op.inputs)
    new = linalg.Generic.make(packed[:split], packed[split:], maps, iterators)
    for argument, old in zip(new.body.args, op.body.args, strict=True):
        argument.name = old.name
    inline = Builder(new.body)
    new.body.append(linalg.Yield(inline_body(op.body, new.body.args, inline), results=[]))
    result_name = op.result.name
    builder.add(new, f"{result_name}_packed" if result_name else None)
    positions, sizes = _layout(op.maps[-1], tiles)
    dest = empty_like(op.result.type, builder, f"{result_name}_plain" if result_name else None)
    unpack = builder.add(linalg.Unpack.make(new.result, dest, positions, sizes))
    op.replace_by(unpack.result)


def _packed_map(map: AffineMap, inner: dict[int, int], num_dims: int) -> AffineMap:
    """Outer results as before, then the inner loop of each blocked dimension that the map has."""
    present = [d for d in inner if Dim(d) in map.results]
    return AffineMap(num_dims, 0, (*map.results, *(Dim(inner[d]) for d in present)))


def _layout(map: AffineMap, tiles: Tiles) -> tuple[list[int], list[int]]:
    """Positions and sizes of the blocked dimensions in an operand."""
    present = [d for d in tiles if Dim(d) in map.results]
    return [map.results.index(Dim(d)) for d in present], [tiles[d] for d in present]


def _order(op: linalg.LinalgOp, position: int) -> list[int]:
    """outer_dims_perm of an operand: the blocks of a contraction's second operand lie outermost, so that
    the reduction walks through neighbouring memory; every other operand keeps its order."""
    if not op.is_contraction or position != 1:
        return []
    map = op.maps[1]
    parallel = [p for p, e in enumerate(map.results) if isinstance(e, Dim) and e.position in op.parallel_dims]
    rest = [p for p in range(len(map.results)) if p not in parallel]
    order = [*parallel, *rest]
    return [] if order == sorted(order) else order


def _permuted(map: AffineMap, order: Sequence[int], outer: int) -> AffineMap:
    if not order:
        return map
    results: list[AffineExpr] = [*(map.results[p] for p in order), *map.results[outer:]]
    return AffineMap(map.num_dims, 0, tuple(results))


def _packed_operand(op: linalg.LinalgOp, position: int, tiles: Tiles, builder: Builder) -> Value:
    value = op.operands[position]
    positions, sizes = _layout(op.maps[position], tiles)
    if not positions:
        return value
    owner = value.owner
    if isinstance(owner, linalg.Fill | tensor.Empty):
        return _packed_init(value, positions, sizes, builder)
    type = shaped(value)
    order = _order(op, position)
    padding = None
    if any(type.shape[p] % s for p, s in zip(positions, sizes, strict=True)):
        padding = builder.value(Constant.of(0, type.element), "zero")
    dest = empty_like(
        TensorType(linalg.packed_shape(type.shape, positions, sizes, order), type.element),
        builder,
        f"{value.name}_packed_init" if value.name else None,
    )
    pack = linalg.Pack.make(value, dest, positions, sizes, order, padding)
    return builder.value(pack, f"{value.name}_packed" if value.name else None)


def _packed_init(value: Value, positions: Sequence[int], sizes: Sequence[int], builder: Builder) -> Value:
    """An accumulator that starts as a constant needs no packing: the same constant in the packed shape."""
    type = shaped(value)
    name = f"{value.name}_packed" if value.name else None
    packed = TensorType(linalg.packed_shape(type.shape, positions, sizes, ()), type.element)
    owner = value.owner
    if isinstance(owner, linalg.Fill):
        empty = empty_like(packed, builder, owner.outputs[0].name)
        return builder.value(linalg.Fill.make(owner.inputs, [empty]), name)
    return empty_like(packed, builder, name)


def _pad_below_unpack(op: tensor.Pad) -> None:
    """pad(unpack(x)) -> unpack(pad(x)) where the padded dimensions are not blocked."""
    unpack = op.operands[0].owner
    if not isinstance(unpack, linalg.Unpack) or len(op.operands) != 1 or op.padding_value.owner is op.body:
        return
    low, high = op.attr("static_low"), op.attr("static_high")
    positions, sizes = unpack.attr("inner_dims_pos"), unpack.attr("static_inner_tiles")
    if any(low[p] or high[p] for p in positions) or unpack.attr("outer_dims_perm"):
        return
    builder = Builder.before(op)
    extra = [0] * len(positions)
    name = op.result.name
    padded = tensor.Pad.of(unpack.operands[0], [*low, *extra], [*high, *extra], op.padding_value)
    value = builder.value(padded, f"{name}_packed" if name else None)
    dest = empty_like(op.result.type, builder, f"{name}_plain" if name else None)
    op.replace_by(builder.value(linalg.Unpack.make(value, dest, positions, sizes)))


def _cancel_pairs(func: Op) -> None:
    """pack(unpack(x)) -> x where both have one layout."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        unpack = op.operands[0].owner
        names = ("inner_dims_pos", "static_inner_tiles", "outer_dims_perm")
        if not isinstance(unpack, linalg.Unpack) or any(unpack.attr(n) != op.attr(n) for n in names):
            continue
        if unpack.operands[0].type == op.result.type:
            op.replace_by(unpack.operands[0])


def _pack_constants(func: Op) -> None:
    """Packs of constants become constants."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        data = constant_data(op.operands[0])
        if data is None:
            continue
        type = op.result.type
        assert isinstance(type, TensorType)
        array = np.ascontiguousarray(pack_array(data, op))
        name = fresh_resource(op, f"{resource_name(op.operands[0])}_packed")
        attr = tensor_attribute(array.astype(dtype_of(type.element), copy=False), type, name)
        op.replace_by(Builder.before(op).value(Constant(value=attr, results=[type]), op.result.name))


def pack_array(data: np.ndarray, op: linalg.Pack) -> np.ndarray:
    """`linalg.pack` of an array; what blocks lack is 0."""
    positions, sizes = op.attr("inner_dims_pos"), op.attr("static_inner_tiles")
    tiles = dict(zip(positions, sizes, strict=True))
    widths = [(0, -s % tiles.get(d, 1)) for d, s in enumerate(data.shape)]
    padded = np.pad(data, widths) if any(w for _, w in widths) else data
    split: list[int] = []
    outer_axes: list[int] = []
    inner_axes: dict[int, int] = {}
    for d, size in enumerate(padded.shape):
        outer_axes.append(len(split))
        if d in tiles:
            inner_axes[d] = len(split) + 1
            split += [size // tiles[d], tiles[d]]
        else:
            split.append(size)
    order = op.attr("outer_dims_perm") or range(data.ndim)
    return padded.reshape(split).transpose(
        [*(outer_axes[d] for d in order), *(inner_axes[p] for p in positions)]
    )
