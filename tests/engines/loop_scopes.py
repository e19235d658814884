"""What a random program on memory may use at one place."""

from __future__ import annotations

from dataclasses import dataclass, field

LIMIT = 4.0
"""Magnitude of the floats in memory and in carried values; larger ones are clamped."""


@dataclass(frozen=True)
class Scalar:
    """A number: `exact` floats are the same bits in every engine, so that they may be compared."""

    name: str
    dtype: str
    bound: float = LIMIT
    exact: bool = False


@dataclass(frozen=True)
class Counter:
    """A loop counter, at most `last`."""

    name: str
    last: int


@dataclass(frozen=True)
class Memory:
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False

    @property
    def type(self) -> str:
        return f"memref<{'x'.join([*map(str, self.shape), self.dtype])}>"


@dataclass
class Scope:
    """What may be used at one place: it ends with its block."""

    scalars: list[Scalar] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)

    def inner(self) -> Scope:
        return Scope(list(self.scalars), list(self.counters))
