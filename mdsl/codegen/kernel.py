"""A micro-kernel's IR to LLVM IR: functions, control flow and arithmetic; memory is in `kernel_memory`.

A kernel is an LLVM function `void name(i64* args)`: one 64-bit slot an argument, which holds a pointer to
the first element for a memref (its offset applied) and the value itself for an index or an integer.
Vectors become LLVM vectors, flattened when they have several dimensions; loop-carried values are phis, so
that accumulators stay in registers over a whole reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from mdsl.arithmetic import ops as arithmetic
from mdsl.arithmetic.lanes import I64, LLVMType, LLVMValue, Splat, lane_constant
from mdsl.arithmetic.lanes import constant as constant_lanes
from mdsl.dialects.arith import Compare
from mdsl.ir.affine import Arithmetic
from mdsl.ir.attributes import Attribute, DenseAttr, DenseResourceAttr, FloatAttr, IntegerAttr, is_splat
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.floats import bits_of, to_numpy, to_python
from mdsl.ir.types import SCALARS, MemRefType, Type, VectorType, bf16, dtype_of, element_of

if TYPE_CHECKING:
    from mdsl.dialects.ukernel import UkernelFunc

_POINTER = ir.PointerType()
_VOID = ir.VoidType()

NOALIAS = "llvm.noalias"
"""The argument attribute (upstream's) by which a kernel promises that nothing else overlaps a memref."""


def emit_kernel(func: UkernelFunc, module: ir.Module, name: str) -> ir.Function:
    """Add kernel `func` to `module` under the symbol `name`, with the ABI above.

    Raises VerifyError at an op that has no machine code: the kernel must be lowered as far as scf, arith,
    math, vector and memref.
    """
    if func.type.results:
        raise func.error("returns tensors; bufferize it before it is compiled")
    body = _emit_body(func, module, f"{name}.body")
    entry = ir.Function(module, ir.FunctionType(_VOID, [_POINTER]), name)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    slots = []
    for position, argument in enumerate(body.args):
        slot = builder.gep(entry.args[0], [I64(position)], source_etype=I64)
        slots.append(_load_slot(builder, slot, argument.type))
    builder.call(body, slots)
    builder.ret_void()
    return entry


def to_llvm_ir(func: UkernelFunc, name: str | None = None) -> str:
    """The LLVM IR of one kernel as a module of its own, before optimisation."""
    module = ir.Module(name="kernel")
    emit_kernel(func, module, name or func.symbol)
    return str(module)


def _load_slot(builder: ir.IRBuilder, slot: LLVMValue, value_type: LLVMType) -> LLVMValue:
    """The low bytes of a 64-bit slot as a value. (A float argument's bits lie there too.)"""
    if isinstance(value_type, ir.PointerType) or value_type == I64:
        return builder.load(slot, typ=value_type, align=8)
    if isinstance(value_type, ir.IntType):
        return builder.trunc(builder.load(slot, typ=I64, align=8), value_type)
    return builder.load(slot, typ=value_type, align=8)


def _emit_body(func: UkernelFunc, module: ir.Module, name: str) -> ir.Function:
    """The kernel as a function with typed arguments, inlined into its entry: so `noalias` can be said."""
    types = [value_type(argument.type) for argument in func.args]
    function = ir.Function(module, ir.FunctionType(_VOID, types), name)
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    emitter = KernelEmitter(function)
    attributes = func.arg_attributes()
    for argument, source, attrs in zip(function.args, func.args, attributes, strict=True):
        argument.name = source.name or "arg"
        if NOALIAS in attrs:
            argument.add_attribute("noalias")
        emitter.values[source] = argument
    emitter.block(func.body)
    return function


def value_type(source: Type) -> LLVMType:
    """The LLVM type of a value in a kernel."""
    if isinstance(source, MemRefType):
        return _POINTER
    element = str(element_of(source))
    return arithmetic.llvm_type(element, source.size if isinstance(source, VectorType) else None)


class KernelEmitter:
    """Emits the ops of one kernel into an LLVM function; `values` maps what has been emitted."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.values: dict[Value, LLVMValue] = {}
        self.deferred: dict[Value, Op] = {}

    def __getitem__(self, value: Value) -> LLVMValue:
        """What has been emitted for `value`; a deferred op is emitted now."""
        op = self.deferred.pop(value, None)
        if op is not None:
            self.operation(op)
        return self.values[value]

    def block(self, block: Block) -> list[LLVMValue]:
        """Emit a block's ops; returns the operands of its terminator.

        Broadcasts of loaded scalars wait for their first use, but not past an op that may write memory.
        LLVM keeps to the order that it is given: if all the broadcasts of a reduction's step stood before
        its FMAs, they would take the accumulators' registers.
        """
        for op in block.ops:
            if op.has("terminator"):
                if op.name == "ukernel.return":
                    self.builder.ret_void()
                results = [self[value] for value in op.operands]
                self.deferred.clear()  # what is left has no user
                return results
            if _is_deferrable(op):
                self.deferred[op.result] = op
                continue
            if not op.has("pure") and not op.has("reads"):
                for value in list(self.deferred):
                    self[value]
            self.operation(op)
        return []

    def operation(self, op: Op) -> None:
        """Emit one op that is not a terminator."""
        handler = handlers().get(op.name)
        if handler is None:
            raise op.error("has no machine code; a micro-kernel must be lowered before it is compiled")
        result = handler(self, op)
        if result is not None:
            self.values[op.result] = result

    def combine(self, op_name: str, element: str, *operands: LLVMValue) -> LLVMValue:
        """An arithmetic op whose operands and result have one element type."""
        return arithmetic.emit(op_name, self.builder, operands, element, element)


def _is_deferrable(op: Op) -> bool:
    """A broadcast, or a load that is only broadcast, used in its own block alone."""
    if op.name == "memref.load":
        return bool(op.result.users) and all(user.name == "vector.broadcast" for user in op.result.users)
    return op.name == "vector.broadcast" and all(user.block is op.block for user in op.result.users)


Handler = Callable[[KernelEmitter, Op], "LLVMValue | None"]


def handlers() -> dict[str, Handler]:
    """What emits each op, by its name. It returns the op's result; None if it has none or has set them."""
    if not _HANDLERS:
        from mdsl.codegen.kernel_memory import MEMORY_HANDLERS

        _HANDLERS.update(dict.fromkeys((name.split(":")[0] for name in arithmetic.OPS), _elementwise))
        _HANDLERS.update(_CONTROL_HANDLERS)
        _HANDLERS.update(MEMORY_HANDLERS)
    return _HANDLERS


_HANDLERS: dict[str, Handler] = {}


def _elementwise(emitter: KernelEmitter, op: Op) -> LLVMValue:
    name = f"{op.name}:{op.word}" if isinstance(op, Compare) else op.name
    chosen = op.operands[-1]  # of a select's operands, a value rather than the condition
    operands = [emitter[value] for value in op.operands]
    element, result = str(element_of(chosen.type)), str(element_of(op.result.type))
    return arithmetic.emit(name, emitter.builder, operands, element, result)


def _constant(emitter: KernelEmitter, op: Op) -> LLVMValue:
    return constant(op.attributes["value"], op.result.type, op)


def constant(attribute: Attribute, result: Type, op: Op) -> LLVMValue:
    """A number or dense data as an LLVM constant."""
    target = value_type(result)
    element = str(element_of(result))
    match attribute:
        case IntegerAttr() | FloatAttr():
            return constant_lanes(target, _number(attribute.value, element))
        case DenseAttr() | DenseResourceAttr():
            if is_splat(attribute.array):
                return Splat(target, _number(attribute.array.flat[0], element))
            numbers = [_number(value, element) for value in attribute.array.reshape(-1)]
            return ir.Constant(target, [lane_constant(target.element, number) for number in numbers])
    raise op.error(f"has no machine code for {attribute}")


def _number(value: float | np.generic, element: str) -> float:
    """A number as LLVM's constant of that element type takes it; bf16 as its bits."""
    if element == "bf16":
        return bits_of(value, dtype_of(bf16))
    return to_python(to_numpy(value, dtype_of(SCALARS[element]))) if element[0] == "f" else int(value)


def _for(emitter: KernelEmitter, op: Op) -> None:
    """A loop that tests at its end, entered only if it runs at all."""
    builder = emitter.builder
    lower, upper, step, *inits = (emitter[value] for value in op.operands)
    counter, *carried = op.body.args
    before, name = builder.block, counter.name or "loop"
    loop = emitter.function.append_basic_block(f"{name}.loop")
    after = emitter.function.append_basic_block(f"{name}.end")
    builder.cbranch(builder.icmp_signed("<", lower, upper), loop, after)

    builder.position_at_end(loop)
    phis = [
        builder.phi(init.type, argument.name or "") for argument, init in zip(carried, inits, strict=True)
    ]
    index = builder.phi(I64, name)
    emitter.values.update(zip(op.body.args, [index, *phis], strict=True))
    yielded = emitter.block(op.body)
    following = builder.add(index, step)
    latch = builder.block
    for phi, start, next_value in zip([index, *phis], [lower, *inits], [following, *yielded], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(next_value, latch)
    builder.cbranch(builder.icmp_signed("<", following, upper), loop, after)

    builder.position_at_end(after)
    _merge(emitter, op, [(inits, before), (yielded, latch)])


def _if(emitter: KernelEmitter, op: Op) -> None:
    builder = emitter.builder
    then, otherwise, after = (
        emitter.function.append_basic_block(name) for name in ("if.then", "if.else", "if.end")
    )
    builder.cbranch(emitter[op.operands[0]], then, otherwise)
    arms: list[tuple[list[LLVMValue], LLVMValue]] = []
    for start, region in zip((then, otherwise), op.regions, strict=True):
        builder.position_at_end(start)
        yielded = emitter.block(region.block)
        arms.append((yielded, builder.block))
        builder.branch(after)
    builder.position_at_end(after)
    _merge(emitter, op, arms)


def _merge(emitter: KernelEmitter, op: Op, ways: list[tuple[list[LLVMValue], LLVMValue]]) -> None:
    """The results of `op` as phis of what each way into the current block brings."""
    for number, result in enumerate(op.results):
        phi = emitter.builder.phi(value_type(result.type), result.name or "")
        for values, block in ways:
            phi.add_incoming(values[number], block)
        emitter.values[result] = phi


def _affine_apply(emitter: KernelEmitter, op: Op) -> LLVMValue:
    map = op.attr("map")
    index = Arithmetic.of_ops(I64, lambda name, a, b: emitter.combine(name, "index", a, b))
    (result,) = map.apply([emitter[value] for value in op.operands], index)
    return result


_CONTROL_HANDLERS: dict[str, Handler] = {
    "arith.constant": _constant,
    "affine.apply": _affine_apply,
    "scf.for": _for,
    "scf.if": _if,
}
