"""Meaning of the affine dialect."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.ir.affine import Arithmetic
from mdsl.ir.core import Op
from mdsl.reference.arith import SEMANTICS
from mdsl.reference.registry import semantics


@semantics("affine.apply")
def apply(op: Op, *operands: Any) -> Any:
    return op.attr("map").apply(operands, index_arithmetic(op))[0]


def index_arithmetic(op: Op) -> Arithmetic:
    """That of indices: 64 bits."""
    return Arithmetic.of_ops(np.int64, lambda name, a, b: SEMANTICS[name](op, a, b))
