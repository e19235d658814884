"""How large the tile of one micro-kernel is: what `tile` asks the cost model of `target/contractions.py` about an op.

Everything but a contraction is bound by memory: a kernel gets about `cost.ELEMENTS` elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import prod

from mdsl.dialects import linalg
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import MemRefType, dense_strides
from mdsl.target import contractions, cost
from mdsl.target.target import ELEMENT_BYTES, Target

TILE = "mdsl.tile"
"""The attribute of a region or a structured op in which `tune` notes the tile that it measured."""


def noted_tile(op: Op) -> list[int] | None:
    """The sizes that the attribute `mdsl.tile` gives for the dimensions of the op's result, no larger than it is;
    None without the attribute. Raises VerifyError if they are not a positive integer a dimension."""
    noted = op.attributes.get(TILE)
    if noted is None:
        return None
    shape = shaped_of(op.results[0]).shape if op.results else ()
    sizes = noted.values if isinstance(noted, DenseArrayAttr) else ()
    integers = [n for n in sizes if isinstance(n, int) and n > 0]
    if not isinstance(noted, DenseArrayAttr) or len(sizes) != len(shape) or len(integers) != len(sizes):
        raise op.error(f"{TILE} must be {len(shape)} integers from 1 on, one a dimension, got {noted}")
    return [min(n, extent) for n, extent in zip(integers, shape, strict=True)]


def contraction_tile(op: linalg.LinalgOp, target: Target) -> list[int]:
    """Tile size for each dimension of the output of a contraction, in order."""
    return [*contraction_tiles(op, target).best]


def contraction_tiles(op: linalg.LinalgOp, target: Target) -> cost.Choice[tuple[int, ...]]:
    """All tilings that fit the registers, each a size for each dimension of the output."""
    pixels = _pixels(op)
    found = _tilings(_contraction(op, target))
    if pixels is None:
        return found
    at, row = (op.maps[-1].dim_positions() or ()).index(pixels[0]), op.loop_sizes()[pixels[1]]

    def apart(tile: tuple[int, ...]) -> tuple[int, ...]:
        """With the image's rows and columns as two dimensions again."""
        return *tile[:at], max(1, tile[at] // row), min(tile[at], row), *tile[at + 1 :]

    return cost.Choice(tuple(replace(c, what=apart(c.what)) for c in found.candidates))


def steps_at_a_time(op: linalg.LinalgOp, target: Target) -> cost.Choice[int]:
    """How many steps of the sum a kernel does at a time that consists of this contraction."""
    return _summing(_contraction(op, target))


@cache
def _summing(nest: contractions.Contraction) -> cost.Choice[int]:
    return nest.summing()


@cache
def _tilings(nest: contractions.Contraction) -> cost.Choice[tuple[int, ...]]:
    """A network has many layers of few shapes."""
    return nest.tilings()


def split_dims(op: linalg.LinalgOp) -> tuple[list[int], list[int]]:
    """The output's loop dimensions that only the first operand has (rows, pixels) and only the second (columns)."""
    left, right = op.maps[0].dims(), op.maps[1].dims()
    out = op.maps[-1].dim_positions() or ()
    return [d for d in out if d in left - right], [d for d in out if d in right - left]


def _contraction(op: linalg.LinalgOp, target: Target) -> contractions.Contraction:
    """What the model knows of the op; an image's rows and columns are one dimension, in the columns' place."""
    sizes, out = [*op.loop_sizes()], op.maps[-1].dim_positions() or ()
    rows, columns = split_dims(op)
    steps = prod(sizes[d] for d in op.reduction_dims)
    lanes = target.lanes(str(shaped_of(op.outputs[0]).element))
    units = [1] * len(sizes)
    pixels = _pixels(op)
    if pixels is not None:
        across, along = pixels
        units[along] = sizes[along]
        sizes[across], sizes[along] = 1, sizes[across] * sizes[along]
        out = tuple(d for d in out if d != across)
    inner = tuple(d for d in rows if d in out[:-1])
    left = shaped_of(op.operands[0]).nbytes
    return contractions.Contraction(
        tuple(sizes), tuple(out), inner, tuple(columns), tuple(_stride(op, d) for d in inner),
        tuple(units[d] for d in inner), left, steps, lanes, target,
    )  # fmt: skip


def _pixels(op: linalg.LinalgOp) -> tuple[int, int] | None:
    """The loops over an image's rows and over its columns, if they count what the first operand has without gaps."""
    sizes, out = op.loop_sizes(), op.maps[-1].dim_positions() or ()
    rows, _ = split_dims(op)
    for across, along in pairwise(out[:-1]):
        counted = {across, along} <= {*rows} and min(sizes[across], sizes[along]) > 1
        if counted and _stride(op, across) == sizes[along] * _stride(op, along):
            return across, along
    return None


def _stride(op: linalg.LinalgOp, dim: int) -> int:
    """Bytes from one step of a loop to the next in the first operand."""
    type = shaped_of(op.operands[0])
    layout = type.layout if isinstance(type, MemRefType) else dense_strides(type.shape)
    factors = [(expr.coefficients() or ({}, 0))[0] for expr in op.maps[0].results]
    return (
        sum(f.get(dim, 0) * s for f, s in zip(factors, layout, strict=True))
        * ELEMENT_BYTES[str(type.element)]
    )


def transform_tile(sizes: Sequence[int], out: Sequence[int], elements: int) -> list[int]:
    """How many of a transform's tiles along each loop, of the extents `sizes` and in the order `out` in its output, one
    kernel moves; each has so many `elements` in the output."""
    budget, tile = max(1, cost.ELEMENTS // elements), [1] * len(sizes)
    line = cost.LINE // ELEMENT_BYTES["f32"]
    for d in reversed(out):
        limit = budget // prod(tile)
        unit = line if d == out[-1] and limit >= line else 1
        tile[d] = max(1, cost.in_units(sizes[d], limit, unit))
        if tile[d] < sizes[d]:
            break
    return tile


def bulk_tile(op: linalg.LinalgOp) -> list[int]:
    """Tile size for each output dimension of an op that is bound by memory.

    The tile grows along the output's innermost dimensions; where a transposed input has others innermost,
    first along those, to `cost.RUN` neighbouring elements: a tile that reads a few elements of every row would
    fetch a page for each. It consists of whole cache lines: another tile would fetch what is left of one. That holds for
    sums of rows too, however long they are: of each line that it reads, a narrower tile would leave the rest.
    """
    line = max(1, cost.LINE // ELEMENT_BYTES.get(str(shaped_of(op.outputs[0]).element), cost.LINE))
    sizes = op.loop_sizes()
    out: Sequence[int] = op.maps[-1].dim_positions() or ()
    budget = max(1, cost.ELEMENTS // len(op.outputs) // max(prod(sizes[d] for d in op.reduction_dims), 1))
    tile = dict.fromkeys(out, 1)

    def grow(order: Sequence[int], limit: int) -> None:
        for d in order:
            others = prod(tile.values()) // tile[d]
            unit = line if d in innermost and limit // others >= line else 1
            tile[d] = max(tile[d], cost.in_units(sizes[d], limit // others, unit))
            if tile[d] < sizes[d]:
                return

    orders = [[d for d in reversed(map.dim_positions() or ()) if d in tile] for map in op.maps]
    reads = [order for order in orders[: len(op.inputs)] if len(order) == len(out)]
    innermost = {order[0] for order in (*reads, out[::-1]) if order}
    for read in reads:
        grow(read, max(1, min(cost.RUN, budget // line)))
    grow(out[::-1], budget)
    ends = {order[-1] for map in op.maps[: len(op.inputs)] if (order := map.dim_positions())}
    for d in ends & set(out) if op.reduction_dims else ():
        tile[d] = max(tile[d], cost.in_units(sizes[d], line, line))
    return [tile[d] for d in out]
