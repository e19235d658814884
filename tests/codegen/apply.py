"""Runs one op of `mdsl.arithmetic.ops` over NumPy arrays, through native code."""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir

from mdsl.arithmetic.lanes import I64
from mdsl.arithmetic.ops import OPS, emit, llvm_type, memory_type
from mdsl.codegen.native import compile_module

_POINTER = ir.PointerType()


def element_of(array: np.ndarray) -> str:
    names = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "bool": "i1"}
    return names.get(array.dtype.name) or array.dtype.name.replace("int", "i")


def apply(op: str, *arrays: np.ndarray, result: str, lanes: int | None = None) -> np.ndarray:
    """`op` on each element; `lanes` at a time (the arrays' length must be a multiple) or as scalars."""
    elements = [element_of(array) for array in arrays]
    code = compile_module(_loop(op, elements, result, lanes), ["run"])
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (len(arrays) + 1))(
        code.address("run")
    )
    import ml_dtypes

    dtypes = {"f64": "f8", "f32": "f4", "f16": "f2", "bf16": ml_dtypes.bfloat16, "i1": "?", "index": "i8"}
    dtype = np.dtype(dtypes.get(result) or result.replace("i", "int"))
    output = np.zeros(arrays[0].shape, dtype)
    assert arrays[0].size % (lanes or 1) == 0
    function(arrays[0].size // (lanes or 1), *[array.ctypes.data for array in arrays], output.ctypes.data)
    return output


def _loop(op: str, elements: list[str], result: str, lanes: int | None) -> str:
    module = ir.Module()
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [I64] + [_POINTER] * (len(elements) + 1)), "run"
    )
    count, *pointers = function.args
    entry, body, end = (function.append_basic_block(name) for name in ("entry", "body", "end"))
    builder = ir.IRBuilder(entry)
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(I64)
    index.add_incoming(I64(0), entry)
    values = [
        _load(builder, pointer, index, element, lanes)
        for pointer, element in zip(pointers[:-1], elements, strict=True)
    ]
    value = emit(op, builder, values, elements[-1] if OPS[op].kind == "select" else elements[0], result)
    if result == "i1":
        value = builder.zext(value, _shape(memory_type("i1"), lanes))
    target = builder.gep(pointers[-1], [index], source_etype=_shape(memory_type(result), lanes))
    builder.store(value, target, align=1)
    following = builder.add(index, I64(1))
    index.add_incoming(following, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, end)
    ir.IRBuilder(end).ret_void()
    return str(module)


def _shape(scalar: ir.Type, lanes: int | None) -> ir.Type:
    return scalar if lanes is None else ir.VectorType(scalar, lanes)


def _load(
    builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value, element: str, lanes: int | None
) -> ir.Value:
    stored = _shape(memory_type(element), lanes)
    address = builder.gep(pointer, [index], source_etype=stored)
    value = builder.load(address, align=1, typ=stored)
    return builder.trunc(value, llvm_type(element, lanes)) if element == "i1" else value
