"""How much an op does, on any level below nn: operations on floats, calls of micro-kernels, bytes that it must move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod

from mdsl.analysis.alias import ALLOCATIONS, VIEWS
from mdsl.analysis.regions import captured
from mdsl.dialects import linalg, memref, mvm, scf, tensor, ukernel
from mdsl.dialects.arith import Constant, constant_of
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.ir.core import Block, Op
from mdsl.ir.types import DYNAMIC, FloatType, MemRefType, ShapedType, TensorType, Type

Kernels = Mapping[str, ukernel.UkernelFunc]
"""The micro-kernels of a program, by symbol."""


@dataclass(frozen=True)
class Work:
    """What one execution of something does."""

    flops: int = 0
    """Operations on floats: a multiply-add counts two, a function of `math` one, comparisons and selections none."""
    dispatches: int = 0
    """Instructions that call micro-kernels."""
    calls: int = 0
    """Calls of micro-kernels: one instruction may make several."""

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.dispatches + other.dispatches, self.calls + other.calls)

    def times(self, count: int) -> Work:
        """That often."""
        return Work(self.flops * count, self.dispatches * count, self.calls * count)


def kernels_of(module: ModuleOp) -> Kernels:
    """The micro-kernels of a module."""
    return {op.symbol: op for op in module.body.ops if isinstance(op, ukernel.UkernelFunc)}


def work_of(op: Op, kernels: Kernels) -> Work:
    """What one execution of `op` does. Of a branch the side counts that computes more; a loop whose bounds are not
    constant counts as one trip."""
    match op:
        case scf.For() | scf.Forall():
            return _of_block(op.body, kernels).times(trips(op))
        case scf.If():
            sides = [_of_block(region.block, kernels) for region in op.regions]
            return max(sides, key=lambda work: work.flops, default=Work())
        case ukernel.Dispatch() | mvm.Dispatch():
            kernel, count = kernels.get(op.symbol), int(op.attr("batch"))
            flops = _of_block(kernel.body, kernels).flops if kernel is not None else 0
            return Work(flops * count, 1, count)
        case linalg.LinalgOp():
            return Work(prod(op.loop_sizes()) * _of_block(op.body, kernels).flops)
        case WinogradTransform():
            return Work(op.flops(_of_block(op.body, kernels).flops))
        case _ if op.regions:
            return reduce(Work.__add__, (_of_block(r.block, kernels) for r in op.regions), Work())
        case _:
            return Work(_flops(op))


def _of_block(block: Block, kernels: Kernels) -> Work:
    return reduce(Work.__add__, (work_of(op, kernels) for op in block.ops), Work())


def trips(loop: scf.For | scf.Forall) -> int:
    """How often the body runs; 1 if nobody knows."""
    bounds = loop.bounds() if isinstance(loop, scf.Forall) else [tuple(loop.operands[:3])]
    total = 1
    for bound in bounds:
        lower, upper, step = (b if isinstance(b, int) else constant_of(b) for b in bound)
        if isinstance(lower, int) and isinstance(upper, int) and isinstance(step, int) and step > 0:
            total *= max(-(-(upper - lower) // step), 0)
    return total


_FUSED = ("vector.fma", "math.fma")

_MOVES = ("cmpf", "extf", "truncf")
"""Ops on floats that compute nothing."""


def _flops(op: Op) -> int:
    if op.name == "vector.reduction":
        return _elements(op.operands[0].type) - 1 if _is_float(op.operands[0].type) else 0
    if op.name in _FUSED:
        return 2 * _elements(op.results[0].type)
    dialect, _, name = op.name.partition(".")
    computes = dialect in ("math", "math_ext") or (
        dialect == "arith" and name.endswith("f") and name not in _MOVES
    )
    return _elements(op.results[0].type) if computes and _is_float(op.results[0].type) else 0


def _elements(type: Type) -> int:
    return prod(type.shape) if isinstance(type, ShapedType) else 1


def _is_float(type: Type) -> bool:
    return isinstance(type.element if isinstance(type, ShapedType) else type, FloatType)


_STILL = (
    Constant, tensor.Empty, tensor.ExtractSlice, tensor.CollapseShape, tensor.ExpandShape, tensor.CastOp, memref.GetGlobal,
    mvm.Constant, *VIEWS, *ALLOCATIONS,
)  # fmt: skip
"""Ops that give memory another look, or a name: they move nothing."""


def traffic(op: Op) -> int:
    """Bytes of the tensors or memrefs that `op`, with all that it holds, reads and makes, each once; 0 for what moves
    nothing: a view, a constant, memory that nothing is written to yet."""
    if isinstance(op, _STILL) or op.has("terminator"):
        return 0
    read = {*op.operands, *(captured(op) if op.regions else ())}
    return sum(_nbytes(value.type) for value in (*read, *op.results))


def _nbytes(type: Type) -> int:
    known = isinstance(type, ShapedType) and DYNAMIC not in type.shape
    return type.nbytes if known and isinstance(type, TensorType | MemRefType) else 0
