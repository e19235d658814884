"""Finding an operation's declaration by its name."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from mdsl.ir.core import Op

DIALECTS = (
    "builtin",
    "func",
    "arith",
    "math",
    "math_ext",
    "tensor",
    "memref",
    "affine",
    "scf",
    "linalg",
    "linalg_ext",
    "vector",
    "nn",
    "ukernel",
    "mvm",
)
"""Every dialect, in the order in which a program passes through them from the module inwards."""


@cache
def operations() -> dict[str, type[Op]]:
    """Every declared operation, by name, dialect by dialect in order of declaration."""
    return {name: declaration for dialect in DIALECTS for name, declaration in _of(dialect).items()}


def operation(name: str) -> type[Op] | None:
    """The declaration of one operation; only its dialect is imported."""
    dialect = name.partition(".")[0]
    return _of(dialect).get(name) if dialect in DIALECTS else None


@cache
def _of(dialect: str) -> dict[str, type[Op]]:
    found: dict[str, type[Op]] = {}
    for value in vars(import_module(f"mdsl.dialects.{dialect}")).values():
        declared = isinstance(value, type) and issubclass(value, Op) and "name" in vars(value)
        if declared and value.name.split(".")[0] == dialect:
            found[value.name] = value
    return found
