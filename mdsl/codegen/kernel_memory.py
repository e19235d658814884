"""The ops of a micro-kernel that touch memory or take vectors apart, as LLVM IR."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from mdsl.arithmetic import ops as arithmetic
from mdsl.arithmetic.lanes import I1, I8, I32, I64, LLVMValue, constant, declare, shaped
from mdsl.codegen.emitter import Handler, KernelEmitter, value_type
from mdsl.dialects.memref import SubView
from mdsl.dialects.vector import Extract, Insert, Reduction
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import VectorType, element_of
from mdsl.target.target import ELEMENT_BYTES

_POINTER = ir.PointerType()
_LINE_BYTES = 64


# -- addresses ------------------------------------------------------------------------------------


def _offset_pointer(
    emitter: KernelEmitter, memory: Value, indices: Sequence[Value | int], strides: Sequence[int]
) -> LLVMValue:
    """The pointer moved by sum(index * stride) elements. What is constant is added last, so that it
    becomes the displacement of an address whose variable part is shared."""
    variable: LLVMValue | None = None
    fixed = 0
    for index, stride in zip(indices, strides, strict=True):
        number = _known(emitter, index)
        if number is not None:
            fixed += number * stride
            continue
        assert isinstance(index, Value)
        term = emitter[index] if stride == 1 else emitter.once(_times, emitter[index], stride)
        variable = term if variable is None else emitter.once(_sum, variable, term)
    pointer = emitter[memory]
    element = str(memref_of(memory).element)
    if variable is not None:
        pointer = emitter.once(_moved, pointer, variable, element)
    return emitter.once(_moved_by, pointer, fixed, element) if fixed else pointer


def _times(builder: ir.IRBuilder, index: LLVMValue, stride: int) -> LLVMValue:
    return builder.mul(index, I64(stride))


def _sum(builder: ir.IRBuilder, one: LLVMValue, other: LLVMValue) -> LLVMValue:
    return builder.add(one, other)


def _moved(builder: ir.IRBuilder, pointer: LLVMValue, offset: LLVMValue, element: str) -> LLVMValue:
    return builder.gep(pointer, [offset], source_etype=arithmetic.memory_type(element))


def _moved_by(builder: ir.IRBuilder, pointer: LLVMValue, offset: int, element: str) -> LLVMValue:
    return _moved(builder, pointer, I64(offset), element)


def _known(emitter: KernelEmitter, index: Value | int) -> int | None:
    if isinstance(index, int):
        return index
    value = emitter[index]
    return int(value.constant) if isinstance(value, ir.Constant) else None


def _address(emitter: KernelEmitter, memory: Value, indices: Sequence[Value]) -> LLVMValue:
    return _offset_pointer(emitter, memory, indices, memref_of(memory).layout)


# -- memref ---------------------------------------------------------------------------------------


def _load(emitter: KernelEmitter, op: Op) -> LLVMValue:
    """memref.load and vector.load: alike, for memory promises no more alignment than its elements'.
    An i1 is a byte in memory, true unless it is 0."""
    memory, *indices = op.operands
    element = str(memref_of(memory).element)
    stored = shaped(arithmetic.memory_type(element), value_type(op.result.type))
    address = _address(emitter, memory, indices)
    loaded = emitter.builder.load(address, typ=stored, align=ELEMENT_BYTES[element])
    if element == "i1":
        return emitter.builder.icmp_unsigned("!=", loaded, constant(stored, 0))
    return loaded


def _store(emitter: KernelEmitter, op: Op) -> None:
    """memref.store and vector.store."""
    source, memory, *indices = op.operands
    element = str(memref_of(memory).element)
    value = emitter[source]
    if element == "i1":
        value = emitter.builder.zext(value, shaped(I8, value.type))
    emitter.builder.store(value, _address(emitter, memory, indices), align=ELEMENT_BYTES[element])


def _prefetch(emitter: KernelEmitter, op: Op) -> None:
    """memref.prefetch: the processor ignores an address that leads nowhere."""
    memory, *indices = op.operands
    pointer = _address(emitter, memory, indices)
    signature = ir.FunctionType(ir.VoidType(), [_POINTER, I32, I32, I32])
    hint = declare(emitter.builder.module, "llvm.prefetch.p0", signature)
    numbers = (int(op.attr("isWrite")), op.attr("localityHint"), int(op.attr("isDataCache")))
    emitter.builder.call(hint, [pointer, *(I32(n) for n in numbers)])


def _alloca(emitter: KernelEmitter, op: Op) -> LLVMValue:
    """Memory of the kernel's frame, zero when the kernel begins: what is read before it is written must be
    a definite value, or an index made of it would escape the proof of its bounds."""
    memory = memref_of(op.result)
    with emitter.builder.goto_entry_block():
        builder = emitter.builder
        pointer: LLVMValue = builder.alloca(
            ir.ArrayType(arithmetic.memory_type(str(memory.element)), memory.size)
        )
        pointer.type = _POINTER  # llvmlite still thinks that pointers are typed
        pointer.align = _LINE_BYTES if memory.nbytes >= _LINE_BYTES else ELEMENT_BYTES[str(memory.element)]
        signature = ir.FunctionType(ir.VoidType(), [_POINTER, I8, I64, I1])
        memset = declare(builder.module, "llvm.memset.p0.i64", signature)
        builder.call(memset, [pointer, I8(0), I64(memory.nbytes), I1(0)])
    return pointer


def _subview(emitter: KernelEmitter, op: Op) -> LLVMValue:
    assert isinstance(op, SubView)
    source = op.operands[0]
    return _offset_pointer(emitter, source, op.mixed("offsets"), memref_of(source).layout)


def _same_pointer(emitter: KernelEmitter, op: Op) -> LLVMValue:
    return emitter[op.operands[0]]


def _view(emitter: KernelEmitter, op: Op) -> LLVMValue:
    source, shift = op.operands[:2]
    return _offset_pointer(emitter, source, [shift], [1])


# -- vector ---------------------------------------------------------------------------------------


def _broadcast(emitter: KernelEmitter, op: Op) -> LLVMValue:
    builder, target = emitter.builder, value_type(op.result.type)
    undefined = ir.Constant(target, ir.Undefined)
    first = builder.insert_element(undefined, emitter[op.operands[0]], I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(shaped(I32, target), [0] * target.count))


def _fma(emitter: KernelEmitter, op: Op) -> LLVMValue:
    operands = [emitter[value] for value in op.operands]
    return emitter.combine("math.fma", str(element_of(op.result.type)), *operands)


def _extract(emitter: KernelEmitter, op: Op) -> LLVMValue:
    assert isinstance(op, Extract)
    return emitter.builder.extract_element(emitter[op.operands[0]], I32(op.position))


def _insert(emitter: KernelEmitter, op: Op) -> LLVMValue:
    assert isinstance(op, Insert)
    value, target = (emitter[operand] for operand in op.operands)
    return emitter.builder.insert_element(target, value, I32(op.position))


def _shuffle(emitter: KernelEmitter, op: Op) -> LLVMValue:
    """LLVM wants operands of one length: the shorter is filled up, and what counts through both moves along."""
    first, second = (emitter[value] for value in op.operands)
    length, longest = first.type.count, max(first.type.count, second.type.count)
    mask = [n if n < length else n - length + longest for n in op.attr("mask")]
    first, second = (_part(emitter.builder, v, 0, longest) for v in (first, second))
    return emitter.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(mask)), mask))


def _step(emitter: KernelEmitter, op: Op) -> LLVMValue:
    vector = op.result.type
    assert isinstance(vector, VectorType)
    return ir.Constant(value_type(vector), list(range(vector.size)))


def _reduction(emitter: KernelEmitter, op: Op) -> LLVMValue:
    """Halves combined until one element is left: a tree, whose float sum differs from the one in order by
    rounding only, and whose depth is the logarithm of the length."""
    assert isinstance(op, Reduction)
    vector, *accumulator = (emitter[operand] for operand in op.operands)
    element = str(element_of(op.result.type))
    name = _combining_op(op.word, element)
    builder = emitter.builder
    count: int = vector.type.count
    rest: list[LLVMValue] = [*accumulator]
    while count > 1:
        half = count // 2
        if count % 2:
            rest.append(builder.extract_element(vector, I32(count - 1)))
        low, high = (_part(builder, vector, start, half) for start in (0, half))
        vector, count = emitter.combine(name, element, low, high), half
    result = builder.extract_element(vector, I32(0))
    for value in rest:
        result = emitter.combine(name, element, result, value)
    return result


def _combining_op(kind: str, element: str) -> str:
    """The arith op that combines two elements by a reduction's kind."""
    if kind in ("add", "mul"):
        return f"arith.{kind}{'f' if 'f' in element else 'i'}"
    return f"arith.{kind}i" if kind in ("and", "or", "xor") else f"arith.{kind}"


def _part(builder: ir.IRBuilder, vector: LLVMValue, start: int, count: int) -> LLVMValue:
    """So many elements from `start` on; those beyond the vector's end are undefined."""
    if (start, count) == (0, vector.type.count):
        return vector
    mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


MEMORY_HANDLERS: dict[str, Handler] = {
    "memref.load": _load,
    "memref.store": _store,
    "memref.prefetch": _prefetch,
    "memref.alloc": _alloca,
    "memref.alloca": _alloca,
    "memref.subview": _subview,
    "memref.cast": _same_pointer,
    "memref.collapse_shape": _same_pointer,
    "memref.expand_shape": _same_pointer,
    "memref.view": _view,
    "vector.load": _load,
    "vector.store": _store,
    "vector.broadcast": _broadcast,
    "vector.fma": _fma,
    "vector.reduction": _reduction,
    "vector.extract": _extract,
    "vector.insert": _insert,
    "vector.shuffle": _shuffle,
    "vector.step": _step,
}
