"""Every opcode: the interpreter and the JIT agree to the bit with each other, and both with NumPy."""

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from mdsl.analysis.intervals import INTEGER_BITS
from mdsl.bytecode.decode import decode
from mdsl.bytecode.encode import encode
from mdsl.bytecode.isa import OPCODES, Opcode
from mdsl.bytecode.module import (
    DTYPES,
    FLOAT_TYPES,
    TYPES,
    Function,
    Instruction,
    Module,
    TensorSpec,
)
from mdsl.target.target import ELEMENT_BYTES
from mdsl.vm.program import Program
from tests.vm.opcode_programs import COUNT, arithmetic_opcodes, inputs_of, program_over

ULP = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}

erf, erfc = (np.vectorize(f, otypes=[float]) for f in (math.erf, math.erfc))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * erfc(-x * math.sqrt(0.5))


log1p = np.log1p


def unsigned(array: np.ndarray) -> np.ndarray:
    return (
        array.view(array.dtype.str.replace("i", "u")) if array.dtype != np.bool_ else array.astype(np.uint8)
    )


def signed(array: np.ndarray) -> np.ndarray:
    """As Python's integers; true is -1."""
    return -array.astype(object) if array.dtype == np.bool_ else array.astype(object)


def wrap(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        return np.array([int(v) & 1 for v in values], dtype=bool)
    bits = 8 * dtype.itemsize
    return np.array([int(v) & ((1 << bits) - 1) for v in values], dtype=f"u{dtype.itemsize}").view(dtype)


def truncated(a: int, b: int) -> int:
    return 0 if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    return a - truncated(a, b) * b if b else 0


def shifted(op: str, a: int, b: int, bits: int) -> int:
    if op == "shli":
        return a << b if b < bits else 0
    return a >> min(b, bits) if op == "shrsi" or b < bits else 0


INTEGERS: dict[str, Callable[..., int]] = {
    "addi": lambda a, b: a + b, "subi": lambda a, b: a - b, "muli": lambda a, b: a * b,
    "divsi": truncated, "divui": truncated, "floordivsi": lambda a, b: a // b if b else 0,
    "ceildivsi": lambda a, b: -(-a // b) if b else 0, "ceildivui": lambda a, b: -(-a // b) if b else 0,
    "remsi": remainder, "remui": remainder,
    "andi": lambda a, b: a & b, "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b, "maxsi": max, "minsi": min, "maxui": max, "minui": min, "absi": abs,
}  # fmt: skip

FLOATS: dict[str, Callable[..., np.ndarray]] = {
    "addf": np.add, "subf": np.subtract, "mulf": np.multiply, "divf": np.divide, "remf": np.fmod,
    "maximumf": np.maximum, "minimumf": np.minimum, "maxnumf": np.fmax, "minnumf": np.fmin,
    "copysign": np.copysign, "negf": np.negative, "absf": np.abs, "ceil": np.ceil, "floor": np.floor,
    "round": lambda a: np.copysign(np.floor(np.abs(a) + 0.5), a), "roundeven": np.rint, "trunc": np.trunc,
    "sqrt": np.sqrt,
}  # fmt: skip

APPROXIMATE: dict[str, Callable[..., np.ndarray]] = {
    "powf": np.power, "rsqrt": lambda a: 1 / np.sqrt(a), "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log1p": np.log1p, "tanh": np.tanh, "erf": erf, "erfc": erfc, "gelu": gelu,
    "sin": np.sin, "cos": np.cos, "atan": np.arctan,
}  # fmt: skip

PREDICATES: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip


def expected(opcode: Opcode, element: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """NumPy's results and the relative error that is allowed."""
    name, *rest = opcode.mnemonic.split(".")
    operands = arrays[: len(opcode.operands) - 1]
    result = opcode.operands[0].type
    dtype = DTYPES[result]
    if name == "bitcast":
        return operands[0].view(dtype), 0
    if name in ("extf", "truncf"):
        return operands[0].astype(np.float64).astype(np.float32 if element == "f32" else np.float64).astype(
            dtype
        ), 0
    if name in ("fptosi", "fptoui"):
        return saturated(operands[0].astype(np.float64), result, name == "fptoui"), 0
    if name in ("sitofp", "uitofp"):
        numbers = signed(operands[0]) if name == "sitofp" else unsigned(operands[0]).astype(object)
        wide = np.array([float(v) if result == "f64" else np.float32(int(v)) for v in numbers])
        return wide.astype(dtype), 0
    if name in ("extsi", "extui", "trunci"):
        numbers = unsigned(operands[0]).astype(object) if name == "extui" else signed(operands[0])
        return wrap(numbers, dtype), 0
    if name == "cmpi":
        view = unsigned if rest[0][0] == "u" else (lambda x: signed(x))
        return PREDICATES[rest[0][-2:]](*map(view, operands)).astype(bool), 0
    if name == "cmpf":
        return compare_floats(rest[0], *(operand.astype(np.float64) for operand in operands)), 0
    if element in INTEGER_BITS:
        return integers(name, operands, INTEGER_BITS[element]), 0
    wide = [operand.astype(np.float64 if element == "f64" else np.float32) for operand in operands]
    if name == "fma":
        return (wide[0].astype(np.longdouble) * wide[1] + wide[2]).astype(wide[0].dtype).astype(dtype), ULP[
            element
        ]
    if name in FLOATS:
        return FLOATS[name](*wide).astype(dtype), 0
    exact = APPROXIMATE[name](*(operand.astype(np.float64) for operand in operands))
    return exact.astype(dtype), 8 * ULP["f32"] if element in ("f32",) else 4 * ULP[element]


def saturated(values: np.ndarray, result: str, is_unsigned: bool) -> np.ndarray:
    bits = INTEGER_BITS[result]
    low, high = (0, (1 << bits) - 1) if is_unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return wrap(np.array([max(low, min(high, int(v))) for v in values], dtype=object), DTYPES[result])


def compare_floats(predicate: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if predicate in ("true", "false"):
        return np.full(a.shape, predicate == "true")
    unordered = np.isnan(a) | np.isnan(b)
    if predicate in ("ord", "uno"):
        return unordered if predicate == "uno" else ~unordered
    result = PREDICATES[predicate[1:]](a, b)
    return result | unordered if predicate[0] == "u" else result & ~unordered


def integers(name: str, operands: list[np.ndarray], bits: int) -> np.ndarray:
    unsigned_op = name.endswith("ui")
    numbers = [unsigned(x).astype(object) if unsigned_op else signed(x) for x in operands]
    if name in ("shli", "shrsi", "shrui"):
        amounts = unsigned(operands[1]).astype(object)
        values = [shifted(name, int(a), int(b), bits) for a, b in zip(numbers[0], amounts, strict=True)]
    else:
        values = [INTEGERS[name](*map(int, row)) for row in zip(*numbers, strict=True)]
    return wrap(np.array(values, dtype=object), operands[0].dtype)


@pytest.mark.parametrize("element", TYPES)
def test_arithmetic(element: str) -> None:
    opcodes = arithmetic_opcodes(element)
    module, arrays = program_over(element, opcodes), inputs_of(element)
    results = {engine: Program(module, engine=engine)(*arrays) for engine in ("vm", "jit")}
    for opcode, vm, jit in zip(opcodes, results["vm"], results["jit"], strict=True):
        assert vm.tobytes() == jit.tobytes(), opcode.mnemonic
        with np.errstate(all="ignore"):
            wanted, tolerance = expected(opcode, element, arrays)
        if tolerance == 0:
            same = (vm == wanted) | ((vm != vm) & (wanted != wanted))
            assert same.all(), (opcode.mnemonic, vm[~same], wanted[~same], [array[~same] for array in arrays])
        else:
            np.testing.assert_allclose(
                vm.astype(np.float64),
                wanted.astype(np.float64),
                rtol=tolerance,
                atol=tolerance,
                err_msg=opcode.mnemonic,
            )


def move_program(element: str) -> Module:
    """Everything that moves elements, each into an output or a part of the arena of its own."""
    types = ("i64", "i64", "i64", element, element, "i1", element, "i64")
    x, y, z, filled, chosen, arena = range(6)
    indexed = (0, 2, 1)
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("const.i64", (1, COUNT)),
        Instruction(f"const.{element}", (3, 1)),
        Instruction(f"copy.{element}", (arena, 0, x, 0, COUNT)),
        Instruction("loop_begin", (2, 0, 1, 1)),
        Instruction(f"loadx.{element}", (4, arena, *indexed)),
        Instruction(f"mov.{element}", (6, 4)),
        Instruction(f"storex.{element}", (6, y, *indexed)),
        Instruction(f"load.{element}", (4, y, 2)),
        Instruction(f"store.{element}", (4, z, 2)),
        Instruction("const.i64", (7, 1)),
        Instruction("andi.i64", (7, 7, 2)),
        Instruction("trunci.i64.i1", (5, 7)),
        Instruction(f"select.{element}", (6, 5, 3, 4)),
        Instruction(f"store.{element}", (6, chosen, 2)),
        Instruction("loop_end"),
        Instruction(f"fill.{element}", (3, filled, 0, COUNT)),
        Instruction("ret"),
    ]
    spec = lambda name: TensorSpec(name, element, (COUNT,))  # noqa: E731
    outputs = tuple(map(spec, ("y", "z", "filled", "chosen")))
    return Module([Function("main", (spec("x"),), outputs, types, COUNT * ELEMENT_BYTES[element], code)])


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_moves(element: str, engine: str) -> None:
    x = inputs_of(element)[0]
    y, z, filled, chosen = Program(move_program(element), engine=engine)(x)
    one = np.ones(COUNT, x.dtype)
    for found, wanted in ((y, x), (z, x), (filled, one), (chosen, np.where(np.arange(COUNT) % 2, one, x))):
        assert found.tobytes() == wanted.tobytes()


ELSEWHERE = {
    *("lea", "dot"),  # below
    *("parallel_begin", "parallel_end"),  # test_programs.py
    *("if_begin", "else", "if_end", "dispatch"),  # test_programs.py, test_executable.py
}


def test_every_opcode_is_executed() -> None:
    moved = {i.opcode for element in TYPES for i in move_program(element).function().code}
    computed = {opcode.mnemonic for element in TYPES for opcode in arithmetic_opcodes(element)}
    assert {name.partition(".")[0] for name in OPCODES.keys() - moved - computed} == ELSEWHERE


@pytest.mark.parametrize("element", FLOAT_TYPES)
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_dot(element: str, engine: str) -> None:
    """y[0] = sum of a[2 i] * b[1 + 3 i], every step rounded once to the type."""
    trips, dtype = 20, DTYPES[element]
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("const.i64", (1, trips)),
        Instruction("const.i64", (3, 1)),
        Instruction(f"const.{element}", (4, 0.25)),
        Instruction("loop_begin", (2, 0, 1, 1)),
        Instruction(f"dot.{element}", (4, 0, 0, 2, 2, 1, 3, 2, 3)),
        Instruction("loop_end"),
        Instruction(f"store.{element}", (4, 3, 0)),
        Instruction("ret"),
    ]
    types = ("i64", "i64", "i64", "i64", element)
    a, b, _ = inputs_of(element)
    inputs = tuple(TensorSpec(name, element, (COUNT,)) for name in "abc")
    function = Function("main", inputs, (TensorSpec("y", element, (1,)),), types, 0, code)
    (y,) = Program(Module([function]), engine=engine)(a, b, b)
    terms = [float(a[2 * i]) * float(b[1 + 3 * i]) for i in range(trips)]
    largest = max(abs(0.25 + sum(terms[:i])) for i in range(trips + 1))
    unit = float(ml_dtypes.finfo(dtype).eps) * largest
    assert abs(float(y[0]) - (0.25 + sum(terms))) <= trips * unit / 2


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_lea(engine: str) -> None:
    code = [
        Instruction("const.i64", (0, 1000)),
        Instruction("const.i64", (1, -7)),
        Instruction("lea", (2, 0, 1, 3, 5)),
        Instruction("const.i64", (3, 0)),
        Instruction("store.i64", (2, 0, 3)),
        Instruction("ret"),
    ]
    function = Function("main", (), (TensorSpec("y", "i64", (1,)),), ("i64",) * 4, 0, code)
    assert Program(Module([function]), engine=engine)()[0][0] == 1000 - 21 + 5


@pytest.mark.parametrize("element", FLOAT_TYPES)
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_float_constants(element: str, engine: str) -> None:
    """Each is rounded to its type; too large ones to infinity."""
    values = [0.1, -0.0, math.inf, -math.inf, math.nan, 1e300, 1e-46, 65520.0, 3.4e38, 1]
    code = [Instruction("const.i64", (0, 0))]
    for index, value in enumerate(values):
        code += [Instruction(f"const.{element}", (1, value)), Instruction("const.i64", (0, index))]
        code += [Instruction(f"store.{element}", (1, 0, 0))]
    output = TensorSpec("y", element, (len(values),))
    function = Function("main", (), (output,), ("i64", element), 0, [*code, Instruction("ret")])
    (y,) = Program(decode(encode(Module([function]))), engine=engine)()
    with np.errstate(over="ignore"):
        assert y.tobytes() == np.array(values).astype(DTYPES[element]).tobytes()


def test_special_floats_agree() -> None:
    """Infinities, NaN, denormals and signed zeros through every f32 op on both engines."""
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38], np.float32)
    a, b = np.repeat(special, 8), np.tile(special, 8)
    module = program_over("f32", arithmetic_opcodes("f32"))
    vm, jit = (Program(module, engine=engine)(a, b, a) for engine in ("vm", "jit"))
    for opcode, left, right in zip(arithmetic_opcodes("f32"), vm, jit, strict=True):
        same = (left == right) | ((left != left) & (right != right))
        assert same.all(), opcode.mnemonic


def test_every_opcode_is_documented_and_typed() -> None:
    for mnemonic, opcode in OPCODES.items():
        assert opcode.mnemonic == mnemonic and opcode.doc.endswith(".")
        assert len({operand.name for operand in opcode.operands}) == len(opcode.operands)
