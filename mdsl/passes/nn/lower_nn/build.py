"""Building the linalg form of an nn op: the registry of rules, and what the rules build with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from mdsl.dialects import arith, linalg, tensor
from mdsl.dialects.nn.base import NnOp, product
from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import Attribute, DenseAttr
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, dtype_of, i1, index, is_float, wide

Rule = Callable[["Emitter", Any], Value]

RULES: dict[str, Rule] = {}
"""How each nn op is lowered: `f(emitter, op)` builds the ops and returns the value of the op's result."""


def lowers(name: str) -> Callable[[Rule], Rule]:
    """Registers the rule for the op `name`."""

    def register(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return register


Read = tuple[Value, Sequence[int]]
"""A tensor, and for each of its dimensions the loop dimension that runs over it."""

Body = Callable[..., Value | Sequence[Value]]
"""`f(scalars, *elements)`: the scalar code of one loop iteration."""


class Scalars:
    """Builds the scalar body of a structured op."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def __call__(self, op: Op, name: str | None = None) -> Value:
        """Appends `op` and returns its result."""
        return self.builder.value(op, name)

    def constant(self, value: float, type: Type, name: str | None = None) -> Value:
        return self(arith.Constant.of(value, type), name)

    def add(self, a: Value, b: Value, name: str = "sum") -> Value:
        return self(arith.add(a, b), name)

    def multiply(self, a: Value, b: Value, name: str = "product") -> Value:
        return self(arith.multiply(a, b), name)

    def maximum(self, a: Value, b: Value, name: str = "larger") -> Value:
        return self(arith.MaximumF(a, b) if is_float(a.type) else arith.MaxSI(a, b), name)

    def minimum(self, a: Value, b: Value, name: str = "smaller") -> Value:
        return self(arith.MinimumF(a, b) if is_float(a.type) else arith.MinSI(a, b), name)

    def widen(self, x: Value) -> Value:
        """A 16-bit float as f32; anything else as it is."""
        return x if wide(x.type) == x.type else self(arith.ExtF(x, results=[wide(x.type)]), "wide")

    def narrow(self, x: Value, element: Type) -> Value:
        """`x` rounded to `element`, from which it was widened."""
        return x if x.type == element else self(arith.TruncF(x, results=[element]), "rounded")


_LONG = 1024
"""How many numbers one sum adds up, if they lie along several dimensions."""


@dataclass
class Shared:
    """What the rules of one program share, each before its first use in a block."""

    constants: dict[tuple[Block, str], Value] = field(default_factory=dict)
    """Scalars, by their text."""
    empties: dict[tuple[Block, TensorType], list[Value]] = field(default_factory=dict)
    """Tensors that hold nothing yet, as many of a type as one rule needs: what is written into one is another value."""
    normal: dict[Value, Value] = field(default_factory=dict)
    """What products read instead of each constant: that itself, or one without its subnormal numbers."""
    kernels: dict[str, str] = field(default_factory=dict)
    """The names of the micro-kernels that rules have made, by what they do."""
    largest: dict[tuple[Value, Block, frozenset[tuple[str, Attribute]]], tuple[Value, Value]] = field(
        default_factory=dict
    )
    """The largest element of each window and its place, by the image and the pooling's attributes."""


class Emitter:
    """Inserts ops before the nn op that they replace, and names them after it.

    `shared` is what earlier rules have made and later ones use as well.
    """

    def __init__(self, op: NnOp, shared: Shared) -> None:
        assert op.block is not None
        self.op = op
        self.block = op.block
        self.shared = shared
        self.taken: Counter[TensorType] = Counter()
        self.builder = Builder.before(op)
        self.name = op.result.name or op.name.split(".")[1]

    def value(self, op: Op, suffix: str | None) -> Value:
        """Inserts `op`; its result is `%<name>_<suffix>`, or takes the nn op's own name if there is no suffix."""
        return self.builder.value(op, f"{self.name}_{suffix}" if suffix else None)

    # Destinations -----------------------------------------------------------------------------------------

    def constant(self, value: float, type: Type, name: str) -> Value:
        """A scalar outside of any body; `name` is for numbers that have none of their own."""
        op = arith.Constant.of(value, type)
        key = (self.block, str(op.attributes["value"]))
        if key not in self.shared.constants:
            known = {0: "zero", lowest(type): "lowest", highest(type): "highest"}
            self.shared.constants[key] = self.builder.value(op, known.get(value, name))
        return self.shared.constants[key]

    def index(self, number: int) -> Value:
        """A number of type index."""
        return self.constant(number, index, f"c{number}")

    def empty(self, shape: Sequence[int], element: Type, name: str = "init") -> Value:
        """A tensor that holds nothing yet, another one each time."""
        type = TensorType(tuple(shape), element)
        known = self.shared.empties.setdefault((self.block, type), [])
        if self.taken[type] == len(known):
            known.append(self.builder.value(tensor.Empty([], results=[type]), name))
        self.taken[type] += 1
        return known[self.taken[type] - 1]

    def fill(self, value: float, shape: Sequence[int], element: Type, suffix: str | None = "zero") -> Value:
        start = self.constant(value, element, suffix or "value")
        init = self.empty(shape, element)
        return self.value(linalg.Fill.make([start], [init]), suffix)

    # Loop nests -------------------------------------------------------------------------------------------

    def generic(
        self, reads: Sequence[Read], outputs: Sequence[Read], iterators: Sequence[str], body: Body
    ) -> linalg.Generic:
        """A loop nest over tensors read through plain dimensions; its body takes inputs, then outputs."""
        maps = [AffineMap.select(len(iterators), dims) for _, dims in (*reads, *outputs)]
        return self.nest([v for v, _ in reads], [v for v, _ in outputs], maps, iterators, body)

    def nest(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        maps: Sequence[AffineMap],
        iterators: Sequence[str],
        body: Body,
    ) -> linalg.Generic:
        """A loop nest with any maps, not yet inserted."""
        op = linalg.Generic.make(inputs, outputs, maps, iterators)
        produced = body(Scalars(Builder(op.body, location=self.op.location)), *op.body.args)
        values = [produced] if isinstance(produced, Value) else list(produced)
        op.body.append(linalg.Yield(values, results=[]))
        return op

    def map(
        self,
        reads: Sequence[Read],
        shape: Sequence[int],
        element: Type,
        body: Body,
        suffix: str | None = None,
    ) -> Value:
        """An elementwise nest over `shape`; its body takes the inputs' elements. Splat constants become scalars."""
        splats = [splat_of(v) for v, _ in reads]
        tensors = [read for read, splat in zip(reads, splats, strict=True) if splat is None]

        def full_body(s: Scalars, *elements: Value) -> Value | Sequence[Value]:
            remaining = iter(elements)
            pairs = zip(splats, reads, strict=True)
            return body(
                s,
                *(next(remaining) if splat is None else s(splat.clone(), v.name) for splat, (v, _) in pairs),
            )

        init = self.empty(shape, element)
        loops = [linalg.PARALLEL] * len(shape)
        return self.value(self.generic(tensors, [(init, range(len(shape)))], loops, full_body), suffix)

    def broadcast(self, value: Value, shape: Sequence[int]) -> Read:
        """How `map` over `shape` reads `value` by NumPy's rules; a splat constant needs no dimensions."""
        return self.stretch(value, shape) if splat_of(value) is None else (value, ())

    def stretch(self, value: Value, shape: Sequence[int]) -> Read:
        """How a nest over `shape` reads `value` by NumPy's rules; dimensions of 1 that stretch are dropped."""
        own = tensor_of(value).shape
        start = len(shape) - len(own)
        kept = [d for d, size in enumerate(own) if size == shape[start + d]]
        if len(kept) < len(own):
            value = self.builder.value(squeezed(value, kept), f"{value.name or self.name}_squeezed")
        return value, [start + d for d in kept]

    def reduce(
        self, x: Value, dims: Sequence[int], start: float, element: Type, body: Body, suffix: str | None
    ) -> Value:
        """A reduction of `x` along `dims`, which the result lacks; `body` takes (scalars, element, result so far)."""
        shape = tensor_of(x).shape
        kept = [d for d in range(len(shape)) if d not in dims]
        loops = [linalg.PARALLEL if d in kept else linalg.REDUCTION for d in range(len(shape))]
        initial = "start" if start else "zero"
        init = self.fill(
            start, [shape[d] for d in kept], element, f"{suffix}_{initial}" if suffix else initial
        )
        nest = self.generic([(x, range(len(shape)))], [(init, kept)], loops, body)
        return self.value(nest, suffix)

    def sum(self, x: Value, dims: Sequence[int], suffix: str | None) -> Value:
        """The sum along `dims`, in f32 where `x` holds 16-bit floats. A long one along several is a sum of sums along the last
        ones: the error of rounding grows with how many numbers are added up one after the other."""
        shape, last = tensor_of(x).shape, sorted(dims)
        while len(last) > 1 and product(shape[d] for d in last) > _LONG:
            last = last[1:]
        first = [d for d in dims if d not in last]
        if first:
            return self.sum(self.sum(x, last, f"{suffix}_part" if suffix else "part"), first, suffix)
        return self.reduce(
            x, dims, 0, wide(tensor_of(x).element), lambda s, v, total: s.add(total, s.widen(v)), suffix
        )

    # Shapes -----------------------------------------------------------------------------------------------

    def pad(self, x: Value, low: Sequence[int], high: Sequence[int], fill: float) -> Value:
        """`x` with a border of `fill`; `x` itself if the border is empty."""
        if not any((*low, *high)):
            return x
        border = self.constant(fill, tensor_of(x).element, "border")
        return self.value(tensor.Pad.of(x, low, high, border), "padded")

    def reshape(self, x: Value, shape: Sequence[int], suffix: str | None = None) -> Value:
        """The elements of `x` in `shape`: dimensions are merged, then split; `x` itself if it has that shape."""
        source = tensor_of(x)
        if source.shape == tuple(shape):
            return x
        merge, split = segments(source.shape, shape)
        middle = [product(source.shape[d] for d in g) for g in merge]
        if tuple(middle) == tuple(shape):
            return self.value(tensor.CollapseShape.of(x, merge), suffix)
        if tuple(middle) != source.shape:
            x = self.value(tensor.CollapseShape.of(x, merge), "merged")
        return self.value(tensor.ExpandShape.of(x, split, shape), suffix)


def splat_of(value: Value) -> arith.Constant | None:
    """The scalar constant that stands everywhere in a constant tensor, not yet inserted."""
    owner = value.owner
    attr = owner.attributes["value"] if isinstance(owner, arith.Constant) else None
    if not isinstance(attr, DenseAttr) or not attr.is_splat:
        return None
    return arith.Constant.of(attr.array.flat[0], attr.type.element)


def squeezed(value: Value, kept: Sequence[int]) -> tensor.CollapseShape:
    """`value` without the dimensions of 1 that are not in `kept`."""
    rank = tensor_of(value).rank
    if not kept:
        return tensor.CollapseShape.of(value, [])
    starts = [0, *kept[1:], rank]
    return tensor.CollapseShape.of(value, [list(range(a, b)) for a, b in pairwise(starts)])


def segments(source: Sequence[int], target: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
    """The finest grouping of both shapes' dimensions such that groups in one place have equal products.

    Both lists are empty if one of the shapes has no dimension.
    """
    merge: list[list[int]] = []
    split: list[list[int]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        left, right = source[i], target[j]
        i_end, j_end = i + 1, j + 1
        while left != right:
            if left < right:
                left *= source[i_end]
                i_end += 1
            else:
                right *= target[j_end]
                j_end += 1
        merge.append(list(range(i, i_end)))
        split.append(list(range(j, j_end)))
        i, j = i_end, j_end
    if merge:  # only dimensions of 1 are left
        merge[-1].extend(range(i, len(source)))
        split[-1].extend(range(j, len(target)))
    return merge, split


def lowest(element: Type) -> float:
    """What every number is at least: -inf, or the smallest integer (false for i1)."""
    return _bounds(element)[0]


def highest(element: Type) -> float:
    """What every number is at most: inf, or the largest integer (true for i1)."""
    return _bounds(element)[1]


def _bounds(element: Type) -> tuple[float, float]:
    if is_float(element):
        return float("-inf"), float("inf")
    if element == i1:
        return 0, 1
    info = np.iinfo(dtype_of(element))
    return int(info.min), int(info.max)
