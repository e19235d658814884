"""The choices of vectorize: the axis that vectors lie along, and the register block, by a cost model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2, prod

import numpy as np

from mdsl.analysis.alias import AliasAnalysis
from mdsl.analysis.nest import SHORT, Access, Axis, Group, Linear, Nest
from mdsl.ir.core import Op, Value
from mdsl.ir.types import FloatType, IntegerType, Type, dtype_of, element_of
from mdsl.passes.buffers.vectorize.late import late_arguments
from mdsl.rewriting.kernel_builder import Dims, shape_of
from mdsl.target import cost
from mdsl.target.target import Target

COMBINING = {
    "arith.addf": "add", "arith.addi": "add", "arith.mulf": "mul", "arith.muli": "mul",
    "arith.andi": "and", "arith.ori": "or", "arith.xori": "xor",
    **{f"arith.{kind}": kind for kind in ("maximumf", "minimumf", "maxnumf", "minnumf", "maxsi", "minsi", "maxui", "minui")},
}  # fmt: skip
"""The ops whose result does not depend on the order of combination (but for rounding), as `vector.kind`."""


@dataclass(frozen=True)
class Point:
    """A vector of a block, or the whole block as one: where each axis stands, what its dimensions lie along. Without
    dimensions one element."""

    env: dict[Axis, Linear]
    dims: Dims = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.dims)

    def at(self, env: Mapping[Axis, Linear]) -> Point:
        """The same with other axes, or the same ones elsewhere."""
        return Point({**self.env, **env}, self.dims)


@dataclass
class Plan:
    """How a group becomes vector code.

    Vectors of `lanes` elements lie along the parallel axis `vector`, or, where that is None, along the
    reduction axis that `lanes_reduced` gives for a nest (its lanes are then combined at the end). A block covers
    `block[axis]` points along each parallel axis, counted in vectors along `vector`.
    """

    vector: Axis | None
    lanes: int
    block: dict[Axis, int] = field(default_factory=dict)
    lanes_reduced: dict[Nest, Axis] = field(default_factory=dict)
    order: list[Axis] = field(default_factory=list)
    """The loops over blocks, outermost first; empty: the group's own order."""
    chains: int = 1
    """Accumulators for each point of a reduction along vectors."""
    split: dict[Nest, int] = field(default_factory=dict)
    """Accumulators for each point of another reduction, where there are few points; by default 1."""
    unroll: dict[Nest, int] = field(default_factory=dict)
    """Steps of the innermost reduction in a round of its loop; by default 1."""
    across: Axis | None = None
    """The axis along which inputs are loaded that are strided along `vector`, to be transposed in registers."""
    runs: dict[Access, int] = field(default_factory=dict)
    """Those inputs, and how many of their elements a load takes."""

    late: frozenset[Value] = frozenset()
    """Arguments of a body, of too many operands, that are loaded where they are used."""

    def unit(self, axis: Axis) -> int:
        """The points along an axis that a block counts as one."""
        return self.lanes if axis is self.vector else max(self.runs.values()) if axis is self.across else 1

    def pieces(self, axis: Axis) -> list[tuple[int, int]]:
        """The blocks along a parallel axis: elements, and how many there are of that size."""
        return _pieces(axis.extent, self.block[axis], self.unit(axis))


def _pieces(extent: int, block: int, unit: int) -> list[tuple[int, int]]:
    """Near-equal blocks, counted in units of so many elements (vectors), the last of which may be short."""
    found = [(n * unit, times) for n, times in cost.near_equal(-(-extent // unit), block)]
    size, times = found.pop()
    missing = -extent % unit
    found += [(size, times - bool(missing)), (size - missing, int(missing > 0))]
    return [(size, times) for size, times in found if times]


def plan(group: Group, target: Target, aliases: AliasAnalysis) -> Plan:
    """The cheapest vector axis, then the block that keeps the FMA units busiest within the registers."""
    order = _by_output(group)
    lanes = {axis: _lanes(group, axis, target) for axis in (*reversed(order), None)}
    choices = [
        _choice(group, Plan(axis, count, across=across, runs=runs))
        for axis, count in lanes.items()
        for across, runs in _transpositions(group, axis, count, target)
    ]
    _, chosen = min(choices, key=lambda choice: choice[0])
    heavy = [nest for nest in group.nests if nest.reduction]
    if chosen.vector is None and chosen.lanes_reduced:
        _block_lanes_reduced(chosen, group, target)
    elif heavy:
        chosen.block = _block_reduction(max(heavy, key=lambda nest: nest.size), chosen, group, target)
        chosen.split = {nest: _split(nest, prod(chosen.block.values()), target) for nest in heavy}
        chosen.unroll = {nest: _unroll(nest, chosen, target) for nest in heavy}
    else:
        # A body of many operands fills the registers with one point.
        operands = max(len(nest.inputs) + len(nest.outputs) for nest in group.nests)
        chosen.order = _by_input(group)
        budget = max(1, min(cost.SMALL, target.isa.free // operands))
        chosen.block = _block_elementwise(chosen, order, budget)
        chosen.late = frozenset() if chosen.runs else late_arguments(group.nests, target, aliases)
    return chosen


def _lanes(group: Group, vector: Axis | None, target: Target) -> int:
    """How many elements vectors along `vector` have: those of the widest fill a register."""
    return min(target.lanes(element) for nest in group.nests for element in nest.elements(vector))


def _by_output(group: Group) -> list[Axis]:
    """The parallel axes in the order of the last output's dimensions, so that ties go to its innermost."""
    output = group.nests[-1].outputs[-1].axes
    return [*(a for a in group.axes if a not in output), *(a for a in output if a in group.axes)]


def _by_input(group: Group) -> list[Axis]:
    """For a copy the parallel axes in the order in which its input lies in memory, the nearest innermost: what is stored
    waits in buffers, what is loaded is waited for, and neighbours arrive before they are asked for. Empty for the rest."""
    if len(group.nests) != 1 or any(op.has("elementwise") for op in group.nests[0].body.ops):
        return []
    read = [access for access in group.nests[0].reads if access.type is not None]
    if len(read) != 1 or set(read[0].axes) != set(group.axes):
        return []
    steps = {
        a: sum(n * s for n, s in zip(read[0].steps(a), read[0].strides, strict=True)) for a in group.axes
    }
    return sorted(group.axes, key=lambda axis: -steps[axis])


def vectors(axis: Axis, lanes: int) -> int:
    """Vectors that cover the axis, the last perhaps shorter."""
    return ceil(axis.extent / lanes)


# The vector axis ----------------------------------------------------------------------------------------


def _transpositions(
    group: Group, axis: Axis | None, lanes: int, target: Target
) -> Iterator[tuple[Axis | None, dict[Access, int]]]:
    """What may be transposed in registers if vectors lie along `axis`: nothing, or the inputs that are strided along it
    and contiguous along another."""
    yield None, {}
    if any(nest.reduction for nest in group.nests):
        return
    written = {access.memory for nest in group.nests for access in nest.outputs}
    inputs = [a for nest in group.nests for a in nest.reads if a.type and a.memory not in written]
    strided = [access for access in inputs if access.along(axis) == "strided"]
    for across in group.axes:
        most = min(lanes, 1 << (across.extent.bit_length() - 1))
        lengths = {
            access: cost.run_length(str(element_of(access.memory.type)), most, target)
            for access in strided
            if access.along(across) == "contiguous"
        }
        runs = {access: length for access, length in lengths.items() if length > 1}
        if runs:
            yield across, runs


def _choice(group: Group, chosen: Plan) -> tuple[float, Plan]:
    """Cost in vector operations, memory accesses among them."""
    axis, lanes = chosen.vector, chosen.lanes
    total = 0.0
    for nest in group.nests:
        along = axis
        if axis is None and nest.reduction and is_associative(nest):
            along = min(reversed(nest.reduction), key=lambda r: _nest_cost(nest, r, chosen, group))
            chosen.lanes_reduced[nest] = along
            total += prod(a.extent for a in nest.parallel) * 2 * log2(lanes) if lanes > 1 else 0
        total += _nest_cost(nest, along, chosen, group)
    return total, chosen


def _nest_cost(nest: Nest, along: Axis | None, chosen: Plan, group: Group) -> float:
    filled = along.extent / vectors(along, chosen.lanes) if along else 1.0
    total = nest.size / filled * nest.arithmetic
    for access in (*nest.reads, *nest.outputs):
        if group.private(access.memory):
            continue
        elements = prod(axis.extent for axis in access.axes)
        match access.along(along):
            case "contiguous":
                total += elements / filled
            case "strided":
                length = chosen.runs.get(access)
                if along in nest.reduction:
                    # Lanes that are gathered are so anew for each block of the rows that share them.
                    shared = (n for axis, n in _rows(group).items() if axis not in access.axes)
                    elements = nest.size // prod(shared)
                total += elements * (cost.transposed(length, filled) if length else cost.STRIDED)
            case _:
                total += elements
    return total


def is_associative(nest: Nest) -> bool:
    """True if each output is combined with a value that does not depend on it, by an associative op."""
    return all(combining_op(nest, output) is not None for output in range(len(nest.outputs)))


def combining_op(nest: Nest, output: int) -> Op | None:
    """The op `out' = op(out, element)` that makes the output's new value."""
    old: Value = nest.body.args[len(nest.inputs) + output]
    found = nest.body.terminator.operands[output].owner
    if not isinstance(found, Op) or found.name not in COMBINING:
        return None
    return found if list(old.users) == [found] and found.operands.count(old) == 1 else None


def neutral(kind: str, type: Type) -> float:
    """The element that changes nothing when it is combined with another."""
    if isinstance(type, FloatType):
        return {"add": -0.0, "mul": 1.0, "minimumf": np.inf, "maximumf": -np.inf}.get(kind, np.nan)
    boolean = isinstance(type, IntegerType) and type.width == 1
    limits = np.iinfo(np.int8 if boolean else dtype_of(type))
    low, high = (-1, 0) if boolean else (int(limits.min), int(limits.max))
    return {"add": 0, "or": 0, "xor": 0, "maxui": 0, "mul": 1, "minsi": high, "maxsi": low}.get(kind, -1)


# Blocks -------------------------------------------------------------------------------------------------


def _block_elementwise(chosen: Plan, order: Sequence[Axis], budget: int) -> dict[Axis, int]:
    """A few vectors a block, up to `budget`, along the innermost axes; everything at once if that is little."""
    counts = {a: vectors(a, chosen.unit(a)) for a in order}
    if chosen.across:
        budget = max(1, budget // chosen.unit(chosen.across))
    if prod(counts.values()) <= 2 * budget:
        return counts
    block = dict.fromkeys(counts, 1)
    inward = [a for a in order if a is not chosen.vector] + [a for a in order if a is chosen.vector]
    for axis in reversed(inward):
        # A divisor needs no remainder; without one, the remainder is code of its own.
        whole = axis.extent // chosen.unit(axis)
        divisors = [n for n in range(2, budget + 1) if whole % n == 0]
        block[axis] = min(counts[axis], max(divisors) if divisors else budget)
        budget //= block[axis]
    return block


def _block_lanes_reduced(chosen: Plan, group: Group, target: Target) -> None:
    """Rows that share their operands, and as many accumulators a row as hide the latency of an FMA."""
    chosen.block = _rows(group)
    rows = prod(chosen.block.values())
    longest = max(vectors(axis, chosen.lanes) for axis in chosen.lanes_reduced.values())
    chosen.chains = max(1, min(cost.chains_of(rows, target), longest))


def _rows(group: Group) -> dict[Axis, int]:
    """How many of each parallel axis a block has whose sums lie across the lanes."""
    block = dict.fromkeys(group.axes, 1)
    budget = cost.SMALL
    for axis in reversed(group.axes):
        divisors = [n for n in range(1, min(budget, axis.extent) + 1) if axis.extent % n == 0]
        block[axis] = max(divisors) if max(divisors) > 1 else min(budget, axis.extent)
        budget //= block[axis]
    return block


def _block_reduction(nest: Nest, chosen: Plan, group: Group, target: Target) -> dict[Axis, int]:
    """The block with the lowest estimated cycles over the whole tile, among those that fit the registers."""
    counts = {a: vectors(a, chosen.lanes) if a is chosen.vector else a.extent for a in group.axes}
    options = list(_fitting(list(counts.items()), nest, chosen, target.isa.free, {}))
    apart = cost.STRIDED * chosen.lanes
    loads = [(a, apart if a.along(chosen.vector) == "strided" else 1) for a in nest.inputs if a in nest.reads]
    return min(options, key=lambda block: _cycles(block, counts, nest, loads, target))


def _split(nest: Nest, points: int, target: Target) -> int:
    """Accumulators a point for a tile so small that its one or two would wait for the FMAs' latency."""
    if points > 2 or not is_associative(nest):
        return 1
    return max(1, min(cost.chains_of(points, target), nest.reduction[-1].extent // 4))


def _unroll(nest: Nest, chosen: Plan, target: Target) -> int:
    """Steps that together read a cache line of each stream, so that it is asked for once. All, where they are few and loops lie
    around them: their ends, and the start of the next round, would take as long. Not where products
    take registers of their own, of which there are too few.

    One, where an operand has a single use: LLVM then puts the sum in its place, and two such steps need copies.
    """
    points = prod(chosen.block.values())
    if any(_loads(access, chosen.block) >= points for access in nest.inputs):
        return 1
    extent = nest.reduction[-1].extent
    if target.isa.fma and len(nest.reduction) > 1 and chosen.split[nest] == 1 and 1 < extent < SHORT:
        return extent
    steps = cost.steps_a_line(target)
    return steps if nest.reduction[-1].extent // chosen.split[nest] % steps == 0 else 1


def _fitting(
    left: list[tuple[Axis, int]], nest: Nest, chosen: Plan, registers: int, block: dict[Axis, int]
) -> Iterator[dict[Axis, int]]:
    """Blocks whose accumulators and operands fit the registers (a block of 1 always counts as fitting)."""
    if not left:
        yield dict(block)
        return
    axis, count = left[0]
    for size in range(1, count + 1):
        larger = {**block, axis: size}
        if size > 1 and _registers(larger, nest, chosen) > registers:
            return
        yield from _fitting(left[1:], nest, chosen, registers, larger)


def _registers(block: Mapping[Axis, int], nest: Nest, chosen: Plan) -> int:
    """Vectors live at once: the accumulators; the operands that stay while the longest axis passes (see
    `GroupEmitter._points`), broadcasts among them; and one for each other operand."""
    points = prod(block.values())
    outer = max(block, key=lambda axis: block[axis])
    held = [_loads(a, block) for a in nest.inputs if outer not in a.axes and _loads(a, block) < points]
    return cost.registers(points * len(nest.outputs), sum(held), len(nest.inputs) - len(held))


def _loads(access: Access, block: Mapping[Axis, int]) -> int:
    return prod(block.get(axis, 1) for axis in access.axes)


def _cycles(
    block: Mapping[Axis, int],
    counts: Mapping[Axis, int],
    nest: Nest,
    loads: Sequence[tuple[Access, float]],
    target: Target,
) -> float:
    """Estimated cycles of one step of the reduction over all blocks, those at the edge included; `loads` are what it reads, and
    how many loads each is."""
    total, kinds = 0.0, 0
    arithmetic = len(nest.outputs) * max(1.0, nest.arithmetic / 2)
    for sizes, times in cost.blocks(counts, block):
        loaded = 0.0
        for access, each in loads:
            loaded += _loads(access, sizes) * each
        total += times * cost.step(prod(sizes.values()) * arithmetic, loaded, target)
        kinds += 1
    return total * (1 + 0.01 * kinds)
