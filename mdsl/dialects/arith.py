"""arith: arithmetic on scalars, vectors and tensors, element by element. Upstream's names and meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdsl.dialects.casting import Cast, Narrowing, Widening
from mdsl.dialects.comparing import Compare
from mdsl.ir.attributes import Attribute, DenseAttr, FloatAttr, IntegerAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import (
    BITS_LIKE,
    BOOL_LIKE,
    COMMUTATIVE,
    CONSTANT,
    ELEMENTWISE,
    FIXED_INT_LIKE,
    FLOAT_LIKE,
    INT_LIKE,
    PURE,
    SAME_TYPE,
    Constraint,
    attr,
    define,
    operand,
    result,
    within,
)
from mdsl.ir.floats import to_numpy, to_python
from mdsl.ir.types import (
    FloatType,
    IndexType,
    IntegerType,
    ShapedType,
    Type,
    dtype_of,
    element_of,
    i1,
    i64,
    index,
    is_float,
)

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


class Constant(Op):
    """A number or dense data known at compile time."""

    name = "arith.constant"
    traits = PURE
    value = attr(CONSTANT)
    output = result()

    @staticmethod
    def of(value: float | bool | np.generic | np.ndarray, type: Type) -> Constant:
        """A scalar constant, or a splat for a shaped type, or dense data from an array."""
        return Constant(value=constant_attribute(value, type), results=[type])

    def infer(self) -> Sequence[Type]:
        return [type_of_constant(self.attributes["value"])]

    def verify_op(self) -> None:
        if type_of_constant(self.attributes["value"]) != self.result.type:
            raise self.error(f"value {self.attributes['value']} is not of type {self.result.type}")

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.attributes["value"]]

    def erase(self) -> None:
        """Lets go of the data as well: op and result refer to each other, so that an erased op lives until
        Python's collector comes by, and weights are large."""
        super().erase()
        self.attributes = {}

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        extra = cursor.attr_dict()
        value = cursor.attribute()
        if not CONSTANT.accepts(value):
            raise cursor.fail("a number or dense data before")
        return cls.from_parts([], [type_of_constant(value)], {**extra, "value": value})

    def print_custom(self, printer: Printer) -> None:
        printer.token(printer.dictionary(self, "value"))
        printer.token(str(self.attributes["value"]))


def type_of_constant(value: Attribute) -> Type:
    return value.type  # type: ignore[attr-defined, no-any-return]


def constant_attribute(value: float | bool | np.generic | np.ndarray, type: Type) -> Attribute:
    """`value` as an attribute of `type`: a number, a splat or dense data."""
    if isinstance(type, ShapedType):
        if isinstance(value, np.ndarray) and value.ndim:
            return DenseAttr(np.asarray(value, dtype_of(type.element)).reshape(type.shape), type)
        return DenseAttr.splat(value, type)  # type: ignore[arg-type]
    if isinstance(type, FloatType):
        return FloatAttr(to_python(to_numpy(value, dtype_of(type))), type)  # type: ignore[arg-type]
    if isinstance(type, IntegerType) and type.width == 1:
        return IntegerAttr(int(bool(value)), i1)
    assert isinstance(type, IntegerType | IndexType)
    return IntegerAttr(int(dtype_of(type).type(value)), type)


def constant_of(value: Value) -> int | float | None:
    """The number that a scalar value is known to be, else None."""
    owner = value.owner
    if isinstance(owner, Constant):
        found = owner.attributes["value"]
        if isinstance(found, IntegerAttr | FloatAttr):
            return found.value
    return None


def _is_number(value: Value, number: float) -> bool:
    """True if `value` is known to be `number`; 0.0 and -0.0 differ."""
    found = constant_of(value)
    return found is not None and found == number and math.copysign(1, found) == math.copysign(1, number)


class Binary(Op):
    """Base: two operands and a result of one type."""

    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$lhs `,` $rhs attr-dict `:` type($output)"
    neutral: int | float | None = None  # x op neutral = x

    def fold(self) -> Sequence[Value | Attribute] | None:
        if self.neutral is None:
            return None
        left, right = self.operands
        if _is_number(right, self.neutral):
            return [left]
        if "commutative" in self.traits and _is_number(left, self.neutral):
            return [right]
        return None


class FloatBinary(Binary):
    """Base of binary ops on floats."""

    lhs = operand(FLOAT_LIKE)
    rhs = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


class IntBinary(Binary):
    """Base of binary ops on integers."""

    lhs = operand(INT_LIKE)
    rhs = operand(INT_LIKE)
    output = result(INT_LIKE)


AddF = define(FloatBinary, "arith.addf", "lhs + rhs.", traits=COMMUTATIVE)
SubF = define(FloatBinary, "arith.subf", "lhs - rhs.", neutral=0.0)
MulF = define(FloatBinary, "arith.mulf", "lhs * rhs.", traits=COMMUTATIVE, neutral=1.0)
DivF = define(FloatBinary, "arith.divf", "lhs / rhs.", neutral=1.0)
RemF = define(FloatBinary, "arith.remf", "C's fmod.")
MaximumF = define(
    FloatBinary,
    "arith.maximumf",
    "The larger, +0.0 being larger than -0.0; NaN if either is NaN.",
    traits=COMMUTATIVE,
)
MinimumF = define(
    FloatBinary,
    "arith.minimumf",
    "The smaller, -0.0 being smaller than +0.0; NaN if either is NaN.",
    traits=COMMUTATIVE,
)
MaxNumF = define(
    FloatBinary,
    "arith.maxnumf",
    "The larger, +0.0 being larger than -0.0; a number if either is one.",
    traits=COMMUTATIVE,
)
MinNumF = define(
    FloatBinary,
    "arith.minnumf",
    "The smaller, -0.0 being smaller than +0.0; a number if either is one.",
    traits=COMMUTATIVE,
)
AddI = define(IntBinary, "arith.addi", "lhs + rhs, wrapping.", traits=COMMUTATIVE, neutral=0)
SubI = define(IntBinary, "arith.subi", "lhs - rhs, wrapping.", neutral=0)
MulI = define(IntBinary, "arith.muli", "lhs * rhs, wrapping.", traits=COMMUTATIVE, neutral=1)
DivSI = define(
    IntBinary, "arith.divsi", "Signed division, towards zero; 0 where the divisor is 0.", neutral=1
)
DivUI = define(IntBinary, "arith.divui", "Unsigned division; 0 where the divisor is 0.", neutral=1)
FloorDivSI = define(
    IntBinary, "arith.floordivsi", "Signed division, rounded down; 0 where the divisor is 0.", neutral=1
)
CeilDivSI = define(
    IntBinary, "arith.ceildivsi", "Signed division, rounded up; 0 where the divisor is 0.", neutral=1
)
CeilDivUI = define(
    IntBinary, "arith.ceildivui", "Unsigned division, rounded up; 0 where the divisor is 0.", neutral=1
)
RemSI = define(
    IntBinary, "arith.remsi", "Signed remainder, of the dividend's sign; 0 where the divisor is 0."
)
RemUI = define(IntBinary, "arith.remui", "Unsigned remainder; 0 where the divisor is 0.")
AndI = define(IntBinary, "arith.andi", "Bitwise and.", traits=COMMUTATIVE)
OrI = define(IntBinary, "arith.ori", "Bitwise or.", traits=COMMUTATIVE, neutral=0)
XOrI = define(IntBinary, "arith.xori", "Bitwise exclusive or.", traits=COMMUTATIVE, neutral=0)
ShLI = define(IntBinary, "arith.shli", "Shift left; 0 for a shift past the width.", neutral=0)
ShRSI = define(IntBinary, "arith.shrsi", "Shift right, filling with the sign.", neutral=0)
ShRUI = define(IntBinary, "arith.shrui", "Shift right, filling with zeros.", neutral=0)
MaxSI = define(IntBinary, "arith.maxsi", "The larger of two signed integers.", traits=COMMUTATIVE)
MinSI = define(IntBinary, "arith.minsi", "The smaller of two signed integers.", traits=COMMUTATIVE)
MaxUI = define(IntBinary, "arith.maxui", "The larger of two unsigned integers.", traits=COMMUTATIVE)
MinUI = define(IntBinary, "arith.minui", "The smaller of two unsigned integers.", traits=COMMUTATIVE)


class NegF(Op):
    """-operand."""

    name = "arith.negf"
    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$operand attr-dict `:` type($output)"
    operand = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


CMPF = (
    "false",
    "oeq",
    "ogt",
    "oge",
    "olt",
    "ole",
    "one",
    "ord",
    "ueq",
    "ugt",
    "uge",
    "ult",
    "ule",
    "une",
    "uno",
    "true",
)
CMPI = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")


class CmpF(Compare):
    """Compares floats: `o` predicates are false, `u` predicates true where either is NaN."""

    name = "arith.cmpf"
    predicates = CMPF
    predicate = attr(within(i64, 0, len(CMPF) - 1))
    lhs = operand(FLOAT_LIKE)
    rhs = operand(FLOAT_LIKE)
    output = result(BOOL_LIKE)


class CmpI(Compare):
    """Compares integers, signed (`s`) or unsigned (`u`)."""

    name = "arith.cmpi"
    predicates = CMPI
    predicate = attr(within(i64, 0, len(CMPI) - 1))
    lhs = operand(INT_LIKE)
    rhs = operand(INT_LIKE)
    output = result(BOOL_LIKE)


class Select(Op):
    """`true_value` where the condition holds, else `false_value`."""

    name = "arith.select"
    traits = PURE | ELEMENTWISE
    condition = operand(BOOL_LIKE)
    true_value = operand()
    false_value = operand()
    output = result()

    def infer(self) -> Sequence[Type]:
        return [self.operands[1].type]

    def verify_op(self) -> None:
        _, yes, no = self.operands
        if not yes.type == no.type == self.result.type:
            raise self.error(f"chooses between {yes.type} and {no.type}, result {self.result.type}")
        condition = self.operands[0].type
        if condition != i1 and (
            not isinstance(yes.type, ShapedType) or condition != type(yes.type)(yes.type.shape, i1)
        ):
            raise self.error(f"condition {condition} does not fit {yes.type}")

    def fold(self) -> Sequence[Value | Attribute] | None:
        condition = constant_of(self.operands[0])
        return None if condition is None else [self.operands[1 if condition else 2]]

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        operands = cursor.values()
        attributes = cursor.attr_dict()
        cursor.expect(":")
        start = cursor.at
        types = cursor.types()
        if len(operands) != 3 or len(types) not in (1, 2):
            raise cursor.parser.error("takes a condition and two values", cursor.anchor)
        if len(types) == 1:
            condition = operands[0].type if isinstance(operands[0].type, ShapedType) else i1
            types = [condition, *types]
        cursor.typed(operands, [types[0], types[1], types[1]], start)
        return cls.from_parts(operands, [types[1]], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.token(printer.values(self.operands))
        printer.token(printer.dictionary(self))
        condition = self.operands[0].type
        printer.token(f": {condition if isinstance(condition, ShapedType) else ''}".rstrip())
        if isinstance(condition, ShapedType):
            printer.token(",")
        printer.token(str(self.result.type))


def _cast(base: type[Cast], name: str, doc: str, source: Constraint, target: Constraint) -> type[Cast]:
    return define(base, name, doc, input=operand(source), output=result(target))


ExtF = _cast(Widening, "arith.extf", "To a wider float type.", FLOAT_LIKE, FLOAT_LIKE)
TruncF = _cast(
    Narrowing, "arith.truncf", "To a narrower float type, rounding to nearest even.", FLOAT_LIKE, FLOAT_LIKE
)
ExtSI = _cast(
    Widening, "arith.extsi", "To a wider integer, repeating the sign.", FIXED_INT_LIKE, FIXED_INT_LIKE
)
ExtUI = _cast(
    Widening, "arith.extui", "To a wider integer, filling with zeros.", FIXED_INT_LIKE, FIXED_INT_LIKE
)
TruncI = _cast(
    Narrowing, "arith.trunci", "To a narrower integer, dropping high bits.", FIXED_INT_LIKE, FIXED_INT_LIKE
)
SIToFP = _cast(Cast, "arith.sitofp", "A signed integer as a float.", FIXED_INT_LIKE, FLOAT_LIKE)
UIToFP = _cast(Cast, "arith.uitofp", "An unsigned integer as a float.", FIXED_INT_LIKE, FLOAT_LIKE)
FPToSI = _cast(
    Cast,
    "arith.fptosi",
    "A float as a signed integer, towards zero; saturates, 0 for NaN.",
    FLOAT_LIKE,
    FIXED_INT_LIKE,
)
FPToUI = _cast(
    Cast,
    "arith.fptoui",
    "A float as an unsigned integer, towards zero; saturates, 0 for NaN.",
    FLOAT_LIKE,
    FIXED_INT_LIKE,
)


class IndexCast(Cast):
    """Between index and integers, signed."""

    name = "arith.index_cast"
    input = operand(INT_LIKE)
    output = result(INT_LIKE)

    def verify_op(self) -> None:
        super().verify_op()
        if (element_of(self.operands[0].type) == index) == (element_of(self.result.type) == index):
            raise self.error(
                f"casts between index and another integer, not {self.operands[0].type} to {self.result.type}"
            )


class Bitcast(Cast):
    """The same bits as another type of the same width."""

    name = "arith.bitcast"
    input = operand(BITS_LIKE)
    output = result(BITS_LIKE)

    def verify_widths(self, source: int, target: int) -> None:
        if source != target:
            raise self.error(f"must keep the width, from {source} to {target} bits")


def add(lhs: Value, rhs: Value) -> Op:
    """`arith.addf` or `arith.addi`, by type."""
    return AddF(lhs, rhs) if is_float(lhs.type) else AddI(lhs, rhs)


def multiply(lhs: Value, rhs: Value) -> Op:
    """`arith.mulf` or `arith.muli`, by type."""
    return MulF(lhs, rhs) if is_float(lhs.type) else MulI(lhs, rhs)
