"""Random structured programs that the verifier accepts: the interpreter, the JIT and any number of workers
agree to the bit."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdsl.bytecode.decode import decode
from mdsl.bytecode.encode import encode
from mdsl.bytecode.module import Constant, Function, Instruction, Module, TensorSpec
from mdsl.vm.calls import UNITS
from mdsl.vm.program import Program

SIZE = 32
INPUT, OUTPUT, TABLE, ARENA = range(4)
BUFFERS = (INPUT, OUTPUT, TABLE, ARENA)

ZERO, LAST, LOWEST = 0, 1, 2
"""Integer registers that hold 0, SIZE - 1 and 0 throughout."""
INTEGERS = (3, 4, 5)
FLOATS = (6, 7, 8)
CONDITION, INDEX = 9, 10
FIXED = ("i64",) * 6 + ("f32",) * 3 + ("i1", "i64")

INTEGER_OPS = ("addi", "subi", "muli", "divsi", "remsi", "andi", "xori", "shli", "shrsi", "minsi", "maxui")
FLOAT_OPS = ("addf", "subf", "mulf", "maximumf", "minnumf", "copysign")
UNARY_OPS = ("negf", "absf", "tanh", "sqrt", "floor")


@dataclass
class Writer:
    """A program being written; every block adds registers of its own for its counter and bounds."""

    registers: list[str] = field(default_factory=lambda: list(FIXED))
    code: list[Instruction] = field(default_factory=list)

    def emit(self, opcode: str, *operands: int | float) -> None:
        self.code.append(Instruction(opcode, operands))

    def fresh(self, element: str = "i64") -> int:
        self.registers.append(element)
        return len(self.registers) - 1


def index_of(writer: Writer, register: int) -> None:
    """A safe index made of an integer register."""
    writer.emit("minsi.i64", INDEX, register, LAST)
    writer.emit("maxsi.i64", INDEX, INDEX, ZERO)


@st.composite
def statement(draw: st.DrawFn, writer: Writer, depth: int, index: int) -> None:
    integer, float_ = st.sampled_from(INTEGERS), st.sampled_from(FLOATS)
    kinds = ["integer", "float", "unary", "load", "store", "select", "lea", "convert"]
    kind = draw(st.sampled_from(kinds + ["loop", "if"] * (depth < 3)))
    if kind == "integer":
        writer.emit(f"{draw(st.sampled_from(INTEGER_OPS))}.i64", draw(integer), draw(integer), draw(integer))
    elif kind == "float":
        writer.emit(f"{draw(st.sampled_from(FLOAT_OPS))}.f32", draw(float_), draw(float_), draw(float_))
    elif kind == "unary":
        writer.emit(f"{draw(st.sampled_from(UNARY_OPS))}.f32", draw(float_), draw(float_))
    elif kind == "lea":
        writer.emit("lea", draw(integer), draw(integer), draw(integer), draw(st.integers(-9, 9)), 1)
    elif kind == "convert":
        writer.emit("sitofp.i64.f32", draw(float_), draw(integer))
    elif kind == "load":
        index_of(writer, draw(st.sampled_from([index, draw(integer)])))
        writer.emit("load.f32", draw(float_), draw(st.sampled_from(BUFFERS)), INDEX)
    elif kind == "store":
        index_of(writer, draw(st.sampled_from([index, draw(integer)])))
        writer.emit("store.f32", draw(float_), draw(st.sampled_from((OUTPUT, ARENA))), INDEX)
    elif kind == "select":
        writer.emit("cmpf.olt.f32", CONDITION, draw(float_), draw(float_))
        writer.emit("select.f32", draw(float_), CONDITION, draw(float_), draw(float_))
    elif kind == "if":
        writer.emit("cmpi.slt.i64", CONDITION, draw(integer), draw(integer))
        writer.emit("if_begin", CONDITION)
        draw(block(writer, depth + 1, index))
        if draw(st.booleans()):
            writer.emit("else")
            draw(block(writer, depth + 1, index))
        writer.emit("if_end")
    else:
        lower, upper, counter = (writer.fresh() for _ in range(3))
        writer.emit("const.i64", lower, draw(st.integers(-4, 4)))
        writer.emit("const.i64", upper, draw(st.integers(-4, 6)))
        writer.emit("loop_begin", counter, lower, upper, draw(st.integers(1, 3)))
        draw(block(writer, depth + 1, counter))
        writer.emit("loop_end")


@st.composite
def block(draw: st.DrawFn, writer: Writer, depth: int, index: int) -> None:
    for _ in range(draw(st.integers(0, 5))):
        draw(statement(writer, depth, index))


@st.composite
def programs(draw: st.DrawFn) -> Module:
    writer = Writer()
    for register, value in ((ZERO, 0), (LAST, SIZE - 1), (LOWEST, 0), *((r, 3 * r - 11) for r in INTEGERS)):
        writer.emit("const.i64", register, value)
    for register in FLOATS:
        writer.emit("const.f32", register, register / 4 - 1.5)
    writer.emit("const.f32", FLOATS[0], 0.5)
    writer.emit("fill.f32", FLOATS[0], OUTPUT, ZERO, SIZE)
    writer.emit("fill.f32", FLOATS[0], ARENA, ZERO, SIZE)
    draw(block(writer, 0, ZERO))
    for place, register in enumerate(FLOATS):
        writer.emit("lea", INDEX, ZERO, ZERO, 0, place)
        writer.emit("store.f32", register, OUTPUT, INDEX)
    writer.emit("ret")
    x, y = TensorSpec("x", "f32", (SIZE,)), TensorSpec("y", "f32", (SIZE,))
    function = Function("main", (x,), (y,), tuple(writer.registers), 4 * SIZE, writer.code)
    return Module([function], constants=[Constant("w", np.linspace(-2, 2, SIZE, dtype=np.float32))])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 2**32 - 1))
def test_engines_agree(module: Module, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-3, 3, SIZE).astype(np.float32)
    (vm,) = Program(decode(encode(module)))(x)
    (jit,) = Program(module, engine="jit")(x)
    same = (vm == jit) | ((vm != vm) & (jit != jit))
    assert same.all()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 9), st.integers(-5, 40), st.integers(1, 5), st.sampled_from([1, 2, 3, 5]))
def test_parallel_loops_cover_every_trip_once(lower: int, length: int, step: int, threads: int) -> None:
    """Every trip adds 1 at its place, whichever worker runs it."""
    size = 50
    code = [
        Instruction("const.i64", (0, lower)),
        Instruction("const.i64", (1, lower + length)),
        Instruction("const.i64", (2, 0)),
        Instruction("const.i64", (3, 1)),
        Instruction("fill.i64", (2, 0, 2, size)),
        Instruction("parallel_begin", (4, 0, 1, step)),
        Instruction("load.i64", (5, 0, 4)),
        Instruction("addi.i64", (5, 5, 3)),
        Instruction("store.i64", (5, 0, 4)),
        Instruction("parallel_end"),
        Instruction("ret"),
    ]
    function = Function("main", (), (TensorSpec("y", "i64", (size,)),), ("i64",) * 6, 0, code)
    wanted = np.zeros(size, np.int64)
    wanted[lower : max(lower, lower + length) : step] = 1
    for engine in ("vm", "jit"):
        (y,) = Program(Module([function]), engine=engine, threads=threads)()
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("trips", [UNITS - 1, UNITS, UNITS + 1, 3 * UNITS + 1])
def test_more_trips_than_units(trips: int, engine: str) -> None:
    """Each trip adds 1 at its place."""
    code = [
        *(Instruction("const.i64", (register, value)) for register, value in enumerate((0, 3 * trips, 1))),
        Instruction("fill.i64", (0, 0, 0, 3 * trips)),
        Instruction("parallel_begin", (4, 0, 1, 3)),
        Instruction("load.i64", (5, 0, 4)),
        Instruction("addi.i64", (5, 5, 2)),
        Instruction("store.i64", (5, 0, 4)),
        Instruction("parallel_end"),
        Instruction("ret"),
    ]
    function = Function("main", (), (TensorSpec("y", "i64", (3 * trips,)),), ("i64",) * 6, 0, code)
    (y,) = Program(Module([function]), engine=engine, threads=3)()
    np.testing.assert_array_equal(y.reshape(-1, 3), np.tile([1, 0, 0], (trips, 1)))
