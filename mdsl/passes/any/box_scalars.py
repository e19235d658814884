"""box-scalars: scalar arguments and results of a program become tensors of one element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import memref, tensor
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import Call, FuncOp
from mdsl.ir.core import Builder, Value
from mdsl.ir.declare import SCALAR_TYPES
from mdsl.ir.rewrites import rewriting
from mdsl.ir.types import MemRefType, TensorType
from mdsl.passes.base import Context, Pass, functions


@dataclass(frozen=True)
class BoxScalars(Pass):
    """Make tensors of the numbers that a function takes and gives: a compiled program works on memory.

    Before:

        func.func @main(%x: tensor<4xf32>, %scale: f32) -> (tensor<4xf32>, f32) {
          %square = arith.mulf %scale, %scale : f32
          return %x, %square : tensor<4xf32>, f32
        }

    After:

        func.func @main(%x: tensor<4xf32>, %scale: tensor<f32>) -> (tensor<4xf32>, tensor<f32>) {
          %scale_value = tensor.extract %scale[] : tensor<f32>
          %square = arith.mulf %scale_value, %scale_value : f32
          %square_box = tensor.from_elements %square : tensor<f32>
          return %x, %square_box : tensor<4xf32>, tensor<f32>
        }

    A function that another calls stays as it is. Where arguments are memrefs, so is the number.
    """

    name: ClassVar[str] = "box-scalars"
    subject = "number that the program takes or gives"

    def run(self, module: ModuleOp, context: Context) -> None:
        called = {str(op.attr("callee")) for op in module.walk() if isinstance(op, Call)}
        for function in functions(module):
            if function.symbol not in called:
                with rewriting(function, "box"):
                    _box(function)


def has_scalars(function: FuncOp) -> bool:
    """True if `function` takes or gives a number."""
    return any(v.type in SCALAR_TYPES for v in (*function.args, *function.body.terminator.operands))


def _box(function: FuncOp) -> None:
    names = function.result_names()
    end = function.body.terminator
    end.operands = [_boxed(v, function) if v.type in SCALAR_TYPES else v for v in end.operands]
    in_memory = any(isinstance(a.type, MemRefType) for a in function.args)
    start = Builder(function.body, function.body.first)
    for arg in function.args:
        if arg.type in SCALAR_TYPES:
            _open(arg, start, in_memory)
    function.update_type()
    function.keep_result_names(names)


def _open(arg: Value, start: Builder, in_memory: bool) -> None:
    """Makes a box of `arg` and lets its users read what is in it."""
    users = list(arg.users)
    element = arg.type
    arg.type = MemRefType((), element) if in_memory else TensorType((), element)
    number = start.value(memref.Load(arg, []) if in_memory else tensor.Extract(arg, []), f"{arg.name}_value")
    for user in users:
        user.operands = [number if v is arg else v for v in user.operands]


def _boxed(value: Value, function: FuncOp) -> Value:
    box = tensor.FromElements([value], results=[TensorType((), value.type)])
    return Builder.before(function.body.terminator).value(box, f"{value.name}_box")
