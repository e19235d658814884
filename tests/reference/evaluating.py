"""Helpers of these tests: one op, or a few lines, evaluated on given numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mdsl.ir.types import SCALARS, dtype_of
from mdsl.reference import run
from mdsl.syntax.parser import parse


def array(values: Any, element: str) -> np.ndarray:
    """`values` in the dtype of the element type `element`."""
    return np.array(values).astype(dtype_of(SCALARS[element]))


def tensor_type(value: np.ndarray, element: str) -> str:
    return f"tensor<{''.join(f'{d}x' for d in value.shape)}{element}>"


def evaluate(text: str, *inputs: ArrayLike) -> list[np.ndarray]:
    """The results of the module `text`."""
    return run(parse(text), inputs)


def body(lines: str, inputs: Sequence[ArrayLike], types: Sequence[str], result: str) -> np.ndarray:
    """The value `%r` of type `result` that `lines` make of `%a`, `%b`, ... of types `types`."""
    arguments = ", ".join(f"%{n}: {t}" for n, t in zip("abcdef", types, strict=False))
    text = f"func.func @main({arguments}) -> {result} {{\n{lines}\n func.return %r : {result}\n}}"
    return evaluate(text, *inputs)[0]


def elementwise(op: str, element: str, *operands: Any) -> list[Any]:
    """A same-type op on tensors, checked to give the same on scalars; the elements of the result."""
    arrays = [array(o, element) for o in operands]
    names = ", ".join(f"%{n}" for n in "abc"[: len(arrays)])
    type = tensor_type(arrays[0], element)
    whole = body(f"%r = {op} {names} : {type}", arrays, [type] * len(arrays), type)
    assert whole.dtype == arrays[0].dtype
    for i, numbers in enumerate(zip(*arrays, strict=True)):
        one = body(f"%r = {op} {names} : {element}", numbers, [element] * len(arrays), element)
        assert one.dtype == whole.dtype
        np.testing.assert_array_equal(one, whole[i])
    return whole.tolist()


def converted(op: str, source: str, target: str, values: Sequence[Any]) -> list[Any]:
    """A conversion on a tensor of `source`, checked to give the same on scalars."""
    given = array(values, source)
    types = [tensor_type(given, e) for e in (source, target)]
    whole = body(f"%r = {op} %a : {types[0]} to {types[1]}", [given], types[:1], types[1])
    assert whole.dtype == dtype_of(SCALARS[target])
    for number, wanted in zip(given, whole, strict=True):
        one = body(f"%r = {op} %a : {source} to {target}", [number], [source], target)
        np.testing.assert_array_equal(float(one), float(wanted))
    return whole.tolist()
