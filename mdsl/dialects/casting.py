"""What conversions between element types have in common."""

from __future__ import annotations

from mdsl.ir.core import Op
from mdsl.ir.declare import ELEMENTWISE, PURE
from mdsl.ir.types import IntegerType, ShapedType, Type, dtype_of, element_of


class Cast(Op):
    """Base of conversions: the shape stays, the element type changes."""

    traits = PURE | ELEMENTWISE
    assembly = "$input attr-dict `:` type($input) `to` type($output)"

    def verify_op(self) -> None:
        source, target = self.operands[0].type, self.result.type
        if isinstance(source, ShapedType) != isinstance(target, ShapedType) or (
            isinstance(source, ShapedType) and isinstance(target, ShapedType) and source.shape != target.shape
        ):
            raise self.error(f"cannot change the shape: {source} to {target}")
        self.verify_widths(_width(element_of(source)), _width(element_of(target)))

    def verify_widths(self, source: int, target: int) -> None:
        """Overridden by conversions that only widen or only narrow."""


def _width(type: Type) -> int:
    if isinstance(type, IntegerType):
        return type.width
    return 8 * dtype_of(type).itemsize


class Widening(Cast):
    """Base of conversions to a wider type."""

    def verify_widths(self, source: int, target: int) -> None:
        if source >= target:
            raise self.error(f"must widen, from {source} to {target} bits")


class Narrowing(Cast):
    """Base of conversions to a narrower type."""

    def verify_widths(self, source: int, target: int) -> None:
        if source <= target:
            raise self.error(f"must narrow, from {source} to {target} bits")
