"""prepack: constant weights are stored in the order in which the tiles read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

import numpy as np

from mdsl.dialects import linalg, scf, tensor
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.indices import Index
from mdsl.ir.attributes import AffineMapAttr, ArrayAttr, tensor_attribute
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.rewriting.structured import offset


@dataclass(frozen=True)
class Prepack(Pass):
    """Lay constant operands of contractions out in the order in which the tiles read them.

    Before (a tile reads 4 blocks of 16 columns, that is 4 streams of memory):

        %w_tile = tensor.extract_slice %w[%j, 0, 0] [4, 256, 16] [1, 1, 1] : tensor<8x256x16xf32> to tensor<4x256x16xf32>

    After (one stream, in which the 4 blocks of a step of the reduction lie side by side):

        %w_rows = tensor.extract_slice %w_tiles[%j, 0] [4, 4096] [1, 1] : tensor<8x4096xf32> to tensor<4x4096xf32>
        %w_flat = tensor.collapse_shape %w_rows [[0, 1]] : tensor<4x4096xf32> into tensor<16384xf32>
        %w_tile = tensor.expand_shape %w_flat [[0, 1, 2]] output_shape [256, 4, 16] : tensor<16384xf32> into tensor<256x4x16xf32>

    The tile's part of the constant is contiguous before and after; what changes is the order inside: first
    the dimensions that the contraction sums over, then the others. The processor's prefetcher follows one
    stream at the full bandwidth of the memory, eight at three quarters of it, and the last tile's end is the next one's
    beginning. So it is with columns of a matrix that the steps of a loop over time multiply by: rows 2 KB apart share few
    sets of a cache. A constant that something else reads too stays as it is.
    """

    name: ClassVar[str] = "prepack"
    level: ClassVar[str | None] = "tiled"
    subject = "constant of which contractions read tiles"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            for op in list(func.walk()):
                if isinstance(op, Constant) and isinstance(op.result.type, TensorType):
                    _prepack(op)
            drop_unused(func)


@dataclass(frozen=True)
class _Read:
    """A slice of rows of the constant, [first, last) in steps of the slice's size, read by one contraction.

    Rows are counted along dimension `dims[batch]`; of the dimensions before it the slice takes one place at a time.
    """

    slice: tensor.ExtractSlice
    user: linalg.LinalgOp
    dims: tuple[int, ...]
    """The constant's dimensions, that along which it is cut in front of those that the slice has whole."""
    batch: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        return shaped_of(self.slice.result).shape[self.dims[self.batch]]

    @property
    def order(self) -> list[int]:
        """The dimensions as the tile will have them: what is summed over comes first."""
        positions = self.user.maps[1].dim_positions() or ()
        summed = [p for p, d in enumerate(positions) if d in self.user.reduction_dims]
        return [*summed, *(p for p in range(len(positions)) if p not in summed)]

    @property
    def layout(self) -> object:
        """Reads that agree in it read one constant."""
        return self.dims, self.batch, self.first, self.last, self.rows, tuple(self.order)


def _prepack(constant: Constant) -> None:
    users = list(dict.fromkeys(constant.result.users))
    found = [_read_of(op, constant.result) for op in users]
    reads = [read for read in found if read is not None]
    # Different tiles that overlap would each need a copy of their own.
    layouts = {r.layout: r for r in reads}
    data = constant_data(constant.result) if reads else None
    if data is None:
        return
    obstacle = _obstacle(sorted(layouts.values(), key=lambda r: r.first), len(found) - len(reads))
    if obstacle:
        remarks.missed(constant, f"stays in its order: {obstacle}")
        return
    rows = max(r.rows for r in reads)
    reader = reads[0].user
    more = f" and {len(reads) - 1} more" if len(reads) > 1 else ""
    message = f"is laid out in tiles of {rows} rows, one stream for {remarks.name_of(reader)}{more}"
    remarks.applied(constant, message, *dict.fromkeys(r.user for r in reads), rows=rows)
    laid = {layout: _laid_out(read, constant, data) for layout, read in layouts.items()}
    for read in reads:
        with rewriting(read.user, "read tiles"):
            _read_tile(read, laid[read.layout])


def _obstacle(reads: Sequence[_Read], others: int) -> str:
    """What keeps the constant from being laid out for `reads`, which are in the order of their rows; empty if nothing does."""
    if others:
        return (
            f"{others} of its {others + len(reads)} readers take other parts of it than tiles of whole rows"
        )
    if any((a.dims, a.batch) != (b.dims, b.batch) or a.last > b.first for a, b in pairwise(reads)):
        return "tiles that are read of it overlap"
    return "" if any(r.rows > 1 for r in reads) else "each tile is one stream already"


def _read_of(op: Op, constant: Value) -> _Read | None:
    """What `op` reads of the constant, if it is whole rows of it for one contraction."""
    if not isinstance(op, tensor.ExtractSlice):
        return None
    rank, dims = shaped_of(constant).rank, _cut_first(constant, op)
    if dims is None:
        return None
    whole, part = ([shaped_of(v).shape[d] for d in dims] for v in (constant, op.result))
    offsets = [op.mixed("offsets")[d] for d in dims]
    batch = next((d for d in range(rank) if part[d] != 1 or whole[d] == 1), 0)
    if any(_rows(offsets[d], 1) != (0, whole[d]) for d in range(batch)):
        batch = 0
    behind = slice(batch + 1, None)
    if part[behind] != whole[behind] or any(o != 0 for o in offsets[behind]):
        return None
    user = _contraction(op.result)
    span = _rows(offsets[batch], part[batch])
    if user is None or span is None:
        return None
    read = _Read(op, user, dims, batch, *span)
    return read if isinstance(user, linalg.Generic) or read.order == list(range(rank)) else None


def _cut_first(constant: Value, op: tensor.ExtractSlice) -> tuple[int, ...] | None:
    """The dimensions of the constant, the one that alone is cut by the slice in front; None if it is no plain part."""
    whole, part = shaped_of(constant), shaped_of(op.result)
    if part.rank != whole.rank or part.rank < 2 or any(s != 1 for s in op.attr("static_strides")):
        return None
    cut = [d for d in range(part.rank) if part.shape[d] != whole.shape[d]]
    return tuple(sorted(range(part.rank), key=lambda d: len(cut) == 1 and d not in cut))


def _contraction(tile: Value) -> linalg.LinalgOp | None:
    """The only reader of `tile`: a contraction in a region, as its second operand, element by element."""
    users = list(tile.users)
    if len(users) != 1 or not isinstance(users[0], linalg.LinalgOp):
        return None
    op = users[0]
    if not op.is_contraction or op.operands.index(tile) != 1:
        return None
    return op if op.maps[1].is_projected_permutation else None


def _rows(offset: Value | int, size: int) -> tuple[int, int] | None:
    """The rows that a slice of `size` rows at `offset` goes through in its loop."""
    if isinstance(offset, int):
        return offset, offset + size
    region = offset.owner.parent if isinstance(offset.owner, Block) else None
    loop = region.parent if region else None
    if not isinstance(loop, scf.Forall) or offset not in loop.ivs:
        return None
    number = loop.ivs.index(offset)  # type: ignore[arg-type]
    lower, upper, step = (loop.attr(f"static{name}")[number] for name in ("LowerBound", "UpperBound", "Step"))
    return (lower, upper) if step == size and (upper - lower) % step == 0 else None


def _laid_out(read: _Read, constant: Constant, data: np.ndarray) -> Value:
    """The constant of the read rows, tile after tile, each in its new order: [rows of all batches, elements]."""
    data = data.transpose(read.dims)
    shape, batch, rows = data.shape, read.batch, read.rows
    part = data[(*[slice(None)] * batch, slice(read.first, read.last))]
    count = prod(shape[:batch]) * part.shape[batch] // rows
    blocks = part.reshape(count, *[1] * batch, rows, *shape[batch + 1 :])
    laid = blocks.transpose(0, *(read.dims.index(p) + 1 for p in read.order))
    row = prod(shape[batch + 1 :])
    whole = TensorType((count * rows, row), shaped_of(constant.result).element)
    name = constant.result.name or "constant"
    resource = fresh_resource(constant, f"{resource_name(constant.result)}_tiles")
    flat = np.ascontiguousarray(laid).reshape(whole.shape)
    attr = tensor_attribute(flat, whole, resource)
    return Builder.before(constant).value(Constant(value=attr, results=[whole]), f"{name}_tiles")


def _read_tile(read: _Read, tiles: Value) -> None:
    """Makes the contraction read its tile of `tiles`, a result of `_laid_out`."""
    builder = Builder.before(read.slice)
    name = (tiles.name or "tiles").removesuffix("_tiles")
    total, row = shaped_of(tiles).shape
    value = tiles
    if total > read.rows:
        start = _start(read, builder)
        value = builder.value(tensor.ExtractSlice.of(tiles, [start, 0], [read.rows, row]), f"{name}_rows")
    value = builder.value(tensor.CollapseShape.of(value, [[0, 1]]), f"{name}_flat")
    shape = [shaped_of(read.slice.result).shape[p] for p in read.order]
    tile = builder.value(
        tensor.ExpandShape.of(value, [list(range(len(shape)))], shape), read.slice.result.name
    )
    _read_through(read.user, tile, read.order)


def _start(read: _Read, builder: Builder) -> Index:
    """The row of `_laid_out` where the slice begins."""
    every, dims = read.slice.mixed("offsets"), read.dims[: read.batch + 1]
    offsets = [every[d] for d in dims]
    whole = [shaped_of(read.slice.operands[0]).shape[d] for d in dims]
    factor, start, moving = 1, -read.first, dict[Value, int]()
    for d in reversed(range(len(offsets))):
        first = offsets[d]
        if isinstance(first, Value):
            moving[first] = moving.get(first, 0) + factor
        else:
            start += first * factor
        factor *= read.last - read.first if d == read.batch else whole[d]
    return offset(list(moving.items()), start, builder)


def _read_through(op: linalg.LinalgOp, tile: Value, order: list[int]) -> None:
    """Gives the contraction its second operand with the dimensions in `order`; a named one reads its operands in its own."""
    op.operands = [op.operands[0], tile, *op.operands[2:]]
    if not isinstance(op, linalg.Generic):
        return
    left, right, *rest = op.maps
    permuted = right.permuted(order)
    op.attributes["indexing_maps"] = ArrayAttr(tuple(AffineMapAttr(m) for m in (left, permuted, *rest)))
