"""The semantics of every scalar `arith` and `math` op, once, as LLVM instructions.

`emit` takes scalars and vectors alike; the micro-kernels, the interpreter's handlers and the JIT all use
it, so they agree to the bit. Choices where upstream leaves behaviour undefined, so that no operand can
trap or give poison:

- Division and remainder by zero give 0; INT_MIN / -1 gives INT_MIN, its remainder 0.
- A shift by the width or more (as an unsigned number) gives 0, or the sign for `shrsi`.
- `fptosi`, `fptoui` saturate; NaN gives 0.
- f16 and bf16 are computed in f32 and rounded to nearest even. bf16 has no LLVM type here: its values
  are i16 bit patterns.
- No fast-math, no contraction: a * b + c is fused only where `math.fma` says so. On a machine without FMA
  instructions that is rounded twice: C's fma, a call for each lane, takes a hundred times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from mdsl.arithmetic import elementary
from mdsl.arithmetic.lanes import F16, F32, F64, I1, I8, I16, I32, I64, Lanes

_TYPES: dict[str, ir.Type] = {
    "f64": F64, "f32": F32, "f16": F16, "bf16": I16,
    "i1": I1, "i8": I8, "i16": I16, "i32": I32, "i64": I64, "index": I64,
}  # fmt: skip


class Signature(NamedTuple):
    """What an op takes and gives. `operands` and `result` are "float", "int", "any" or "i1"; all operands
    of one class share one element type, and a result of that class has it too, except for a conversion
    (`kind` == "convert"), whose result's element is the caller's choice. The kinds are "unary", "binary",
    "ternary", "compare", "select" and "convert"."""

    kind: str
    operands: tuple[str, ...]
    result: str


def llvm_type(element: str, lanes: int | None = None) -> ir.Type:
    """The LLVM type of a value in a register: of one element, or of a vector of `lanes`."""
    scalar = _TYPES[element]
    return scalar if lanes is None else ir.VectorType(scalar, lanes)


def memory_type(element: str) -> ir.Type:
    """The LLVM type of an element in memory: that of `llvm_type`, but a byte for i1."""
    return I8 if element == "i1" else _TYPES[element]


def emit(
    op_name: str, builder: ir.IRBuilder, operands: Sequence[ir.Value], element: str, result_element: str
) -> ir.Value:
    """Append op `op_name` ("arith.addf", "arith.cmpf:olt", "math.exp", ...; see `OPS`) to `builder`.

    `element` is the operands' element type ("f32", "index", ...; for select, that of the chosen values),
    `result_element` the result's. Operands are scalars, or vectors of one length.
    """
    lanes = [Lanes(builder, operand) for operand in operands]
    if OPS[op_name].kind == "convert":
        return _CONVERSIONS[op_name](lanes[0], element, result_element).value
    narrow = element in ("f16", "bf16")
    if narrow and OPS[op_name].operands[0] == "float":
        lanes = [_widen(lane, element) for lane in lanes]
    result = _FUNCTIONS[op_name](*lanes)
    if narrow and OPS[op_name].result == "float":
        result = _narrow(result, element)
    return result.value


# -- floating point -------------------------------------------------------------------------------


def _intrinsic(name: str) -> Callable[..., Lanes]:
    return lambda first, *others: first.call(name, *others)


def _in_f32(function: Callable[..., Lanes], symbol: str) -> Callable[..., Lanes]:
    """Our own `function` on f32 lanes, the C library's `symbol` on f64 lanes."""
    return lambda first, *others: (
        first.each_lane(symbol, *others) if first.element == F64 else function(first, *others)
    )


def _gelu(x: Lanes) -> Lanes:
    """The C library has no such function, but erfc, which keeps the digits of small results."""
    if x.element == F32:
        return elementary.gelu(x)
    x = x.where(x < -64.0, -64.0)  # of which the share is 0, as of -infinity
    return x * 0.5 * (x * -math.sqrt(0.5)).each_lane("erfc")


def _compare(predicate: str) -> Callable[..., Lanes]:
    """LLVM's predicates bear the names of MLIR's, except for the two constant ones."""
    constants = {"false": False, "true": True}
    if predicate in constants:
        return lambda left, _: _constant_like(left, constants[predicate])
    return lambda left, right: left.compare(predicate, right)


def _constant_like(lanes: Lanes, value: bool) -> Lanes:
    zero = lanes.compare("uno", lanes)
    return zero | 1 if value else zero & 0


# -- integers -------------------------------------------------------------------------------------


def _divide(operation: str, remainder: bool, signed: bool) -> Callable[..., Lanes]:
    def divide(left: Lanes, right: Lanes) -> Lanes:
        by_zero = right.equals(0)
        unsafe = by_zero
        if signed:
            lowest = -(1 << (left.width - 1))
            unsafe = by_zero | (left.equals(lowest) & right.equals(-1))
        divisor = right.where(unsafe, 1)
        result = Lanes(left.builder, getattr(left.builder, operation)(left.value, divisor.value))
        return result if remainder else result.where(by_zero, 0)

    return divide


def _divide_down(left: Lanes, right: Lanes) -> Lanes:
    """Rounded down: one less than towards zero where the remainder's sign is not the divisor's."""
    quotient, remainder = _FUNCTIONS["arith.divsi"](left, right), _FUNCTIONS["arith.remsi"](left, right)
    below = ((remainder ^ right) < 0) & ~remainder.equals(0)
    return quotient.where(below, quotient - 1)


def _divide_up(left: Lanes, right: Lanes) -> Lanes:
    """Rounded up: one more than towards zero where the remainder has the divisor's sign."""
    quotient, remainder = _FUNCTIONS["arith.divsi"](left, right), _FUNCTIONS["arith.remsi"](left, right)
    above = ~((remainder ^ right) < 0) & ~remainder.equals(0)
    return quotient.where(above, quotient + 1)


def _divide_up_unsigned(left: Lanes, right: Lanes) -> Lanes:
    quotient, remainder = _FUNCTIONS["arith.divui"](left, right), _FUNCTIONS["arith.remui"](left, right)
    return quotient.where(~remainder.equals(0) & ~right.equals(0), quotient + 1)


def _shift_left(left: Lanes, right: Lanes) -> Lanes:
    within = right.compare("ult", left.width)
    return (left << right.where(~within, 0)).where(~within, 0)


def _shift_right(left: Lanes, right: Lanes) -> Lanes:
    within = right.compare("ult", left.width)
    return (left >> right.where(~within, 0)).where(~within, 0)


def _shift_right_signed(left: Lanes, right: Lanes) -> Lanes:
    within = right.compare("ult", left.width)
    return left.arithmetic_shift(right.where(~within, left.width - 1))


# -- conversions ----------------------------------------------------------------------------------


def _widen(value: Lanes, element: str) -> Lanes:
    """f16 or bf16 as f32, which is exact; f32 and f64 as they are."""
    if element == "f16":
        return value.cast("fpext", F32)
    if element == "bf16":
        return (value.cast("zext", I32) << 16).bits(F32)
    return value


def _narrow(value: Lanes, element: str) -> Lanes:
    """An f32 rounded to nearest even as f16 or bf16; as it is for f32 and f64."""
    if element == "f16":
        return value.cast("fptrunc", F16)
    if element == "bf16":
        bits = value.bits(I32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet_nan = (bits >> 16) | 0x40
        return value.is_nan().choose(quiet_nan, rounded).cast("trunc", I16)
    return value


def _round_to_odd(value: Lanes) -> Lanes:
    """f64 to f32 such that a second rounding, to f16 or bf16, gives what a single one would: an inexact
    result takes the neighbour whose last bit is set (Boldo and Melquiond, 2008)."""
    nearest = value.cast("fptrunc", F32)
    bits, back = nearest.bits(I32), nearest.cast("fpext", F64)
    inexact_and_even = back.compare("one", value) & (bits & 1).equals(0)
    step = (back.absolute() > value.absolute()).choose(bits.of(-1), bits.of(1))
    return bits.where(inexact_and_even, bits + step).bits(F32)


def _convert_float(value: Lanes, element: str, result: str) -> Lanes:
    """Between any two float types, to nearest even."""
    value = _widen(value, element)
    if result == "f64":
        return value.cast("fpext", F64)
    if element == "f64":
        value = value.cast("fptrunc", F32) if result == "f32" else _round_to_odd(value)
    return _narrow(value, result)


def _int_to_float(operation: str) -> Callable[[Lanes, str, str], Lanes]:
    def convert(value: Lanes, element: str, result: str) -> Lanes:
        return _narrow(value.cast(operation, F64 if result == "f64" else F32), result)

    return convert


def _float_to_int(intrinsic: str) -> Callable[[Lanes, str, str], Lanes]:
    def convert(value: Lanes, element: str, result: str) -> Lanes:
        return _widen(value, element).call(intrinsic, result=_TYPES[result])

    return convert


def _resize_int(extend: str) -> Callable[[Lanes, str, str], Lanes]:
    def convert(value: Lanes, element: str, result: str) -> Lanes:
        target = _TYPES[result]
        assert isinstance(target, ir.IntType)
        return value.cast(extend if target.width > value.width else "trunc", target)

    return convert


def _bitcast(value: Lanes, element: str, result: str) -> Lanes:
    return value.bits(_TYPES[result])


# -- tables ---------------------------------------------------------------------------------------

_FLOAT_BINARY: dict[str, Callable[..., Lanes]] = {
    "arith.addf": lambda left, right: left + right,
    "arith.subf": lambda left, right: left - right,
    "arith.mulf": lambda left, right: left * right,
    "arith.divf": lambda left, right: left / right,
    "arith.remf": lambda left, right: Lanes(left.builder, left.builder.frem(left.value, right.value)),
    "arith.maximumf": _intrinsic("maximum"),
    "arith.minimumf": _intrinsic("minimum"),
    "arith.maxnumf": _intrinsic("maximumnum"),
    "arith.minnumf": _intrinsic("minimumnum"),
    "math.copysign": _intrinsic("copysign"),
    "math.powf": _in_f32(elementary.pow, "pow"),
}

_FLOAT_UNARY: dict[str, Callable[..., Lanes]] = {
    "arith.negf": lambda value: -value,
    "math.absf": _intrinsic("fabs"),
    "math.ceil": _intrinsic("ceil"),
    "math.floor": _intrinsic("floor"),
    "math.round": _intrinsic("round"),
    "math.roundeven": _intrinsic("roundeven"),
    "math.trunc": _intrinsic("trunc"),
    "math.sqrt": _intrinsic("sqrt"),
    "math.rsqrt": lambda value: 1.0 / value.call("sqrt"),
    "math.exp": _in_f32(elementary.exp, "exp"),
    "math.exp2": _in_f32(elementary.exp2, "exp2"),
    "math.expm1": _in_f32(elementary.expm1, "expm1"),
    "math.log": _in_f32(elementary.log, "log"),
    "math.log2": _in_f32(elementary.log2, "log2"),
    "math.log1p": _in_f32(elementary.log1p, "log1p"),
    "math.tanh": _in_f32(elementary.tanh, "tanh"),
    "math.erf": _in_f32(elementary.erf, "erf"),
    "math.erfc": _in_f32(elementary.erfc, "erfc"),
    "math_ext.gelu": _gelu,
    "math.sin": _in_f32(elementary.sin, "sin"),
    "math.cos": _in_f32(elementary.cos, "cos"),
    "math.atan": _in_f32(elementary.atan, "atan"),
}

_INT_BINARY: dict[str, Callable[..., Lanes]] = {
    "arith.addi": lambda left, right: left + right,
    "arith.subi": lambda left, right: left - right,
    "arith.muli": lambda left, right: left * right,
    "arith.divsi": _divide("sdiv", remainder=False, signed=True),
    "arith.divui": _divide("udiv", remainder=False, signed=False),
    "arith.remsi": _divide("srem", remainder=True, signed=True),
    "arith.remui": _divide("urem", remainder=True, signed=False),
    "arith.floordivsi": _divide_down,
    "arith.ceildivsi": _divide_up,
    "arith.ceildivui": _divide_up_unsigned,
    "arith.andi": lambda left, right: left & right,
    "arith.ori": lambda left, right: left | right,
    "arith.xori": lambda left, right: left ^ right,
    "arith.shli": _shift_left,
    "arith.shrsi": _shift_right_signed,
    "arith.shrui": _shift_right,
    "arith.maxsi": _intrinsic("smax"),
    "arith.minsi": _intrinsic("smin"),
    "arith.maxui": _intrinsic("umax"),
    "arith.minui": _intrinsic("umin"),
}

_FLOAT_PREDICATES = (
    "false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord",
    "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true",
)  # fmt: skip
_INT_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")

_COMPARE_FLOAT = {f"arith.cmpf:{predicate}": _compare(predicate) for predicate in _FLOAT_PREDICATES}

_COMPARE_INT = {f"arith.cmpi:{predicate}": _compare(predicate) for predicate in _INT_PREDICATES}

_OTHERS: dict[str, Callable[..., Lanes]] = {
    "math.fma": lambda factor, other, addend: factor.fused(other, addend),
    "math.absi": lambda value: (value < 0).choose(-value, value),
    "arith.select": lambda condition, if_true, if_false: condition.choose(if_true, if_false),
}

_FUNCTIONS = _FLOAT_BINARY | _FLOAT_UNARY | _INT_BINARY | _COMPARE_FLOAT | _COMPARE_INT | _OTHERS

_CONVERSIONS: dict[str, Callable[[Lanes, str, str], Lanes]] = {
    "arith.extf": _convert_float,
    "arith.truncf": _convert_float,
    "arith.sitofp": _int_to_float("sitofp"),
    "arith.uitofp": _int_to_float("uitofp"),
    "arith.fptosi": _float_to_int("fptosi.sat"),
    "arith.fptoui": _float_to_int("fptoui.sat"),
    "arith.extsi": _resize_int("sext"),
    "arith.extui": _resize_int("zext"),
    "arith.trunci": _resize_int("zext"),
    "arith.index_cast": _resize_int("sext"),
    "arith.index_castui": _resize_int("zext"),
    "arith.bitcast": _bitcast,
}

OPS: dict[str, Signature] = {
    **{name: Signature("binary", ("float", "float"), "float") for name in _FLOAT_BINARY},
    **{name: Signature("unary", ("float",), "float") for name in _FLOAT_UNARY},
    **{name: Signature("binary", ("int", "int"), "int") for name in _INT_BINARY},
    **{name: Signature("compare", ("float", "float"), "i1") for name in _COMPARE_FLOAT},
    **{name: Signature("compare", ("int", "int"), "i1") for name in _COMPARE_INT},
    "math.fma": Signature("ternary", ("float", "float", "float"), "float"),
    "math.absi": Signature("unary", ("int",), "int"),
    "arith.select": Signature("select", ("i1", "any", "any"), "any"),
    "arith.extf": Signature("convert", ("float",), "float"),
    "arith.truncf": Signature("convert", ("float",), "float"),
    "arith.sitofp": Signature("convert", ("int",), "float"),
    "arith.uitofp": Signature("convert", ("int",), "float"),
    "arith.fptosi": Signature("convert", ("float",), "int"),
    "arith.fptoui": Signature("convert", ("float",), "int"),
    "arith.extsi": Signature("convert", ("int",), "int"),
    "arith.extui": Signature("convert", ("int",), "int"),
    "arith.trunci": Signature("convert", ("int",), "int"),
    "arith.index_cast": Signature("convert", ("int",), "int"),
    "arith.index_castui": Signature("convert", ("int",), "int"),
    "arith.bitcast": Signature("convert", ("any",), "any"),
}
"""Every op that `emit` knows, with its signature."""
