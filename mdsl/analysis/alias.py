"""What passes on memrefs share: views, the memory behind them, and who touches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mdsl.dialects import func, linalg, memref, ukernel
from mdsl.dialects.arith import constant_of
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.tensor import Index, SliceLike
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.types import MemRefType, TensorType, Type

VIEWS = (memref.SubView, memref.ExpandShape, memref.CollapseShape, memref.Cast, memref.View)
RESHAPES = (memref.ExpandShape, memref.CollapseShape)
ALLOCATIONS = (memref.Alloc, memref.Alloca)


def memref_of(type: Type) -> MemRefType:
    """The dense memref that holds a tensor."""
    assert isinstance(type, TensorType)
    return MemRefType(type.shape, type.element)


def root(value: Value) -> Value:
    """The memory that `value` is a view of: an allocation, a global or an argument."""
    while isinstance(value.owner, VIEWS):
        value = value.owner.operands[0]
    return value


def views(value: Value) -> Iterator[Value]:
    """`value` and every view of it."""
    yield value
    for user in list(value.users):
        if isinstance(user, VIEWS):
            yield from views(user.result)


def accesses(value: Value) -> Iterator[tuple[Op, Value]]:
    """The ops that read or write memory through `value` or a view of it, and which of these they use."""
    for view in views(value):
        for user in view.users:
            if not isinstance(user, VIEWS):
                yield user, view


def writes(op: Op, value: Value) -> bool:
    """True if `op` may write memory through its operand `value`."""
    match op:
        case memref.Load():
            return False
        case memref.Store() | memref.Copy():
            return op.operands[1] is value
        case linalg.LinalgOp():
            return value in op.outputs
        case ukernel.Dispatch():
            return any(value in call[len(call) - op.attr("outs") :] for call in op.calls())
        case func.Call():
            return _call_writes(op, value)
        case _:
            return not op.has("reads")


def _call_writes(call: func.Call, value: Value) -> bool:
    """True unless the called function marks its outputs and `value` is none of them."""
    module = next((a for a in call.ancestors() if isinstance(a, ModuleOp)), None)
    callee = module.lookup(str(call.attr("callee"))) if module else None
    if not isinstance(callee, func.FunctionLike):
        return True
    marks = [func.OUTPUT in attrs for attrs in callee.arg_attributes()]
    return not any(marks) or any(v is value and mark for v, mark in zip(call.operands, marks, strict=True))


def ancestor_in(block: Block, op: Op) -> Op | None:
    """`op` or the op around it that lies in `block`; None if it lies outside."""
    found: Op | None = op
    while found is not None and found.block is not block:
        found = found.parent
    return found


def same_index(left: Index, right: Index) -> bool:
    """True if two indices are known to be equal: one number, one value, or one pure computation."""
    if left is right:
        return True
    numbers = [i if isinstance(i, int) else constant_of(i) for i in (left, right)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    if not isinstance(left, Value) or not isinstance(right, Value):
        return False
    a, b = left.owner, right.owner
    return (
        isinstance(a, Op)
        and isinstance(b, Op)
        and a.has("pure")
        and not a.regions
        and (a.name, a.attributes, len(a.operands)) == (b.name, b.attributes, len(b.operands))
        and all(same_index(x, y) for x, y in zip(a.operands, b.operands, strict=True))
    )


def same_slice(left: SliceLike, right: SliceLike) -> bool:
    """True if two slices take the same part of what they are taken from."""
    return all(
        len(left.mixed(which)) == len(right.mixed(which))
        and all(same_index(a, b) for a, b in zip(left.mixed(which), right.mixed(which), strict=True))
        for which in ("offsets", "sizes", "strides")
    )


def is_whole(op: SliceLike, shape: Sequence[int]) -> bool:
    """True if the slice takes all of a shape, in order."""
    return (
        all(same_index(o, 0) for o in op.mixed("offsets"))
        and all(same_index(s, d) for s, d in zip(op.mixed("sizes"), shape, strict=True))
        and all(same_index(s, 1) for s in op.mixed("strides"))
    )


def is_view_of(view: Value, source: Value, part: SliceLike) -> bool:
    """True if `view` is exactly the part of `source` that the slice `part` names."""
    if view is source:
        return is_whole(part, memref.memref_type(source).shape)
    owner = view.owner
    return isinstance(owner, memref.SubView) and owner.operands[0] is source and same_slice(owner, part)


def disjoint(left: Value, right: Value) -> bool:
    """True if two views are known to share no element: they are cut from one memory at separate places."""
    if root(left) is not root(right):
        return False
    cuts = dict(_cuts(left))
    return any(source in cuts and _apart(cuts[source], cut) for source, cut in _cuts(right))


def _cuts(view: Value) -> Iterator[tuple[Value, memref.SubView]]:
    """The subviews between `view` and its memory, each with what it is cut from."""
    while isinstance(view.owner, VIEWS):
        source = view.owner.operands[0]
        if isinstance(view.owner, memref.SubView):
            yield source, view.owner
        view = source


def _apart(left: memref.SubView, right: memref.SubView) -> bool:
    spans = [
        list(zip(*(cut.mixed(w) for w in ("offsets", "sizes", "strides")), strict=True))
        for cut in (left, right)
    ]
    for (start, size, step), (other_start, other_size, other_step) in zip(*spans, strict=True):
        if isinstance(start, Value) or isinstance(other_start, Value):
            continue
        if start + (size - 1) * step < other_start or other_start + (other_size - 1) * other_step < start:
            return True
        if step == other_step and (start - other_start) % step:
            return True  # they alternate
    return False
