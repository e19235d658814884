"""autodiff: which value a name means."""

from __future__ import annotations

from mdsl.dialects.arith import Constant
from mdsl.dialects.func import NAME, PARAMETER, FuncOp
from mdsl.errors import nearest
from mdsl.ir.attributes import DenseResourceAttr, StringAttr
from mdsl.ir.core import Value
from mdsl.ir.naming import names_under
from mdsl.ir.types import TensorType, is_float


def subject(function: FuncOp, name: str) -> Value:
    """The value of `function` that is called so, with or without `%`; an argument by its number or by `mdsl.name`, a
    constant by its resource as well. Raises VerifyError."""
    if name.isdecimal() and int(name) < len(function.args):
        return function.args[int(name)]
    found = named_values(function)
    wanted = name.removeprefix("%")
    if wanted not in found:
        raise function.error(f"@{function.symbol} has no value '{name}'{nearest(wanted, list(found))}")
    return found[wanted]


def named_values(function: FuncOp) -> dict[str, Value]:
    """The values of the function's block by each of their names; of two that share one, that in the text goes first."""
    found: dict[str, Value] = {}
    for op in function.body.ops:
        attr = op.attributes.get("value") if isinstance(op, Constant) else None
        if isinstance(attr, DenseResourceAttr):
            found[attr.name] = op.result
    for arg, attributes in zip(function.args, function.arg_attributes(), strict=True):
        given = attributes.get(NAME)
        if isinstance(given, StringAttr):
            found[given.value] = arg
    own = [
        v for v in names_under(function).items() if v[0].owner is function.body or _is_direct(v[0], function)
    ]
    return {**found, **{name: value for value, name in own}}


def _is_direct(value: Value, function: FuncOp) -> bool:
    """True for the result of an op of the function's own block."""
    return getattr(value.owner, "block", None) is function.body


def default_subjects(function: FuncOp) -> list[Value]:
    """The arguments that are marked as parameters; without any, those of floats. Raises VerifyError if there are none."""
    floats = [a for a in function.args if isinstance(a.type, TensorType) and is_float(a.type)]
    marks = dict(zip(function.args, function.arg_attributes(), strict=True))
    found = [a for a in floats if PARAMETER in marks[a]] or floats
    if not found:
        raise function.error(
            f"@{function.symbol} has no argument of floats: 'wrt' names what to differentiate for"
        )
    return found
