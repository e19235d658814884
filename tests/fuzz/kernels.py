"""Random micro-kernels: what the proof of their bounds accepts runs in the reference without leaving a memref, every
integer within the range that was proved of it, and natively with the same results."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np

from mdsl.analysis.intervals import Interval
from mdsl.codegen.bounds import _Prover
from mdsl.codegen.kernels import load_kernels
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import Block, Value, VerifyError
from mdsl.ir.types import MemRefType, dtype_of
from mdsl.ir.verifier import verify
from mdsl.reference.evaluator import Evaluator, Scope, Step
from mdsl.syntax.parser import parse
from tests.fuzz.checked import OutOfFuel, Violation
from tests.guarding import guarded_copy

SUFFIX = "mir"
TRIPS = 100_000
"""How many blocks of a kernel the second opinion follows: what runs longer is not judged."""


class CheckedScope(Scope):
    """Compares every integer with the range that was proved of it; the reference checks the accesses."""

    def __init__(self, evaluator: Evaluator, proved: Mapping[Value, Interval]) -> None:
        super().__init__(evaluator, {})
        self.proved = proved
        self.fuel = TRIPS

    def run(self, block: Block, *arguments: Any) -> list[Any]:
        self.fuel -= 1
        if self.fuel < 0:
            raise OutOfFuel
        return super().run(block, *arguments)

    def execute(self, step: Step) -> None:
        super().execute(step)
        for value in (*step.operands, *step.results):
            interval = self.proved.get(value)
            if interval and not interval.lo <= int(self.values[value]) <= interval.hi:
                raise Violation(f"{step.op.name}: %{value.name} is {self.values[value]}, not in {interval}")


@cache
def _parsed(text: str) -> tuple[Evaluator, UkernelFunc, Mapping[Value, Interval]]:
    module = parse(text, "kernel")
    verify(module)
    (func,) = module.body.ops
    assert isinstance(func, UkernelFunc)
    prover = _Prover(func)
    prover.run()
    return Evaluator(module), func, prover.ranges


def checked_kernel(text: str) -> Callable[..., None]:
    """The kernel as a function of pointers (memory, first byte) and integers. Raises Violation where it goes astray."""
    evaluator, func, proved = _parsed(text)

    def run(*arguments: Any) -> None:
        values = [_argument(*pair) for pair in zip(func.args, arguments, strict=True)]
        with np.errstate(all="ignore"):
            CheckedScope(evaluator, proved).run(func.body, *values)

    return run


def _argument(value: Value, given: Any) -> Any:
    if not isinstance(value.type, MemRefType):
        return dtype_of(value.type).type(given)
    memory, place = given
    dtype = dtype_of(value.type.element)
    strides = tuple(dtype.itemsize * step for step in value.type.layout)
    if place < 0 or place + value.type.span * dtype.itemsize > len(memory):
        raise Violation(f"%{value.name} is passed byte {place} of {len(memory)}")
    return np.ndarray(value.type.shape, dtype, memory.data, place, strides)


# -- random kernels -------------------------------------------------------------------------------------

ARGUMENTS = (
    "%a: memref<16xf32>, %b: memref<4x8xf32>, %c: memref<3x8xf32, strided<[12, 1]>>, %n: memref<8xindex>, "
    "%i: index {mdsl.range = array<i64: 0, 7>}, %j: index {mdsl.range = array<i64: -3, 12>}, %k: index"
)
MEMORIES = {
    "%a": ("memref<16xf32>", (16,)),
    "%b": ("memref<4x8xf32>", (4, 8)),
    "%c": ("memref<3x8xf32, strided<[12, 1]>>", (3, 8)),
}
NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, -1, -7, 1 << 31, 1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 63))
BINARY = ("addi", "subi", "muli", "divsi", "divui", "remsi", "remui", "floordivsi", "ceildivsi", "ceildivui", "andi",
          "ori", "xori", "shli", "shrsi", "minsi", "maxsi", "minui", "maxui")  # fmt: skip


class Writer:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.count = 0
        self.indices = ["%i", "%j", "%k"]

    def fresh(self, line: str, prefix: str = "v") -> str:
        self.count += 1
        name = f"%{prefix}{self.count}"
        self.lines.append(f"{name} = {line}")
        return name

    def index(self) -> str:
        return self.random.choice(self.indices[-8:])

    def constant(self, value: int) -> str:
        return self.fresh(f"arith.constant {value} : index")

    def expression(self, depth: int = 0) -> str:
        random = self.random
        if depth > 2 or random.random() < 0.3:
            return random.choice(["d0", "d1", "s0"])
        kind = random.choice(["+", "-", "*", "floordiv", "ceildiv", "mod"])
        right = (
            self.expression(depth + 1)
            if kind in "+-"
            else str(random.choice([1, 2, 3, 4, 7, 16, -2, 1 << 40]))
        )
        return f"({self.expression(depth + 1)} {kind} {right})"

    def clamped(self, size: int) -> str:
        """An index that mostly lies in a dimension of the size."""
        random = self.random
        index = self.index()
        if random.random() < 0.2:
            return index
        bounds = (
            self.constant(random.choice([0, 0, 0, 1])),
            self.constant(max(size - 1, 0) + (random.random() < 0.2)),
        )
        low = self.fresh(f"arith.maxsi {index}, {bounds[0]} : index")
        return self.fresh(f"arith.minsi {low}, {bounds[1]} : index")

    def statement(self, depth: int) -> None:
        """One more, unless the proof refuses the kernel with it."""
        lines, known = len(self.lines), list(self.indices)
        self.any_statement(depth)
        try:
            _parsed.__wrapped__(self.text(depth))
        except VerifyError:
            del self.lines[lines:]
            self.indices = known

    def text(self, depth: int) -> str:
        """The kernel, with its open blocks closed."""
        return "\n".join(
            [f"ukernel.func @kernel({ARGUMENTS}) {{", *self.lines, "}" * depth, "ukernel.return", "}"]
        )

    def any_statement(self, depth: int) -> None:
        random = self.random
        kind = random.choices(
            [
                "binary",
                "constant",
                "apply",
                "access",
                "vector",
                "read",
                "select",
                "loop",
                "if",
                "subview",
                "transfer",
            ],
            [6, 3, 4, 5, 2, 2, 1, 2 * (depth < 3), depth < 3, 1, 2],
        )[0]
        if kind == "binary":
            self.indices.append(
                self.fresh(f"arith.{random.choice(BINARY)} {self.index()}, {self.index()} : index")
            )
        elif kind == "constant":
            self.indices.append(self.constant(random.choice(NUMBERS)))
        elif kind == "apply":
            map = f"affine_map<(d0, d1)[s0] -> ({self.expression()})>"
            self.indices.append(
                self.fresh(f"affine.apply {map}({self.index()}, {self.index()})[{self.index()}]")
            )
        elif kind == "read":
            self.indices.append(self.fresh(f"memref.load %n[{self.clamped(8)}] : memref<8xindex>"))
        elif kind == "select":
            test = self.fresh(f"arith.cmpi slt, {self.index()}, {self.index()} : index")
            self.indices.append(self.fresh(f"arith.select {test}, {self.index()}, {self.index()} : index"))
        elif kind in ("access", "vector"):
            self.access(kind == "vector")
        elif kind == "transfer":
            self.transfer()
        elif kind == "subview":
            at = self.clamped(random.choice([12, 13, 14]))
            view = "memref<4xf32, strided<[1], offset: ?>>"
            part = self.fresh(f"memref.subview %a[{at}] [4] [1] : memref<16xf32> to {view}")
            value = self.fresh(f"memref.load {part}[{self.clamped(4)}] : {view}", "f")
            self.lines.append(f"memref.store {value}, {part}[{self.clamped(4)}] : {view}")
        else:
            self.block(kind, depth)

    def access(self, vector: bool) -> None:
        name, (type, shape) = self.random.choice(list(MEMORIES.items()))
        sizes = [*shape[:-1], shape[-1] - 3] if vector else shape
        places = [", ".join(self.clamped(size) for size in sizes) for _ in range(2)]
        dialect, tail = ("vector", ", vector<4xf32>") if vector else ("memref", "")
        value = self.fresh(f"{dialect}.load {name}[{places[0]}] : {type}{tail}", "f")
        self.lines.append(f"{dialect}.store {value}, {name}[{places[1]}] : {type}{tail}")

    def transfer(self) -> None:
        """A vector of several dimensions, read in one order from one memory and written in another to a second one."""
        random = self.random
        rows, columns = random.choice([(2, 3), (3, 2), (2, 8), (1, 5), (8, 3)])
        pad = self.fresh("arith.constant 0.0 : f32", "f")
        places: list[str] = []
        for _ in range(2):
            name = random.choice(["%b", "%c"])
            type, shape = MEMORIES[name]
            map, sizes = random.choice([("d0, d1", (rows, columns)), ("d1, d0", (columns, rows))])
            if not places and random.random() < 0.3:
                map, sizes = random.choice(
                    [("d0, 0", (rows, 1)), ("0, d1", (1, columns)), ("d1, 0", (1, rows))]
                )
            at = ", ".join(self.clamped(have - size + 1) for have, size in zip(shape, sizes, strict=True))
            attributes = f"permutation_map = affine_map<(d0, d1) -> ({map})>, in_bounds = [true, true]"
            places += [f"{name}[{at}]", f"{{{attributes}}}", type]
        vector = f"vector<{rows}x{columns}xf32>"
        value = self.fresh(
            f"vector.transfer_read {places[0]}, {pad} {places[1]} : {places[2]}, {vector}", "f"
        )
        value = self.fresh(f"vector.fma {value}, {value}, {value} : {vector}", "f")
        self.lines.append(f"vector.transfer_write {value}, {places[3]} {places[4]} : {vector}, {places[5]}")

    def block(self, kind: str, depth: int) -> None:
        random, known = self.random, len(self.indices)
        if kind == "if":
            test = self.fresh(f"arith.cmpi slt, {self.index()}, {self.index()} : index")
            self.lines.append(f"scf.if {test} {{")
        else:
            bounds = [
                self.constant(random.choice([0, 0, 1, -2])),
                self.constant(random.choice([0, 3, 5, 8, 16])),
            ]
            if random.random() < 0.5:
                bounds[random.randrange(2)] = self.clamped(8)
            step = self.constant(random.choice([1, 1, 2, 3, 5]))
            self.count += 1
            counter = f"%i{self.count}"
            self.lines.append(f"scf.for {counter} = {bounds[0]} to {bounds[1]} step {step} {{")
            self.indices.append(counter)
        for _ in range(random.randint(0, 5)):
            self.statement(depth + 1)
        self.lines.append("}")
        del self.indices[known:]


def make(seed: int) -> bytes:
    writer = Writer(Random(seed))
    for _ in range(writer.random.randint(3, 12)):
        writer.statement(0)
    return writer.text(0).encode()


def check(data: bytes) -> None:
    text = data.decode()
    _, func, _ = _parsed(text)
    numbers = np.random.default_rng(zlib.crc32(data))
    kernels = load_kernels({"kernel": text})
    for _ in range(3):
        arguments = [_random(value, numbers) for value in func.args]
        wanted = [(a[0].copy(), a[1]) if isinstance(a, tuple) else a for a in arguments]
        try:
            checked_kernel(text)(*wanted)
        except OutOfFuel:
            return
        slots = [a[0].ctypes.data + a[1] if isinstance(a, tuple) else a for a in arguments]
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernels.addresses["kernel"])((ctypes.c_int64 * 64)(*slots))
        for value, a, b in zip(func.args, arguments, wanted, strict=True):
            if isinstance(a, tuple):
                np.testing.assert_array_equal(a[0], b[0], f"%{value.name}")


def _random(value: Value, numbers: np.random.Generator) -> Any:
    """Memory with random content, or a number of the range that is declared."""
    if isinstance(value.type, MemRefType):
        dtype = dtype_of(value.type.element)
        content = numbers.integers(-9, 20, value.type.span)
        if dtype == np.int64:
            content = np.where(
                numbers.random(content.shape) < 0.3, numbers.choice(NUMBERS, content.shape), content
            )
        return guarded_copy(content.astype(dtype)).view(np.uint8), 0
    low, high = {"i": (0, 7), "j": (-3, 12)}.get(value.name or "", (-(1 << 63), (1 << 63) - 1))
    return int(numbers.choice([low, high, numbers.integers(low, high, endpoint=True)]))
