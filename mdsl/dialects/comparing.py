"""What comparisons have in common: a predicate, and a result of truth values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.ir.attributes import IntegerAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import ELEMENTWISE, PURE
from mdsl.ir.types import ShapedType, Type, i1, i64
from mdsl.ir.verifier import infer_results

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


class Compare(Op):
    """Base of comparisons; the predicate is a number, as upstream has it, and a word in the text."""

    traits = PURE | ELEMENTWISE
    predicates: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The predicate as a word."""
        return self.predicates[int(self.attr("predicate"))]

    @classmethod
    def of(cls, word: str, lhs: Value, rhs: Value) -> Op:
        return cls(lhs, rhs, predicate=cls.predicates.index(word))

    def infer(self) -> Sequence[Type]:
        type = self.operands[0].type
        return [type.with_element(i1) if isinstance(type, ShapedType) else i1]

    def verify_op(self) -> None:
        if self.operands[0].type != self.operands[1].type:
            raise self.error(f"compares {self.operands[0].type} with {self.operands[1].type}")
        if list(self.infer()) != [self.result.type]:
            raise self.error(f"result must be of type {self.infer()[0]}")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        if not any(cursor.sees(p) for p in cls.predicates):
            raise cursor.fail(f"a predicate ({', '.join(cls.predicates)})")
        predicate = cls.predicates.index(cursor.word())
        cursor.expect(",")
        operands = [cursor.value()]
        cursor.expect(",")
        operands.append(cursor.value())
        attributes = {"predicate": IntegerAttr(predicate, i64), **cursor.attr_dict()}
        cursor.expect(":")
        start = cursor.at
        type = cursor.type()
        cursor.typed(operands, [type, type], start)
        op = cls.from_parts(operands, [], attributes)
        infer_results(op)
        return op

    def print_custom(self, printer: Printer) -> None:
        printer.token(f"{self.word}, {printer.values(self.operands)}")
        printer.token(printer.dictionary(self, "predicate"))
        printer.token(f": {self.operands[0].type}")
