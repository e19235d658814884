"""bufferize: tensors become memrefs, in place where alias analysis allows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import AliasAnalysis
from mdsl.dialects import func, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.ir.attributes import Attribute, IntegerAttr, StringAttr, UnitAttr
from mdsl.ir.core import BlockArgument, Builder, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.types import DYNAMIC, MemRefType, Type, i32
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.dispatch.bufferize.forward import forward_copies
from mdsl.passes.dispatch.bufferize.ops import Globals, OpBufferizer
from mdsl.passes.dispatch.bufferize.prepare import prepare
from mdsl.passes.dispatch.bufferize.storage import Storage, StorageMap, copy_all, is_tensor
from mdsl.rewriting import remarks


@dataclass(frozen=True)
class Bufferize(Pass):
    """Put tensors into memory: arguments become memrefs, results become output arguments.

    Destination passing, as in upstream's one-shot bufferization: an op writes into the memory of its
    destination if that may be written and nobody reads the old content later; otherwise into new memory,
    after a copy if it looks at the old content. Then copies out of buffers that serve nothing else are
    removed by computing in the copy's target (a result, a part of a concatenation, the inside of a border).

    Before:

        func.func @main(%x: f32) -> tensor<8xf32> {
          %init = tensor.empty() : tensor<8xf32>
          %y = linalg.fill ins(%x : f32) outs(%init : tensor<8xf32>) -> tensor<8xf32>
          func.return %y : tensor<8xf32>
        }

    After:

        func.func @main(%x: f32, %y: memref<8xf32> {mdsl.output}) {
          linalg.fill ins(%x : f32) outs(%y : memref<8xf32>)
          func.return
        }
    """

    name: ClassVar[str] = "bufferize"
    level: ClassVar[str | None] = "dispatch"
    leads_to: ClassVar[str | None] = "buffers"
    subject = "tensor"

    def run(self, module: ModuleOp, context: Context) -> None:
        if not any(_mentions_tensors(f) for f in module.body.ops if isinstance(f, FunctionLike)):
            return
        names = {f: f.result_names() for f in functions(module)}
        prepare(module)
        for function, known in names.items():
            function.keep_result_names(known)
        with rewriting(module, "bufferize"):  # a tensor that one function gives another is one in both
            _bufferize(module)


def _bufferize(module: ModuleOp) -> None:
    globals = Globals(module)
    for function in functions(module):
        if _mentions_tensors(function):
            _bufferize_function(function, module, globals)
    # Kernels come last: by now it is known how the memory that they are given is laid out.
    dispatches: defaultdict[str, list[ukernel.Dispatch]] = defaultdict(list)
    for op in module.walk():
        if isinstance(op, ukernel.Dispatch):
            dispatches[op.symbol].append(op)
    aliases = AliasAnalysis(module)
    for kernel in module.body.ops:
        if isinstance(kernel, ukernel.UkernelFunc) and _mentions_tensors(kernel):
            _bufferize_kernel(kernel, dispatches[kernel.symbol], aliases, globals)


def _mentions_tensors(function: FunctionLike) -> bool:
    values = [v for op in function.walk() for v in (*op.operands, *op.results)]
    return any(is_tensor(v) for v in (*function.args, *values))


def _bufferize_function(function: func.FuncOp, module: ModuleOp, globals: Globals) -> None:
    """Inputs are only read but for those that are donated; each returned tensor is copied to an output, which is what a
    donated input lies in (`forward_copies` removes most copies)."""
    map = StorageMap(function, AliasAnalysis(module))
    ops = OpBufferizer(map, module, globals)
    donated = function.donations()
    names = function.result_names()
    old = _replace_arguments(
        function, [MemRefType.dense(a.type) if is_tensor(a) else a.type for a in function.args], map, donated
    )
    inputs = list(function.body.args)
    ops.block(function.body)
    end = function.body.terminator
    given = function.arg_attributes()
    lying = {result: number for number, result in donated.items()}
    attributes = [a for number, a in enumerate(given) if number not in donated]
    function.body.args = [a for number, a in enumerate(inputs) if number not in donated]
    pairs: list[tuple[Value, Value]] = []
    for number, (value, name) in enumerate(zip(end.operands, names, strict=True)):
        if not is_tensor(value):
            continue
        marks: dict[str, Attribute] = {func.OUTPUT: UnitAttr()}
        if number in lying:
            out = inputs[lying[number]]
            function.body.args.append(out)
            marks |= {k: v for k, v in given[lying[number]].items() if k != func.DONATED}
            marks |= {func.INPUT: IntegerAttr(lying[number], i32)}
            if name != out.name:
                marks[func.RESULT] = StringAttr(name)
        else:
            out = function.body.add_arg(MemRefType.dense(value.type), name)
            out.serial = value.serial
        attributes.append(marks)
        if value in map.memory:
            pairs.append((map.memory[value], out))
    for number, argument in enumerate(function.body.args):
        argument.index = number
    copy_all(pairs, map, Builder.before(end))
    kept = [
        (v, a) for v, a in zip(end.operands, function.result_attributes(), strict=True) if not is_tensor(v)
    ]
    end.operands = [v for v, _ in kept]
    _finish(function, ops, old)
    function.set_arg_attributes(attributes)
    function.set_result_attributes([a for _, a in kept])


def _replace_arguments(
    function: FunctionLike, types: Sequence[Type], map: StorageMap, writable: Container[int]
) -> list[BlockArgument]:
    """Gives the function arguments of `types`, those at `writable` so; returns the old ones, still in use."""
    body = function.body
    old, body.args = body.args, []
    for i, (argument, type) in enumerate(zip(old, types, strict=True)):
        new = body.add_arg(type, argument.name)
        new.serial = argument.serial
        if is_tensor(argument):
            map.bind(argument, new, Storage(i in writable))
        else:
            argument.replace_by(new)
    return old


def _finish(function: FunctionLike, ops: OpBufferizer, old: Sequence[BlockArgument]) -> None:
    ops.finish()
    assert not any(a.users for a in old), "a tensor is still in use"
    function.update_type()
    forward_copies(function, ops.map.aliases)


# Kernels ------------------------------------------------------------------------------------------------------


def _bufferize_kernel(
    kernel: ukernel.UkernelFunc,
    dispatches: Sequence[ukernel.Dispatch],
    aliases: AliasAnalysis,
    globals: Globals,
) -> None:
    """One kernel for each layout of arguments that it is dispatched with."""
    layouts: dict[tuple[Type, ...], list[ukernel.Dispatch]] = {}
    for op in dispatches:
        for call in op.calls():
            layouts.setdefault(tuple(_layout(v.type) for v in call), []).append(op)
    variants = [kernel, *(kernel.clone() for _ in list(layouts)[1:])]
    found = zip(variants, layouts.items() or [(_dense_layout(kernel), [])], strict=True)
    for number, (variant, (layout, users)) in enumerate(found):
        if variant is not kernel:
            _add_variant(variant, variants[number - 1], kernel.symbol, globals.module, users, aliases)
        _bufferize_variant(variant, _formal_types(layout, users), aliases, globals)


def _layout(type: Type) -> Type:
    """A memref's type without its offset, which a kernel does not see."""
    return MemRefType(type.shape, type.element, type.layout, 0) if isinstance(type, MemRefType) else type


def _dense_layout(kernel: ukernel.UkernelFunc) -> tuple[Type, ...]:
    return tuple(MemRefType.dense(a.type) if is_tensor(a) else a.type for a in kernel.args)


def _formal_types(layout: Sequence[Type], users: Sequence[ukernel.Dispatch]) -> list[Type]:
    """The layout with an unknown offset for each argument that a dispatch gives one."""
    types: list[Type] = []
    for i, type in enumerate(layout):
        actual = [call[i].type for op in users for call in op.calls()]
        if isinstance(type, MemRefType) and any(isinstance(a, MemRefType) and a.offset != 0 for a in actual):
            type = MemRefType(type.shape, type.element, type.layout, DYNAMIC)
        types.append(type)
    return types


def _add_variant(
    variant: ukernel.UkernelFunc,
    last: ukernel.UkernelFunc,
    base: str,
    module: ModuleOp,
    users: Sequence[ukernel.Dispatch],
    aliases: AliasAnalysis,
) -> None:
    """Names `variant` after the kernel `base`, behind its `last` variant, and has `users` call it."""
    name = module.fresh_symbol(base)
    variant.attributes["sym_name"] = StringAttr(name)
    module.body.insert(variant, last.next)
    for op in dict.fromkeys(users):
        remarks.applied(op, f"calls @{name}: that is @{base} for memory of other strides", kernel=name)
        aliases.retarget(op, name)


def _bufferize_variant(
    kernel: ukernel.UkernelFunc, types: Sequence[Type], aliases: AliasAnalysis, globals: Globals
) -> None:
    """The last arguments are destinations; what the kernel returned must lie there at its end."""
    map = StorageMap(kernel, aliases)
    ops = OpBufferizer(map, globals.module, globals)
    end = kernel.body.terminator
    returned = [v for v in end.operands if is_tensor(v)]
    count = len(kernel.args)
    old = _replace_arguments(kernel, types, map, range(count - len(returned), count))
    ops.block(kernel.body)
    destinations = kernel.args[len(kernel.args) - len(returned) :]
    pairs = [(map.memory[v], d) for v, d in zip(returned, destinations, strict=True) if v in map.memory]
    copy_all(pairs, map, Builder.before(end))
    end.operands = [v for v in end.operands if not is_tensor(v)]
    _finish(kernel, ops, old)
