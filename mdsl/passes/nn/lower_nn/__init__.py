"""lower-nn: a graph of nn ops becomes structured ops on tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import tensor
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.nn.base import NnOp
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.nn.training import Composite
from mdsl.ir.core import Op
from mdsl.ir.typed import tensor_of
from mdsl.passes.base import Context, Pass
from mdsl.passes.nn.decompose import decompose
from mdsl.passes.nn.lower_nn import across as lower_nn_across
from mdsl.passes.nn.lower_nn import data as lower_nn_data
from mdsl.passes.nn.lower_nn import elementwise as lower_nn_elementwise
from mdsl.passes.nn.lower_nn import functions as lower_nn_functions
from mdsl.passes.nn.lower_nn import layers as lower_nn_layers
from mdsl.passes.nn.lower_nn import order as lower_nn_order
from mdsl.passes.nn.lower_nn import pool_gradient as lower_nn_pool_gradient
from mdsl.passes.nn.lower_nn import random as lower_nn_random
from mdsl.passes.nn.lower_nn import scatter as lower_nn_scatter
from mdsl.passes.nn.lower_nn import windows as lower_nn_windows
from mdsl.passes.nn.lower_nn.build import RULES, Emitter, Shared
from mdsl.passes.nn.lower_nn.empty import has_no_elements, lower_empty
from mdsl.passes.nn.lower_nn.subnormals import without_subnormals
from mdsl.rewriting import remarks

THEMES = (
    lower_nn_across,
    lower_nn_data,
    lower_nn_elementwise,
    lower_nn_functions,
    lower_nn_layers,
    lower_nn_order,
    lower_nn_pool_gradient,
    lower_nn_random,
    lower_nn_scatter,
    lower_nn_windows,
)
"""The modules with the rules, which enter `RULES` when they are imported."""


@dataclass(frozen=True)
class LowerNn(Pass):
    """Lower nn ops to linalg: loop nests with maps and scalar bodies, and tensor ops that move data.

    Before:

        %y = nn.relu %x : (tensor<2x8xf32>) -> tensor<2x8xf32>

    After:

        %init = tensor.empty() : tensor<2x8xf32>
        %y = linalg.generic {...} ins(%x : tensor<2x8xf32>) outs(%init : tensor<2x8xf32>) {
        ^bb0(%in: f32, %out: f32):
          %zero = arith.constant 0.0 : f32
          %positive = arith.maximumf %in, %zero : f32
          linalg.yield %positive : f32
        } -> tensor<2x8xf32>

    A result keeps its name; what lies between is named after it. Convolutions and matrix products are one
    contraction into a zero accumulator, with bias and rounding in an elementwise nest behind it. 16-bit
    floats are summed in f32. Subnormal numbers among constant factors of products, which processors multiply a hundred times as
    slowly, become zeros. Broadcasting becomes a map that omits dimensions. Shapes must be static. What
    has a dimension of 0 becomes a tensor.empty. Results of one type are written into one tensor.empty, which says
    nothing about memory.
    """

    name: ClassVar[str] = "lower-nn"
    level: ClassVar[str | None] = "nn"
    leads_to: ClassVar[str | None] = "linalg"
    subject = "nn op"

    def run(self, module: ModuleOp, context: Context) -> None:
        shared = Shared()
        for op in list(module.walk()):
            if isinstance(op, Composite):
                decompose(op)
        for op in list(module.walk()):
            if isinstance(op, NnOp):
                _lower(op, shared)


def _lower(op: NnOp, shared: Shared) -> None:
    if isinstance(op, Dynamic):
        raise op.error("the shape of its result is computed; --bind makes it a number")
    for value in (*op.operands, op.result):
        type = tensor_of(value)
        if not type.is_static:
            raise op.error(f"{type} has a dimension of unknown size; --bind gives it one")
    without_subnormals(op, shared.normal)
    operands, emitter, before = op.operands, Emitter(op, shared), op.prev
    lowered = lower_empty(emitter, op) if has_no_elements(op) else None
    result = RULES[op.name](emitter, op) if lowered is None else lowered
    if remarks.wanted():
        remarks.applied(op, f"becomes {_named_between(before, op)}")
    op.replace_by(result)
    for value in dict.fromkeys(operands):
        if isinstance(value.owner, Constant) and not value.users:
            value.owner.erase()


def _named_between(start: Op | None, end: Op) -> str:
    """The kinds of ops that were made in front of `end`, behind `start`, and how many of each."""
    made: Counter[str] = Counter()
    op = end.prev
    while op is not None and op is not start:
        made[op.name] += not isinstance(op, Constant | tensor.Empty)
        op = op.prev
    kinds = [f"{name} x {count}" if count > 1 else name for name, count in reversed(made.items()) if count]
    return ", ".join(kinds) or "no op: it is another value"
