"""tile: products whose second operand is packed while the program runs, cut into panels and blocks that stay in cache.

A pack of the whole operand writes it to memory, and the products fetch it from there again. Instead the output is cut
into panels of columns and the sum into blocks, and each part of the operand is packed right before the products that
read it, while the second-level cache holds it (Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008).

Before:

    %w = linalg.pack %b ... : tensor<3072x768xf32> -> tensor<48x3072x16xf32>
    %c = ukernel.region { fill, matmul(%a, %w), epilogue }

After:

    %c = scf.forall (%j) = (0) to (48) step (24) ... {
      %w = linalg.pack of rows 0 to 512 and the panel's columns
      %sum = ukernel.region { fill, matmul }
      %sums = scf.for %k = 512 to 2560 step 512 iter_args(%sum) {
        %w_1 = linalg.pack of rows %k to %k + 512 and the panel's columns
        ukernel.region { matmul onto %sum }
      }
      %w_2 = linalg.pack of the last rows and the panel's columns
      ukernel.region { matmul onto %sums, epilogue }
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mdsl.analysis.tile_sizes import TILE, split_dims
from mdsl.dialects import linalg, scf, tensor, ukernel
from mdsl.dialects.indices import Index
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import shaped_of
from mdsl.passes.linalg.tile.slices import Slicer, Span, on_tiles
from mdsl.passes.linalg.tile.tiler import Tiler
from mdsl.passes.linalg.tile.windows import windows
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import counted_loop, empty_like, offset
from mdsl.target import contractions, cost
from mdsl.target.target import ELEMENT_BYTES, Target


def block(region: ukernel.RegionOp, target: Target) -> list[scf.Forall]:
    """Cuts the products of `region` into panels and blocks, if that saves time; returns the loops over panels."""
    products = _Products.of(region)
    if products is None:
        return []
    choice = products.choice(target)
    steps, blocks = choice.best
    if products.sizes == choice.best:
        return []
    message = f"is summed {steps} steps at a time, in panels of {blocks} blocks of columns: the cheapest"
    remarks.applied(region, message, blockings=choice)
    with rewriting(region, "block"):
        loops = products.cut_columns(blocks)
        for part in products.tiler.made or [region]:
            part.attributes.update({TILE: region.attributes[TILE]} if TILE in region.attributes else {})
            _cut_sum(part, steps)
    return loops


@dataclass(frozen=True)
class _Products:
    """A region that multiplies by an operand which is packed for it alone, without batches."""

    tiler: Tiler
    pack: linalg.Pack
    summed: int
    """The loop of the reduction."""
    column: int
    """The loop over blocks of columns."""

    @staticmethod
    def of(region: ukernel.RegionOp) -> _Products | None:
        """None for any other region."""
        tiler = Tiler.of(region)
        if tiler is None or not tiler.main.is_contraction or tiler.is_cut_by_rows:
            return None
        main = tiler.main
        pack = main.operands[1].owner
        if not isinstance(pack, linalg.Pack) or pack.padding_value is not None or len(pack.result.users) != 1:
            return None
        rows, columns = split_dims(main)
        plain = all(m.is_projected_permutation for m in main.maps)
        if not plain or len(main.reduction_dims) != 1 or len(columns) != 2 or len(rows) != 1:
            return None
        if main.num_loops != 4 or not isinstance(main.outputs[0].owner, linalg.Fill):
            return None
        return _Products(tiler, pack, main.reduction_dims[0], columns[0])

    def choice(self, target: Target) -> cost.Choice[tuple[int, int]]:
        """Steps of a block of the sum, and blocks of columns of a panel."""
        main = self.tiler.main
        sizes = main.loop_sizes()
        lanes = prod(sizes) // (prod(sizes[d] for d in (self.summed, self.column)) * self._rows)
        element = ELEMENT_BYTES[str(shaped_of(main.operands[1]).element)]
        products = contractions.Products(
            self._rows, sizes[self.summed], sizes[self.column], lanes, element, target
        )
        return products.blockings()

    @property
    def sizes(self) -> tuple[int, int]:
        """All steps, and all blocks of columns."""
        sizes = self.tiler.main.loop_sizes()
        return sizes[self.summed], sizes[self.column]

    @property
    def _rows(self) -> int:
        (row,) = split_dims(self.tiler.main)[0]
        return self.tiler.main.loop_sizes()[row]

    def cut_columns(self, blocks: int) -> list[scf.Forall]:
        """Makes the region loops over panels of so many blocks of columns."""
        dim = self.tiler.rows.loops[self.tiler.main][self.column]
        shape = list(self.tiler.shape)
        if dim is None or blocks >= shape[dim]:
            return []
        shape[dim] = blocks
        self.tiler.cut(shape)
        _pack_slices(self.pack)
        return [
            op for op in {p.block.parent_op for p in self.tiler.made if p.block} if isinstance(op, scf.Forall)
        ]


def _pack_slices(pack: linalg.Pack) -> None:
    """Whoever reads a part of what `pack` makes reads a pack of that part of its source."""
    for user in list(pack.result.users):
        if isinstance(user, tensor.ExtractSlice):
            _pack_slice(pack, user)


def _pack_slice(pack: linalg.Pack, part: tensor.ExtractSlice) -> None:
    builder = Builder.before(part)
    order = pack.layout.order or range(shaped_of(pack.operands[0]).rank)
    spans = dict(
        zip(order, zip(part.mixed("offsets"), shaped_of(part.result).shape, strict=False), strict=False)
    )
    offsets: list[Index] = []
    sizes: list[int] = []
    for dim in range(len(spans)):
        start, size = spans[dim]
        tile = pack.tiles.get(dim, 1)
        offsets.append(start * tile if isinstance(start, int) else offset([(start, tile)], 0, builder))
        sizes.append(size * tile)
    source = builder.value(
        tensor.ExtractSlice.of(pack.operands[0], offsets, sizes), f"{pack.operands[0].name}_part"
    )
    dest = empty_like(part.result.type, builder, f"{pack.result.name}_init")
    positions, tiles, permutation = pack.layout
    part.replace_by(
        builder.value(linalg.Pack.make(source, dest, positions, tiles, permutation), pack.result.name)
    )


# The sum ----------------------------------------------------------------------------------------------------------


def _cut_sum(region: ukernel.RegionOp, steps: int) -> None:
    """Makes the region one that starts the sum over blocks of so many steps, a loop that goes on, and, where something
    follows the products, one that ends it."""
    ops = [op for op in region.body.ops if isinstance(op, linalg.LinalgOp)]
    main = next(op for op in ops if op.is_contraction)
    pack, extent = main.operands[1].owner, main.loop_sizes()[main.reduction_dims[0]]
    if steps >= extent:
        return
    sum_, builder = _Sum(region, main), Builder.before(region)
    pieces = [size for size, times in cost.near_equal(extent, steps) for _ in range(times)]
    is_all = main is ops[-1]
    more = pieces[1:] if is_all else pieces[1:-1]
    value, at = sum_.first(pieces[0], builder), pieces[0]
    for size in dict.fromkeys(more):
        end = at + size * more.count(size)
        value, at = sum_.loop(value, at, end, size, builder), end
    if is_all:
        region.replace_by(value, rename=True)
    else:
        sum_.last(value, Span(at, pieces[-1]), builder)
    if isinstance(pack, linalg.Pack):
        _pack_slices(pack)


@dataclass(frozen=True)
class _Sum:
    """The contraction of a region, whose sum is computed block by block."""

    region: ukernel.RegionOp
    main: linalg.LinalgOp

    def first(self, size: int, builder: Builder) -> Value:
        """The sum of the first block."""
        fill = self.main.outputs[0].owner
        assert isinstance(fill, linalg.Fill)
        dest = fill.outputs[0]
        if dest.owner in self.region.body.ops:
            dest = empty_like(dest.type, builder, dest.name)
        operands = self._operands(Span(0, size), builder)
        region, body = self._region(builder)
        start = body.value(fill.clone({fill.outputs[0]: dest}), fill.result.name)
        return self._end(region, body, [*operands, start], Span(0, size))

    def loop(self, value: Value, start: int, end: int, size: int, builder: Builder) -> Value:
        """`value` and the blocks of `size` from `start` to `end`."""
        if end - start == size:
            return self._onto(value, Span(start, size), builder)
        loop = counted_loop(range(start, end, size), builder, [value], "k", [value.name])
        builder.add(loop, value.name)
        body = Builder(loop.body, location=self.region.location)
        body.add(scf.Yield([self._onto(loop.carried[0], Span(loop.iv, size), body)], results=[]))
        return loop.results[0]

    def last(self, value: Value, span: Span, builder: Builder) -> None:
        """The region onto `value`, with all that follows the contraction."""
        operands = self._operands(span, builder)
        fill = self.main.outputs[0].owner
        copy = self._on(span, [*operands, value])
        Builder.before(self.main).add(copy, self.main.result.name)
        self.main.replace_by(copy.results[0])
        if isinstance(fill, Op) and not fill.result.users:
            fill.erase()

    def _onto(self, value: Value, span: Span, builder: Builder) -> Value:
        operands = self._operands(span, builder)
        region, body = self._region(builder)
        return self._end(region, body, [*operands, value], span)

    def _operands(self, span: Span, builder: Builder) -> list[Value]:
        """The parts of the inputs that the steps `span` read."""
        slicer, loops = Slicer(builder), self._loops(span)
        inputs = zip(self.main.inputs, windows(self.main), strict=False)
        return [slicer.slice(value, slicer.window(window, loops)) for value, window in inputs]

    def _loops(self, span: Span) -> list[Span]:
        sizes = self.main.loop_sizes()
        return [span if d in self.main.reduction_dims else Span(0, size) for d, size in enumerate(sizes)]

    def _on(self, span: Span, operands: Sequence[Value]) -> Op:
        return on_tiles(self.main, operands, windows(self.main), self._loops(span))

    def _region(self, builder: Builder) -> tuple[ukernel.RegionOp, Builder]:
        region = ukernel.RegionOp.make([self.main.result.type])
        if TILE in self.region.attributes and region.results[0].type == self.region.results[0].type:
            region.attributes[TILE] = self.region.attributes[TILE]
        builder.add(region, self.main.result.name)
        return region, Builder(region.body, location=self.region.location)

    def _end(self, region: ukernel.RegionOp, body: Builder, operands: Sequence[Value], span: Span) -> Value:
        copy = self._on(span, operands)
        body.add(copy, self.main.result.name)
        region.body.append(ukernel.Yield(copy.results, results=[]))
        return region.results[0]
