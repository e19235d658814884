"""inline: calls become the called function's body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import Call, FuncOp
from mdsl.ir.core import Builder, Value
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting import remarks


@dataclass(frozen=True)
class Inline(Pass):
    """Replace every func.call by the body of the function it calls; drop private functions then.

    Before:

        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %y = func.call @twice(%x) : (tensor<4xf32>) -> tensor<4xf32>
          return %y : tensor<4xf32>
        }

    After, with `@twice` returning `nn.add %v, %v`:

        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %y = nn.add %x, %x : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
          return %y : tensor<4xf32>
        }

    A function that calls itself, directly or not, is an error: the VM has no call stack.
    """

    name: ClassVar[str] = "inline"
    subject = "call"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            _inline_into(func, module, (func.symbol,))
        for func in functions(module):
            if func.attr("sym_visibility") == "private":
                func.erase()


def _inline_into(func: FuncOp, module: ModuleOp, path: tuple[str, ...]) -> None:
    """Inlines all calls in `func`; `path` names the functions that are being inlined into each other."""
    for call in func.walk():
        if not isinstance(call, Call):
            continue
        name = str(call.attr("callee"))
        callee = module.lookup(name)
        if not isinstance(callee, FuncOp):
            raise call.error(f"@{name} is not a function")
        if name in path:
            raise call.error(f"@{name} calls itself: {' -> '.join((*path, name))}")
        _inline_into(callee, module, (*path, name))
        _inline(call, callee)


def _inline(call: Call, callee: FuncOp) -> None:
    given, taken = [v.type for v in call.operands], list(callee.type.inputs)
    if given != taken or [r.type for r in call.results] != list(callee.type.results):
        raise call.error(f"@{callee.symbol} is of type {callee.type}")
    remarks.applied(call, f"is replaced by the body of @{callee.symbol}")
    mapping: dict[Value, Value] = dict(zip(callee.args, call.operands, strict=True))
    builder = Builder.before(call)
    for op in callee.body.ops:
        if not op.has("terminator"):
            copy = op.clone(mapping)
            builder.add(copy, *[r.name for r in op.results])
    results = [mapping.get(v, v) for v in callee.body.terminator.operands]
    arguments = set(call.operands)
    for old, new in zip(call.results, results, strict=True):
        if new not in arguments:
            new.name, new.serial = old.name, old.serial
    call.replace_by(*results)
