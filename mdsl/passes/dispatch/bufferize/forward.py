"""bufferize: copy elimination. What would be copied out of a local buffer is computed in the copy's target."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.analysis.alias import (
    ALLOCATIONS,
    RESHAPES,
    VIEWS,
    AliasAnalysis,
    accesses,
    ancestor_in,
    memories,
    views,
    writes,
)
from mdsl.analysis.order import Order
from mdsl.dialects import linalg, memref, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.ir.core import Op, Value
from mdsl.ir.rewrites import may_rewrite
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType
from mdsl.passes.dispatch.bufferize.storage import is_told
from mdsl.rewriting import remarks


def forward_copies(function: Op, aliases: AliasAnalysis) -> None:
    """Removes copies from a buffer that has no other purpose, last copy first: the target is final then."""
    order = Order()
    forwarded = [True]
    while any(forwarded):
        copies = [op for op in function.walk() if isinstance(op, memref.Copy)]
        forwarded = [_forward(copy, order, aliases) for copy in reversed(copies)]
    drop_unused_views(function)


def drop_unused_views(function: Op) -> None:
    """Erases views, allocations and constants that nothing uses."""
    droppable = (*VIEWS, *ALLOCATIONS, memref.GetGlobal)
    for op in reversed(list(function.walk())):
        if isinstance(op, droppable) and not op.result.users:
            op.erase()


def _forward(copy: memref.Copy, order: Order, aliases: AliasAnalysis) -> bool:
    """Computes the copy's source in its target, if nobody can tell the difference."""
    source, target = copy.operands
    chain: list[Op] = []
    while isinstance(source.owner, RESHAPES):
        chain.append(source.owner)
        source = source.owner.operands[0]
    local, block = source.owner, copy.block
    assert block is not None
    if not isinstance(local, ALLOCATIONS) or local.block is not block or source in memories(target):
        return False
    types = _shapes_of_target(chain, memref_of(target))
    if types is None or not _can_become(source, types[-1]):
        return False
    plan = _Plan(copy, source, target, order)
    if not plan.is_sound(aliases):
        return False
    if not may_rewrite(copy, "forward"):
        return False
    if is_told(local):
        remarks.applied(local, f"is computed in {remarks.value_name(target)}, into which it was copied")
    plan.hoist()
    for link, type in zip(chain, types[1:], strict=True):
        inverse = _inverse(link, target, type)
        inverse.location, inverse.result.name = plan.start.location, source.name
        order.insert(inverse, plan.start)
        target = inverse.result
    source.replace_by(target)
    _retype(target)
    copy.erase()
    for link in chain:
        if not link.result.users:
            link.erase()
    local.erase()
    return True


def _shapes_of_target(chain: Sequence[Op], target: MemRefType) -> list[MemRefType] | None:
    """Types of the target as it is reshaped back into the source, whose reshapes are `chain`."""
    types = [target]
    for link in chain:
        assert isinstance(link, RESHAPES)
        type = memref.reshaped_type(types[-1], link.groups, memref_of(link.operands[0]).shape)
        if type is None:
            return None
        types.append(type)
    return types


def _inverse(link: Op, value: Value, type: MemRefType) -> Op:
    assert isinstance(link, RESHAPES)
    kind = memref.ExpandShape if isinstance(link, memref.CollapseShape) else memref.CollapseShape
    return kind.of(value, link.groups, type.shape)


class _Plan:
    """The ops between the first and the last use of the source, and what must move in front of them."""

    def __init__(self, copy: memref.Copy, source: Value, target: Value, order: Order) -> None:
        assert copy.block is not None
        self.copy, self.source, self.target, self.block = copy, source, target, copy.block
        self.order = order
        used = [(self._at(op), op, view) for op, view in accesses(source)]
        self.uses = [(at, op, view) for at, op, view in used if at is not None]
        self.last = max(at for at, _, _ in self.uses)
        # Views of the source become views of the target, which must be known there.
        users = [ancestor_in(self.block, user) for view in views(source) for user in view.users]
        self.start = min((op for op in users if op is not None), key=order.of)
        self.first = order.of(self.start)
        self.moves: list[Op] = []

    def _at(self, op: Op) -> int | None:
        found = ancestor_in(self.block, op)
        return None if found is None else self.order.of(found)

    def is_sound(self, aliases: AliasAnalysis) -> bool:
        """True if nobody else touches the target while the source lives, and nobody writes the source later."""
        copied = self.order.of(self.copy)
        if any(at > copied and writes(op, view) for at, op, view in self.uses):
            return False
        fills: list[tuple[int, Op]] = []
        others: list[int] = []
        for op, view in aliases.touching(self.target):
            at = self._at(op)
            if (
                op is self.copy
                or at is None
                or not self.first <= at <= self.last
                or aliases.apart(view, self.target)
            ):
                others += [at] if at is not None and op is not self.copy else []
            elif isinstance(op, linalg.Fill) and op.block is self.block and at < copied:
                fills.append((at, op))
            else:
                return False
        # What initialises the target moves in front, past ops that leave the target alone.
        if fills and any(self.first <= at <= max(f for f, _ in fills) for at in others):
            return False
        return self._move(self.target) and all(
            self._move_op(op) for _, op in sorted(fills, key=lambda f: f[0])
        )

    def _move(self, value: Value) -> bool:
        """Makes `value` known in front of the first use."""
        owner = value.owner
        if not isinstance(owner, Op) or owner.block is not self.block or self.order.of(owner) < self.first:
            return True
        movable = owner.has("pure") or isinstance(owner, (*VIEWS, *ALLOCATIONS, memref.GetGlobal))
        return movable and not owner.regions and self._move_op(owner)

    def _move_op(self, op: Op) -> bool:
        if op in self.moves:
            return True
        if not all(self._move(v) for v in op.operands):
            return False
        self.moves.append(op)
        return True

    def hoist(self) -> None:
        for op in self.moves:
            self.order.insert(op, self.start)


def _can_become(value: Value, type: MemRefType) -> bool:
    """True if every use of `value` allows memory of `type` in its place."""
    old = memref_of(value)
    if old.shape and old.shape[-1] > 1 and old.layout[-1] == 1 and type.layout[-1] != 1:
        return False  # rows would have gaps: no vector loads
    for user in value.users:
        match user:
            case memref.SubView():
                offsets, shape = user.mixed("offsets"), memref_of(user.result).shape
                part = memref.subview_type(
                    type, offsets, user.attr("static_sizes"), user.attr("static_strides"), shape
                )
                fine = _can_become(user.result, part)
            case memref.ExpandShape() | memref.CollapseShape():
                view = memref.reshaped_type(type, user.groups, memref_of(user.result).shape)
                fine = view is not None and _can_become(user.result, view)
            case memref.Cast() | memref.View():
                fine = False
            case ukernel.Dispatch():
                fine = _accepts(user, value, type)
            case memref.Load() | memref.Store() | memref.Copy() | memref.Dealloc():
                fine = True
            case linalg.LinalgOp() | WinogradTransform():
                fine = True
            case _:
                fine = type == old
        if not fine:
            return False
    return True


def _accepts(dispatch: ukernel.Dispatch, value: Value, type: MemRefType) -> bool:
    """True if the kernel takes the layout; one that is still on tensors takes any."""
    module = next((a for a in dispatch.ancestors() if isinstance(a, ModuleOp)), None)
    kernel = module.lookup(dispatch.symbol) if module else None
    if not isinstance(kernel, ukernel.UkernelFunc):
        return False
    formals = [
        formal
        for call in dispatch.calls()
        for v, formal in zip(call, kernel.type.inputs, strict=True)
        if v is value
    ]
    return all(ukernel.fits(type, f) if isinstance(f, MemRefType) else True for f in formals)


def _retype(value: Value) -> None:
    """Brings the types of the views of `value` up to date."""
    type = memref_of(value)
    for user in value.users:
        if isinstance(user, memref.SubView):
            offsets, shape = user.mixed("offsets"), memref_of(user.result).shape
            sizes, strides = user.attr("static_sizes"), user.attr("static_strides")
            user.result.type = memref.subview_type(type, offsets, sizes, strides, shape)
            _retype(user.result)
        elif isinstance(user, RESHAPES):
            view = memref.reshaped_type(type, user.groups, memref_of(user.result).shape)
            assert view is not None, "a reshape that the new type forbids"
            user.result.type = view
            _retype(user.result)
