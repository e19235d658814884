"""The base class of terminators, the ops that end a block."""

from __future__ import annotations

from mdsl.ir.core import Op
from mdsl.ir.declare import TERMINATOR, operand


class Terminator(Op):
    """Base of ops that end a block and hand on values: `func.return %a, %b : f32, index`."""

    traits = TERMINATOR
    assembly = "$values attr-dict ( `:` type($values) )?"
    values = operand(variadic=True)
