"""Binding inputs to values: `bind={"count": 3}` makes a constant of the input `count`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseAttr
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, dtype_of


def as_size(name: str, given: object) -> int:
    """The size that dimension `name` is bound to. Raises MdslError for what is no integer."""
    try:
        return index(given)  # type: ignore[arg-type]
    except TypeError:
        raise MdslError(f"error: the size of dimension '{name}' must be an integer, got {given!r}") from None


def as_array(name: str, type: TensorType, given: object) -> np.ndarray:
    """The array that input `name` is bound to; one number stands for as many as a known shape has. Raises MdslError for
    what the input cannot be."""
    wanted = dtype_of(type.element)
    try:
        found = np.asarray(given)
        data = found.astype(
            wanted, casting="unsafe" if found.size == 0 or wanted.kind == "V" else "same_kind"
        )
        fits = wanted.kind not in "iu" or np.array_equal(data, found)
    except (TypeError, ValueError):
        fits, found = False, np.empty(0)
        data = found
    empty = tuple(0 if size == DYNAMIC else size for size in type.shape)
    if data.size == 0 and 0 in empty:
        data = data.reshape(empty)  # nested lists do not tell the other sizes
    if fits and data.ndim == 0 and type.is_static:
        data = np.broadcast_to(data, type.shape)
    shape = zip(data.shape, type.shape, strict=False)
    if not fits or data.ndim != type.rank or any(w not in (s, DYNAMIC) for s, w in shape):
        raise MdslError(f"error: input '{name}' is {type} and cannot be bound to {given!r}")
    return data


def fix_inputs(module: ModuleOp, bind: Mapping[str, Any]) -> dict[str, int]:
    """Makes constants of the inputs of `module`, which it alters, that `bind` has values for; returns the rest of `bind`,
    the sizes of dimensions. Raises MdslError."""
    functions = [op for op in module.body.ops if isinstance(op, FuncOp)]
    dims = {name for f in functions for names in f.dim_names() for name in names}
    left = dict(bind)
    for function in functions:
        if function.symbol != "main" and len(functions) > 1:
            continue
        named = {a.name: a for a in function.args if isinstance(a.type, TensorType)}
        for name in [n for n in bind if n in named and n not in dims]:
            _fix(function, named[name], as_array(name, tensor_of(named[name]), left.pop(name)))
        function.update_type()
    return {name: as_size(name, given) for name, given in left.items()}


def _fix(function: FuncOp, argument: Value, data: np.ndarray) -> None:
    """Puts a constant in the place of an argument."""
    type = TensorType(data.shape, tensor_of(argument).element)
    constant = Constant(value=DenseAttr(data, type), results=[type])
    function.body.insert(constant, function.body.first)
    argument.replace_by(constant.result)
    attributes, place = function.arg_attributes(), function.args.index(argument)
    function.body.erase_arg(place)
    function.set_arg_attributes(attributes[:place] + attributes[place + 1 :])
