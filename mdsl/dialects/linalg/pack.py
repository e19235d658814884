"""Data tiling in linalg: pack and unpack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdsl.dialects.indices import split_indices
from mdsl.ir.attributes import (
    Attribute,
    DenseArrayAttr,
)
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import (
    INDEX,
    INDICES,
    PURE,
    SHAPED,
    attr,
    operand,
    result,
)
from mdsl.ir.types import ShapedType, Type, i64

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer
from mdsl.dialects.linalg.structured import result_types, shape_of


def packed_shape(
    plain: Sequence[int], positions: Sequence[int], sizes: Sequence[int], order: Sequence[int]
) -> tuple[int, ...]:
    """`plain` with the dimensions at `positions` cut into tiles of `sizes`: outer dimensions in `order` (as they
    are where it is empty), then tiles."""
    tiles = dict(zip(positions, sizes, strict=True))
    outer = [-(-size // tiles.get(d, 1)) for d, size in enumerate(plain)]
    return (*(outer[d] for d in order or range(len(plain))), *sizes)


class Layout(NamedTuple):
    """How the packed side lies: the positions of the tiled dimensions, the sizes of their tiles, and the order of
    the outer dimensions (empty: as they are)."""

    positions: tuple[int, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]


_ATTRIBUTES = ("inner_dims_pos", "static_inner_tiles", "outer_dims_perm")


class _Relayout(Op):
    """Base of pack and unpack: dimensions `inner_dims_pos` split into tiles of `inner_tiles`."""

    source = operand(SHAPED)
    dest = operand(SHAPED)
    inner_tiles = operand(INDEX, variadic=True)
    outer_dims_perm = attr(INDICES, default=[])
    inner_dims_pos = attr(INDICES)
    static_inner_tiles = attr(INDICES)
    results_ = result(variadic=True)

    def infer(self) -> Sequence[Type]:
        return result_types([self.operands[1]])

    @property
    def layout(self) -> Layout:
        return Layout(*(tuple(self.attr(name)) for name in _ATTRIBUTES))

    @property
    def tiles(self) -> dict[int, int]:
        """Dimension of the plain side -> its tile, in the order of the packed side's last dimensions."""
        return dict(zip(self.layout.positions, self.layout.sizes, strict=True))

    def packed_shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """Shape of the packed side for a plain side of shape `plain`: outer dimensions, then tiles."""
        return packed_shape(plain, *self.layout)

    def verify_layout(self, plain: Type, packed: Type) -> None:
        assert isinstance(plain, ShapedType) and isinstance(packed, ShapedType)
        positions, tiles, order = self.layout
        if [r.type for r in self.results] != list(self.infer()):
            raise self.error("results must be of the types of the destination tensors")
        if plain.element != packed.element or type(plain) is not type(packed):
            raise self.error(f"cannot pack {plain} as {packed}")
        if self.inner_tiles:
            raise self.error("tiles must be numbers")
        if (
            len(positions) != len(tiles)
            or len(set(positions)) != len(positions)
            or any(not 0 <= p < plain.rank for p in positions)
            or any(t < 1 for t in tiles)
        ):
            raise self.error("inner_dims_pos and inner_tiles do not fit")
        if order and sorted(order) != list(range(plain.rank)):
            raise self.error(f"outer_dims_perm {list(order)} does not permute {plain.rank} dimensions")
        if self.packed_shape(plain.shape) != packed.shape:
            raise self.error(
                f"{plain} packs to a shape of {list(self.packed_shape(plain.shape))}, not {packed}"
            )

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        source = cursor.value()
        attributes: dict[str, Attribute] = {}
        padding: list[Value] = []
        if cursor.accept("padding_value"):
            inner = cursor.group("(")
            padding = [inner.value()]
            inner.expect(":")
            inner.type()
        dynamic: list[Value] = []
        for word in ("outer_dims_perm", "inner_dims_pos", "inner_tiles"):
            if cursor.accept(word):
                cursor.expect("=")
                dynamic, numbers = cursor.index_list()
                attributes["static_inner_tiles" if word == "inner_tiles" else word] = DenseArrayAttr(
                    i64, tuple(numbers)
                )
        cursor.expect("into")
        dest = cursor.value()
        attributes.update(cursor.attr_dict())
        cursor.expect(":")
        start = cursor.at
        cursor.typed([source], [cursor.type()], start)
        cursor.expect("->")
        start = cursor.at
        cursor.typed([dest], [cursor.type()], start)
        groups = [[source], [dest], *([padding] if cls is Pack else []), dynamic]
        attributes.update(cls.segments(groups))
        return cls.from_parts([v for g in groups for v in g], result_types([dest]), attributes)

    def print_custom(self, printer: Printer) -> None:
        source, dest = self.operands[:2]
        printer.token(printer.name(source))
        padding = self.padding_value if isinstance(self, Pack) else None
        printer.token(f"padding_value({printer.name(padding)} : {padding.type})" if padding else "")
        for word in ("outer_dims_perm", "inner_dims_pos"):
            numbers = self.attr(word)
            printer.token(f"{word} = [{', '.join(map(str, numbers))}]" if numbers else "")
        printer.token(
            f"inner_tiles = {printer.index_list(self.inner_tiles, self.attr('static_inner_tiles'))}"
        )
        printer.token(f"into {printer.name(dest)}")
        printer.token(printer.dictionary(self, *_ATTRIBUTES))
        printer.token(f": {source.type} -> {dest.type}")


def _layout_attributes(
    positions: Sequence[int], tiles: Sequence[int], order: Sequence[int]
) -> dict[str, Attribute]:
    return {
        "outer_dims_perm": DenseArrayAttr(i64, tuple(order)),
        "inner_dims_pos": DenseArrayAttr(i64, tuple(positions)),
        "static_inner_tiles": split_indices(list(tiles))[1],
    }


class Pack(_Relayout):
    """Into tiles: dimension `inner_dims_pos[i]` is cut into tiles of `inner_tiles[i]`, which become the last
    dimensions; the outer ones are permuted by `outer_dims_perm`. What a tile lacks is `padding_value`."""

    name = "linalg.pack"
    traits = PURE
    source = operand(SHAPED)
    dest = operand(SHAPED)
    padding_value = operand(optional=True)
    inner_tiles = operand(INDEX, variadic=True)

    @staticmethod
    def make(
        source: Value,
        dest: Value,
        positions: Sequence[int],
        tiles: Sequence[int],
        order: Sequence[int] = (),
        padding: Value | None = None,
    ) -> Pack:
        return Pack(source, dest, padding, [], attributes=_layout_attributes(positions, tiles, order))

    def verify_op(self) -> None:
        self.verify_layout(self.operands[0].type, self.operands[1].type)
        plain = shape_of(self.operands[0])
        if self.padding_value is None and any(plain[d] % tile for d, tile in self.tiles.items()):
            raise self.error("tiles do not divide the source: a padding_value is needed")


class Unpack(_Relayout):
    """The inverse of `linalg.pack`; padding is dropped."""

    name = "linalg.unpack"
    traits = PURE

    @staticmethod
    def make(
        source: Value, dest: Value, positions: Sequence[int], tiles: Sequence[int], order: Sequence[int] = ()
    ) -> Unpack:
        return Unpack(source, dest, [], attributes=_layout_attributes(positions, tiles, order))

    def verify_op(self) -> None:
        self.verify_layout(self.operands[1].type, self.operands[0].type)
