"""Alias analysis: what memory a memref may lie in, who touches it, and whether two of them are the same or apart.

Two memrefs are apart if that is proved: they lie in different allocations, or are cut from one at separate places.
What is not known (the result of an op that this module has not heard of) may alias anything. An argument is what the
calls in the module give it; to a function that none calls the VM gives outputs apart from all else. All relations hold
within one iteration of the loops around both values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cached_property
from itertools import chain

from mdsl.analysis.slices import is_whole, same_index, same_slice, separate_spans, spans
from mdsl.dialects import arith, func, linalg, memref, scf, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.indices import SliceLike
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.dialects.terminator import Terminator
from mdsl.ir.attributes import SymbolRefAttr
from mdsl.ir.core import Block, BlockArgument, Op, OpResult, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType, TensorType

VIEWS = (memref.SubView, memref.ExpandShape, memref.CollapseShape, memref.Cast, memref.View)
RESHAPES = (memref.ExpandShape, memref.CollapseShape)
ALLOCATIONS = (memref.Alloc, memref.Alloca)
_CUTS = (memref.SubView, memref.View)

_FORWARDERS = (*VIEWS, arith.Select, scf.For, scf.If, scf.Forall, ukernel.RegionOp)
"""Ops that read and write no memory themselves, and whose memref results are among those that they are given."""


class Alias(Enum):
    """How two memrefs relate: the same elements in the same order, no element in common, or perhaps some."""

    SAME = "same"
    APART = "apart"
    MAY = "may"


def root(value: Value) -> Value:
    """What `value` is a view of: an allocation, a global, an argument, or the result of another op."""
    while isinstance(view := value.owner, VIEWS):
        value = view.operands[0]
    return value


# From a memref back to its memory -----------------------------------------------------------------------------


def memories(value: Value) -> list[Value]:
    """The roots that `value` may lie in, looked up through loops, branches and selections."""
    base = root(value)
    if not _choices(base):
        return [base]
    seen: dict[Value, Sequence[Value]] = {}
    for found in (waiting := [base]):
        if found not in seen:
            seen[found] = _choices(found)
            waiting += map(root, seen[found])
    return [v for v, choices in seen.items() if not choices]


def _choices(value: Value) -> Sequence[Value]:
    """The values of which `value`, no view, is one; none if it is a memory or nothing is known."""
    inside = isinstance(value, BlockArgument)
    assert inside or isinstance(value, OpResult)
    op, number = value.block.parent_op if inside else value.op, value.index
    match op:
        case arith.Select():
            return op.operands[1:]
        case scf.If():
            return [block.terminator.operands[number] for block in op.branches]
        case ukernel.RegionOp():
            return [op.body.terminator.operands[number]]
        case scf.For():
            carried = number - inside
            return [op.operands[3 + carried], op.body.terminator.operands[carried]]
        case scf.Forall():
            return [op.outputs[number - op.rank * inside]]
        case _:
            return ()


# From a memref on to its users --------------------------------------------------------------------------------


def views(value: Value) -> Iterator[Value]:
    """`value`, every view of it, and whatever else may be one of them."""
    seen = {value}
    for found in (waiting := [value]):
        yield found
        for user in found.users:
            new = [v for v in _handed_on(user, found) if v not in seen]
            seen.update(new)
            waiting += new


def _handed_on(user: Op, value: Value) -> Sequence[Value]:
    """The memrefs that `user` may make `value`."""
    if isinstance(user, VIEWS) or not (user.results or isinstance(user, Terminator)):
        return user.results
    parent = user.parent
    places = [k for k, v in enumerate(user.operands) if v is value]
    match user:
        case scf.For():
            return [v for k in places if k >= 3 for v in (user.results[k - 3], user.carried[k - 3])]
        case scf.Forall():
            outputs = [k for k, v in enumerate(user.outputs) if v is value]
            return [v for k in outputs for v in (user.results[k], user.shared[k])]
        case Terminator() if isinstance(parent, scf.For):
            return [v for k in places for v in (parent.results[k], parent.carried[k])]
        case Terminator() if isinstance(parent, scf.If | ukernel.RegionOp):
            return [parent.results[k] for k in places]
        case _:
            return [r for r in user.results if isinstance(r.type, MemRefType)]


def accesses(value: Value) -> Iterator[tuple[Op, Value]]:
    """The ops that read or write memory through `value` or a view of it, or may hand it out of the function, and
    which of these they use."""
    for view in views(value):
        for user in view.users:
            inner = isinstance(user, Terminator) and isinstance(user.parent, _FORWARDERS)
            if not inner and not isinstance(user, _FORWARDERS):
                yield user, view


def ancestor_in(block: Block, op: Op) -> Op | None:
    """`op` or the op around it that lies in `block`; None if it lies outside."""
    found: Op | None = op
    while found is not None and found.block is not block:
        found = found.parent
    return found


def writes(op: Op, value: Value) -> bool:
    """True if `op` may write memory through its operand `value`."""
    match op:
        case memref.Load():
            return False
        case memref.Store() | memref.Copy():
            return op.operands[1] is value
        case linalg.LinalgOp() | WinogradTransform():
            return value in op.outputs
        case ukernel.Dispatch() | func.Call():
            places = [k for call in _calls(op) for k, v in enumerate(call) if v is value]
            return any(_callee_writes(op, k) for k in places)
        case _:
            return not op.has("reads")


def _calls(op: ukernel.Dispatch | func.Call) -> list[list[Value]]:
    return op.calls() if isinstance(op, ukernel.Dispatch) else [list(op.operands)]


def _callee_writes(op: ukernel.Dispatch | func.Call, place: int) -> bool:
    """True unless the argument at `place` of the callee is seen to be read only."""
    module = next((a for a in op.ancestors() if isinstance(a, ModuleOp)), None)
    callee = module.lookup(str(op.attr("callee"))) if module else None
    if not isinstance(callee, func.FunctionLike) or place >= len(callee.args) or callee in op.ancestors():
        return True
    argument = callee.args[place]
    if isinstance(argument.type, TensorType):  # not bufferized yet: its outputs come behind the arguments
        return isinstance(op, ukernel.Dispatch) and place >= len(callee.args) - op.attr("outs")
    return any(writes(user, view) for user, view in accesses(argument))


# How two memrefs relate ---------------------------------------------------------------------------------------


class AliasAnalysis:
    """The relations between the memrefs of one module, in which arguments are what the calls of a function or
    kernel give it; the arguments of a function that nobody calls have memory of their own."""

    def __init__(self, module: Op) -> None:
        self.module = module
        self.arguments: dict[tuple[Value, Value], bool] = {}
        self.others: dict[Value, list[Value]] = {}
        self.made: dict[Op, list[Value]] = {}

    @cached_property
    def calls(self) -> dict[str, dict[Op, list[list[Value]]]]:
        """What calls each symbol, and with what."""
        found: dict[str, dict[Op, list[list[Value]]]] = {}
        for op in self.module.walk():
            if isinstance(op, ukernel.Dispatch | func.Call):
                found.setdefault(str(op.attr("callee")), {})[op] = _calls(op)
        return found

    def retarget(self, op: ukernel.Dispatch, symbol: str) -> None:
        """Lets `op` call `symbol`."""
        self.calls.setdefault(symbol, {})[op] = self.calls[op.symbol].pop(op)
        op.attributes["callee"] = SymbolRefAttr(symbol)

    def relation(self, left: Value, right: Value) -> Alias:
        """How the two relate."""
        if self.apart(left, right):
            return Alias.APART
        return Alias.SAME if _same_place(left, right) else Alias.MAY

    def apart(self, left: Value, right: Value) -> bool:
        """True if the two are proved to have no element in common."""
        if left is right:
            return False
        if isinstance(left.owner, VIEWS) and isinstance(right.owner, VIEWS) and _cut_apart(left, right):
            return True
        theirs = memories(right)
        return all(self._separate(a, b) for a in memories(left) for b in theirs)

    def touching(self, value: Value) -> Iterator[tuple[Op, Value]]:
        """The accesses, by ops of its function, to the memories that `value` may lie in: also to what is apart from
        it there."""
        for base in memories(value):
            if base not in self.others:
                self.others[base] = [base] if isinstance(base.owner, ALLOCATIONS) else self._others(base)
            for other in self.others[base]:
                yield from accesses(other)

    def _others(self, base: Value) -> list[Value]:
        """The memories of the function that may be that of `base`, itself among them."""
        around = [base.owner.parent_op] if isinstance(base.owner, Block) else base.owner.ancestors()
        function = next(op for op in around if isinstance(op, func.FunctionLike))
        if function not in self.made:
            results = [r for op in function.walk() for r in op.results if isinstance(r.type, MemRefType)]
            self.made[function] = [v for v in results if root(v) is v and not _choices(v)]
        if _kind(base) == "argument" and not self.calls.get(function.symbol):
            others = [v for v in self.made[function] if _kind(v) == "unknown"]
            return [base, *others]
        given = [a for a in function.args if isinstance(a.type, MemRefType)]
        return [v for v in (*given, *self.made[function]) if not self._separate(v, base)]

    def _separate(self, left: Value, right: Value) -> bool:
        """True if two memories are known to be different ones."""
        if left is right:
            return False
        kinds = {_kind(left), _kind(right)}
        if "unknown" in kinds:
            return False
        if "allocation" in kinds:
            return True
        if kinds == {"global"}:
            return _symbol(left) != _symbol(right)
        return self._given_apart(*((left, right) if _kind(left) == "argument" else (right, left)))

    def _given_apart(self, argument: Value, other: Value) -> bool:
        """True if every call gives a function's argument memory that is apart from `other`, a global or from what it
        gives another argument."""
        if (argument, other) not in self.arguments:
            self.arguments[argument, other] = False  # what calls itself is not known to be apart
            function = argument.owner.parent_op if isinstance(argument.owner, Block) else None
            calls = self.calls.get(function.symbol, {}) if isinstance(function, func.FunctionLike) else {}
            self.arguments[argument, other] = all(
                self.apart(x, y)
                for call in chain.from_iterable(calls.values())
                for x, y in [[_given(v, call) for v in (argument, other)]]
                if x is not None and y is not None
            )
        return self.arguments[argument, other]


def _kind(memory: Value) -> str:
    owner = memory.owner
    if isinstance(owner, Block):
        return "argument" if isinstance(owner.parent_op, func.FunctionLike) else "unknown"
    if isinstance(owner, ALLOCATIONS):
        return "allocation"
    return "global" if isinstance(owner, memref.GetGlobal) else "unknown"


def _symbol(memory: Value) -> str:
    assert isinstance(memory.owner, memref.GetGlobal)
    return memory.owner.symbol


def _given(value: Value, call: Sequence[Value]) -> Value | None:
    """What the call gives an argument (None for a tensor, which is read only or gets memory of its own)."""
    if not isinstance(value, BlockArgument):
        return value
    given = call[value.index] if value.index < len(call) else None
    return given if given is not None and isinstance(given.type, MemRefType) else None


# Parts of one memory ------------------------------------------------------------------------------------------


def is_view_of(view: Value, source: Value, part: SliceLike) -> bool:
    """True if `view` is exactly the part of `source` that the slice `part` names."""
    if view is source:
        return is_whole(part, memref_of(source).shape)
    owner = view.owner
    return isinstance(owner, memref.SubView) and owner.operands[0] is source and same_slice(owner, part)


def _same_place(left: Value, right: Value) -> bool:
    """True if two memrefs are the same views of one memory."""
    if left is right:
        return True
    a, b = left.owner, right.owner
    if isinstance(a, memref.GetGlobal) and isinstance(b, memref.GetGlobal):
        return a.symbol == b.symbol
    if not isinstance(a, VIEWS) or not isinstance(b, VIEWS) or a.name != b.name or left.type != right.type:
        return False
    if isinstance(a, SliceLike) and isinstance(b, SliceLike):
        equal = same_slice(a, b)
    else:
        equal = all(same_index(x, y) for x, y in zip(a.operands[1:], b.operands[1:], strict=True))
    return equal and _same_place(a.operands[0], b.operands[0])


def _cut_apart(left: Value, right: Value) -> bool:
    """True if two views are cut from one memref at separate places."""
    cuts = dict(_cuts(left))
    return any(source in cuts and _apart(cuts[source], cut) for source, cut in _cuts(right))


def _cuts(view: Value) -> Iterator[tuple[Value, Op]]:
    """The views of a part between `view` and its memory, each with what it is cut from."""
    while isinstance(cut := view.owner, VIEWS):
        view = cut.operands[0]
        if isinstance(cut, _CUTS):
            yield view, cut


def _apart(left: Op, right: Op) -> bool:
    if isinstance(left, memref.View) and isinstance(right, memref.View):
        return separate_spans(*((v.operands[1], memref_of(v.result).nbytes, 1) for v in (left, right)))
    if not isinstance(left, memref.SubView) or not isinstance(right, memref.SubView):
        return False
    pairs = zip(spans(left), spans(right), strict=True)
    separate = any(separate_spans(one, other) for one, other in pairs)
    return separate and memref_of(left.operands[0]).is_injective
