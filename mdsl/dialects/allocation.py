"""What allocations of memory have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsl.ir.attributes import Attribute, IntegerAttr
from mdsl.ir.core import Op
from mdsl.ir.declare import ALIGNMENT, INDEX, MEMREF, attr, operand, result
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, MemRefType
from mdsl.ir.verifier import verify_dynamic

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


def alignment_written(cursor: Cursor) -> dict[str, Attribute]:
    """`alignment = 64`, as upstream now writes it, beside the older dictionary."""
    if not cursor.accept("alignment"):
        return {}
    cursor.expect("=")
    return {"alignment": IntegerAttr(cursor.integer())}


class Allocation(Op):
    """Base of alloc and alloca."""

    sizes = operand(INDEX, variadic=True)
    symbols = operand(INDEX, variadic=True)
    alignment = attr(ALIGNMENT, optional=True, doc="bytes")
    memory = result(MEMREF)

    @classmethod
    def of(cls, type: MemRefType) -> Op:
        return cls([], [], results=[type])

    def verify_op(self) -> None:
        verify_dynamic(self, "sizes", self.sizes, memref_of(self.result).shape)
        if self.symbols:
            raise self.error("takes no symbols: layouts are strided")
        type = memref_of(self.result)
        if DYNAMIC in (type.strides or ()) or type.offset == DYNAMIC:
            raise self.error(f"the layout of {type} must be known")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        sizes = cursor.group("(").values()
        attributes = {**cls.segments([sizes, []]), **cursor.attr_dict(), **alignment_written(cursor)}
        cursor.expect(":")
        return cls.from_parts(sizes, [cursor.type()], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.parts.append(f"({printer.values(self.operands)})")
        printer.token(printer.dictionary(self))
        printer.token(f": {self.result.type}")
