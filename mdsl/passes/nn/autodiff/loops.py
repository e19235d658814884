"""autodiff: counted loops over tensors, as recurrent networks have them, and the slices that they read and write.

The adjoint of a loop is a loop that runs from its last iteration to the first. It carries the gradients of what the loop
carries, and sums up those of what the iterations read from outside. What an iteration computed it computes again,
from what the loop carried into it: this a loop in front of it, which runs forwards, has stored, of as much as is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.analysis.regions import captured
from mdsl.dialects import affine, scf, tensor
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType
from mdsl.passes.nn.autodiff.reverse import SWEEPS, Sweep, gradient_of, operands_in
from mdsl.rewriting.constants import constant_data
from mdsl.rewriting.structured import counted_loop

# Slices ---------------------------------------------------------------------------------------------------

_PLACES = ("static_offsets", "static_sizes", "static_strides")


def _cut(op: tensor.ExtractSlice | tensor.InsertSlice, x: Value, type: TensorType) -> tensor.ExtractSlice:
    """The part of `x` that `op` is about."""
    return tensor.ExtractSlice(x, *_groups(op), results=[type], attributes=_static(op))


def _put(op: tensor.ExtractSlice | tensor.InsertSlice, part: Value, whole: Value) -> tensor.InsertSlice:
    """`whole` with `part` where `op` is about."""
    return tensor.InsertSlice(part, whole, *_groups(op), results=[whole.type], attributes=_static(op))


def _groups(op: tensor.ExtractSlice | tensor.InsertSlice) -> tuple[list[Value], list[Value], list[Value]]:
    return op.offsets, op.sizes, op.strides


def _static(op: Op) -> dict[str, Attribute]:
    return {name: op.attributes[name] for name in _PLACES}


def _extract_slice(sweep: Sweep, op: tensor.ExtractSlice) -> None:
    """The part's gradient is added in its place to what has come to the whole: a loop that reads it part by part does not
    add as many tensors of zeros."""
    a, grad, whole = sweep.adjoint(op), sweep.total(op.result), op.source
    if whole not in sweep.active:
        return
    if whole not in sweep.partials:
        sweep.give(whole, a(_put(op, grad, a.zeros(tensor_of(whole)))), op)
        return
    so_far = sweep.total(whole)
    part = a.add(a(_cut(op, so_far, tensor_of(op.result)), "so_far"), grad)
    del sweep.partials[whole]
    sweep.give(whole, a(_put(op, part, so_far)), op)


def _insert_slice(sweep: Sweep, op: tensor.InsertSlice) -> None:
    a, grad = sweep.adjoint(op), sweep.total(op.result)
    sweep.give(op.source, a(_cut(op, grad, tensor_of(op.source))), op)
    sweep.give(op.dest, a(_put(op, a.zeros(tensor_of(op.source)), grad)), op)


# Loops ----------------------------------------------------------------------------------------------------


def _for(sweep: Sweep, op: scf.For) -> None:
    _Loop(sweep, op).build()


class _Loop:
    """The adjoint of one loop, which is built in front of the sweep's end."""

    def __init__(self, sweep: Sweep, op: scf.For) -> None:
        self.sweep, self.op = sweep, op
        self.builder = sweep.adjoint(op).builder
        bounds = [constant_data(v) for v in op.operands[:3]]
        if any(b is None for b in bounds):
            raise op.error("has no gradient: how often it runs is not known")
        if not all(isinstance(a.type, TensorType) for a in op.carried):
            raise op.error("has no gradient: it carries what is no tensor")
        lower, upper, self.step = (int(b) for b in bounds if b is not None)
        self.first, self.count = lower, max(0, -(-(upper - lower) // self.step))
        self.inits, self.ends = op.operands[3:], op.body.terminator.operands
        self.active = [k for k, a in enumerate(op.carried) if a in sweep.active]
        self.captured = [v for v in captured(op) if v in sweep.active]

    def build(self) -> None:
        sweep, op = self.sweep, self.op
        a = sweep.adjoint(op)
        if not self.count:
            for k in self.active:
                if op.results[k] in sweep.partials:
                    sweep.give(self.inits[k], sweep.total(op.results[k]), op)
            return
        starts = [
            sweep.total(r) if r in sweep.partials else a.zeros(tensor_of(r))
            for r in (op.results[k] for k in self.active)
        ]
        sums = [a.zeros(tensor_of(v)) for v in self.captured]
        names = [gradient_of(op.carried[k]) for k in self.active]
        names += [f"{gradient_of(v)}_so_far" for v in self.captured]
        loop = self._loop([*starts, *sums], "back", names)
        states = self._fill(loop)
        self._recompute(loop, states)
        self.builder.add(loop)
        for value, result in zip(
            [*(self.inits[k] for k in self.active), *self.captured], loop.results, strict=True
        ):
            sweep.give(value, result, op)

    def _loop(self, carried: Sequence[Value], counter: str, names: Sequence[str]) -> scf.For:
        """An empty loop of as many iterations, counted from 0."""
        return counted_loop(range(self.count), self.builder, carried, counter, names)

    def _counter(self, builder: Builder, number: Value, backwards: bool) -> tuple[Value, Value]:
        """The number of the iteration, from 0, and the loop's counter in it, from the number of the one that runs."""
        place, last = Dim(0), self.count - 1
        at = number
        if backwards:
            place = Dim(0) * -1 + last
            at = builder.value(affine.Apply(number, map=AffineMap(1, 0, (place,))), "at")
        if (self.first, self.step) == (0, 1):
            return at, at
        map = AffineMap(1, 0, (place * self.step + self.first,))
        return at, builder.value(affine.Apply(number, map=map), self.op.iv.name)

    def _fill(self, loop: scf.For) -> dict[int, Value]:
        """The body of the backward loop; returns placeholders, arguments of the body still, for what it reads of the values that were
        carried into an iteration, by their numbers."""
        sweep, op, body = self.sweep, self.op, loop.body
        placeholders = {k: body.add_arg(arg.type, arg.name) for k, arg in enumerate(op.carried)}
        builder = Builder(body, None, op.location)
        _, counter = self._counter(builder, loop.iv, backwards=True)
        mapping: dict[Value, Value] = {op.iv: counter, **{op.carried[k]: p for k, p in placeholders.items()}}
        inner = sweep.inner(op.body, body, mapping)
        for k, gradient in zip(self.active, loop.body.args[1:], strict=False):
            inner.begin(mapping.get(self.ends[k], self.ends[k]), gradient, op)
        for value, so_far in zip(self.captured, loop.body.args[1 + len(self.active) :], strict=False):
            inner.partials.setdefault(value, []).insert(0, (so_far, op))
        inner.finish([*(placeholders[k] for k in self.active), *self.captured], op)
        return {k: p for k, p in placeholders.items() if p.users}

    def _recompute(self, loop: scf.For, read: dict[int, Value]) -> None:
        """Stores what was carried into each iteration, of what the backward loop reads, and lets it read that."""
        body = loop.body
        stacks = dict(zip(read, self._stored(list(read)), strict=True)) if read else {}
        first = body.first
        builder = Builder(body, first, self.op.location)
        place, _ = self._counter(builder, loop.iv, backwards=True)
        for k, placeholder in read.items():
            shape = tensor_of(placeholder).shape
            part = tensor.ExtractSlice.of(stacks[k], [place, *[0] * len(shape)], [1, *shape], shape=shape)
            builder.value(part, placeholder.name)
            placeholder.replace_by(part.result)
        if not place.users and isinstance(place.owner, Op):
            place.owner.erase()
        for at in reversed(range(1 + len(loop.operands[3:]), len(body.args))):
            body.erase_arg(at)

    def _stored(self, numbers: list[int]) -> list[Value]:
        """The values number `numbers` that are carried into each iteration, one behind the other along a new first
        dimension: of a loop that carries no more than these depend on."""
        op = self.op
        needed = self._closure(numbers)
        types = [
            TensorType((self.count, *tensor_of(op.carried[k]).shape), tensor_of(op.carried[k]).element)
            for k in numbers
        ]
        names = [f"{name_wished(op.carried[k])}_stored" for k in numbers]
        empty = [
            self.builder.value(tensor.Empty([], results=[t]), n) for t, n in zip(types, names, strict=True)
        ]
        carried = [op.carried[k].name for k in needed]
        loop = self._loop([*(self.inits[k] for k in needed), *empty], "forth", [*map(str, carried), *names])
        builder = Builder(loop.body, None, op.location)
        at, counter = self._counter(builder, loop.iv, backwards=False)
        mapping: dict[Value, Value] = {op.iv: counter}
        mapping.update(zip((op.carried[k] for k in needed), loop.carried, strict=False))
        stored: list[Value] = []
        for k, whole in zip(numbers, loop.carried[len(needed) :], strict=True):
            shape = tensor_of(op.carried[k]).shape
            put = tensor.InsertSlice.of(mapping[op.carried[k]], whole, [at, *[0] * len(shape)], [1, *shape])
            stored.append(builder.value(put, whole.name))
        for inner in self._computing([self.ends[k] for k in needed]):
            loop.body.append(inner.clone(mapping))
        loop.body.append(
            scf.Yield([*(mapping.get(self.ends[k], self.ends[k]) for k in needed), *stored], results=[])
        )
        self.builder.add(loop)
        return list(loop.results[len(needed) :])

    def _closure(self, numbers: list[int]) -> list[int]:
        """What must be carried to compute these: themselves, and what the iterations compute them from."""
        found = list(numbers)
        for k in found:
            read = {v for inner in self._computing([self.ends[k]]) for v in operands_in(inner)} | {
                self.ends[k]
            }
            found += [j for j, arg in enumerate(self.op.carried) if arg in read and j not in found]
        return sorted(found)

    def _computing(self, values: Sequence[Value]) -> list[Op]:
        """The ops of the body that compute `values`, in order."""
        wanted, found = set(values), list[Op]()
        for inner in reversed(self.op.body.ops):
            if any(r in wanted for r in inner.results):
                found.append(inner)
                wanted.update(operands_in(inner))
        return found[::-1]


SWEEPS.update({"tensor.extract_slice": _extract_slice, "tensor.insert_slice": _insert_slice, "scf.for": _for})
