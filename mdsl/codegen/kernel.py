"""A micro-kernel's IR to LLVM IR: functions, control flow and arithmetic; memory is in `kernel_memory`.

A kernel is an LLVM function `void name(i64* args)`: one 64-bit slot an argument, which holds a pointer to
the first element for a memref (its offset applied) and the value itself for an index or an integer.
Vectors become LLVM vectors, flattened when they have several dimensions; loop-carried values are phis, so
that accumulators stay in registers over a whole reduction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from mdsl.arithmetic import ops as arithmetic
from mdsl.arithmetic.lanes import I64, LLVMType, LLVMValue, Splat, lane_constant
from mdsl.arithmetic.lanes import constant as constant_lanes
from mdsl.codegen.emitter import Handler, KernelEmitter, value_type
from mdsl.codegen.kernel_memory import MEMORY_HANDLERS
from mdsl.codegen.machine_form import machine_form
from mdsl.dialects.arith import Compare
from mdsl.ir.affine import Arithmetic
from mdsl.ir.attributes import Attribute, DenseAttr, DenseResourceAttr, FloatAttr, IntegerAttr, is_splat
from mdsl.ir.core import Op
from mdsl.ir.floats import bits_of, to_numpy, to_python
from mdsl.ir.types import SCALARS, Type, bf16, dtype_of, element_of
from mdsl.target.target import Target

if TYPE_CHECKING:
    from mdsl.dialects.ukernel import UkernelFunc

_POINTER = ir.PointerType()
_VOID = ir.VoidType()

NOALIAS = "llvm.noalias"
"""The argument attribute (upstream's) by which a kernel promises that nothing else overlaps a memref."""


def emit_kernel(func: UkernelFunc, module: ir.Module, name: str, fuelled: bool = False) -> ir.Function:
    """Add kernel `func` to `module` under the symbol `name`, with the ABI above. One that is `fuelled` has an
    argument more, where the fuel is (see `bytecode.machine`): a loop for which there is not enough is left out.

    Raises VerifyError at an op that has no machine code: the kernel must be lowered as far as scf, arith,
    math, vector and memref (`machine_form`).
    """
    if func.type.results:
        raise func.error("returns tensors; bufferize it before it is compiled")
    body = _emit_body(func, module, f"{name}.body", fuelled)
    entry = ir.Function(module, ir.FunctionType(_VOID, [_POINTER]), name)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    slots = []
    for position, argument in enumerate(body.args):
        slot = builder.gep(entry.args[0], [I64(position)], source_etype=I64)
        slots.append(_load_slot(builder, slot, argument.type))
    builder.call(body, slots)
    builder.ret_void()
    return entry


def to_llvm_ir(
    func: UkernelFunc, name: str | None = None, fuelled: bool = False, target: Target | None = None
) -> str:
    """The LLVM IR of one kernel as a module of its own, before optimisation; its vectors are those of `target`, by default
    the host."""
    module = ir.Module(name="kernel")
    form = machine_form(func, target or Target.host())
    emit_kernel(form, module, name or func.symbol, fuelled)
    text = str(module)
    _take_apart(module)
    if form is not func:
        form.erase()
    return text


def _take_apart(module: ir.Module) -> None:
    """Frees the module at once: its parts refer to each other, and the collector may be paused while many are made."""
    for function in module.functions:
        for block in function.blocks:
            for instruction in block.instructions:
                instruction.operands = []
                if isinstance(instruction, ir.PhiInstr):
                    instruction.incomings.clear()
            block.instructions.clear()
            block.terminator = None
        function.blocks.clear()
        function.args = ()
    module.globals.clear()


def _load_slot(builder: ir.IRBuilder, slot: LLVMValue, value_type: LLVMType) -> LLVMValue:
    """The low bytes of a 64-bit slot as a value. (A float argument's bits lie there too.)"""
    if isinstance(value_type, ir.PointerType) or value_type == I64:
        return builder.load(slot, typ=value_type, align=8)
    if isinstance(value_type, ir.IntType):
        return builder.trunc(builder.load(slot, typ=I64, align=8), value_type)
    return builder.load(slot, typ=value_type, align=8)


def _emit_body(func: UkernelFunc, module: ir.Module, name: str, fuelled: bool) -> ir.Function:
    """The kernel as a function with typed arguments, inlined into its entry: so `noalias` can be said."""
    types = [*(value_type(argument.type) for argument in func.args), *[_POINTER] * fuelled]
    function = ir.Function(module, ir.FunctionType(_VOID, types), name)
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    emitter = KernelEmitter(function, HANDLERS, function.args[-1] if fuelled else None)
    attributes = func.arg_attributes()
    for argument, source, attrs in zip(function.args[: len(func.args)], func.args, attributes, strict=True):
        argument.name = source.name or "arg"
        if NOALIAS in attrs:
            argument.add_attribute("noalias")
        emitter.values[source] = argument
    emitter.block(func.body)
    return function


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
    """A loop that tests at its end, entered only if it runs at all; where its bounds are numbers, that is known."""
    builder = emitter.builder
    lower, upper, step, *inits = (emitter[value] for value in op.operands)
    counter, *carried = op.body.args
    before, name = builder.block, counter.name or "loop"
    loop = emitter.function.append_basic_block(f"{name}.loop")
    after = emitter.function.append_basic_block(f"{name}.end")
    runs = emitter.fuel is None and _is_below(lower, upper)
    if runs:
        builder.branch(loop)
    else:
        entered = builder.icmp_signed("<", lower, upper)
        if emitter.fuel is not None:
            entered = builder.and_(
                entered, _spend(builder, emitter.fuel, entered, builder.sub(upper, lower), step)
            )
        builder.cbranch(entered, loop, after)

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
    if runs:
        emitter.values.update(zip(op.results, yielded, strict=True))
    else:
        _merge(emitter, op, [(inits, before), (yielded, latch)])


def _is_below(lower: LLVMValue, upper: LLVMValue) -> bool:
    """True if both are numbers, the first the less."""
    return (
        isinstance(lower, ir.Constant)
        and isinstance(upper, ir.Constant)
        and bool(lower.constant < upper.constant)
    )


def _spend(
    builder: ir.IRBuilder, fuel: LLVMValue, entered: LLVMValue, distance: LLVMValue, step: LLVMValue
) -> LLVMValue:
    """Takes a loop's trips from the fuel; whether there was enough."""
    trips = builder.add(builder.udiv(builder.sub(distance, I64(1)), step), I64(1))
    trips = builder.select(entered, trips, I64(0))
    left = builder.load(fuel, typ=I64, align=8)
    enough = builder.icmp_unsigned("<", trips, left)
    builder.store(builder.select(enough, builder.sub(left, trips), I64(0)), fuel, align=8)
    return enough


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

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys((name.split(":")[0] for name in arithmetic.OPS), _elementwise),
    **_CONTROL_HANDLERS,
    **MEMORY_HANDLERS,
}
"""What emits each op, by its name. It returns the op's result; None if it has none or has set them."""
