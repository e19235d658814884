"""The proof, before a module runs, that it stays within its buffers and comes to an end.

The code is read once, in order, with an interval for each integer register (see `intervals`). A register
that a loop's body writes may have any value when the body begins, except the loop's own counter, which is
between the bounds; so an index that is carried from trip to trip must be clamped before it is used. Of a parallel loop
nothing is carried: what its body writes has no value when a trip begins, nor after the loop, so that registers do
not tell which worker ran which trips. What has no value at the end of a body has none when the next trip begins, either.
What is proved of an access is proved of every trip.
"""

from __future__ import annotations

from collections.abc import Callable

from mdsl.analysis.footprints import MAX_ARGUMENTS, MAX_BYTES, KernelArgument, KernelSignatures
from mdsl.analysis.intervals import INTEGER_BITS, Interval, affine, clip, constant, whole
from mdsl.bytecode.isa import Operand
from mdsl.bytecode.module import (
    DTYPES,
    TYPES,
    Argument,
    BufferArgument,
    BytecodeError,
    Function,
    Module,
    RegisterArgument,
    TensorSpec,
)
from mdsl.bytecode.module import Operand as Value
from mdsl.bytecode.structure import Step, error, resolve
from mdsl.bytecode.verify_state import Block, State, writes_of_blocks
from mdsl.target.target import ELEMENT_BYTES

Observe = Callable[[Function, int, int, Interval], None]
"""Called with what is proved of a pointer that a dispatch passes: the function, the instruction's index, the buffer's
number, and the bytes of the buffer that the kernel may touch, over all trips of the loops around it."""


def verify(
    module: Module, kernel_signatures: KernelSignatures | None = None, observe: Observe | None = None
) -> dict[str, list[int]]:
    """Prove every function of a module safe, given what each of its kernels touches.

    Returns for each function how many bytes of each output lie between the first and the last that it may
    write: fewer than the output has if the function surely leaves some of them as they are.
    Raises BytecodeError at the first instruction that is not provably safe.
    """
    _check_names("function", [function.name for function in module.functions])
    _check_names("kernel", [kernel.name for kernel in module.kernels])
    written: dict[str, list[int]] = {}
    for function in module.functions:
        _check_signature(module, function)
        verifier = _Verifier(module, function, kernel_signatures or {}, observe)
        verifier.run()
        written[function.name] = verifier.reach()
    return written


def _check_names(kind: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BytecodeError(f"two {kind}s are called '{name}'")
        seen.add(name)


def _check_signature(module: Module, function: Function) -> None:
    where = f"function '{function.name}'"
    for register, element in enumerate(function.registers):
        if element not in TYPES:
            raise BytecodeError(f"{where}: register {register} has unknown type '{element}'")
    for spec in (*function.inputs, *function.outputs):
        _check_spec(where, spec)
    _check_donations(where, function)
    _check_layouts(where, function)
    if not 0 <= function.arena <= MAX_BYTES:
        raise BytecodeError(f"{where}: an arena of {function.arena} bytes")


def _check_donations(where: str, function: Function) -> None:
    for side, specs in enumerate((function.inputs, function.outputs)):
        numbers = [pair[side] for pair in function.donations]
        if len(set(numbers)) < len(numbers) or any(not 0 <= n < len(specs) for n in numbers):
            raise BytecodeError(
                f"{where}: its donations name an input or output twice, or one that is not there"
            )
    for number, output in function.donations:
        given, made = function.inputs[number], function.outputs[output]
        if (given.dtype, given.shape) != (made.dtype, made.shape):
            raise BytecodeError(f"{where}: '{given.name}' cannot be donated to '{made.name}'")


def _check_layouts(where: str, function: Function) -> None:
    numbers = [layout.input for layout in function.layouts]
    if len(set(numbers)) < len(numbers) or any(not 0 <= n < len(function.inputs) for n in numbers):
        raise BytecodeError(f"{where}: its layouts name an input twice, or one that is not there")
    for layout in function.layouts:
        spec = function.inputs[layout.input]
        if not layout.suits(spec):
            raise BytecodeError(f"{where}: the layout of '{spec.name}' does not name each dimension once")


def _check_spec(where: str, spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        raise BytecodeError(f"{where}: '{spec.name}' has unknown element type '{spec.dtype}'")
    if not spec.is_possible:
        raise BytecodeError(f"{where}: '{spec.name}' has shape {list(spec.shape)}")


_NOTHING = Interval(0, 0)
"""Stands for the interval of a float register."""


class _Verifier:
    """Reads one function's code in order; `self.state` is what is known before instruction `self.index`."""

    def __init__(
        self, module: Module, function: Function, signatures: KernelSignatures, observe: Observe | None
    ) -> None:
        self.module = module
        self.function = function
        self.signatures = signatures
        self.observe = observe
        self.buffers = module.buffers(function)
        self.state = State()
        self.reached: dict[int, Interval] = {}
        """The bytes of each buffer from the first to the last that may be written."""
        self.index = 0
        self.checks: dict[str, Callable[[Step], None]] = {
            "const": self._const, "lea": self._lea, "load": self._load, "loadx": self._load,
            "store": self._store, "storex": self._store, "copy": self._copy, "fill": self._fill,
            "dot": self._dot, "dispatch": self._dispatch, "ret": self._ret,
            "loop_begin": self._loop_begin, "loop_end": self._loop_end, "parallel_begin": self._parallel_begin,
            "parallel_end": self._parallel_end, "if_begin": self._if_begin, "else": self._else,
            "if_end": self._if_end,
        }  # fmt: skip

    def run(self) -> None:
        steps = resolve(self.function)
        if not steps or steps[-1].opcode.mnemonic != "ret":
            raise BytecodeError(f"function '{self.function.name}' does not end in 'ret'")
        self.last = len(steps) - 1
        writes = writes_of_blocks(steps)
        if writes is None:
            raise BytecodeError(f"function '{self.function.name}': its blocks write to too many registers")
        self.writes = writes
        for self.index, step in enumerate(steps):
            for operand, value in step.operands.values():
                self._check_operand(operand, value)
            self.checks.get(step.opcode.mnemonic.partition(".")[0], self._compute)(step)

    def reach(self) -> list[int]:
        """How many bytes of each output lie between the first and the last that may be written."""
        first = len(self.function.inputs)
        found = [self.reached.get(first + i) for i in range(len(self.function.outputs))]
        return [0 if interval is None else interval.hi - interval.lo + 1 for interval in found]

    def _note_write(self, buffer: int, lo: int, hi: int) -> None:
        """Bytes `lo` to `hi` may be written."""
        new = Interval(lo, hi)
        self.reached[buffer] = self.reached[buffer].join(new) if buffer in self.reached else new

    # -- operands -------------------------------------------------------------------------------------

    def _fail(self, message: str) -> BytecodeError:
        return error(self.function, self.index, message)

    def _check_operand(self, operand: Operand, value: Value) -> None:
        if operand.kind == "label":
            return
        if operand.kind == "calls":
            if not isinstance(value, tuple):
                raise self._fail("'calls' are no argument lists")
            return
        if operand.kind == "value":
            self._check_value(operand, value)
        elif not isinstance(value, int) or value not in _I64:
            raise self._fail(f"'{operand.name}' is no 64-bit integer")
        elif operand.kind == "buffer" and not 0 <= value < len(self.buffers):
            raise self._fail(f"buffer {value} of {len(self.buffers)}")
        elif operand.kind == "kernel" and not 0 <= value < len(self.module.kernels):
            raise self._fail(f"kernel {value} of {len(self.module.kernels)}")
        elif operand.is_register:
            self._check_register(value, operand.type, read=operand.kind != "write")

    def _check_value(self, operand: Operand, value: Value) -> None:
        if operand.type in INTEGER_BITS:
            if not isinstance(value, int) or not whole(operand.type).lo <= value <= whole(operand.type).hi:
                raise self._fail(f"{value} is no {operand.type}")
        elif not isinstance(value, int | float):
            raise self._fail(f"{value} is no {operand.type}")

    def _check_register(self, register: int, element: str, read: bool) -> None:
        if not 0 <= register < len(self.function.registers):
            raise self._fail(f"register {register} of {len(self.function.registers)}")
        actual = self.function.registers[register]
        if actual != element:
            raise self._fail(f"register {register} is {actual}, not {element}")
        if read and register not in self.state.facts:
            raise self._fail(f"register {register} may be read before it is written")

    def _interval(self, step: Step, name: str) -> Interval:
        return self.state.facts[step.number(name)]

    def _set(self, step: Step, interval: Interval | None) -> None:
        """Write the instruction's result."""
        register = step.number("result")
        element = self.function.registers[register]
        self.state.set(register, clip(interval, element) if element in INTEGER_BITS else _NOTHING)

    # -- values ---------------------------------------------------------------------------------------

    def _const(self, step: Step) -> None:
        value = step.value("value")
        self._set(step, constant(value) if isinstance(value, int) else None)

    def _lea(self, step: Step) -> None:
        stride, offset = step.number("stride"), step.number("offset")
        self._set(step, affine(self._interval(step, "base"), self._interval(step, "index"), stride, offset))

    def _compute(self, step: Step) -> None:
        """An instruction on registers alone; one that does more must have a check of its own."""
        kinds = {operand.kind for operand in step.opcode.operands}
        assert not kinds & {"buffer", "kernel", "calls", "label"}, f"no check for {step.opcode.mnemonic}"
        transfer = step.opcode.transfer
        reads = [operand.name for operand, _ in step.operands.values() if operand.kind == "read"]
        self._set(step, transfer(*(self._interval(step, name) for name in reads)) if transfer else None)

    # -- memory ---------------------------------------------------------------------------------------

    def _load(self, step: Step) -> None:
        self._access(step, "buffer", self._elements(step), _element(step))
        self._set(step, None)

    def _store(self, step: Step) -> None:
        self._access(step, "buffer", self._elements(step), _element(step), write=True)

    def _fill(self, step: Step) -> None:
        count = step.number("count")
        self._access(step, "buffer", self._interval(step, "index"), _element(step), count, write=True)

    def _copy(self, step: Step) -> None:
        element, count = _element(step), step.number("count")
        self._access(step, "source", self._interval(step, "source_index"), element, count)
        self._access(step, "target", self._interval(step, "target_index"), element, count, write=True)

    def _dot(self, step: Step) -> None:
        for side in ("left", "right"):
            self._access(step, side, self._elements(step, side + "_"), _element(step))
        self.state.set(step.number("sum"), _NOTHING)

    def _elements(self, step: Step, prefix: str = "") -> Interval:
        """The element offsets that an instruction with an index, or a base, index and stride, may use."""
        index = self._interval(step, prefix + "index")
        if prefix + "stride" not in step.operands:
            return index
        return affine(self._interval(step, prefix + "base"), index, step.number(prefix + "stride"))

    def _access(
        self, step: Step, name: str, elements: Interval, element: str, count: int = 1, write: bool = False
    ) -> None:
        buffer = self.buffers[step.number(name)]
        if write and not buffer.writable:
            raise self._fail(f"writes to '{buffer.name}', which is read-only")
        size = buffer.nbytes // ELEMENT_BYTES[element]
        if count < 1:
            raise self._fail(f"a count of {count}")
        if elements.lo < 0 or elements.hi + count > size:
            reach = Interval(elements.lo, elements.hi + count - 1)
            raise self._fail(f"may use elements {reach} of '{buffer.name}', which has {size} of {element}")
        if write:
            width = ELEMENT_BYTES[element]
            self._note_write(step.number(name), elements.lo * width, (elements.hi + count) * width - 1)

    # -- dispatch -------------------------------------------------------------------------------------

    def _dispatch(self, step: Step) -> None:
        name = self.module.kernels[step.number("kernel")].name
        signature = self.signatures.get(name)
        if signature is None:
            raise self._fail(f"nothing is known of what kernel '{name}' touches")
        calls = step.calls()
        if not calls:
            raise self._fail("a dispatch of no calls")
        for call in calls:
            if len(call) != len(signature) or not 1 <= len(call) <= MAX_ARGUMENTS:
                raise self._fail(f"{len(call)} arguments for kernel '{name}', which takes {len(signature)}")
            for position, (argument, wanted) in enumerate(zip(call, signature, strict=True)):
                self._argument(argument, wanted, f"argument {position} of kernel '{name}'")

    def _argument(self, argument: Argument, wanted: KernelArgument, what: str) -> None:
        if isinstance(argument, RegisterArgument) != (wanted.kind == "index"):
            raise self._fail(f"{what} must be {'an index' if wanted.kind == 'index' else 'a buffer'}")
        if argument.register is not None:
            self._check_register(argument.register, "i64", read=True)
        if isinstance(argument, BufferArgument):
            self._pointer(argument, wanted, what)
        elif (found := self.state.facts[argument.register]) not in Interval(*wanted.interval):
            raise self._fail(f"{what} may be in {found}, beyond {Interval(*wanted.interval)}")

    def _pointer(self, argument: BufferArgument, wanted: KernelArgument, what: str) -> None:
        if not 0 <= argument.buffer < len(self.buffers):
            raise self._fail(f"buffer {argument.buffer} of {len(self.buffers)}")
        if argument.stride not in _I64 or argument.offset not in _I64:
            raise self._fail(f"{what} has no 64-bit stride or offset")
        buffer = self.buffers[argument.buffer]
        index = _NOTHING if argument.register is None else self.state.facts[argument.register]
        start = affine(_NOTHING, index, argument.stride, argument.offset)
        if wanted.kind == "write" and not buffer.writable:
            raise self._fail(f"{what} writes to '{buffer.name}', which is read-only")
        lo, hi = start.lo, start.hi + wanted.span - 1
        if lo < 0 or hi >= buffer.nbytes:
            reach = Interval(lo, hi)
            raise self._fail(f"{what} may use bytes {reach} of '{buffer.name}', which has {buffer.nbytes}")
        if wanted.kind == "write":
            self._note_write(argument.buffer, lo, hi)
        if self.observe is not None:
            self.observe(self.function, self.index, argument.buffer, Interval(lo, hi))
        steps = (start.lo,) if start.lo == start.hi else (start.lo, argument.stride)
        if any(step % wanted.alignment for step in steps):
            raise self._fail(f"{what} may not be aligned to {wanted.alignment} bytes")

    # -- control --------------------------------------------------------------------------------------

    def _loop_begin(self, step: Step) -> None:
        lower, upper = self._interval(step, "lower"), self._interval(step, "upper")
        block = self._open_loop(step, certain=lower.hi < upper.lo)
        for register in block.writes.registers & self.state.facts.keys():
            element = self.function.registers[register]
            carried = whole(element) if element in INTEGER_BITS else _NOTHING
            self.state.set(register, None if register in block.writes.lost else carried)
        self._set_counter(step, lower, upper)

    def _parallel_begin(self, step: Step) -> None:
        """A trip may run on any worker, who has what was computed before the loop, and has run any other trips."""
        lower, upper = self._interval(step, "lower"), self._interval(step, "upper")
        if any(block.step.opcode.block == "parallel" for block in self.state.blocks):
            raise self._fail("a parallel loop in another")
        for register in self._open_loop(step).writes.registers:
            self.state.set(register, None)
        self._set_counter(step, lower, upper)

    def _open_loop(self, step: Step, certain: bool = False) -> Block:
        stride, upper = step.number("step"), self._interval(step, "upper")
        if stride < 1:
            raise self._fail(f"a step of {stride}")
        if upper.hi - 1 + stride not in _I64:
            raise self._fail(f"the counter may overflow: its bound may be {upper.hi}")
        block = self._open(step, certain)
        counter = step.number("counter")
        written = block.writes.registers
        if counter in written or step.number("upper") in written | {counter}:
            raise self._fail("the loop writes to its counter or its bound")
        return block

    def _set_counter(self, step: Step, lower: Interval, upper: Interval) -> None:
        """It is at most upper - 1, and on the grid of the step where its start is known."""
        highest = max(lower.lo, upper.hi - 1)
        if lower.lo == lower.hi:
            highest -= (highest - lower.lo) % step.number("step")
        self.state.set(step.number("counter"), Interval(lower.lo, highest))

    def _loop_end(self, step: Step) -> None:
        """The counter has no value after its loop."""
        self.state.close()
        self.state.set(step.number("counter"), None)

    def _parallel_end(self, step: Step) -> None:
        """Nor has what the body has written."""
        written = self.state.close().writes.registers
        for register in (*written, step.number("counter")):
            self.state.set(register, None)

    def _if_begin(self, step: Step) -> None:
        self._open(step)

    def _else(self, step: Step) -> None:
        self.state.divide()

    def _if_end(self, step: Step) -> None:
        self.state.close()

    def _ret(self, step: Step) -> None:
        if self.index != self.last:
            raise self._fail("'ret' before the end")

    def _open(self, step: Step, certain: bool = False) -> Block:
        block = Block(step, self.writes[self.index], certain)
        self.state.open(block)
        return block


_I64 = range(-(1 << 63), 1 << 63)


def _element(step: Step) -> str:
    return step.opcode.mnemonic.rpartition(".")[2]
