"""ukernel: micro-kernels and their dispatch. This dialect is mdsl's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.dialects.func import FunctionLike
from mdsl.dialects.terminator import Terminator
from mdsl.ir.attributes import IntegerAttr, SymbolRefAttr
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    ANY,
    INT,
    SYMBOL_REF,
    TENSOR_OR_SCALAR,
    attr,
    operand,
    region,
    result,
)
from mdsl.ir.types import MemRefType, TensorType, Type

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

RANGE = "mdsl.range"
"""The argument attribute that says which values of an index argument a kernel is made for."""


class UkernelFunc(FunctionLike):
    """A micro-kernel: compiled to native code, called by `ukernel.dispatch`.

    On memrefs it writes its destinations and returns nothing; on tensors (before bufferize) it returns
    the tensors that it made of its last arguments.
    """

    name = "ukernel.func"
    terminator_name = "ukernel.return"


class Return(Terminator):
    """Ends a micro-kernel."""

    name = "ukernel.return"


class RegionOp(Op):
    """Ops that become one micro-kernel. They see the values around them; the last op yields the results."""

    name = "ukernel.region"
    outputs = result(TENSOR_OR_SCALAR, variadic=True)
    body_region = region()

    @staticmethod
    def make(types: Sequence[Type]) -> RegionOp:
        """A region with an empty body (append to `.body`, end with `ukernel.yield`)."""
        return RegionOp(results=types, regions=[Region(Block())])

    def verify_op(self) -> None:
        end = self.body.last
        types = [r.type for r in self.results]
        if end is None or end.name != "ukernel.yield" or [v.type for v in end.operands] != types:
            raise (end or self).error("the body must end in 'ukernel.yield' with the results' types")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        types = cursor.type_group() if cursor.accept("->") else []
        return cls.from_parts([], types, cursor.attr_dict(keyword=True), [cursor.region()])

    def print_custom(self, printer: Printer) -> None:
        types = ", ".join(str(r.type) for r in self.results)
        printer.token(f"-> ({types})" if len(self.results) > 1 else f"-> {types}" if types else "")
        printer.token(f"attributes {printer.attributes(self.attributes)}" if self.attributes else "")
        printer.region(self.regions[0])


class Yield(Terminator):
    """Ends a `ukernel.region`."""

    name = "ukernel.yield"


class Dispatch(Op):
    """Calls a micro-kernel; the last `outs` arguments are its destinations.

    With `batch = N` the operands are N argument lists one after another: N calls by one instruction.
    """

    name = "ukernel.dispatch"
    callee = attr(SYMBOL_REF)
    outs = attr(INT, default=1, doc="destinations among the arguments of one call")
    batch = attr(INT, default=1, doc="calls that this op issues")
    args = operand(ANY, variadic=True)
    outputs = result(variadic=True)

    @property
    def symbol(self) -> str:
        return str(self.attr("callee"))

    def calls(self) -> list[list[Value]]:
        """The arguments of each call."""
        count = len(self.operands) // self.attr("batch")
        return [self.operands[i * count : (i + 1) * count] for i in range(self.attr("batch"))]

    def verify_op(self) -> None:
        batch, outs = self.attr("batch"), self.attr("outs")
        if batch < 1 or len(self.operands) % batch:
            raise self.error(f"{len(self.operands)} operands do not make {batch} equal calls")
        if not 0 <= outs <= len(self.operands) // batch:
            raise self.error(f"{outs} destinations among {len(self.operands) // batch} arguments")
        wanted = [
            v.type
            for call in self.calls()
            for v in call[len(call) - outs :]
            if isinstance(v.type, TensorType)
        ]
        if [r.type for r in self.results] != wanted:
            raise self.error("results must be of the types of the destination tensors")

    def verify_symbol(self, definition: Op) -> None:
        if not isinstance(definition, UkernelFunc):
            raise self.error(f"@{self.symbol} is not a micro-kernel of this module")
        for call in self.calls():
            self._verify_arguments(call, definition.type.inputs)

    def _verify_arguments(self, call: Sequence[Value], types: Sequence[Type]) -> None:
        if len(call) != len(types):
            raise self.error(f"@{self.symbol} takes {len(types)} arguments, got {len(call)}")
        for value, type in zip(call, types, strict=True):
            if not fits(value.type, type):
                raise self.error(f"%{value.name} is of type {value.type}, @{self.symbol} takes {type}")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        callee = cursor.symbol()
        operands: list[Value] = []
        calls = 0
        while cursor.sees("("):
            operands += cursor.group("(").values()
            calls += 1
            if not cursor.accept(","):
                break
        attributes = {"callee": SymbolRefAttr(callee)}
        if calls > 1:
            attributes["batch"] = IntegerAttr(calls)  # type: ignore[assignment]
        attributes.update(cursor.attr_dict())  # type: ignore[arg-type]
        cursor.expect(":")
        start = cursor.at
        types = cursor.group("(").many(lambda c: c.type())
        results = cursor.type_group() if cursor.accept("->") else []
        cursor.typed(operands, types * max(calls, 1), start)
        return cls.from_parts(operands, results, attributes)

    def print_custom(self, printer: Printer) -> None:
        calls = self.calls()
        printer.token(f"{self.attributes['callee']}({'), ('.join(printer.values(c) for c in calls)})")
        printer.token(printer.dictionary(self, "callee", "batch"))
        printer.token(f": ({printer.types(calls[0])})")
        types = ", ".join(str(r.type) for r in self.results)
        printer.token(f"-> ({types})" if len(self.results) > 1 else f"-> {types}" if types else "")


def fits(actual: Type, formal: Type) -> bool:
    """True if a kernel that takes `formal` can be called with `actual`: a memref's offset does not matter,
    for a kernel receives a pointer to the first element."""
    if isinstance(actual, MemRefType) and isinstance(formal, MemRefType):
        return (actual.shape, actual.element, actual.layout) == (formal.shape, formal.element, formal.layout)
    return actual == formal
