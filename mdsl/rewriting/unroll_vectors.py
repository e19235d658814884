"""Vectors of several dimensions, or longer than a register, as vectors of one register each: what machine code is made of.

A vector becomes a grid of pieces along its last dimension, each as long as a register of the elements that it is computed
with. Pieces are computed in the order that registers like: the dimension with most pieces outside, so that what depends on
it is used up before the next is loaded, and only what belongs to the shorter ones stays. What is read is loaded in front of
the piece that uses it first; each element of a dimension that repeats once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from mdsl.analysis.code_size import is_function
from mdsl.dialects import arith, memref, scf, vector
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.attributes import Attribute, DenseAttr
from mdsl.ir.core import Block, Builder, Op, Region, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import Type, VectorType, element_of
from mdsl.rewriting.kernel_builder import Constants
from mdsl.rewriting.vector_grids import At, Grid, Grids, is_elementwise
from mdsl.target import cost
from mdsl.target.target import Target

Place = tuple[Value, tuple[tuple[Value | None, int], ...], int]
"""Memory, for each dimension of it an index and what is added to that, and how many elements from there; 0 for a scalar."""


def unroll_vectors(func: UkernelFunc, target: Target) -> UkernelFunc:
    """A copy of the kernel, on memrefs, with vectors of one register; the kernel itself if it has no others."""
    grids = Grids(func, target)
    return _Unroller(func, grids).run() if grids else func


def _may_write(op: Op) -> bool:
    quiet = op.has("pure") or op.has("reads") or op.has("terminator")
    return not (quiet or op.regions or isinstance(op, memref.Prefetch))


@dataclass
class _Scope:
    """A block as it is built, and what has been loaded in it since something was last written."""

    builder: Builder
    loaded: dict[Place, Value] = field(default_factory=dict)
    spread: dict[tuple[Value, int], Value] = field(default_factory=dict)
    """Broadcasts of a value, by their length."""
    sums: dict[tuple[Value | None, int], Value] = field(default_factory=dict)
    """Of an index and a number."""
    reads: list[Op] = field(default_factory=list)
    """Those that have not been used yet."""


class _Unroller:
    def __init__(self, func: UkernelFunc, grids: Grids) -> None:
        self.func, self.grids = func, grids
        names = [argument.name for argument in func.args]
        self.new = UkernelFunc.make(func.symbol, [argument.type for argument in func.args], [], names)
        self.new.attributes.update(func.attributes)
        self.new.location = func.location
        self.mapping: dict[Value, Value] = dict(zip(func.args, self.new.args, strict=True))
        self.constants = Constants(self.new.body)
        self.pieces: dict[tuple[Value, At], Value] = {}
        self.scopes: list[_Scope] = []
        self.places: dict[Op, list[tuple[Value | None, int]]] = {}
        """The indices of an access, where its vector begins."""
        self.depth: dict[Value, int] = {}

    def run(self) -> UkernelFunc:
        self._block(self.func.body, self.new.body)
        return self.new

    @property
    def scope(self) -> _Scope:
        return self.scopes[-1]

    # Blocks -----------------------------------------------------------------------------------------

    def _inside(self, op: Op, old: Block, new: Block) -> None:
        """A block of an op that was added just now; what belongs outside is put in front of that."""
        self.scope.builder.point = op
        self.depth.update(dict.fromkeys(new.args, len(self.scopes)))
        self._block(old, new)
        self.scope.builder.point = None

    def _block(self, old: Block, new: Block) -> None:
        """Copies the ops. Neighbours that compute pieces of one grid go on piece by piece; what is read, or computed of
        scalars, begins another round."""
        self.scopes.append(_Scope(Builder(new)))
        run: list[Op] = []
        for op in old.ops:
            grid = self.grids.get(op.results[0]) if len(op.results) == 1 and not op.regions else None
            if grid is not None and is_elementwise(op):
                if run and self.grids[run[0].result] != grid:
                    self._compute(run)
                run.append(op)
            elif grid is not None and isinstance(op, vector.Load | vector.TransferRead):
                self._compute(run)
                self.scope.reads.append(op)
            elif grid is not None:
                self._repeat(op, grid)
            else:
                self._compute(run)
                if not op.has("pure") and not op.has("reads"):
                    self._load_all()
                self._other(op)
        self.scopes.pop()

    def _other(self, op: Op) -> None:
        self.scope.builder.location = op.location
        if op.has("terminator"):
            self._add(op.from_parts(self._all_pieces(op.operands), [], op.attributes))
        elif isinstance(op, scf.For):
            self._for(op)
        elif isinstance(op, scf.If):
            self._if(op)
        elif isinstance(op, vector.Store | vector.TransferWrite) and op.operands[0] in self.grids:
            self._store(op)
        elif isinstance(op, arith.Constant):
            self.mapping[op.result] = self.constants.intern(op, op.result.name)
        else:
            new = self._add(op.clone(self.mapping), *(r.name for r in op.results))
            self.mapping.update(zip(op.results, new.results, strict=True))
            if isinstance(new, arith.AddI):
                self.scope.sums[_shifted(new.result, 0)] = new.result
        if any(map(_may_write, op.walk())):
            self.scope.loaded.clear()

    def _add(self, op: Op, *names: str | None) -> Op:
        self.depth.update(dict.fromkeys(op.results, len(self.scopes) - 1))
        return self.scope.builder.add(op, *names)

    def _value(self, op: Op, name: str | None) -> Value:
        return self._add(op, name).result

    # Control flow -----------------------------------------------------------------------------------

    def _for(self, op: scf.For) -> None:
        lower, upper, step = (self.mapping[v] for v in op.operands[:3])
        names = [v.name for v in self._spelt(op.carried)]
        new = scf.For.make(lower, upper, step, self._all_pieces(op.operands[3:]), op.iv.name, names)
        self._add(new, *(v.name for v in self._spelt(op.results)))
        self.mapping[op.iv] = new.iv
        self._take(op.carried, new.carried)
        self._inside(new, op.body, new.body)
        self._take(op.results, new.results)

    def _if(self, op: scf.If) -> None:
        types = [t for v in op.results for t in self._types(v)]
        blocks = [Block() for _ in op.branches]
        new = scf.If.from_parts(
            [self.mapping[op.operands[0]]], types, op.attributes, [Region(block) for block in blocks]
        )
        self._add(new, *(v.name for v in self._spelt(op.results)))
        for old, block in zip(op.branches, blocks, strict=True):
            self._inside(new, old, block)
        self._take(op.results, new.results)

    def _types(self, value: Value) -> list[Type]:
        grid = self.grids.get(value)
        if grid is None:
            return [value.type]
        return [VectorType((grid.width(at),), element_of(value.type)) for at in grid.points]

    def _spelt(self, values: Sequence[Value]) -> list[Value]:
        """Each value as often as it has pieces."""
        return [v for v in values for _ in self._types(v)]

    def _all_pieces(self, values: Sequence[Value]) -> list[Value]:
        found: list[Value] = []
        for v in values:
            grid = self.grids.get(v)
            found += [self._piece(v, at) for at in grid.points] if grid else [self.mapping[v]]
        return found

    def _take(self, old: Sequence[Value], new: Sequence[Value]) -> None:
        """`new` are the pieces of `old`."""
        following = iter(new)
        for v in old:
            grid = self.grids.get(v)
            if grid is None:
                self.mapping[v] = next(following)
            else:
                self.pieces.update(((v, at), next(following)) for at in grid.points)

    # Computation ------------------------------------------------------------------------------------

    def _compute(self, run: list[Op]) -> None:
        """The ops of a run piece by piece, each after what it reads; functions, each a chain of dependent instructions, at
        several pieces in turn."""
        if not run:
            return
        points = self.grids[run[0].result].points
        used = {v for op in run for v in op.operands}
        reads = [op.result for op in self.scope.reads if op.result in used]
        abreast = cost.ABREAST if any(map(is_function, run)) else 1
        for start in range(0, len(points), abreast):
            some = points[start : start + abreast]
            for at, read in product(some, reads):
                self._piece(read, at)
            for op, at in product(run, some):
                self._elementwise(op, at)
        run.clear()

    def _elementwise(self, op: Op, at: At) -> None:
        operands = [self._piece(v, at) if v in self.grids else self.mapping[v] for v in op.operands]
        type = VectorType((self.grids[op.result].width(at),), element_of(op.result.type))
        self.scope.builder.location = op.location
        self.pieces[op.result, at] = self._value(
            op.from_parts(operands, [type], op.attributes), op.result.name
        )

    def _repeat(self, op: Op, grid: Grid) -> None:
        """A constant or a broadcast: one vector of each length serves all pieces."""
        self.scope.builder.location = op.location
        if isinstance(op, arith.Constant):
            for at in grid.points:
                piece = arith.Constant(value=_part(op.attributes["value"], grid, at))
                self.pieces[op.result, at] = self.constants.intern(piece, op.result.name)
            return
        source = self.mapping[op.operands[0]]
        for at in grid.points:
            self.pieces[op.result, at] = self._broadcast(source, grid.width(at), op.result.name)

    def _broadcast(self, source: Value, width: int, name: str | None) -> Value:
        key = (source, width)
        if key not in self.scope.spread:
            type = VectorType((width,), source.type)
            self.scope.spread[key] = self._value(vector.Broadcast(source, results=[type]), name)
        return self.scope.spread[key]

    # Memory -----------------------------------------------------------------------------------------

    def _piece(self, value: Value, at: At) -> Value:
        """A piece of a vector, which is loaded now if it was not used before."""
        key = (value, at)
        if key not in self.pieces:
            read = value.owner
            assert isinstance(read, vector.Load | vector.TransferRead)
            self.scope.builder.location = read.location
            self.pieces[key] = self._load(read, at)
        return self.pieces[key]

    def _load_all(self) -> None:
        """What was read and not used yet, in front of what may write, or of a loop."""
        for read in self.scope.reads:
            for at in self.grids[read.result].points:
                self._piece(read.result, at)
        self.scope.reads.clear()

    def _load(self, read: Op, at: At) -> Value:
        width, name = self.grids[read.result].width(at), read.result.name
        memory, where, along = self._place(read, at)
        if along is None:
            return self._broadcast(self._loaded((memory, where, 0), name), width, name)
        if memref_of(memory).is_contiguous_along(along):
            return self._loaded((memory, where, width), name)
        lanes = [self._loaded((memory, _moved(where, along, lane), 0), name) for lane in range(width)]
        total = self.constants.get(0, VectorType((width,), element_of(read.result.type)))
        for lane, element in enumerate(lanes):
            total = self._value(vector.Insert.of(element, total, lane), name)
        return total

    def _loaded(self, place: Place, name: str | None) -> Value:
        """The element or the vector there, as it was loaded before or is now."""
        if place not in self.scope.loaded:
            memory, where, width = place
            indices = [self._index(*each) for each in where]
            type = VectorType((width,), element_of(memory.type))
            load = vector.Load(memory, indices, results=[type]) if width else memref.Load(memory, indices)
            self.scope.loaded[place] = self._value(load, name)
        return self.scope.loaded[place]

    def _store(self, op: Op) -> None:
        grid = self.grids[op.operands[0]]
        for at in grid.points:
            piece = self._piece(op.operands[0], at)
            memory, where, along = self._place(op, at)
            assert along is not None
            if memref_of(memory).is_contiguous_along(along):
                self._add(vector.Store(piece, memory, [self._index(*each) for each in where]))
                continue
            for lane in range(grid.width(at)):
                element = self._value(vector.Extract.of(piece, lane), piece.name)
                indices = [self._index(*each) for each in _moved(where, along, lane)]
                self._add(memref.Store(element, memory, indices))

    def _place(self, op: Op, at: At) -> tuple[Value, tuple[tuple[Value | None, int], ...], int | None]:
        """The memory of an access, where in it a piece begins, and the dimension of the memory that it lies along."""
        first = 1 if isinstance(op, vector.Store | vector.TransferWrite) else 0
        memory = op.operands[first]
        rank = memref_of(memory).rank
        places: Sequence[int | None] = op.places if isinstance(op, vector.Transfer) else [rank - 1]
        offsets = [0] * rank
        for place, offset in zip(places, at, strict=True):
            if place is not None:
                offsets[place] = offset
        if op not in self.places:
            indices = op.operands[first + 1 : first + 1 + rank]
            self.places[op] = [_shifted(self.mapping[i], 0) for i in indices]
        begin = self.places[op]
        where = tuple([(base, n + offset) for (base, n), offset in zip(begin, offsets, strict=True)])
        return self.mapping[memory], where, places[-1]

    def _index(self, base: Value | None, offset: int) -> Value:
        if base is None:
            return self.constants.index(offset)
        if not offset:
            return base
        key = (base, offset)
        known = next((scope.sums[key] for scope in self.scopes if key in scope.sums), None)
        if known is None:  # outside of the loops that it does not depend on
            scope = self.scopes[self.depth.get(base, 0)]
            total = arith.AddI(base, self.constants.index(offset))
            known = scope.sums[key] = scope.builder.value(total, base.name)
        return known


def _shifted(value: Value, offset: int) -> tuple[Value | None, int]:
    """An index and what is added to it, which is all there is of a constant."""
    number = arith.constant_of(value)
    if isinstance(number, int):
        return None, number + offset
    owner = value.owner
    if isinstance(owner, arith.AddI):
        added = arith.constant_of(owner.operands[1])
        if isinstance(added, int):
            return owner.operands[0], added + offset
    return value, offset


def _moved(
    where: tuple[tuple[Value | None, int], ...], along: int, lane: int
) -> tuple[tuple[Value | None, int], ...]:
    """The place `lane` elements further along a dimension."""
    return tuple((base, n + lane if d == along else n) for d, (base, n) in enumerate(where))


def _part(value: Attribute, grid: Grid, at: At) -> DenseAttr:
    """A piece of a constant."""
    assert isinstance(value, DenseAttr)
    array = value.array[(*at[:-1], slice(at[-1], at[-1] + grid.width(at)))]
    return DenseAttr(array, VectorType((grid.width(at),), element_of(value.type)))
