"""Where each op's meaning is registered, and how it reports a failure.

A plain op is a function of its operands, `@semantics("arith.addf")`; an op with regions, calls or symbols
also gets the scope it runs in, `@structured("scf.for")`. Values: a tensor is an `np.ndarray` that nobody
changes, a memref an `np.ndarray` that is a view of real memory, a vector an `np.ndarray`, a scalar a NumPy
scalar, each of the type's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from mdsl.errors import MdslError
from mdsl.ir.core import Op

if TYPE_CHECKING:
    from mdsl.reference.evaluator import Scope

F = TypeVar("F", bound=Callable[..., Any])

SEMANTICS: dict[str, Callable[..., Any]] = {}
"""`f(op, *operands)` -> the result, or a tuple of results, or None for an op without results."""

STRUCTURED: dict[str, Callable[..., Any]] = {}
"""`f(scope, op, *operands)`, likewise."""


def semantics(*names: str) -> Callable[[F], F]:
    """Registers `f(op, *operands)` as the meaning of the ops `names`."""

    def register(function: F) -> F:
        SEMANTICS.update(dict.fromkeys(names, function))
        return function

    return register


def structured(*names: str) -> Callable[[F], F]:
    """Registers `f(scope, op, *operands)` as the meaning of the ops `names`."""

    def register(function: F) -> F:
        STRUCTURED.update(dict.fromkeys(names, function))
        return function

    return register


def meaning(name: str) -> tuple[Callable[..., Any], bool] | None:
    """The function of the op `name` and whether it takes the scope; None if the reference has none.

    The file of the op's dialect is imported when the first of its ops is asked for.
    """
    _load(name.split(".")[0])
    if name in STRUCTURED:
        return STRUCTURED[name], True
    return (SEMANTICS[name], False) if name in SEMANTICS else None


@cache
def _load(dialect: str) -> None:
    if find_spec(f"mdsl.reference.{dialect}") is not None:
        import_module(f"mdsl.reference.{dialect}")


class EvaluationError(MdslError):
    """The program does what its IR forbids (an access out of bounds, an input that does not fit)."""


def failure(op: Op, message: str) -> EvaluationError:
    """An error at `op`, to be raised by the caller: `file:line:col: error: 'memref.load': message`."""
    at = op.location
    place = at.beginning if at is not None else ""
    return EvaluationError(f"{place}error: '{op.name}': {message}")


__all__ = ["SEMANTICS", "STRUCTURED", "EvaluationError", "Scope", "failure", "semantics", "structured"]
