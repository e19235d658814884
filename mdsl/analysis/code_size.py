"""The cost model of compiling a kernel: about how much machine code LLVM makes of an op, and so how long LLVM takes.

Measured on a Zen 5, on vectors of 16 f32 in one block; LLVM's time grows with the square of the code's length.
"""

from __future__ import annotations

from math import prod

from mdsl.dialects.linalg_ext import WinogradTransform, alpha
from mdsl.dialects.vector import Transfer
from mdsl.ir.affine import Binary
from mdsl.ir.core import Op
from mdsl.ir.typed import memref_of
from mdsl.ir.types import VectorType, element_of

MAX_CODE = 1 << 18
"""`code_size` of all ops of a kernel: LLVM takes seconds for so much, and minutes for ten times as much."""

_DIVISION, _NARROW, _ACCESS, _CONTROL = 32, 8, 16, 128
"""Lanes' worth of an integer division, of a lane that is computed in another type, of an access, of a block."""

_LANE = {
    **dict.fromkeys(("divsi", "divui", "remsi", "remui", "floordivsi", "ceildivsi", "ceildivui"), _DIVISION),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log2", "tanh", "erf", "erfc", "gelu"), 8),
    **dict.fromkeys(("powf", "remf", "log1p", "atan"), 32),
    **dict.fromkeys(("sin", "cos"), 64),
}

_VECTOR = 16
"""Lanes of a vector, where the size does not depend on the target."""

_WIDE = 512
"""Lanes from which on one such op takes time by their square."""


def lane_size(op: Op) -> int:
    """The size of one lane's code: 1, or more for a division or an elementary function."""
    return _LANE.get(op.name.partition(".")[2], 1)


def is_function(op: Op) -> bool:
    """Whether the op is an elementary function: a long chain of operations that each need the one before."""
    return op.name.startswith(("math.", "math_ext.")) and lane_size(op) > 1


def code_size(op: Op) -> int:
    """The size of an op's code, in lanes of an addition; a block's without what is in it."""
    if op.name == "affine.apply":
        parts = [part for result in op.attr("map").results for part in result.parts()]
        return sum(_DIVISION if isinstance(part, Binary) and part.kind not in "+*" else 1 for part in parts)
    types = [value.type for value in (*op.operands, *op.results)]
    if isinstance(op, WinogradTransform):
        return 4 * alpha(op.m) ** 2 * (2 * _ACCESS + _VECTOR * (8 + len(op.body.ops)))
    if op.regions:
        return _CONTROL + sum(value.type.size for value in op.results if isinstance(value.type, VectorType))
    lanes = max((type.size for type in types if isinstance(type, VectorType)), default=1)
    if op.name in ("vector.extract", "vector.insert"):
        return _ACCESS
    if op.name.startswith(("memref.", "vector.load", "vector.store")):
        return _ACCESS + lanes
    if isinstance(op, Transfer):
        return _ACCESS * _accesses(op) + lanes
    if op.name == "vector.shuffle":
        return lanes
    narrow = any(str(element_of(type)) in ("f16", "bf16") for type in types)
    lane = max(lane_size(op), _NARROW if narrow else 1)
    return lane * lanes * (max(1, lanes // _WIDE) if lane > 1 else 1)


def _accesses(op: Transfer) -> int:
    """How often memory is accessed: once a row, or, with an extraction or insertion, for each element of a row that lies across."""
    shape, memory = op.vector_type.shape, memref_of(op.memory)
    place = op.places[-1]
    return prod(shape[:-1]) if place is None or memory.is_contiguous_along(place) else 2 * prod(shape)
