"""What an opcode's semantics may ask of the engine that it is emitted for.

The semantics in `semantics` are written once against `Machine`. The interpreter's machine reads operands
from the code stream and registers from memory; the JIT's has constants and local variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llvmlite import ir

from mdsl.arithmetic import ops as arithmetic
from mdsl.target.target import ELEMENT_BYTES

I1, I8, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(64)
POINTER = ir.PointerType()

stored_type = arithmetic.memory_type
"""The LLVM type of an element in memory and in a register's slot: `i1` is a byte."""


def load_element(builder: ir.IRBuilder, pointer: ir.Value, element: str) -> ir.Value:
    """A byte that is neither 0 nor 1 counts as true, so that no hostile constant makes a third `i1`."""
    value = builder.load(pointer, typ=stored_type(element), align=ELEMENT_BYTES[element])
    return builder.icmp_unsigned("!=", value, I8(0)) if element == "i1" else value


def store_element(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, element: str) -> None:
    if element == "i1":
        value = builder.zext(value, I8)
    builder.store(value, pointer, align=ELEMENT_BYTES[element])


class CallArgument(NamedTuple):
    """One argument of a dispatch as four i64 values; it is passed as base + register * stride + offset."""

    base: ir.Value
    register: ir.Value
    stride: ir.Value
    offset: ir.Value


class Machine(ABC):
    """The operands of one instruction, by the names that the table gives them, and the ways to go on."""

    builder: ir.IRBuilder

    @abstractmethod
    def read(self, name: str) -> ir.Value:
        """The value of a register operand."""

    @abstractmethod
    def write(self, name: str, value: ir.Value) -> None:
        """Set a register operand."""

    @abstractmethod
    def immediate(self, name: str) -> ir.Value:
        """An immediate operand: an i64, or a value of the operand's element type."""

    @abstractmethod
    def buffer(self, name: str) -> ir.Value:
        """A pointer to the first byte of a buffer operand."""

    @abstractmethod
    def jump(self, label: str) -> None:
        """Go on at a label; nothing may be emitted after it."""

    @abstractmethod
    def jump_if(self, condition: ir.Value, label: str) -> None:
        """Go on at a label when the condition holds; what is emitted next runs when it does not."""

    @abstractmethod
    def finish(self) -> None:
        """Return from the function; nothing may be emitted after it."""

    @abstractmethod
    def calls(self) -> Iterator[list[CallArgument]]:
        """The argument lists of a dispatch. The code for one is emitted in the body of a `for` over them."""

    @abstractmethod
    def call_kernel(self, arguments: list[ir.Value]) -> None:
        """Call the instruction's micro-kernel on i64 arguments."""

    @abstractmethod
    def spend(self, steps: Callable[[], ir.Value]) -> None:
        """Take what may be long, in steps, from the worker's fuel, where it has a limit; without enough it returns
        from the function."""

    @abstractmethod
    def context(self, field: int) -> ir.Value:
        """An i64 field of the worker's context (see `bytecode.worker_context`)."""

    @abstractmethod
    def share(self, lower: ir.Value, trips: ir.Value) -> None:
        """Have the body of the block that begins here run for each trip, `counter` starting at `lower`, by whoever
        has time; go on when all are done."""
