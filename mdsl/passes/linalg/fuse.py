"""fuse: elementwise ops merge with each other and with reductions; what becomes one micro-kernel is grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.code_size import lane_size
from mdsl.analysis.footprints import MAX_ARGUMENTS
from mdsl.analysis.regions import LAYOUTS, sequences, writes_old_content
from mdsl.dialects import linalg, tensor, ukernel
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.attributes import DenseAttr
from mdsl.ir.core import Builder, Op, OpResult, Value
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import inline_body

MOST_SCALARS = 256
"""Ops of one body that merging makes, at most: to read and write a tensor once more is little beside so many, and
each merge clones the body. An elementary function counts as `_FUNCTION`: LLVM's time grows with the square of its code."""
_FUNCTION = 8

MOST_INPUTS = MAX_ARGUMENTS // 2
"""Tensors that a merged op or a region of rows reads, at most: a kernel also takes destinations, indices and what an
epilogue adds."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Merge elementwise ops into their producers and consumers; group a contraction with its epilogue.

    Before:

        %c = linalg.matmul ins(%a, %w : ...) outs(%init : ...) -> tensor<8x32xf32>
        %s = linalg.generic (add bias) ins(%c, %bias : ...) outs(%e0 : ...) -> tensor<8x32xf32>
        %y = linalg.generic (maximum 0) ins(%s : ...) outs(%e1 : ...) -> tensor<8x32xf32>

    After:

        %y = ukernel.region -> tensor<8x32xf32> {
          %init = linalg.fill ...
          %c = linalg.matmul ins(%a, %w : ...) outs(%init : ...) -> tensor<8x32xf32>
          %s = linalg.generic (add bias, maximum 0) ins(%c, %bias : ...) outs(%e1 : ...) -> tensor<8x32xf32>
          ukernel.yield %s : tensor<8x32xf32>
        }

    Two elementwise ops become one by putting the producer's body in front of the consumer's, with its
    indexing maps composed; a reduction takes in an elementwise producer likewise. What has several users stays where it is, or
    becomes a second result where the consumer writes the same elements, and the others read it later: the new values of a
    momentum and of its weight are one op. The region's ops share one loop nest when `tile` cuts it, and the epilogue
    runs on accumulators that are still in registers.
    """

    name: ClassVar[str] = "fuse"
    level: ClassVar[str | None] = "linalg"
    subject = "elementwise op next to another, and no contraction or reduction outside of a region"

    group: bool = option(True, "group contractions and reductions with their epilogues in ukernel.region")

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            blocks = sequences(func)
            for shared in (False, True):  # one op with a single result, where that can be
                for op in (op for block in blocks for op in block.ops):
                    if isinstance(op, linalg.LinalgOp) and op.block is not None:
                        fuse_producers(op, shared)
                drop_unused(func)
            for block in blocks if self.group else ():
                for op in reversed(block.ops):
                    if isinstance(op, linalg.LinalgOp) and op.results and op.block is block:
                        _group(op)
                drop_unused(func)


# Merging bodies -------------------------------------------------------------------------------------------


def fuse_producers(op: linalg.LinalgOp, shared: bool = False) -> linalg.LinalgOp:
    """Merges into `op` whatever elementwise producers it has that nothing else reads; with `shared` others too, whose
    elements are results of the merged op."""
    merged = True
    while merged and _takes_producers(op):
        merged = False
        for index, value in enumerate(op.inputs):
            producer = value.owner
            if isinstance(producer, linalg.LinalgOp) or _is_splat(value):
                assert isinstance(producer, Op)
                if _obstacle(producer, op, index, shared) is None:
                    remarks.fused(op, f"takes in {remarks.name_of(producer)}", producer)
                    op = _merge(producer, op, index)
                    merged = True
                    break
    if shared and remarks.wanted():
        _tell_obstacles(op)
    return op


def _tell_obstacles(op: linalg.LinalgOp) -> None:
    """What kept the elementwise producers of `op` from being merged into it."""
    for index, value in enumerate(op.inputs if _takes_producers(op) else ()):
        producer = value.owner
        if isinstance(producer, linalg.LinalgOp) and producer.is_elementwise:
            obstacle = _obstacle(producer, op, index, shared=True)
            remarks.missed(op, f"does not take in {remarks.name_of(producer)}: {obstacle}", producer)


def _takes_producers(op: linalg.LinalgOp) -> bool:
    """Elementwise ops and reductions of one input do; a contraction would repeat the producer's work."""
    if not op.results or isinstance(op, linalg.Fill):
        return False
    return op.is_elementwise or (bool(op.reduction_dims) and not op.is_contraction)


def _is_splat(value: Value) -> bool:
    """A dense constant with one value everywhere: better a scalar in the body."""
    owner = value.owner
    attr = owner.attributes.get("value") if isinstance(owner, Constant) else None
    return isinstance(attr, DenseAttr) and attr.is_splat


def _obstacle(producer: Op, consumer: linalg.LinalgOp, index: int, shared: bool) -> str | None:
    """What keeps `consumer` from computing its operand `index`, a splat or another structured op, itself; None if nothing does."""
    obstacle = _unlike(producer, consumer, index, shared) if isinstance(producer, linalg.LinalgOp) else None
    if obstacle is None and not _leaves_extents(producer, consumer, index):
        return "it tells how often a loop runs"
    return obstacle


def _unlike(producer: linalg.LinalgOp, consumer: linalg.LinalgOp, index: int, shared: bool) -> str | None:
    if not producer.is_elementwise:
        return "it is no elementwise op"
    if producer.block is not consumer.block:
        return "one of them stands in a group of ops, the other does not"
    reads = sum(v.owner is producer for v in consumer.operands)
    elsewhere = reads != 1 or bool(_kept(producer, consumer))
    if elsewhere and not (shared and reads == 1 and consumer.is_elementwise):
        return "it is also read elsewhere"
    inputs = {*producer.inputs, *consumer.inputs} - {*producer.results}
    if _scalars(producer) + _scalars(consumer) > MOST_SCALARS or len(inputs) > MOST_INPUTS:
        return "one body would be too long, or read too many tensors"
    map = consumer.maps[index]
    if writes_old_content(producer):
        return "it goes on from what its destination holds"
    repeats = set(range(consumer.num_loops)) - map.dims()
    if not map.is_projected_permutation or repeats & set(consumer.parallel_dims):
        return "its elements would be computed again and again"
    if elsewhere and not _has_one_place(producer, consumer, index):
        return "it is also read elsewhere"
    return None


def _kept(producer: Op, consumer: Op) -> list[int]:
    """The numbers of the producer's results that others than `consumer` read, too; a constant is repeated instead."""
    if isinstance(producer, Constant):
        return []
    return [r.index for r in producer.results if any(u is not consumer for u in r.users)]


def _has_one_place(producer: linalg.LinalgOp, consumer: linalg.LinalgOp, index: int) -> bool:
    """True if one op may have the results of both, as the new values of a momentum and of its weight: the same elements are
    written, and whoever else reads the producer comes behind or can. Two epilogues are not joined: a region has one sum."""
    if len({*producer.maps[len(producer.inputs) :]}) != 1:
        return False
    loops = [Dim(d) for d in _loops(producer, consumer, index)]
    written = {producer.maps[-1].compose(loops, consumer.num_loops), *consumer.maps[len(consumer.inputs) :]}
    if len(written) != 1 or len(_sums(producer) | _sums(consumer)) > 1:
        return False
    return _layouts_between(producer, consumer) is not None


def _layouts_between(producer: Op, consumer: Op) -> list[Op] | None:
    """The changes of layout in front of `consumer` that read the producer, from first to last; None if something else there
    does, or the consumer reads one of them."""
    readers = {_beside(u, consumer) for r in producer.results for u in r.users}
    found: list[Op] = []
    op = producer.next
    while op is not consumer:
        assert op is not None
        if op in readers:
            if not isinstance(op, LAYOUTS):
                return None
            found.append(op)
            readers |= {_beside(u, consumer) for u in op.result.users}
        op = op.next
    return None if any(v.owner in found for v in consumer.operands) else found


def _beside(op: Op, other: Op) -> Op:
    """The op in the block of `other` that `op` is or lies in."""
    return next(a for a in (op, *op.ancestors()) if a.block is other.block)


def _sums(op: linalg.LinalgOp) -> set[Op]:
    """The reductions whose epilogue `op` may be."""
    owners = [v.owner for v in op.inputs]
    return {o for o in owners if isinstance(o, linalg.LinalgOp) and o.reduction_dims}


def _scalars(op: linalg.LinalgOp) -> int:
    """The length of a body, as `MOST_SCALARS` limits it."""
    return sum(min(lane_size(scalar), _FUNCTION) for scalar in op.body.ops)


def _leaves_extents(producer: Op, consumer: linalg.LinalgOp, index: int) -> bool:
    """True if the extent of every loop still follows from an operand when the producer's result is not read."""
    maps = [*consumer.maps[:index], *_reads(producer, consumer, index)[1], *consumer.maps[index + 1 :]]
    return len({e.position for m in maps for e in m.results if isinstance(e, Dim)}) == consumer.num_loops


def _reads(producer: Op, consumer: linalg.LinalgOp, index: int) -> tuple[list[Value], list[AffineMap]]:
    """What the merged op reads instead of the consumer's operand, and through which maps."""
    if isinstance(producer, Constant):
        return [], []
    assert isinstance(producer, linalg.LinalgOp)
    inputs = list(producer.inputs)
    loops = [Dim(d) for d in _loops(producer, consumer, index)]
    return inputs, [m.compose(loops, consumer.num_loops) for m in producer.maps[: len(inputs)]]


def _loops(producer: linalg.LinalgOp, consumer: linalg.LinalgOp, index: int) -> list[int]:
    """The consumer's loop that each loop of the producer becomes."""
    made, read = producer.maps[-1].dim_positions(), consumer.maps[index].dim_positions()
    assert made is not None and read is not None
    # The producer's loop d is where its output map has d; the consumer reads it through its own map.
    return [read[made.index(d)] for d in range(producer.num_loops)]


def _merge(producer: Op, consumer: linalg.LinalgOp, index: int) -> linalg.LinalgOp:
    """One op whose body computes the producer's element and goes on with the consumer's. If others read the producer too,
    its elements become results behind the consumer's."""
    inputs, maps = _reads(producer, consumer, index)
    read, split, own = consumer.inputs[index], len(consumer.inputs), len(consumer.outputs)
    kept = _kept(producer, consumer)
    for op in reversed((_layouts_between(producer, consumer) if kept else None) or []):
        Builder.after(consumer).add(op.detach(), op.result.name)
    dests = producer.outputs if isinstance(producer, linalg.LinalgOp) else ()
    outputs = [*consumer.outputs, *(dests[number] for number in kept)]
    all_inputs = [*consumer.inputs[:index], *inputs, *consumer.inputs[index + 1 :]]
    all_maps = [*consumer.maps[:index], *maps, *consumer.maps[index + 1 :]]
    all_inputs, all_maps, sources = _deduplicate(all_inputs, all_maps, split - 1 + len(inputs))
    all_maps += [consumer.maps[-1]] * len(kept)
    new = linalg.Generic.make(all_inputs, outputs, all_maps, consumer.iterators)
    builder = Builder(new.body)
    arguments = [new.body.args[s] for s in sources]
    _keep_names(arguments, producer, consumer, index)
    outs = list(new.body.args[len(all_inputs) :])
    end = index + len(inputs)
    before, inner, after = arguments[:index], arguments[index:end], arguments[end:]
    made = _elements(producer, consumer, index, [*inner, *outs[:1] * len(dests)], builder)
    element = made[read.index] if isinstance(read, OpResult) else made[0]
    ends = inline_body(consumer.body, [*before, element, *after, *outs[:own]], builder)
    new.body.append(linalg.Yield([*ends, *(made[number] for number in kept)], results=[]))
    Builder.before(consumer).add(new)
    consumer.replace_by(*new.results[:own])
    for number, result in zip(kept, new.results[own:], strict=True):
        producer.results[number].replace_by(result)
    if not isinstance(producer, Constant):
        producer.erase()
    return new


def _elements(
    producer: Op, consumer: linalg.LinalgOp, index: int, arguments: Sequence[Value], builder: Builder
) -> list[Value]:
    """What the producer makes in an iteration of the consumer: an element of each result."""
    if isinstance(producer, Constant):
        attr = producer.attributes["value"]
        assert isinstance(attr, DenseAttr)
        return [builder.value(Constant.of(attr.array.flat[0], attr.type.element), producer.result.name)]
    assert isinstance(producer, linalg.LinalgOp)
    return inline_body(producer.body, arguments, builder, _loops(producer, consumer, index))


def _keep_names(arguments: Sequence[Value], producer: Op, consumer: linalg.LinalgOp, index: int) -> None:
    """The elements are called what they were called in the two bodies."""
    split = len(consumer.inputs)
    inner = list(producer.body.args[: len(producer.inputs)]) if isinstance(producer, linalg.LinalgOp) else []
    old = [*consumer.body.args[:index], *inner, *consumer.body.args[index + 1 : split]]
    for argument, value in zip(arguments, old, strict=True):
        argument.name = value.name


def _deduplicate(
    inputs: list[Value], maps: list[AffineMap], split: int
) -> tuple[list[Value], list[AffineMap], list[int]]:
    """Inputs read through one map are read once; also where each of the first `split` inputs went."""
    unique: list[tuple[Value, AffineMap]] = []
    sources: list[int] = []
    for pair in zip(inputs, maps[:split], strict=True):
        if pair not in unique:
            unique.append(pair)
        sources.append(unique.index(pair))
    return [v for v, _ in unique], [*(m for _, m in unique), *maps[split:]], sources


# Grouping -------------------------------------------------------------------------------------------------


def _group(last: linalg.LinalgOp) -> None:
    """Puts `last`, the contraction or reduction that it finishes, and its accumulator into one region."""
    members: list[Op] = [last]
    main = last
    if last.is_elementwise:
        main = _main_producer(last)
        if main is None:
            return
        remarks.fused(last, f"is the epilogue of {remarks.name_of(main)}", main)
        members.insert(0, main)
    elif not last.reduction_dims:
        return
    else:
        remarks.applied(last, "is a group of its own")
    for value in main.outputs:
        fill = value.owner
        if isinstance(fill, linalg.Fill):
            members.insert(0, fill)
    wrap(members, main)


def _main_producer(op: linalg.LinalgOp) -> linalg.LinalgOp | None:
    """The contraction or reduction whose only user is the elementwise `op`, read element by element."""
    for value, map in zip(op.inputs, op.maps, strict=False):
        producer = value.owner
        if (
            not isinstance(producer, linalg.LinalgOp)
            or producer.block is not op.block
            or not producer.reduction_dims
        ):
            continue
        single = len(producer.results) == 1 and len(value.users) == 1 and op.operands.count(value) == 1
        if single and map.is_permutation and producer.maps[-1].is_projected_permutation:
            return producer
        obstacle = "it does not read it element by element" if single else "that is also read elsewhere"
        remarks.missed(op, f"is not the epilogue of {remarks.name_of(producer)}: {obstacle}", producer)
    return None


def wrap(members: list[Op], main: Op) -> ukernel.RegionOp:
    """Moves `members`, in order, into a region in place of the last one; a shared accumulator is copied.

    The region is located where `main` is, which does most of its work.
    """
    last = members[-1]
    region = ukernel.RegionOp.make([r.type for r in last.results])
    region.location = main.location
    Builder.before(last).add(region, *[r.name for r in last.results])
    mapping: dict[Value, Value] = {}
    builder = Builder(region.body)
    copies = {id(op): _copy_into(op, builder, mapping) for op in members}
    final = copies[id(last)]
    region.body.append(ukernel.Yield(final.results, results=[]))
    last.replace_by(*region.results)
    for op in reversed(members[:-1]):
        if not any(r.users for r in op.results):
            op.erase()
    return region


def _copy_into(op: Op, builder: Builder, mapping: dict[Value, Value]) -> Op:
    """Clones `op`; an accumulator gets a `tensor.empty` of its own, for it is a temporary of the region."""
    given = {v: mapping.get(v, v) for v in op.operands}
    if isinstance(op, linalg.Fill):
        for value in op.outputs:
            if isinstance(value.owner, tensor.Empty):
                given[value] = builder.value(value.owner.clone(), value.name)
    copy = op.clone(given)
    mapping.update(zip(op.results, copy.results, strict=True))
    return builder.add(copy, *[r.name for r in op.results])
