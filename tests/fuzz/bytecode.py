"""Random bytecode whose operands alias on purpose. What the verifier accepts runs in the checked interpreter without
a violation, there and on the engines with the same results."""

from __future__ import annotations

import re
import zlib
from functools import cache
from random import Random

import numpy as np

from mdsl.bytecode.decode import decode
from mdsl.bytecode.encode import encode
from mdsl.bytecode.isa import OPCODES, Operand
from mdsl.bytecode.module import (
    DTYPES,
    Argument,
    BufferArgument,
    BytecodeError,
    Constant,
    Function,
    Instruction,
    Kernel,
    Module,
    RegisterArgument,
    TensorSpec,
)
from mdsl.bytecode.structure import resolve
from mdsl.codegen.kernels import Kernels, load_kernels
from mdsl.errors import MdslError
from mdsl.vm.program import Program
from tests.fuzz.checked import Machine, OutOfFuel, Unsupported, facts_of
from tests.fuzz.kernels import checked_kernel
from tests.guarding import guarded_copy

SUFFIX = "mbc"

KERNELS = {
    "copy": """ukernel.func @copy(%a: memref<4xf32>, %b: memref<4xf32>) {
      %c = arith.constant 0 : index
      %v = vector.load %a[%c] : memref<4xf32>, vector<4xf32>
      vector.store %v, %b[%c] : memref<4xf32>, vector<4xf32>
      ukernel.return
    }""",
    "put": """ukernel.func @put(%b: memref<8xi64>, %i: index {mdsl.range = array<i64: 0, 7>}) {
      %v = arith.index_cast %i : index to i64
      memref.store %v, %b[%i] : memref<8xi64>
      ukernel.return
    }""",
    "clamp": """ukernel.func @clamp(%b: memref<3xi8>, %i: index) {
      %c = arith.constant 0 : index
      %d = arith.constant 2 : index
      %e = arith.minsi %i, %d : index
      %f = arith.maxsi %e, %c : index
      %v = memref.load %b[%f] : memref<3xi8>
      memref.store %v, %b[%c] : memref<3xi8>
      ukernel.return
    }""",
}
SHAPES = {"copy": (True, True), "put": (True, False), "clamp": (True, False)}
"""Which arguments are pointers."""

POOL = ("i64",) * 6 + ("i32",) * 2 + ("i8",) + ("i1",) * 2 + ("f32",) * 2 + ("f64",)
NUMBERS = (0, 0, 1, 1, 2, 3, 4, 7, 8, 11, 15, 16, 17, -1, -2, -4, 31, 32, 63, 64, 1 << 31, (1 << 31) - 1, 1 << 32,
           1 << 61, 1 << 62, -(1 << 62), (1 << 63) - 1, -(1 << 63))  # fmt: skip
STRIDES = (0, 1, 1, 1, 2, 3, 4, 8, -1, -4, 16, 1 << 40, 1 << 62, -(1 << 63))
BUFFERS = 7
OPS = [
    "addi.i64",
    "addi.i64",
    "subi.i64",
    "muli.i64",
    "divsi.i64",
    "divui.i64",
    "remsi.i64",
    "remui.i64",
    "floordivsi.i64",
    "ceildivsi.i64",
    "ceildivui.i64",
    "andi.i64",
    "ori.i64",
    "xori.i64",
    "shli.i64",
    "shrsi.i64",
    "shrui.i64",
    "minsi.i64",
    "maxsi.i64",
    "minui.i64",
    "maxui.i64",
    "absi.i64",
    "addi.i32",
    "muli.i32",
    "divsi.i32",
    "minsi.i32",
    "remsi.i32",
    "addi.i8",
    "muli.i8",
    "extsi.i32.i64",
    "extui.i32.i64",
    "extsi.i8.i64",
    "extui.i8.i64",
    "extui.i1.i64",
    "trunci.i64.i32",
    "trunci.i64.i8",
    "trunci.i64.i1",
    "andi.i1",
    "xori.i1",
    "cmpi.slt.i64",
    "cmpi.ult.i64",
    "cmpi.eq.i64",
    "cmpi.sge.i32",
    "cmpf.olt.f32",
    "addf.f32",
    "mulf.f32",
    "subf.f64",
    "negf.f32",
    "floor.f64",
    "mov.i64",
    "mov.i64",
    "mov.i32",
    "mov.f32",
    "select.i64",
    "select.i1",
    "select.f32",
    "lea",
    "lea",
    "lea",
    "load.f32",
    "load.i64",
    "load.i32",
    "load.i8",
    "load.i1",
    "loadx.i64",
    "loadx.f32",
    "loadx.i8",
    "store.f32",
    "store.i64",
    "store.i32",
    "store.i8",
    "store.i1",
    "storex.i64",
    "storex.f32",
    "storex.i8",
    "copy.f32",
    "copy.i8",
    "fill.i64",
    "fill.i8",
]

BINARY = [
    op
    for op in OPS
    if op.endswith(".i64") and op[:3] != "cmp" and [o.name for o in OPCODES[op].operands][1:] == ["a", "b"]
]


class Writer:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.registers = list(POOL)
        self.code: list[Instruction] = []

    def emit(self, opcode: str, *operands: object) -> None:
        self.code.append(Instruction(opcode, operands))  # type: ignore[arg-type]

    def register(self, element: str) -> int:
        return self.random.choice([r for r, kind in enumerate(self.registers) if kind == element])

    def operand(self, operand: Operand) -> object:
        if operand.is_register:
            return self.register(operand.type)
        if operand.kind == "buffer":
            return self.random.randrange(BUFFERS)
        if operand.kind == "value":
            return self.random.randint(0, 1) if operand.type == "i1" else self.random.randint(-100, 100)
        if operand.name == "count":
            return self.random.choice([1, 1, 2, 3, 8])
        if operand.name == "step":
            return self.random.choice([1, 1, 1, 2, 3, 5, 1 << 40])
        return self.random.choice(STRIDES)

    def statement(self, depth: int) -> None:
        kind = self.random.choices(
            ["op", "const", "clamp", "ranged", "loop", "if", "dispatch"],
            [10, 3, 8, 4, 3 * (depth < 4), 2 * (depth < 4), 3],
        )[0]
        if kind == "op":
            opcode = OPCODES[self.random.choice(OPS)]
            self.emit(opcode.mnemonic, *map(self.operand, opcode.operands))
        elif kind == "const":
            element = self.random.choice(POOL)
            value = self.random.choice(NUMBERS) if element == "i64" else self.random.randint(0, 1)
            self.emit(f"const.{element}", self.register(element), value)
        elif kind == "clamp":
            self.clamp()
        elif kind == "ranged":
            self.ranged()
        elif kind == "dispatch":
            self.dispatch()
        else:
            self.block(kind, depth)

    def clamped(self, index: int, highest: list[int]) -> None:
        """Makes a register fit for an index, by constants in registers that anything may write to."""
        low, high = (self.register("i64") for _ in range(2))
        self.emit("const.i64", low, self.random.choice([0, 0, 0, 1, 2]))
        self.emit("const.i64", high, self.random.choice(highest))
        order = [("maxsi.i64", low), ("minsi.i64", high)]
        self.random.shuffle(order)
        for opcode, bound in order:
            self.emit(opcode, index, index, bound)

    def ranged(self) -> None:
        """An operation on data of which no more than a range is known."""
        operands = [self.register("i64") for _ in range(2)]
        for register in operands:
            self.emit("const.i64", register, self.random.randrange(8))
            self.emit("load.i64", register, 1, register)
            self.clamped(register, [1, 3, 5, 7])
        opcode = self.random.choice(BINARY)
        result = self.register("i64")
        self.emit(opcode, result, *operands)
        self.emit("mov.i64", self.register("i64"), result)

    def clamp(self) -> None:
        """An access, or a dispatch, by a register that was clamped."""
        index = self.register("i64")
        self.clamped(index, [0, 1, 3, 7, 7, 11])
        if self.random.random() < 0.3:
            return self.dispatch(index)
        names = ("load.i64", "load.f32", "store.i8", "store.i64", "loadx.i64", "storex.f32", "fill.i8")
        opcode = OPCODES[self.random.choice(names)]
        operands = [index if o.name == "index" else self.operand(o) for o in opcode.operands]
        self.emit(opcode.mnemonic, *operands)
        return None

    def dispatch(self, index: int | None = None) -> None:
        kernel = self.random.randrange(len(KERNELS))
        shape = list(SHAPES.values())[kernel]
        batch = self.random.choice([1, 1, 2, 3])
        calls = tuple(tuple(self.argument(kind, index) for kind in shape) for _ in range(batch))
        self.emit("dispatch", kernel, calls)

    def argument(self, is_pointer: bool, index: int | None) -> Argument:
        random = self.random
        register = self.register("i64") if index is None else index
        if not is_pointer:
            return RegisterArgument(register)
        buffer, offset = random.randrange(BUFFERS), random.choice([0, 0, 4, 8, 16, 32, -8, 3])
        if random.random() < 0.4:
            return BufferArgument(buffer, None, 0, offset)
        return BufferArgument(buffer, register, random.choice([4, 4, 8, 0, -4, 1, 16, 1 << 62]), offset)

    def block(self, kind: str, depth: int) -> None:
        if kind == "loop":
            kind = self.random.choices(["loop", "parallel"], [5, 1])[0]
            counter, lower, upper = (self.register("i64") for _ in range(3))
            if self.random.random() < 0.7:
                self.emit("const.i64", lower, self.random.choice([-2, 0, 0, 1, 3]))
                self.emit("const.i64", upper, self.random.choice([0, 1, 4, 8, 12]))
            if self.random.random() < 0.5:
                counter = len(self.registers)
                self.registers.append("i64")
            if self.random.random() < 0.5:  # a bound that depends on what was computed
                self.clamped(upper, [1, 5, 9])
            self.emit(f"{kind}_begin", counter, lower, upper, self.random.choice([1, 1, 1, 2, 3, 1 << 40]))
            if self.random.random() < 0.5:
                self.emit(
                    "loadx.i64", self.register("i64"), self.random.randrange(BUFFERS), lower, counter, 1
                )
        else:
            self.emit(f"{kind}_begin", *([self.register("i1")] if kind == "if" else []))
        self.statements(depth + 1)
        if kind == "if" and self.random.random() < 0.5:
            self.emit("else")
            self.statements(depth + 1)
        self.emit(f"{kind}_end")

    def statements(self, depth: int) -> None:
        for _ in range(self.random.randint(0, 7)):
            self.statement(depth)


def random_module(random: Random) -> Module:
    writer = Writer(random)
    for register, element in enumerate(POOL):
        if random.random() < 0.8:
            value = random.choice(NUMBERS) if element == "i64" else random.randint(0, 1)
            writer.emit(f"const.{element}", register, value)
    length = random.choice([30, 60, 120])
    while len(writer.code) < length:
        writer.statements(0)
    for element, buffer in (("i64", 3), ("f32", 2), ("i64", 3)):  # what was computed is seen
        index, value = writer.register("i64"), writer.register(element)
        writer.emit("const.i64", index, random.randint(0, 7))
        writer.emit(f"store.{element}", value, buffer, index)
    writer.emit("ret")
    inputs = (TensorSpec("x", "f32", (16,)), TensorSpec("n", "i64", (8,)))
    outputs = (TensorSpec("y", "f32", (16,)), TensorSpec("m", "i64", (8,)))
    constants = [Constant("w", np.arange(8, dtype=np.float32)), Constant("b", np.arange(5, dtype=np.int8))]
    function = Function("main", inputs, outputs, tuple(writer.registers), 96, writer.code)
    return Module([function], [Kernel(name, text) for name, text in KERNELS.items()], constants)


def repaired(module: Module) -> Module:
    """The module without the instructions that the verifier refuses; of a block, without its frame."""
    (function,) = module.functions
    while True:
        try:
            facts_of(module, function, compiled().signatures)
            return module
        except BytecodeError as error:
            place = re.search(r"instruction (\d+)", str(error))
            assert place, error
            for index in sorted(frame_of(function, int(place[1])), reverse=True):
                del function.code[index]


def frame_of(function: Function, index: int) -> list[int]:
    """The instruction, or all of the frame of its block."""
    open_frames: list[list[int]] = []
    for place, instruction in enumerate(function.code):
        role = OPCODES[instruction.opcode].role
        if role == "open":
            open_frames.append([place])
        elif role:
            open_frames[-1].append(place)
        if role == "close" and index in (frame := open_frames.pop()):
            return frame
    return [index]


@cache
def compiled() -> Kernels:
    return load_kernels(KERNELS)


def make(seed: int) -> bytes:
    return encode(repaired(random_module(Random(seed))))


def check(data: bytes) -> None:
    module = decode(data)
    (function,) = module.functions
    steps = resolve(function)
    proved = facts_of(module, function, compiled().signatures)
    numbers = np.random.default_rng(zlib.crc32(data))
    x = numbers.integers(-4, 20, 16).astype(np.float32)
    n = numbers.choice(np.array(NUMBERS[:-1], dtype=np.int64), 8)
    x, n = map(guarded_copy, (x, n))
    for backwards in (False, True):
        outputs = [np.zeros(spec.shape, DTYPES[spec.dtype]) for spec in function.outputs]
        arrays = [x.copy(), n.copy(), *outputs, *(c.array.copy() for c in module.constants)]
        memory = [array.reshape(-1).view(np.uint8) for array in arrays] + [np.zeros(function.arena, np.uint8)]
        kernels = {name: checked_kernel(text) for name, text in KERNELS.items()}
        machine = Machine(module, function, steps, proved, memory, kernels)
        try:
            machine.run(backwards)
        except (OutOfFuel, Unsupported):
            return
        if not backwards and not machine.made_nan:
            # The JIT takes most of the time of a case.
            compare(module, [x, n], outputs, ("vm", "jit") if len(data) % 4 == 0 else ("vm",))


def compare(
    module: Module, inputs: list[np.ndarray], wanted: list[np.ndarray], engines: tuple[str, ...]
) -> None:
    for engine in engines:
        program = Program(module, compiled(), engine, fuel=1_000_000)
        found = [guarded_copy(np.zeros_like(array)) for array in wanted]
        try:
            program.run(inputs, found)
        except MdslError:
            raise AssertionError(f"{engine}: out of fuel, unlike the checked interpreter") from None
        for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8), f"{engine}, output {number}")
