"""lower-nn: the micro-kernel that merges two runs.

What it writes is cut into parts that are merged side by side, for a step of one waits for what it reads, and another fills that time. Where a
part begins in each of the runs is found by bisection (Odeh, Green, Mwassi, Shmueli, Birk: Merge Path, 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.dialects import arith, scf, tensor, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Builder, Value
from mdsl.ir.types import TensorType, Type, index
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars
from mdsl.passes.nn.lower_nn.ranks import RANK, is_before

PARTS = 4
"""So many steps at once fill the time in which one waits."""

LEAST = 16
"""A part has that many elements at least: its beginning has to be found first."""


def merge_kernel(e: Emitter, element: Type, length: int, kept: int, descending: bool) -> str:
    """The name of the kernel that merges two runs of `length` elements to the first `kept` ones, and their places likewise."""
    key = f"merge_{kept}_of_{2 * length}x{element}{'_descending' * descending}"
    if key not in e.shared.kernels:
        module = next(a for a in e.op.ancestors() if isinstance(a, ModuleOp))
        name = module.fresh_symbol(key)
        types = [TensorType((n,), t) for n in (2 * length, kept) for t in (element, RANK)]
        func = ukernel.UkernelFunc.make(name, types, types[2:], ["runs", "places", "first", "first_places"])
        func.location = e.op.location
        merge = _Merge(
            Scalars(Builder(func.body, location=e.op.location)), func.args, length, kept, descending, {}
        )
        func.body.append(ukernel.Return(merge.results(), results=[]))
        module.body.append(func)
        e.shared.kernels[key] = name
    return e.shared.kernels[key]


@dataclass
class _Merge:
    s: Scalars
    args: Sequence[Value]
    length: int
    kept: int
    descending: bool
    numbers: dict[int, Value]

    def results(self) -> list[Value]:
        """The ops of the kernel; what it returns."""
        parts = max(1, min(PARTS, self.kept // LEAST))
        size = -(-self.kept // parts)
        # The last part may begin within the one before: what both write is the same.
        starts = [min(n * size, self.kept - size) for n in range(parts)]
        for n in (0, 1, self.length - 1, self.length, *starts):
            self.number(n)
        begins = [self.number(0)] if parts == 1 else self.begins(starts)
        loop = scf.For.counted(
            range(size), self.number, [*begins, *self.args[2:]], "k",
            [*("i" for _ in starts), "first_so_far", "places_so_far"],
        )  # fmt: skip
        self.s.builder.add(loop)
        s = Scalars(Builder(loop.body, location=self.s.builder.location))
        following: list[Value] = []
        elements: Value
        places: Value
        elements, places = loop.carried[parts:]
        for taken, start in zip(loop.carried, starts, strict=False):
            at = s.add(loop.iv, self.number(start), "at") if start else loop.iv
            more, chosen, place = self.step(s, taken, at)
            following.append(more)
            elements = s(tensor.Insert(chosen, elements, [at]), "next")
            places = s(tensor.Insert(place, places, [at]), "next_places")
        loop.body.append(scf.Yield([*following, elements, places], results=[]))
        return list(loop.results[parts:])

    def number(self, n: int) -> Value:
        if n not in self.numbers:
            self.numbers[n] = self.s.constant(n, index, f"c{n}")
        return self.numbers[n]

    def begins(self, starts: Sequence[int]) -> list[Value]:
        """How many elements of the left run are among the first `start` ones, for each of `starts`."""
        least = [max(0, start - self.length) for start in starts]
        most = [min(start, self.length) for start in starts]
        bounds = [self.number(n) for pair in zip(least, most, strict=True) for n in pair]
        steps = max(high - low for low, high in zip(least, most, strict=True)).bit_length()
        names = [name for _ in starts for name in ("low", "high")]
        loop = scf.For.counted(range(steps), self.number, bounds, "step", names)
        self.s.builder.add(loop)
        s = Scalars(Builder(loop.body, location=self.s.builder.location))
        found: list[Value] = []
        for n, start in enumerate(starts):
            low, high = loop.carried[2 * n : 2 * n + 2]
            both = s.add(low, high, "both")
            middle = s(arith.ShRUI(both, self.number(1)), "middle")
            x, _ = self.left(s, middle)
            before = s(arith.SubI(self.number(start), s.add(middle, self.number(1), "behind")), "before")
            y, _ = self.right(s, before)
            is_open = s(arith.CmpI.of("slt", low, high), "is_open")
            fewer = s(arith.AndI(is_before(s, y, x, self.descending), is_open), "fewer")
            more = s(arith.XOrI(fewer, is_open), "more")
            found.append(s(arith.Select(more, s.add(middle, self.number(1), "behind"), low), "low_next"))
            found.append(s(arith.Select(fewer, middle, high), "high_next"))
        loop.body.append(scf.Yield(found, results=[]))
        return list(loop.results[::2])

    def step(self, s: Scalars, taken: Value, at: Value) -> tuple[Value, Value, Value]:
        """The first that is left of the left run, of which `taken` are gone, or of the right one where that stands before it or the left
        one has ended: how many are gone then, the element, its place."""
        other = s(arith.SubI(at, taken), "j")
        x, x_place = self.left(s, taken)
        y, y_place = self.right(s, other)
        ended = s(arith.CmpI.of("sge", taken, self.number(self.length)), "left_ended")
        goes_on = s(arith.CmpI.of("slt", other, self.number(self.length)), "right_goes_on")
        wants = s(arith.OrI(is_before(s, y, x, self.descending), ended), "wants_right")
        takes = s(arith.AndI(wants, goes_on), "takes_right")
        more = s(arith.Select(takes, taken, s.add(taken, self.number(1), "one_more")), "i_next")
        chosen, place = (
            s(arith.Select(takes, one, two), name)
            for one, two, name in ((y, x, "chosen"), (y_place, x_place, "chosen_place"))
        )
        return more, chosen, place

    def left(self, s: Scalars, n: Value) -> tuple[Value, Value]:
        """Element `n` of the left run, or the nearest that there is, and its place."""
        return self._read(s, self._bounded(s, n))

    def right(self, s: Scalars, n: Value) -> tuple[Value, Value]:
        return self._read(s, s.add(self._bounded(s, n), self.number(self.length), "right"))

    def _bounded(self, s: Scalars, n: Value) -> Value:
        below = s(arith.MinSI(n, self.number(self.length - 1)), "below")
        return s(arith.MaxSI(below, self.number(0)), "within")

    def _read(self, s: Scalars, at: Value) -> tuple[Value, Value]:
        runs, places, *_ = self.args
        return s(tensor.Extract(runs, [at]), "element"), s(tensor.Extract(places, [at]), "place")
