"""affine: index arithmetic by affine maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import AffineMapAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import INDEX, MAP, PURE, attr, operand, result
from mdsl.ir.types import Type, index

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


class Apply(Op):
    """The single result of an affine map."""

    name = "affine.apply"
    traits = PURE
    map = attr(MAP)
    operands_ = operand(INDEX, variadic=True)
    output = result(INDEX)

    def infer(self) -> Sequence[Type]:
        return [index]

    def verify_op(self) -> None:
        map: AffineMap = self.attr("map")
        if len(map.results) != 1:
            raise self.error("the map must have one result")
        if map.num_dims + map.num_symbols != len(self.operands):
            raise self.error(
                f"the map takes {map.num_dims + map.num_symbols} operands, got {len(self.operands)}"
            )

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        map = cursor.attribute()
        if not isinstance(map, AffineMapAttr):
            raise cursor.fail("an affine map before")
        operands: list[Value] = cursor.group("(").values()
        if cursor.sees("["):
            operands += cursor.group("[").values()
        return cls.from_parts(operands, [index], {"map": map, **cursor.attr_dict()})

    def print_custom(self, printer: Printer) -> None:
        map: AffineMap = self.attr("map")
        dims, symbols = self.operands[: map.num_dims], self.operands[map.num_dims :]
        tail = f"[{printer.values(symbols)}]" if symbols else ""
        printer.token(f"{printer.attribute(self.attributes['map'])}({printer.values(dims)}){tail}")
        printer.token(printer.dictionary(self, "map"))
