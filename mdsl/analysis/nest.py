"""Structured ops as loop nests over axes, and groups of nests whose loops can be fused into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from math import prod

from mdsl.analysis.alias import ALLOCATIONS, AliasAnalysis
from mdsl.dialects import linalg
from mdsl.ir.affine import AffineExpr
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.types import MemRefType, element_of
from mdsl.target.target import ELEMENT_BYTES

_serials = count()


@dataclass(eq=False)
class Axis:
    """One loop of a nest, from 0 to `extent`."""

    name: str
    extent: int
    serial: int = field(default_factory=lambda: next(_serials))


@dataclass(frozen=True)
class Linear:
    """`sum(key * factor) + constant`: over axes in a nest's description, over loop counters in the kernel."""

    terms: tuple[tuple[Axis | Value, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(terms: Mapping[Axis | Value, int], constant: int = 0) -> Linear:
        kept = [(key, factor) for key, factor in terms.items() if factor]
        return Linear(tuple(sorted(kept, key=lambda term: term[0].serial)), constant)

    def factor(self, key: Axis | Value) -> int:
        return next((factor for term, factor in self.terms if term is key), 0)

    def substitute(self, values: Mapping[Axis, Linear]) -> Linear:
        """With every axis replaced by its value (an axis without one stays)."""
        if len(self.terms) == 1 and self.constant == 0 and self.terms[0][1] == 1:
            return values.get(self.terms[0][0], self)  # type: ignore[arg-type]
        terms: dict[Axis | Value, int] = {}
        constant = self.constant
        for key, factor in self.terms:
            value = values.get(key) if isinstance(key, Axis) else None
            value = value or Linear(((key, 1),))
            constant += factor * value.constant
            for inner, inner_factor in value.terms:
                terms[inner] = terms.get(inner, 0) + factor * inner_factor
        return Linear.of(terms, constant)

    def plus(self, offset: int) -> Linear:
        return Linear(self.terms, self.constant + offset)

    @property
    def lone_axis(self) -> Axis | None:
        """The axis that this is, with no factor and no offset."""
        if len(self.terms) == 1 and self.constant == 0 and self.terms[0][1] == 1:
            key = self.terms[0][0]
            return key if isinstance(key, Axis) else None
        return None


@dataclass(frozen=True)
class Access:
    """An element of `memory` for each point of a nest; a scalar operand has no indices.

    `groups` lists the dimensions of the memory that each index runs over: more than one where
    neighbouring dimensions were merged.
    """

    memory: Value
    indices: tuple[Linear, ...]
    groups: tuple[tuple[int, ...], ...]

    @cached_property
    def type(self) -> MemRefType | None:
        found = self.memory.type
        return found if isinstance(found, MemRefType) else None

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next, in each (merged) dimension."""
        return tuple(self.type.layout[group[-1]] for group in self.groups) if self.type else ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(self.type.shape[d] for d in group) for group in self.groups) if self.type else ()

    @cached_property
    def axes(self) -> list[Axis]:
        """The axes that the element depends on."""
        found = {key: None for index in self.indices for key, _ in index.terms if isinstance(key, Axis)}
        return list(found)

    def steps(self, axis: Axis | None) -> tuple[int, ...]:
        """How far each index moves per step along `axis`."""
        return tuple(index.factor(axis) if axis else 0 for index in self.indices)

    def along(self, axis: Axis | None) -> str:
        """How a vector along `axis` lies in memory: `uniform`, `contiguous` or `strided`."""
        if axis not in self._places:
            self._places[axis] = self._place(axis)
        return self._places[axis]

    @cached_property
    def _places(self) -> dict[Axis | None, str]:
        return {}

    def _place(self, axis: Axis | None) -> str:
        steps = self.steps(axis)
        moving = [d for d, step in enumerate(steps) if step]
        if not moving:
            return "uniform"
        last = moving[-1]
        rest = self.shape[last + 1 :]
        plain = (
            len(moving) == 1 and steps[last] * self.strides[last] == 1 and all(extent == 1 for extent in rest)
        )
        return "contiguous" if plain else "strided"

    def offset(self, values: Mapping[Axis, Linear]) -> int:
        """Bytes between the element and the one where everything that moves is 0."""
        assert self.type is not None
        at = [index.substitute(values).constant for index in self.indices]
        places = sum(n * stride for n, stride in zip(at, self.strides, strict=True))
        return places * ELEMENT_BYTES[str(self.type.element)]

    def substitute(self, values: Mapping[Axis, Linear]) -> Access:
        return replace(self, indices=tuple(index.substitute(values) for index in self.indices))


@dataclass(eq=False)
class Nest:
    """A structured op: its axes (those of extent 1 do not occur in accesses), accesses and scalar body."""

    op: Op
    axes: list[Axis]
    parallel: list[Axis]
    reduction: list[Axis]
    inputs: list[Access]
    outputs: list[Access]
    body: Block

    @property
    def reads(self) -> list[Access]:
        """The accesses whose element the body uses."""
        pairs = zip([*self.inputs, *self.outputs], self.body.args, strict=True)
        return [access for access, arg in pairs if arg.users]

    @property
    def size(self) -> int:
        """Iterations of the body."""
        return prod(axis.extent for axis in (*self.parallel, *self.reduction))

    @property
    def arithmetic(self) -> int:
        """Operations of one iteration, at least 1."""
        return max(1, sum(op.has("elementwise") for op in self.body.ops))

    def elements(self, vector: Axis | None = None) -> set[str]:
        """Names of the element types of operands and of intermediate values; with vectors along `vector` not of those that all lanes
        have in common, as what is computed of other axes' counters."""
        values = [access.memory for access in (*self.reads, *self.outputs)]
        common: set[Value] = set()
        for op in self.body.ops:
            counts = isinstance(op, linalg.IndexOp) and vector not in (None, self.axes[op.attr("dim")])
            if op.name == "arith.constant" or counts or (op.operands and common.issuperset(op.operands)):
                common.update(op.results)
            else:
                values += op.results
        return {str(element_of(value.type)) for value in values}

    def indexes(self) -> set[Axis]:
        """The axes whose counter is data of the body."""
        return {self.axes[op.attr("dim")] for op in self.body.ops if isinstance(op, linalg.IndexOp)}

    def substitute(self, values: Mapping[Axis, Axis]) -> Nest:
        as_linear = {old: Linear(((new, 1),)) for old, new in values.items()}
        return replace(
            self,
            axes=[values.get(a, a) for a in self.axes],
            parallel=[values.get(a, a) for a in self.parallel],
            reduction=[values.get(a, a) for a in self.reduction],
            inputs=[a.substitute(as_linear) for a in self.inputs],
            outputs=[a.substitute(as_linear) for a in self.outputs],
        )


def nest_of(op: linalg.LinalgOp) -> Nest | None:
    """The op as a nest; None if an index is not linear or the body does more than arithmetic on elements."""
    names = ("linalg.yield", "linalg.index", "arith.constant")
    if any(not inner.has("elementwise") and inner.name not in names for inner in op.body.ops):
        return None
    axes = [Axis(name, extent) for name, extent in zip(_axis_names(op), op.loop_sizes(), strict=True)]
    accesses: list[Access] = []
    for map, value in zip(op.maps, op.operands, strict=True):
        indices = [_linear(expr, axes) for expr in map.results]
        if None in indices:
            return None
        accesses.append(
            Access(value, tuple(i for i in indices if i), tuple((d,) for d in range(len(indices))))
        )
    real = [axis for axis in axes if axis.extent != 1]
    parallel = [axes[d] for d in op.parallel_dims if axes[d] in real]
    reduction = [axes[d] for d in op.reduction_dims if axes[d] in real]
    split = len(op.inputs)
    return Nest(op, axes, parallel, reduction, accesses[:split], accesses[split:], op.body)


def _linear(expr: AffineExpr, axes: Sequence[Axis]) -> Linear | None:
    found = expr.coefficients()
    if found is None:
        return None
    return Linear.of({axes[d]: f for d, f in found[0].items() if axes[d].extent != 1}, found[1])


def _axis_names(op: linalg.LinalgOp) -> list[str]:
    """m, n, k of a product, h and w of windows, else i, j, ... and k, ..."""
    windows = {d: None for map in op.maps for e in map.results if len(e.dims()) > 1 for d in sorted(e.dims())}
    used = [{d for e in map.results for d in e.dims()} for map in op.maps]
    plain = iter("ijlpqstu" * op.num_loops)
    names: list[str] = []
    seen = {linalg.PARALLEL: 0, linalg.REDUCTION: 0}
    for d, kind in enumerate(op.iterators):
        if d in windows:
            total = len([w for w in windows if op.iterators[w] == kind])
            letter = "hw"[seen[kind]] if total == 2 and seen[kind] < 2 else "w"
            seen[kind] += 1
            names.append(("o" if kind == linalg.PARALLEL else "k") + letter)
        elif kind == linalg.REDUCTION:
            names.append("k")
        elif op.is_contraction:
            names.append("b" if d in used[0] & used[1] else "m" if d in used[0] else "n")
        else:
            names.append(next(plain))
    return names


# Runs of nests ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Group:
    """Nests over the same parallel axes, each reading what another wrote at the same point only: so all of
    them can be computed block by block, with what passes between them in registers."""

    nests: list[Nest]

    @property
    def axes(self) -> list[Axis]:
        """The parallel axes, in the order of the nest with most work."""
        return max(self.nests, key=lambda nest: nest.size).parallel

    def private(self, memory: Value) -> bool:
        """True for memory of the kernel that nothing but this group touches."""
        own = {nest.op for nest in self.nests}
        owner = memory.owner
        return isinstance(owner, Op) and isinstance(owner, ALLOCATIONS) and set(memory.users) <= own

    def transform(self, change: Callable[[Nest], Nest]) -> Group:
        return Group([change(nest) for nest in self.nests])


def merge(first: Group, second: Group, aliases: AliasAnalysis) -> Group | None:
    """Both as one group, `first` before `second`; None if their axes or their data do not correspond."""
    same = _corresponding_axes(first, second)
    if same is None:
        return None
    merged = second.transform(lambda nest: nest.substitute(same))
    for earlier in first.nests:
        for later in merged.nests:
            if not _independent(earlier, later, aliases):
                return None
    return Group([*first.nests, *merged.nests])


def _corresponding_axes(first: Group, second: Group) -> dict[Axis, Axis] | None:
    """The axis of `first` that each axis of `second` must be, read off memory that `first` writes."""
    same: dict[Axis, Axis] = {}
    linked = False
    for written in (a for nest in first.nests for a in nest.outputs):
        for access in (a for nest in second.nests for a in (*nest.reads, *nest.outputs)):
            if access.memory is not written.memory:
                continue
            linked = True
            for index, other in zip(access.indices, written.indices, strict=True):
                if index.lone_axis and other.lone_axis:
                    same[index.lone_axis] = other.lone_axis
    fits = all(old.extent == new.extent for old, new in same.items()) and len(set(same.values())) == len(same)
    wanted = set(first.axes)
    complete = all(
        set(n.parallel) <= set(same) and {same[a] for a in n.parallel} == wanted for n in second.nests
    )
    return same if linked and fits and complete else None


def _independent(earlier: Nest, later: Nest, aliases: AliasAnalysis) -> bool:
    """True if `later` touches what `earlier` wrote, and writes what it read, at the same point only."""
    pairs = [(w, a) for w in earlier.outputs for a in (*later.reads, *later.outputs) if a.type]
    pairs += [(r, w) for r in earlier.reads if r.type for w in later.outputs]
    return all(
        (one.memory is other.memory and one.indices == other.indices)
        or aliases.apart(one.memory, other.memory)
        for one, other in pairs
    )


# Merging axes -------------------------------------------------------------------------------------------


SHORT = 8
"""Steps below which the innermost loop of a sum is too short to be one: its end, and the start of the next round, take as
long (measured on Zen 2)."""


def collapse(group: Group) -> Group:
    """Neighbouring axes that lie without gaps in all operands become one: fewer loops, fuller vectors. So do a short axis of a
    sum and the one around it that moves a window: of what has the index (x + k, c), k * C + c is one axis."""
    changed = True
    while changed:
        changed = False
        for outer, inner in _candidates(group):
            if all(_mergeable(nest, outer, inner, group) for nest in group.nests):
                axis = Axis(inner.name, outer.extent * inner.extent)
                group = group.transform(lambda nest: _merge_axes(nest, outer, inner, axis))  # noqa: B023
                changed = True
                break
    return group


def _candidates(group: Group) -> Iterable[tuple[Axis, Axis]]:
    for nest in group.nests:
        yield from zip(nest.parallel, nest.parallel[1:], strict=False)
        yield from zip(nest.reduction, nest.reduction[1:], strict=False)


def _mergeable(nest: Nest, outer: Axis, inner: Axis, group: Group) -> bool:
    if {outer, inner} & nest.indexes():
        return False
    for access in (*nest.reads, *nest.outputs):
        at_outer, at_inner = (
            [d for d, i in enumerate(access.indices) if i.factor(a)] for a in (outer, inner)
        )
        if not at_outer and not at_inner:
            continue
        if len(at_outer) != 1 or len(at_inner) != 1 or at_inner[0] != at_outer[0] + 1:
            return False
        d = at_outer[0]
        plain = access.indices[d].lone_axis is outer
        moves = inner in nest.reduction and inner.extent < SHORT and access.indices[d].factor(outer) == 1
        if not (plain or moves) or access.indices[d + 1].lone_axis is not inner:
            return False
        if plain and group.private(access.memory):
            continue
        without_gap = (
            access.shape[d + 1] == inner.extent and access.strides[d] == inner.extent * access.strides[d + 1]
        )
        if not without_gap:
            return False
    return True


def _merge_axes(nest: Nest, outer: Axis, inner: Axis, axis: Axis) -> Nest:
    def access(old: Access) -> Access:
        pairs = zip(old.indices, old.indices[1:], strict=False)
        at = [d for d, (one, next) in enumerate(pairs) if one.factor(outer) == 1 and next.lone_axis is inner]
        if not at:  # depends on neither, or is an operand that the body does not use
            return old
        d = at[0]
        start = {key: factor * inner.extent for key, factor in old.indices[d].terms if key is not outer}
        moved = Linear.of({**start, axis: 1}, old.indices[d].constant * inner.extent)
        indices = (*old.indices[:d], moved, *old.indices[d + 2 :])
        groups = (*old.groups[:d], old.groups[d] + old.groups[d + 1], *old.groups[d + 2 :])
        return Access(old.memory, indices, groups)

    def axes(old: list[Axis]) -> list[Axis]:
        return [axis if a is inner else a for a in old if a is not outer]

    return replace(
        nest,
        axes=[axis if a in (outer, inner) else a for a in nest.axes],
        parallel=axes(nest.parallel),
        reduction=axes(nest.reduction),
        inputs=[access(a) for a in nest.inputs],
        outputs=[access(a) for a in nest.outputs],
    )
