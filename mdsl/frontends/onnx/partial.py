"""Partially known integer tensors: shapes with a `?`.

Such a tensor is an object array of Python ints and `Dim`s. A `Dim` is a size, thus never negative, that is
known only when the program is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, i1
from mdsl.reference.registry import meaning


@dataclass(frozen=True)
class Dim:
    """The size of dimension `axis` of `value`; an integer of which nothing is known if `value` is None."""

    value: Value | None = None
    axis: int = 0

    def __hash__(self) -> int:
        return hash((id(self.value), self.axis))

    def __eq__(self, other: object) -> bool:
        """Symbols are equal if they are the same size of the same value; two unknown numbers never are."""
        return (
            isinstance(other, Dim)
            and self.value is not None
            and self.value is other.value
            and self.axis == other.axis
        )


UNKNOWN = Dim()
Element = int | Dim


def seeds(value: Value) -> np.ndarray:
    """The shape of `value`, element by element."""
    shape = tensor_of(value).shape
    found = np.empty(len(shape), object)
    found[:] = [Dim(value, i) if s == DYNAMIC else s for i, s in enumerate(shape)]
    return found


def evaluate_partial(op: Op, operands: list[np.ndarray]) -> np.ndarray | None:
    """What is known of the result of `op`, None for an op that is not followed."""
    objects = [_objects(a) for a in operands]
    try:
        if op.name in _MOVES:
            found = meaning(op.name)
            assert found is not None
            return np.asarray(found[0](op, *objects), object)
        if op.name == "nn.gather" and operands[1].dtype != object:
            found = meaning(op.name)
            assert found is not None
            return np.asarray(found[0](op, objects[0], operands[1]), object)
        if op.name == "nn.cast":
            target = tensor_of(op.result).element
            return (
                objects[0]
                if str(target) in ("i32", "i64", "index") and tensor_of(op.operands[0]).element != i1
                else None
            )
        if op.name == "nn.select":
            return _map(_select, *objects)
        if op.name == "nn.compare":
            return _map(lambda a, b: _compare(op.attr("kind"), a, b), *objects)
        if op.name in _ARITHMETIC:
            return _map(_ARITHMETIC[op.name], *objects)
    except (ValueError, IndexError):
        return None
    return None


def _objects(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == object else array.astype(object)


def _map(function: Callable[..., object], *operands: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(function, len(operands), 1)(*operands), object)


_MOVES = {"nn.reshape", "nn.flatten", "nn.transpose", "nn.concat", "nn.slice", "nn.broadcast"}


def _select(cond: Element, a: Element, b: Element) -> Element:
    if isinstance(cond, Dim):
        return a if a == b else UNKNOWN
    return a if cond else b


def _compare(kind: str, a: Element, b: Element) -> bool | Dim:
    if isinstance(a, Dim) and isinstance(b, Dim):
        return kind in ("eq", "le", "ge") if a == b else UNKNOWN
    if isinstance(b, Dim):
        flipped = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}.get(kind, kind)
        return _compare(flipped, b, a)
    if isinstance(a, Dim):  # a size against a number: below 0 the answer is clear
        assert isinstance(b, int)
        if a.value is not None and b < 0:
            return kind in ("ne", "gt", "ge")
        return UNKNOWN
    table = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    return table[kind]


def _numbers(
    function: Callable[[int, int], int], neutral: int | None = None
) -> Callable[[Element, Element], Element]:
    """`function` on numbers; a Dim stays itself with the neutral element on its right."""

    def apply(a: Element, b: Element) -> Element:
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        if neutral is not None and b == neutral:
            return a
        return UNKNOWN

    return apply


def _divide(a: int, b: int) -> int:
    """Towards zero; 0 where the divisor is 0."""
    if b == 0:
        return 0
    return -(-a // b) if (a < 0) != (b < 0) else a // b


def _multiply(a: Element, b: Element) -> Element:
    if 0 in (a, b):
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 else a if b == 1 else UNKNOWN


def _add(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else UNKNOWN


def _largest(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    number, other = (a, b) if isinstance(a, int) else (b, a)
    sized = isinstance(other, Dim) and other.value is not None
    return other if sized and isinstance(number, int) and number <= 0 else a if a == b else UNKNOWN


_ARITHMETIC: dict[str, Callable[[Element, Element], Element]] = {
    "nn.add": _add,
    "nn.sub": _numbers(lambda a, b: a - b, 0),
    "nn.mul": _multiply,
    "nn.div": _numbers(_divide, 1),
    "nn.maximum": _largest,
    "nn.minimum": _numbers(min),
}
