"""What a `.mbc` file holds, as plain dataclasses.

A `Module` is functions, the micro-kernels they dispatch (as IR text), constants and provenance.
A function's buffers are numbered: its inputs, its outputs, the module's constants, then one arena.
Registers are 64-bit slots, each with one element type for its whole life.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mdsl.analysis.footprints import MAX_BYTES
from mdsl.analysis.intervals import INTEGER_BITS

if TYPE_CHECKING:
    from mdsl.dialects.ukernel import UkernelFunc

FORMAT_VERSION = 5

MAX_DIMENSIONS = 32


class _Dtypes(Mapping[str, np.dtype]):
    """`bf16` is of another package than NumPy, which is imported when the type is asked for: most programs have none."""

    _NAMES = {
        "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "i1": "bool", "i8": "int8",
        "i16": "int16", "i32": "int32", "i64": "int64", "index": "int64",
    }  # fmt: skip

    def __getitem__(self, element: str) -> np.dtype:
        if element == "bf16":
            from ml_dtypes import bfloat16

            return np.dtype(bfloat16)
        return np.dtype(self._NAMES[element])

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def __contains__(self, element: object) -> bool:
        return element in self._NAMES

    def element(self, dtype: np.dtype) -> str:
        """The element type of arrays of this dtype, `i64` for 64-bit integers. Raises KeyError where mdsl has none."""
        found = {name: element for element, name in self._NAMES.items() if element != "index"}
        return found[str(dtype)]


DTYPES = _Dtypes()
"""The element types and the NumPy dtype of each; `index` is 64 bits wide, `i1` a byte of 0 or 1."""

FLOAT_TYPES = ("f32", "f64", "f16", "bf16")
TYPES = (*FLOAT_TYPES, *INTEGER_BITS)
"""The types of registers. A value of type `index` lies in an `i64` register."""


class BytecodeError(Exception):
    """A module that is not well formed or not safe to run.

    `offset` is the byte in the `.mbc` file at fault, or None for a module that was built in memory.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.message = message
        self.offset = offset

    def __reduce__(self) -> tuple[type[BytecodeError], tuple[str, int | None]]:
        return BytecodeError, (self.message, self.offset)


class TensorSpec(NamedTuple):
    """A named, dense, row-major tensor of the signature."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def is_possible(self) -> bool:
        """Whether there may be such an array. NumPy limits the sizes of an empty one as those of any other."""
        sizes = [max(size, 1) for size in self.shape]
        return (
            len(sizes) <= MAX_DIMENSIONS and min(self.shape, default=0) >= 0 and prod(sizes) * 8 <= MAX_BYTES
        )

    def __str__(self) -> str:
        return f"{self.name}: tensor<{'x'.join([*map(str, self.shape), self.dtype])}>"


class Layout(NamedTuple):
    """How an input lies in blocks: for each dimension of the plain array those of the input that it is cut into, outermost first."""

    input: int
    dims: tuple[tuple[int, ...], ...]

    def suits(self, spec: TensorSpec) -> bool:
        """True if it names each dimension of the input once, and of the plain array none that is made of none."""
        return all(self.dims) and sorted(self.order) == list(range(len(spec.shape)))

    @property
    def order(self) -> list[int]:
        """The input's dimensions in the order of the plain array's elements."""
        return [d for group in self.dims for d in group]

    def plain_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the plain array of an input of this `shape`."""
        return tuple(prod(shape[d] for d in group) for group in self.dims)

    def plain(self, array: np.ndarray) -> np.ndarray:
        """What lies in blocks as a new plain array."""
        return np.array(array.transpose(self.order), order="C").reshape(self.plain_shape(array.shape))

    def blocked(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """A plain array as a new one in blocks, of the input's `shape`."""
        parts = array.reshape([shape[d] for d in self.order])
        return np.array(parts.transpose(np.argsort(self.order)), order="C")


class Constant(NamedTuple):
    """A read-only tensor that lies in the file, aligned to 64 bytes, and is mapped when it is loaded."""

    name: str
    array: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, DTYPES.element(self.array.dtype), self.array.shape)


class Kernel(NamedTuple):
    """A micro-kernel: the text of its `ukernel.func`, compiled for the host when the module is loaded."""

    name: str
    ir: str


class BufferArgument(NamedTuple):
    """A dispatch argument `buffer + register * stride + offset`: a pointer; stride and offset in bytes.

    Without a register it is `buffer + offset`.
    """

    buffer: int
    register: int | None = None
    stride: int = 0
    offset: int = 0


class RegisterArgument(NamedTuple):
    """A dispatch argument that is the 64-bit value of an integer register."""

    register: int


Argument = BufferArgument | RegisterArgument
Operand = int | float | tuple[tuple[Argument, ...], ...]


class Instruction(NamedTuple):
    """A mnemonic of the table in `isa` and its operands, in the order in which the table names them."""

    opcode: str
    operands: tuple[Operand, ...] = ()


@dataclass
class Function:
    """Structured code over numbered registers and buffers.

    `registers` has a type a register, `arena` is the size of the arena in bytes. `locations` is empty or
    names the source of each instruction; `offsets` is empty or has the byte at which each one was decoded. `donations`
    are pairs of an input and an output that lie in one memory: the output's holds the input first. `layouts` tell of inputs in
    blocks; an output in the memory of such an input lies as it does.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    registers: tuple[str, ...]
    arena: int
    code: list[Instruction]
    locations: tuple[str, ...] = field(default_factory=tuple)  # no default in the class; see `decode`
    offsets: tuple[int, ...] = field(default_factory=tuple, compare=False)
    donations: tuple[tuple[int, int], ...] = ()
    layouts: tuple[Layout, ...] = ()


@dataclass
class Module:
    functions: list[Function]
    kernels: list[Kernel] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    parsed: dict[str, UkernelFunc] = field(default_factory=dict, compare=False, repr=False)
    """Kernels that were assembled from ops just now. Who compiles the module takes them out of here, and need
    not parse their texts."""
    digest: str = field(default="", init=False, compare=False, repr=False)
    """Of the sections of its file that the proof of its code follows from; empty for a module that is in none. Who
    changes a module makes a new one, which has no digest."""

    def function(self, name: str | None = None) -> Function:
        """The function of that name; without a name `main`, or the first."""
        for function in self.functions:
            if function.name == (name or "main"):
                return function
        if name is None and self.functions:
            return self.functions[0]
        raise BytecodeError(f"the module has no function '{name or 'main'}'")

    def buffers(self, function: Function) -> Buffers:
        """The buffers of a function, in the order of their numbers."""
        return Buffers(function, self.constants)


class Buffer(NamedTuple):
    """A numbered buffer of a function: its size in bytes and what it is (input, output, constant, arena)."""

    name: str
    nbytes: int
    kind: str

    @property
    def writable(self) -> bool:
        return self.kind in ("output", "arena")


class Buffers(Sequence[Buffer]):
    """The buffers of a function by number, made when they are asked for: a module may have many functions and many
    constants."""

    def __init__(self, function: Function, constants: Sequence[Constant]) -> None:
        self.function, self.constants = function, constants

    def __len__(self) -> int:
        return len(self.function.inputs) + len(self.function.outputs) + len(self.constants) + 1

    def __getitem__(self, number: int) -> Buffer:  # pyright: ignore[reportIncompatibleMethodOverride]
        for kind, parts in (
            ("input", self.function.inputs), ("output", self.function.outputs), ("constant", self.constants)
        ):  # fmt: skip
            if number < len(parts):
                return Buffer(parts[number].name, parts[number].nbytes, kind)
            number -= len(parts)
        if number:
            raise IndexError(number)
        return Buffer("arena", self.function.arena, "arena")
