"""A program under construction: its lines, its values, and what is known of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from random import Random

SIZES = (1, 1, 2, 2, 3, 4, 5, 7, 8, 16, 17, 32, 33)
"""Sizes of dimensions: one, primes, powers of two and their neighbours, small ones more often."""

MAX_ELEMENTS = 6000
"""Of a tensor: programs must stay quick in the reference."""

MAX_BOUND = 60.0
"""Magnitude above which a float is squashed before it is used on: no tolerance would fit what comes of it."""

FLOATS = ("f32", "f64", "f16", "bf16")
INTS = ("i8", "i32", "i64")


@dataclass(frozen=True)
class Val:
    """A value of the program.

    `bound` is about the largest magnitude of its numbers. `exact` says that all engines compute the same bits,
    so that a comparison or a conversion to integers cannot turn a rounding error into a jump.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bound: float = 4.0
    exact: bool = True

    @property
    def type(self) -> str:
        return tensor_type(self.shape, self.dtype)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


def tensor_type(shape: Sequence[int], dtype: str) -> str:
    return f"tensor<{'x'.join([*map(str, shape), dtype])}>"


@dataclass
class Program:
    """A function `@main` whose arguments, lines and results are drawn from `random`."""

    random: Random
    dtype: str = "f32"
    arguments: list[Val] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: list[Val] = field(default_factory=list)
    counter: int = 0

    # Drawing ----------------------------------------------------------------------------------------------

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def dims(self, rank: int, limit: int = MAX_ELEMENTS) -> tuple[int, ...]:
        """A shape of at most `limit` elements."""
        shape: list[int] = []
        for _ in range(rank):
            fitting = [s for s in SIZES if s * prod(shape) <= limit]
            shape.append(self.random.choice(fitting))
        return tuple(shape)

    def name(self, hint: str) -> str:
        self.counter += 1
        return f"%{hint}{self.counter}"

    # Values -----------------------------------------------------------------------------------------------

    def add(self, value: Val) -> Val:
        self.values.append(value)
        return value

    def argument(self, shape: Sequence[int], dtype: str | None = None) -> Val:
        dtype = dtype or self.dtype
        value = Val(self.name("x"), tuple(shape), dtype, 10.0 if dtype[0] == "i" else 4.0)
        self.arguments.append(value)
        return self.add(value)

    def constant(
        self, shape: Sequence[int], dtype: str | None = None, low: float = -1.0, high: float = 1.0
    ) -> Val:
        """A dense constant, or a splat; its numbers lie between `low` and `high` and are exact in every dtype."""
        dtype = dtype or self.dtype
        step = 1 / 8 if dtype in FLOATS else 1

        def number() -> str:
            if dtype == "i1":
                return self.random.choice(["true", "false"])
            n = self.random.randint(round(low / step), round(high / step)) * step
            return str(n) if dtype in FLOATS else str(int(n))

        splat = self.chance(20) or prod(shape) > 2000
        text = number() if splat else nested([number() for _ in range(prod(shape))], shape)
        value = Val(self.name("c"), tuple(shape), dtype, max(abs(low), abs(high)))
        self.lines.append(f"{value.name} = arith.constant dense<{text}> : {value.type}")
        return self.add(value)

    def leaf(self, shape: Sequence[int], dtype: str | None = None) -> Val:
        """A value of this shape: an existing one, else an argument or a constant."""
        dtype = dtype or self.dtype
        found = [v for v in self.values if v.shape == tuple(shape) and v.dtype == dtype and v.bound <= 8]
        if found and self.chance(40):
            return self.random.choice(found)
        return self.constant(shape, dtype) if self.chance(40) else self.argument(shape, dtype)

    def pick(
        self, *, dtypes: Sequence[str] = (), rank: Sequence[int] = (), exact: bool = False
    ) -> Val | None:
        """A value, a recent one more often; None if there is none of that kind."""
        found = [
            v
            for v in self.values
            if (not dtypes or v.dtype in dtypes) and (not rank or v.rank in rank) and (v.exact or not exact)
        ]
        if not found:
            return None
        recent = found[-3:]
        return self.random.choice(recent if self.chance(70) else found)

    def tame(self, value: Val) -> Val:
        """`value`, or its tanh where its numbers may be too large to go on with."""
        if value.bound <= MAX_BOUND or not value.is_float:
            return value
        return self.squash(value)

    def squash(self, value: Val) -> Val:
        return self.emit("nn.tanh", [value], value.shape, bound=1.0)

    def line(
        self, hint: str, shape: Sequence[int], dtype: str, code: str, bound: float, exact: bool = False
    ) -> Val:
        """Adds an op whose text is `code` (behind the equals sign)."""
        value = Val(self.name(hint), tuple(shape), dtype, bound, exact or dtype not in FLOATS)
        self.lines.append(f"{value.name} = {code}")
        return self.add(value)

    def emit(
        self,
        op: str,
        operands: Sequence[Val],
        shape: Sequence[int],
        attributes: str = "",
        *,
        dtype: str | None = None,
        bound: float | None = None,
        exact: bool = False,
    ) -> Val:
        """Adds an op in nn's uniform form."""
        dtype = dtype or operands[0].dtype
        if bound is None:
            bound = max(v.bound for v in operands)
        exact = (exact or dtype not in FLOATS) and all(v.exact for v in operands)
        value = Val(self.name(op.partition(".")[2][:6]), tuple(shape), dtype, bound, exact)
        written = f" {{{attributes}}}" if attributes else ""
        types = ", ".join(v.type for v in operands)
        self.lines.append(
            f"{value.name} = {op} {', '.join(v.name for v in operands)}{written} : ({types}) -> {value.type}"
        )
        return self.add(value)

    # The end ----------------------------------------------------------------------------------------------

    def results(self) -> list[Val]:
        """The last value and some others: used ones, arguments, constants, one twice."""
        found = [self.values[-1]]
        while self.chance(35) and len(found) < 4:
            found.append(self.random.choice(self.values))
        self.random.shuffle(found)
        return found

    def text(self) -> str:
        results = self.results()
        arguments = ", ".join(f"{a.name}: {a.type}" for a in self.arguments)
        types = ", ".join(r.type for r in results)
        body = "\n".join(f"  {line}" for line in self.lines)
        end = f"  func.return {', '.join(r.name for r in results)} : {types}"
        return f"func.func @main({arguments}) -> ({types}) {{\n{body}\n{end}\n}}\n"


def nested(numbers: Sequence[str], shape: Sequence[int]) -> str:
    """Row-major numbers as nested brackets."""
    if not shape:
        return numbers[0]
    rows = [numbers[i : i + prod(shape[1:])] for i in range(0, len(numbers), prod(shape[1:]))]
    return f"[{', '.join(nested(row, shape[1:]) for row in rows)}]"
