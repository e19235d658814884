"""recompute: which values are kept for the part behind the loss, and which are computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.func import FuncOp
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType

PRODUCTS = (nn.Matmul, nn.Linear, nn.Conv2d)
"""Ops that take many operations an element."""

SEGMENTS = 32
"""Into how many segments a program is cut at most."""


class Plan:
    """`forward` ends with the op that makes the loss, `backward` follows; `again` are the values that are computed a second time."""

    def __init__(self, function: FuncOp, loss: Value) -> None:
        ops = [op for op in function.body.ops if op is not function.body.terminator]
        at = next(k for k, op in enumerate(ops) if loss in op.results) + 1
        self.forward, self.backward = ops[:at], ops[at:]
        self.returned = set(function.body.terminator.operands)
        self.made: dict[Value, Op] = {
            r: op for op in self.forward for r in op.results if not isinstance(op, Constant)
        }
        self.fixed = {
            v
            for v, op in self.made.items()
            if v in self.returned or not isinstance(op, NnOp) or isinstance(op, nn.AllReduce)
        }
        """What is there anyway, cannot be computed again, or only by all processes together."""
        reading = (v for op in self.backward for inner in op.walk() for v in inner.operands)
        self.read = {v: None for v in reading if v in self.made}
        self.again: set[Value] = set()

    def size(self, value: Value) -> int:
        """The bytes that keeping it takes: none for a result, which is there anyway."""
        type = value.type
        known = isinstance(type, TensorType) and type.is_static and value not in self.returned
        return tensor_of(value).nbytes if known else 0

    def kept(self, again: set[Value] | None = None) -> dict[Value, None]:
        """The values that the backward part reads, or that are read to compute others again, and are not themselves."""
        again = self.again if again is None else again
        found: dict[Value, None] = {}
        waiting, seen = list(self.read), set(self.read)
        while waiting:
            value = waiting.pop()
            if value not in again:
                found[value] = None
                continue
            more = [v for v in self.made[value].operands if v in self.made and v not in seen]
            seen.update(more)
            waiting += more
        return found

    def nbytes(self, again: set[Value] | None = None) -> int:
        """The bytes of what is kept."""
        return sum(map(self.size, self.kept(again)))

    # Cheap ops --------------------------------------------------------------------------------------------

    def drop_cheap(self, budget: int) -> None:
        """Gives up values that cheap ops compute of others that stay, until the budget is met or there is no more."""
        kept = self.kept()
        total = sum(map(self.size, kept))
        least = max(1, total // 1000)
        while total > budget:
            found = [self._cheaply(value, kept) for value in kept]
            worth = [f for f in found if f is not None and f[0] >= least]
            if not worth:
                return
            _, _, values = max(worth, key=lambda f: f[0] / max(1, f[1]))
            self.again |= values
            kept = self.kept()
            total = sum(map(self.size, kept))

    def _cheaply(self, value: Value, kept: Iterable[Value]) -> tuple[int, int, set[Value]] | None:
        """Bytes saved, operations added, and what else is computed again, where `value` is. None if a product would be."""
        if value in self.fixed or not is_cheap(self.made[value]):
            return None
        saved, flops = self.size(value), 0
        values: set[Value] = set()
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if one in values or one in self.again or (one is not value and one in kept):
                continue
            if one in self.fixed or not is_cheap(self.made[one]):
                saved -= self.size(one)  # which is kept then
                continue
            values.add(one)
            flops += flops_of(self.made[one])
            waiting += [v for v in self.made[one].operands if v in self.made]
        return saved, flops, values

    # Segments ---------------------------------------------------------------------------------------------

    def cut_into_segments(self, budget: int) -> None:
        """Keeps only what leads from one segment of the forward part to a later one, if the budget is not met. A cut is worth
        it only if that and what one segment computes again take less than what is kept now: the one that takes least, of
        those within the budget if there are such."""
        before = self.nbytes()
        if before <= budget:
            return
        cuts = [self._segments(count) for count in range(1, SEGMENTS + 1)]
        cuts = [cut for cut in cuts if cut[0] + cut[1] < before]
        fitting = [cut for cut in cuts if cut[0] <= budget]
        if cuts:
            self.again = min(fitting or cuts, key=lambda cut: cut[0] + cut[1])[2]

    def _segments(self, count: int) -> tuple[int, int, set[Value]]:
        """With as many segments: the bytes kept, the most that one segment computes again, and what is."""
        sizes = {op: sum(self.size(r) for r in op.results) for op in self.forward}
        limit = sum(sizes.values()) / count
        number: dict[Op, int] = {}
        filled, segment = 0.0, 0
        for op in self.forward:
            number[op] = segment
            filled += sizes[op]
            if filled >= limit * (segment + 1):
                segment += 1
        leading = {
            v
            for op in self.forward
            for v in op.operands
            if v in self.made and number[self.made[v]] < number[op]
        }
        again = {v for v in self.made if v not in leading and v not in self.fixed}
        again |= {v for v in self.again if v in leading and self._is_short(v)}
        again = self._needed(again)
        inside = [0] * (segment + 1)
        for value in again:
            inside[number[self.made[value]]] += self.size(value)
        return self.nbytes(again), max(inside), again

    def _is_short(self, value: Value) -> bool:
        """True for what is made of arguments and constants alone, wherever it is read."""
        return not any(v in self.made for v in self.made[value].operands)

    def _needed(self, again: set[Value]) -> set[Value]:
        """Those of `again` that the backward part reads, or that such are computed from."""
        found: set[Value] = set()
        waiting = [v for v in self.read if v in again]
        while waiting:
            value = waiting.pop()
            if value not in found:
                found.add(value)
                waiting += [v for v in self.made[value].operands if v in again]
        return found


def is_cheap(op: Op) -> bool:
    """True for an op of a few operations an element."""
    return isinstance(op, NnOp) and not isinstance(op, PRODUCTS)


_DEPTHS: dict[type[Op], Callable[[Op], int]] = {
    nn.Matmul: lambda op: _shape(op.operands[0])[-1],
    nn.Linear: lambda op: _shape(op.operands[0])[-1],
    nn.Conv2d: lambda op: prod(_shape(op.operands[1])[1:]),
}
"""How many products are summed up for an element."""


def flops_of(op: Op) -> int:
    """Operations on floats: of a product two for each pair, of others one for each element that is read or written."""
    depth = _DEPTHS.get(type(op))
    if depth is not None:
        return 2 * depth(op) * prod(_shape(op.results[0]))
    if isinstance(op, nn.Reshape | nn.Flatten | nn.Broadcast | nn.Transpose | nn.Slice):
        return 0
    return max(prod(_shape(v)) for v in (*op.operands, *op.results))


def _shape(value: Value) -> tuple[int, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()
