"""mvm: the bytecode as IR, with registers, counted loops, buffers and dispatches. (IREE's dialect is called vm.)

A value of scalar type is a register, an `arith` or `math` op on scalars an instruction. A buffer is the
memref of an argument, of a constant (`mvm.constant`) or of the arena (`memref.alloc` of i8); it is
reached at an offset in elements, which is an index register, or `base + index * stride`.
One worker runs the code; the others help with the trips of `mvm.parallel`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import scf
from mdsl.dialects.arith import constant_of
from mdsl.dialects.func import FunctionLike
from mdsl.dialects.terminator import Terminator
from mdsl.ir.attributes import ArrayAttr, DenseArrayAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import (
    DENSE_MEMREF,
    FLOAT_LIKE,
    INDEX,
    INDICES,
    INT,
    MEMREF,
    POSITIVE,
    PURE,
    READS,
    SCALAR,
    SCALAR_TYPE,
    SYMBOL_REF,
    array_of,
    attr,
    operand,
    result,
)
from mdsl.ir.types import Type, i64, index


class Func(FunctionLike):
    """A function of the bytecode: its arguments are buffers, inputs before outputs (`mdsl.output`)."""

    name = "mvm.func"
    terminator_name = "mvm.return"


class Return(Terminator):
    """Ends a function."""

    name = "mvm.return"


class Yield(Terminator):
    """Ends the body of a loop or a branch and hands on values."""

    name = "mvm.yield"


class Constant(Op):
    """The buffer of a constant of the module, a `memref.global`."""

    name = "mvm.constant"
    traits = PURE
    assembly = "$symbol attr-dict `:` type($buffer)"
    symbol = attr(SYMBOL_REF)
    buffer = result(MEMREF)


class Loop(scf.For):
    """A counted loop. Its step is a constant."""

    name = "mvm.loop"
    end = Yield

    @property
    def step_size(self) -> int:
        return int(constant_of(self.operands[2]) or 0)

    def verify_op(self) -> None:
        super().verify_op()
        if self.step_size < 1:
            raise self.error("the step must be a positive constant")


class Parallel(Loop):
    """A counted loop whose trips are shared among the workers, and done when it ends; it carries nothing, and is in no
    other of its kind."""

    name = "mvm.parallel"

    def verify_op(self) -> None:
        super().verify_op()
        if self.results:
            raise self.error("a parallel loop carries no values")
        around = self.parent
        while around is not None:
            if isinstance(around, Parallel):
                raise self.error("a parallel loop in another")
            around = around.parent


class If(scf.If):
    """One of two branches."""

    name = "mvm.if"
    end = Yield


class Lea(Op):
    """base + index * stride + offset."""

    name = "mvm.lea"
    traits = PURE
    base = operand(INDEX)
    index = operand(INDEX)
    stride = attr(INT, default=1)
    offset = attr(INT, default=0)
    output = result(INDEX)

    def infer(self) -> Sequence[Type]:
        return [index]


class Load(Op):
    """The element of `buffer` at `base`, or at `base + index * stride`; the result's type is the element's."""

    name = "mvm.load"
    traits = READS
    buffer = operand(DENSE_MEMREF)
    base = operand(INDEX)
    index = operand(INDEX, optional=True)
    stride = attr(INT, default=1)
    output = result(SCALAR)


class Store(Op):
    """Writes the element of `buffer` at `base`, or at `base + index * stride`."""

    name = "mvm.store"
    value = operand(SCALAR)
    buffer = operand(DENSE_MEMREF)
    base = operand(INDEX)
    index = operand(INDEX, optional=True)
    stride = attr(INT, default=1)


class Dot(Op):
    """sum + left[left_base + left_index * left_stride] * right[...]: one step of a scalar product, rounded once."""

    name = "mvm.dot"
    traits = READS
    sum = operand(FLOAT_LIKE)
    left = operand(DENSE_MEMREF)
    left_base = operand(INDEX)
    left_index = operand(INDEX)
    right = operand(DENSE_MEMREF)
    right_base = operand(INDEX)
    right_index = operand(INDEX)
    left_stride = attr(INT, default=1)
    right_stride = attr(INT, default=1)
    output = result(FLOAT_LIKE)

    def infer(self) -> Sequence[Type]:
        return [self.operands[0].type]


class Copy(Op):
    """Copies `count` neighbouring elements."""

    name = "mvm.copy"
    target = operand(DENSE_MEMREF)
    target_index = operand(INDEX)
    source = operand(DENSE_MEMREF)
    source_index = operand(INDEX)
    count = attr(POSITIVE)
    element = attr(SCALAR_TYPE)


class Fill(Op):
    """Sets `count` neighbouring elements."""

    name = "mvm.fill"
    value = operand(SCALAR)
    buffer = operand(DENSE_MEMREF)
    base = operand(INDEX)
    count = attr(POSITIVE)


class Dispatch(Op):
    """Calls a micro-kernel on a batch of argument lists.

    `layout` has `[buffers, registers, stride, offset]` for each argument: a buffer argument takes one
    operand, or two with a register, and is `buffer + register * stride + offset` in bytes; an argument
    without a buffer is a register's value.
    """

    name = "mvm.dispatch"
    callee = attr(SYMBOL_REF)
    batch = attr(POSITIVE, default=1)
    layout = attr(array_of(INDICES, "array<i64: ...>"))
    args = operand(variadic=True)

    @property
    def symbol(self) -> str:
        return str(self.attr("callee"))

    def arguments(self) -> list[tuple[Value | None, Value | None, int, int]]:
        """(buffer, register, stride, offset) of each argument, call after call."""
        remaining = iter(self.operands)
        found: list[tuple[Value | None, Value | None, int, int]] = []
        for buffers, registers, stride, offset in self.rows():
            buffer = next(remaining) if buffers else None
            found.append((buffer, next(remaining) if registers else None, stride, offset))
        return found

    def rows(self) -> list[tuple[int, int, int, int]]:
        """`layout` as numbers."""
        layout = self.attributes["layout"]
        assert isinstance(layout, ArrayAttr)
        return [tuple(int(v) for v in row.values) for row in layout if isinstance(row, DenseArrayAttr)]  # type: ignore[misc]

    def verify_op(self) -> None:
        rows = self.rows()
        if any(len(r) != 4 or r[0] not in (0, 1) or r[1] not in (0, 1) or r[0] + r[1] == 0 for r in rows):
            raise self.error("a row of 'layout' is [buffers, registers, stride, offset]")
        if sum(r[0] + r[1] for r in rows) != len(self.operands) or len(rows) % self.attr("batch"):
            raise self.error(f"'layout' does not fit {len(self.operands)} operands")
        for buffer, register, _, _ in self.arguments():
            if (buffer and not DENSE_MEMREF.accepts(buffer.type)) or (
                register and not SCALAR.accepts(register.type)
            ):
                raise self.error("a buffer of 'layout' is a memref, a register a number")


def layout_row(buffers: int, registers: int, stride: int, offset: int) -> DenseArrayAttr:
    return DenseArrayAttr(i64, (buffers, registers, stride, offset))
