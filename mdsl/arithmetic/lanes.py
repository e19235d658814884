"""LLVM values, scalars or vectors, with Python's operators, so that formulas read as formulas."""

from __future__ import annotations

import math
import struct
from typing import Any, TypeAlias

from llvmlite import ir
from llvmlite.ir.values import FormattedConstant

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I1, I8, I16, I32, I64 = (ir.IntType(width) for width in (1, 8, 16, 32, 64))

_FLOATS = {F16: 16, F32: 32, F64: 64}

LLVMType: TypeAlias = Any
LLVMValue: TypeAlias = Any
"""llvmlite declares neither the attributes of its types nor those of its values."""

Operand: TypeAlias = "Lanes | float"


class Splat(ir.Constant):  # pyright: ignore[reportUntypedBaseClass]
    """A vector constant whose lanes are all equal, in LLVM's short notation."""

    def __init__(self, vector_type: ir.VectorType, value: float) -> None:
        self.type = vector_type
        element = vector_type.element
        self.constant = f"splat ({element} {lane_constant(element, value).get_reference()})"

    def _get_reference(self) -> str:
        return self.constant


def constant(value_type: LLVMType, value: float) -> ir.Constant:
    """`value` as a scalar, or in every lane of a vector."""
    if isinstance(value_type, ir.VectorType):
        return Splat(value_type, value)
    return lane_constant(value_type, value)


def lane_constant(element: LLVMType, value: float) -> ir.Constant:
    """`value` as a scalar; a NaN, of which llvmlite would make a quiet one, as the bits of the double that it is."""
    if value == value:
        return ir.Constant(element, value)
    return FormattedConstant(element, f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}")


def shaped(element: LLVMType, like: LLVMType) -> LLVMType:
    """`element`, or the vector of it that has as many lanes as `like`."""
    return ir.VectorType(element, like.count) if isinstance(like, ir.VectorType) else element


def scalar_of(value_type: LLVMType) -> LLVMType:
    """The type of one lane."""
    return value_type.element if isinstance(value_type, ir.VectorType) else value_type


class Lanes:
    """One LLVM value and the builder that extends its formula; a scalar counts as one lane."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: LLVMValue) -> None:
        self.builder = builder
        self.value = value

    @property
    def type(self) -> LLVMType:
        return self.value.type

    @property
    def element(self) -> LLVMType:
        """The type of one lane."""
        return scalar_of(self.value.type)

    @property
    def is_float(self) -> bool:
        return self.element in _FLOATS

    @property
    def width(self) -> int:
        """Bits a lane."""
        element = self.element
        return element.width if isinstance(element, ir.IntType) else _FLOATS[element]

    def of(self, other: Operand) -> Lanes:
        """`other` as a value of this type: itself, or a constant in every lane."""
        return other if isinstance(other, Lanes) else Lanes(self.builder, constant(self.type, other))

    def _binary(self, float_op: str, int_op: str, other: Operand) -> Lanes:
        method = getattr(self.builder, float_op if self.is_float else int_op)
        return Lanes(self.builder, method(self.value, self.of(other).value))

    def __add__(self, other: Operand) -> Lanes:
        return self._binary("fadd", "add", other)

    def __sub__(self, other: Operand) -> Lanes:
        return self._binary("fsub", "sub", other)

    def __rsub__(self, other: float) -> Lanes:
        return self.of(other) - self

    def __mul__(self, other: Operand) -> Lanes:
        return self._binary("fmul", "mul", other)

    def __truediv__(self, other: Operand) -> Lanes:
        return self._binary("fdiv", "sdiv", other)

    def __rtruediv__(self, other: float) -> Lanes:
        return self.of(other) / self

    def __and__(self, other: Operand) -> Lanes:
        return self._binary("", "and_", other)

    def __or__(self, other: Operand) -> Lanes:
        return self._binary("", "or_", other)

    def __xor__(self, other: Operand) -> Lanes:
        return self._binary("", "xor", other)

    def __invert__(self) -> Lanes:
        return self ^ (1 if self.width == 1 else -1)

    def __lshift__(self, other: Operand) -> Lanes:
        return self._binary("", "shl", other)

    def __rshift__(self, other: Operand) -> Lanes:
        """Logical shift right."""
        return self._binary("", "lshr", other)

    def arithmetic_shift(self, other: Operand) -> Lanes:
        """Shift right that copies the sign."""
        return self._binary("", "ashr", other)

    def __neg__(self) -> Lanes:
        if self.is_float:
            negated: LLVMValue = self.builder.fneg(self.value)
            return Lanes(self.builder, negated)
        return self.of(0) - self

    def compare(self, predicate: str, other: Operand) -> Lanes:
        """The i1 lanes of LLVM's fcmp or icmp `predicate` ("olt", "uno", "slt", ...)."""
        kind = ir.instructions.FCMPInstr if self.is_float else ir.instructions.ICMPInstr
        instruction = kind(self.builder.block, predicate, self.value, self.of(other).value)
        self.builder._insert(instruction)
        return Lanes(self.builder, instruction)

    def __lt__(self, other: Operand) -> Lanes:
        return self.compare("olt" if self.is_float else "slt", other)

    def __gt__(self, other: Operand) -> Lanes:
        return self.compare("ogt" if self.is_float else "sgt", other)

    def equals(self, other: Operand) -> Lanes:
        return self.compare("oeq" if self.is_float else "eq", other)

    def is_nan(self) -> Lanes:
        return self.compare("uno", self)

    def choose(self, if_true: Lanes, if_false: Lanes) -> Lanes:
        """`if_true` in the lanes where this i1 is set, `if_false` elsewhere."""
        return Lanes(self.builder, self.builder.select(self.value, if_true.value, if_false.value))

    def where(self, condition: Lanes, replacement: Operand) -> Lanes:
        """This value with `replacement` in the lanes where `condition` holds."""
        return condition.choose(self.of(replacement), self)

    def clamp(self, low: float, high: float) -> Lanes:
        """Limited to [low, high]; NaN stays NaN."""
        above = self.where(self < low, low)
        return above.where(above > high, high)

    def cast(self, operation: str, element: LLVMType) -> Lanes:
        """LLVM's cast `operation` ("fpext", "sitofp", "zext", ...) of every lane to `element`."""
        target = shaped(element, self.type)
        if target == self.type:
            return self
        return Lanes(self.builder, getattr(self.builder, operation)(self.value, target))

    def bits(self, element: LLVMType) -> Lanes:
        """The same bits of each lane as another type of the same width."""
        return self.cast("bitcast", element)

    def call(self, name: str, *others: Lanes, result: LLVMType | None = None) -> Lanes:
        """The LLVM intrinsic `llvm.<name>` on this value and `others`; `result` is its lanes' type when it
        is another and the intrinsic is overloaded on it (conversions)."""
        arguments = [self.value, *(other.value for other in others)]
        returned = self.type if result is None else shaped(result, self.type)
        mangled = [self.type] if result is None else [returned, self.type]
        symbol = ".".join(["llvm", name, *map(mangle, mangled)])
        signature = ir.FunctionType(returned, [argument.type for argument in arguments])
        function = declare(self.builder.module, symbol, signature)
        return Lanes(self.builder, self.builder.call(function, arguments))

    def fused(self, factor: Operand, addend: Operand) -> Lanes:
        """self * factor + addend, in one rounding when the machine has such an instruction."""
        return self.call("fmuladd", self.of(factor), self.of(addend))

    def polynomial(self, *coefficients: float) -> Lanes:
        """sum(coefficients[i] * self**i), by Horner's rule."""
        result = self.of(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = result.fused(self, coefficient)
        return result

    def absolute(self) -> Lanes:
        return self.call("fabs")

    def with_sign_of(self, other: Lanes) -> Lanes:
        return self.call("copysign", other)

    def each_lane(self, symbol: str, *others: Lanes) -> Lanes:
        """The C library's function `symbol`, lane by lane."""
        element = self.element
        signature = ir.FunctionType(element, [element] * (1 + len(others)))
        function = declare(self.builder.module, symbol, signature)
        function.attributes.add("nounwind")
        operands = [self.value, *(other.value for other in others)]
        if not isinstance(self.type, ir.VectorType):
            return Lanes(self.builder, self.builder.call(function, operands))
        result: LLVMValue = ir.Constant(self.type, ir.Undefined)
        for lane in range(self.type.count):
            index = I32(lane)
            scalars = [self.builder.extract_element(operand, index) for operand in operands]
            result = self.builder.insert_element(result, self.builder.call(function, scalars), index)
        return Lanes(self.builder, result)


INFINITY, NAN = math.inf, math.nan


def mangle(value_type: LLVMType) -> str:
    """A type's part of an overloaded intrinsic's name: f32, v16f32, i64."""
    if isinstance(value_type, ir.VectorType):
        return f"v{value_type.count}{value_type.element.intrinsic_name}"
    return value_type.intrinsic_name


def declare(module: ir.Module, symbol: str, signature: ir.FunctionType) -> ir.Function:
    """The module's declaration of an external function, made at its first use."""
    known = module.globals.get(symbol)
    return known if isinstance(known, ir.Function) else ir.Function(module, signature, symbol)
