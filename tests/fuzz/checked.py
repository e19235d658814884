"""A second opinion on what the verifier accepts: an interpreter that checks every access, and every value against
what was proved of it. It shares the table's operands and blocks with the VM, and none of its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mdsl.analysis.footprints import KernelArgument
from mdsl.analysis.intervals import INTEGER_BITS, Interval
from mdsl.bytecode.module import DTYPES, FLOAT_TYPES, BufferArgument, Function, Module
from mdsl.bytecode.structure import Step, body_of, registers_set
from mdsl.bytecode.verify import _Verifier

Kernel = Callable[..., None]
"""Runs a micro-kernel on what it is dispatched on: pointers as (memory, first byte), indices as numbers."""


class Violation(AssertionError):
    """What the verifier should have refused."""


class Unsupported(Exception):
    """An opcode that is not checked here."""


class OutOfFuel(Exception):
    """The program takes too long to be interpreted."""


class RecordingVerifier(_Verifier):
    """Keeps what was known of the registers that each instruction reads."""

    def run(self) -> None:
        self.proved: dict[int, dict[int, Interval]] = {}
        self.checks = {name: self._recording(check) for name, check in self.checks.items()}
        self._compute = self._recording(self._compute)  # type: ignore[method-assign]
        super().run()

    def _recording(self, check: Callable[[Step], None]) -> Callable[[Step], None]:
        def recorded(step: Step) -> None:
            self.proved[self.index] = {r: self.state.facts[r] for r in self._reads(step)}
            check(step)

        return recorded

    def _reads(self, step: Step) -> Iterator[int]:
        for operand, value in step.operands.values():
            is_read = operand.kind in ("read", "update") and operand.type in INTEGER_BITS
            if is_read and value in self.state.facts:
                yield value  # type: ignore[misc]


def facts_of(module: Module, function: Function, signatures: dict[str, Sequence[KernelArgument]]) -> Any:
    """The steps of a function that the verifier accepts, and what it knew at each. Raises BytecodeError."""
    verifier = RecordingVerifier(module, function, signatures, None)
    verifier.run()
    return verifier.proved


class Machine:
    """One call. `memory` is the bytes of each buffer."""

    def __init__(
        self, module: Module, function: Function, steps: list[Step], proved: dict[int, dict[int, Interval]],
        memory: list[np.ndarray], kernels: dict[str, Kernel], fuel: int = 20_000,
    ) -> None:  # fmt: skip
        self.module, self.function, self.steps, self.proved = module, function, steps, proved
        self.memory, self.kernels, self.fuel = memory, kernels, fuel
        self.writable = [buffer.writable for buffer in module.buffers(function)]
        self.made_nan = False

    def run(self, backwards: bool = False) -> None:
        """The trips of parallel loops may run in any order; the last comes first where it goes `backwards`."""
        Worker(self, backwards).run()


class Worker:
    def __init__(self, machine: Machine, backwards: bool) -> None:
        self.machine, self.backwards = machine, backwards
        self.registers: dict[int, Any] = {}
        self.place = 0
        self.trips: Iterator[int] = iter(())
        self.own: set[int] = set()
        """What the parallel loop at hand writes: nothing that goes from trip to trip."""

    def run(self) -> None:
        while True:
            step = self.machine.steps[self.place]
            self._spend(self.place)
            name, _, rest = step.opcode.mnemonic.partition(".")
            if name == "ret":
                return
            jump = getattr(self, f"_{name}", None)
            if jump is None:
                self._compute(step, name, rest)
                jump_to = None
            else:
                jump_to = jump(step)
            self.place = self.place + 1 if jump_to is None else jump_to

    def _spend(self, place: int) -> None:
        machine = self.machine
        machine.fuel -= 1
        if machine.fuel < 0:
            raise OutOfFuel
        for register, interval in machine.proved[place].items():
            if not interval.lo <= self.registers[register] <= interval.hi:
                value = self.registers[register]
                raise Violation(f"instruction {place}: register {register} is {value}, not in {interval}")

    # -- registers --------------------------------------------------------------------------------

    def read(self, step: Step, name: str) -> Any:
        register = step.number(name)
        if register not in self.registers:
            raise Violation(f"register {register} is read before it is written")
        return self.registers[register]

    def write(self, step: Step, value: Any, name: str = "result") -> None:
        element = step.operands[name][0].type
        self.registers[step.number(name)] = wrap(value, element)
        if element in FLOAT_TYPES and np.isnan(np.float64(self.registers[step.number(name)])):
            self.machine.made_nan = True

    # -- memory -----------------------------------------------------------------------------------

    def element(self, step: Step, buffer: str, index: int, write: bool = False) -> np.ndarray:
        """The element as an array of one."""
        number, dtype = step.number(buffer), DTYPES[step.opcode.mnemonic.rpartition(".")[2]]
        memory = self.machine.memory[number]
        if not 0 <= index * dtype.itemsize <= len(memory) - dtype.itemsize:
            raise Violation(f"element {index} of {dtype} of buffer {number}, which has {len(memory)} bytes")
        if write and not self.machine.writable[number]:
            raise Violation(f"writes to buffer {number}")
        part = memory[index * dtype.itemsize : (index + 1) * dtype.itemsize]
        return part.view(np.uint8 if dtype == np.bool_ else dtype)

    def index(self, step: Step, prefix: str = "") -> int:
        index = self.read(step, prefix + "index")
        if prefix + "stride" not in step.operands:
            return index
        return self.read(step, prefix + "base") + index * step.number(prefix + "stride")

    def load(self, step: Step, buffer: str, index: int) -> Any:
        return self.element(step, buffer, index)[0]

    def _load(self, step: Step) -> None:
        self.write(step, self.load(step, "buffer", self.index(step)))

    def _store(self, step: Step) -> None:
        self.element(step, "buffer", self.index(step), write=True)[0] = self.read(step, "value")

    _loadx, _storex = _load, _store

    def _fill(self, step: Step) -> None:
        for offset in range(step.number("count")):
            self.element(step, "buffer", self.index(step) + offset, write=True)[0] = self.read(step, "value")

    def _copy(self, step: Step) -> None:
        source, target = self.read(step, "source_index"), self.read(step, "target_index")
        count = step.number("count")
        values = [self.load(step, "source", source + offset) for offset in range(count)]
        for offset, value in enumerate(values):
            self.element(step, "target", target + offset, write=True)[0] = value

    def _dot(self, step: Step) -> None:
        for side in ("left", "right"):
            self.load(step, side, self.index(step, f"{side}_"))
        self.read(step, "sum")
        self.write(step, np.nan, "sum")  # NumPy has no fma: what follows is checked, not compared

    def _dispatch(self, step: Step) -> None:
        name = self.machine.module.kernels[step.number("kernel")].name
        for call in step.calls():
            arguments: list[Any] = []
            for argument in call:
                register = 0 if argument.register is None else self.registers[argument.register]
                if isinstance(argument, BufferArgument):
                    place = register * argument.stride + argument.offset
                    arguments.append((self.machine.memory[argument.buffer], place))
                else:
                    arguments.append(register)
            self.machine.kernels[name](*arguments)

    # -- control ----------------------------------------------------------------------------------

    def _loop_begin(self, step: Step) -> int | None:
        lower, upper = self.read(step, "lower"), self.read(step, "upper")
        self.write(step, lower, "counter")
        return step.number("exit") if lower >= upper else None

    def _loop_end(self, step: Step) -> int | None:
        following, upper = self.read(step, "counter") + step.number("step"), self.read(step, "upper")
        fits(following)
        self.write(step, following, "counter")
        return step.number("body") if following < upper else None

    def _parallel_begin(self, step: Step) -> int | None:
        if self.own:
            raise Violation("a parallel loop in another")
        trips = range(self.read(step, "lower"), self.read(step, "upper"), step.number("step"))
        self.trips = reversed(trips) if self.backwards else iter(trips)
        body = (self.machine.steps[index] for index in body_of(self.machine.steps, self.place))
        self.own = {register for inner in (step, *body) for register in registers_set(inner)}
        return None if self._next_trip(step) else step.number("exit")

    def _parallel_end(self, step: Step) -> int | None:
        fits(self.read(step, "counter") + step.number("step"))
        return step.number("body") if self._next_trip(step) else None

    def _next_trip(self, step: Step) -> bool:
        for register in self.own:
            self.registers.pop(register, None)
        counter = next(self.trips, None)
        if counter is None:
            self.own = set()
            return False
        self.write(step, counter, "counter")
        return True

    def _if_begin(self, step: Step) -> int | None:
        return None if self.read(step, "condition") else step.number("otherwise")

    def _else(self, step: Step) -> int:
        return step.number("exit")

    def _if_end(self, step: Step) -> None:
        pass

    # -- values -----------------------------------------------------------------------------------

    def _const(self, step: Step) -> None:
        self.write(step, step.value("value"))

    def _mov(self, step: Step) -> None:
        self.write(step, self.read(step, "source"))

    def _select(self, step: Step) -> None:
        self.write(step, self.read(step, "then" if self.read(step, "condition") else "otherwise"))

    def _lea(self, step: Step) -> None:
        self.write(step, self.index(step) + step.number("offset"))

    def _compute(self, step: Step, name: str, rest: str) -> None:
        operands = [self.read(step, o.name) for o, _ in step.operands.values() if o.kind == "read"]
        element = rest.rpartition(".")[2] if name in ("cmpi", "cmpf") else rest.partition(".")[0]
        with np.errstate(all="ignore"):
            self.write(step, compute(name, rest.partition(".")[0], operands, element))


def fits(value: int) -> None:
    if not -(1 << 63) <= value < 1 << 63:
        raise Violation(f"a counter of {value}")


def wrap(value: Any, element: str) -> Any:
    """The value as a register of the type holds it: a Python integer, a NumPy float."""
    if element == "i1":
        return int(value) & 1 if not isinstance(value, np.uint8) else int(value != 0)
    if element in FLOAT_TYPES:
        with np.errstate(over="ignore"):
            return DTYPES[element].type(value)
    bits = INTEGER_BITS[element]
    value = int(value) & ((1 << bits) - 1)
    return value - (1 << bits) if value >> (bits - 1) else value


INTEGERS: dict[str, Callable[..., int]] = {
    "addi": lambda a, b: a + b, "subi": lambda a, b: a - b, "muli": lambda a, b: a * b,
    "floordivsi": lambda a, b: a // b if b else 0, "ceildivsi": lambda a, b: -(-a // b) if b else 0,
    "divsi": lambda a, b: (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) if b else 0,
    "remsi": lambda a, b: (abs(a) % abs(b)) * (-1 if a < 0 else 1) if b else 0,
    "andi": lambda a, b: a & b, "ori": lambda a, b: a | b, "xori": lambda a, b: a ^ b,
    "minsi": min, "maxsi": max, "absi": abs,
}  # fmt: skip
UNSIGNED: dict[str, Callable[..., int]] = {
    "divui": lambda a, b: a // b if b else 0, "remui": lambda a, b: a % b if b else 0,
    "ceildivui": lambda a, b: -(-a // b) if b else 0, "minui": min, "maxui": max,
}  # fmt: skip
PREDICATES: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
FLOATS: dict[str, Callable[..., Any]] = {
    "addf": lambda a, b: a + b, "subf": lambda a, b: a - b, "mulf": lambda a, b: a * b, "negf": lambda a: -a,
    "absf": np.abs, "floor": np.floor, "ceil": np.ceil,
}  # fmt: skip


def compute(name: str, word: str, operands: list[Any], element: str) -> Any:
    """The op's result, exact for integers, by operands of the element type."""
    if name in INTEGERS and element != "i1":
        return INTEGERS[name](*operands)
    bits = INTEGER_BITS.get(element, 0)
    naturals = [value & ((1 << bits) - 1) if bits else value for value in operands]
    if name in UNSIGNED and element != "i1":
        return UNSIGNED[name](*naturals)
    if name in ("andi", "ori", "xori"):
        return INTEGERS[name](*operands)
    if name == "shli":
        return naturals[0] << naturals[1] if naturals[1] < bits else 0
    if name == "shrui":
        return naturals[0] >> naturals[1] if naturals[1] < bits else 0
    if name == "shrsi" and element != "i1":
        return operands[0] >> min(naturals[1], bits - 1)
    if name == "cmpi" and element != "i1":
        return PREDICATES[word[-2:]](*(naturals if word[0] == "u" else operands))
    if name == "cmpf" and word[0] == "o" and word[1:] in PREDICATES:
        return not any(np.isnan(x) for x in operands) and PREDICATES[word[1:]](*operands)
    if name in FLOATS and element in ("f32", "f64"):
        return FLOATS[name](*operands)
    if name in ("extui", "uitofp"):
        return naturals[0]
    if (name == "extsi" and element != "i1") or name == "trunci":
        return operands[0]
    raise Unsupported(f"{name} of {element}")
