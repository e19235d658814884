"""linalg: structured ops, the narrow waist. Each is a loop nest: affine maps, iterator kinds, a scalar body.

`linalg.generic` writes all three out. A named op stands for one such nest; its body is built when it is
made or parsed, is hidden in the custom form and written in the generic form, as upstream has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mdsl.dialects import arith
from mdsl.dialects.tensor import split_indices
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DenseAttr,
    OpaqueAttr,
    StringAttr,
)
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    ANY_ATTR,
    ARRAY,
    INDEX,
    INT,
    INTS,
    PURE,
    SHAPED,
    TERMINATOR,
    attr,
    operand,
    region,
    result,
)
from mdsl.ir.types import DYNAMIC, ShapedType, TensorType, Type, i64, index

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

L = TypeVar("L", bound="LinalgOp")

PARALLEL, REDUCTION = "parallel", "reduction"


class Yield(Op):
    """Ends the body: the new elements of the outputs."""

    name = "linalg.yield"
    traits = TERMINATOR
    assembly = "$values attr-dict ( `:` type($values) )?"
    values = operand(variadic=True)


class IndexOp(Op):
    """The value of one loop counter, in a body."""

    name = "linalg.index"
    traits = PURE
    dim = attr(INT)
    output = result(INDEX)
    assembly = "$dim attr-dict `:` type($output)"

    def infer(self) -> Sequence[Type]:
        return [index]

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        dim = cursor.integer()
        cursor.expect(":")
        cursor.type()
        return cls(dim=dim)

    def print_custom(self, printer: Printer) -> None:
        printer.token(f"{self.attr('dim')} : index")


class LinalgOp(Op):
    """What every structured op offers to passes: inputs, outputs, maps, iterators, body."""

    inputs = operand(variadic=True)
    outputs = operand(SHAPED, variadic=True)
    results_ = result(variadic=True)
    body_region = region()

    @property
    def maps(self) -> list[AffineMap]:
        """One map an operand, inputs first: loop dimensions -> element."""
        raise AssertionError

    @property
    def iterators(self) -> list[str]:
        """`parallel` or `reduction` for each loop dimension."""
        raise AssertionError

    @property
    def num_loops(self) -> int:
        return len(self.iterators)

    @property
    def parallel_dims(self) -> list[int]:
        return [d for d, kind in enumerate(self.iterators) if kind == PARALLEL]

    @property
    def reduction_dims(self) -> list[int]:
        return [d for d, kind in enumerate(self.iterators) if kind == REDUCTION]

    def loop_sizes(self) -> list[int]:
        """Extent of each loop dimension, read off the operands. Raises VerifyError if one is not determined."""
        sizes: dict[int, int] = {}
        for map, value in zip(self.maps, self.operands, strict=True):
            for expr, extent in zip(map.results, _shape(value), strict=True):
                if isinstance(expr, Dim):
                    sizes.setdefault(expr.position, extent)
        missing = [d for d in range(self.num_loops) if d not in sizes]
        if missing:
            raise self.error(f"the extent of loop dimension d{missing[0]} does not follow from the operands")
        return [sizes[d] for d in range(self.num_loops)]

    @property
    def is_elementwise(self) -> bool:
        """True if all loops are parallel, outputs are permutations and the inputs plain dimensions."""
        maps = self.maps
        split = len(self.inputs)
        return (
            REDUCTION not in self.iterators
            and all(m.is_projected_permutation or not m.results for m in maps[:split])
            and all(m.is_permutation for m in maps[split:])
        )

    @property
    def is_contraction(self) -> bool:
        """True for a reduction over two inputs (the window of a pooling, which nothing reads, is none)."""
        two = len(self.inputs) == 2 and len(self.outputs) == 1 and len(self.body.args) == 3
        return REDUCTION in self.iterators and two and all(a.users for a in self.body.args)

    def verify_op(self) -> None:
        maps = self.maps
        if len(maps) != len(self.operands):
            raise self.error(f"{len(maps)} indexing maps for {len(self.operands)} operands")
        for map, value in zip(maps, self.operands, strict=True):
            if map.num_dims != self.num_loops:
                raise self.error(
                    f"a map takes {map.num_dims} dimensions, there are {self.num_loops} iterators"
                )
            if len(map.results) != len(_shape(value)):
                raise self.error(f"map {map} does not fit {value.type}")
        self._verify_extents()
        self._verify_body()

    def _verify_extents(self) -> None:
        sizes = self.loop_sizes()
        if DYNAMIC in sizes:
            return
        for map, value in zip(self.maps, self.operands, strict=True):
            for expr, extent in zip(map.results, _shape(value), strict=True):
                linear = expr.coefficients()
                if linear is None or 0 in sizes:
                    continue
                highest = linear[1] + sum(max(f, 0) * (sizes[d] - 1) for d, f in linear[0].items())
                lowest = linear[1] + sum(min(f, 0) * (sizes[d] - 1) for d, f in linear[0].items())
                plain_mismatch = isinstance(expr, Dim) and extent != sizes[expr.position]
                if lowest < 0 or highest >= extent or plain_mismatch:
                    raise self.error(
                        f"{expr} runs from {lowest} to {highest} in a dimension of {extent} ({value.type})"
                    )

    def _verify_body(self) -> None:
        elements = [v.type.element if isinstance(v.type, ShapedType) else v.type for v in self.operands]
        if [a.type for a in self.body.args] != elements:
            raise self.error(f"the body must take ({', '.join(map(str, elements))})")
        outs = [v.type for v in self.outputs]
        end = self.body.last
        if (
            end is None
            or end.name != "linalg.yield"
            or [v.type for v in end.operands] != [t.element for t in outs]
        ):
            raise (end or self).error("the body must end in 'linalg.yield' with an element for each output")
        wanted = [t for t in outs if isinstance(t, TensorType)]
        if [r.type for r in self.results] != wanted:
            raise self.error("results must be of the types of the output tensors")


def _shape(value: Value) -> tuple[int, ...]:
    return value.type.shape if isinstance(value.type, ShapedType) else ()


def result_types(outputs: Sequence[Value]) -> list[Type]:
    """A result for each output that is a tensor."""
    return [v.type for v in outputs if isinstance(v.type, TensorType)]


def iterator_attribute(kinds: Sequence[str]) -> ArrayAttr:
    return ArrayAttr(tuple(OpaqueAttr(f"#linalg.iterator_type<{k}>") for k in kinds))


class Generic(LinalgOp):
    """A loop nest written out: maps, iterators, body."""

    name = "linalg.generic"
    indexing_maps = attr(ARRAY)
    iterator_types = attr(ARRAY)

    @staticmethod
    def make(
        inputs: Sequence[Value], outputs: Sequence[Value], maps: Sequence[AffineMap], iterators: Sequence[str]
    ) -> Generic:
        """An op with an empty body: append to `.body`, whose arguments are the elements, and end with `linalg.yield`."""
        block = Block(
            [_element(v) for v in (*inputs, *outputs)], [*["in"] * len(inputs), *["out"] * len(outputs)]
        )
        return Generic(
            inputs,
            outputs,
            results=result_types(outputs),
            regions=[Region(block)],
            indexing_maps=ArrayAttr(tuple(AffineMapAttr(m) for m in maps)),
            iterator_types=iterator_attribute(iterators),
        )

    @property
    def maps(self) -> list[AffineMap]:
        found = self.attributes["indexing_maps"]
        assert isinstance(found, ArrayAttr)
        return [m.map for m in found if isinstance(m, AffineMapAttr)]

    @property
    def iterators(self) -> list[str]:
        found = self.attributes["iterator_types"]
        assert isinstance(found, ArrayAttr)
        return [_kind(a) for a in found]

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes = cursor.attr_dict()
        for name in ("indexing_maps", "iterator_types"):
            if not isinstance(attributes.get(name), ArrayAttr):
                raise cursor.fail(f"a dictionary with '{name}' before")
        kinds = attributes["iterator_types"]
        assert isinstance(kinds, ArrayAttr)
        attributes["iterator_types"] = iterator_attribute([_kind(k) for k in kinds])
        inputs, outputs = parse_ins_outs(cursor)
        if cursor.accept("attrs"):
            cursor.expect("=")
            attributes.update(cursor.attr_dict())
        body = cursor.region()
        results = cursor.type_group() if cursor.accept("->") else []
        attributes.update(cls.segments([inputs, outputs]))
        return cls.from_parts([*inputs, *outputs], results, attributes, [body])

    def print_custom(self, printer: Printer) -> None:
        kinds = ", ".join(f'"{k}"' for k in self.iterators)
        printer.token(f"{{indexing_maps = {self.attributes['indexing_maps']}, iterator_types = [{kinds}]}}")
        print_ins_outs(self, printer)
        extra = {
            k: v
            for k, v in self.attributes.items()
            if k not in ("indexing_maps", "iterator_types", "operandSegmentSizes")
        }
        printer.token(f"attrs = {printer.attributes(extra)}" if extra else "")
        printer.region(self.regions[0], label=True)
        print_results(self, printer)


def _kind(attr: Attribute) -> str:
    if isinstance(attr, StringAttr):
        return attr.value
    return str(attr).removeprefix("#linalg.iterator_type<").removesuffix(">")


def _element(value: Value) -> Type:
    return value.type.element if isinstance(value.type, ShapedType) else value.type


def parse_ins_outs(cursor: Cursor) -> tuple[list[Value], list[Value]]:
    """`ins(%a : t) outs(%b : t)`; `ins` may be absent."""
    groups: list[list[Value]] = []
    for word in ("ins", "outs"):
        if not cursor.accept(word):
            if word == "outs":
                raise cursor.fail("'outs'")
            groups.append([])
            continue
        inner = cursor.group("(")
        values = inner.values()
        inner.expect(":")
        start = inner.at
        inner.typed(values, inner.types(), start)
        groups.append(values)
    return groups[0], groups[1]


def print_ins_outs(op: LinalgOp, printer: Printer) -> None:
    if op.inputs:
        printer.token(f"ins({printer.values(op.inputs)} : {printer.types(op.inputs)})")
    printer.token(f"outs({printer.values(op.outputs)} : {printer.types(op.outputs)})")


def print_results(op: Op, printer: Printer) -> None:
    types = [str(r.type) for r in op.results]
    if types:
        printer.token(f"-> {types[0]}" if len(types) == 1 else f"-> ({', '.join(types)})")


# Named ops ------------------------------------------------------------------------------------------------


class Named(LinalgOp):
    """Base of named ops: a subclass gives maps, iterators and the body's arithmetic."""

    num_inputs: ClassVar[int] = 2

    @classmethod
    def make(cls: type[L], inputs: Sequence[Value], outputs: Sequence[Value], **attributes: Any) -> L:
        """The op with its body built."""
        block = Block(
            [_element(v) for v in (*inputs, *outputs)], [*["in"] * len(inputs), *["out"] * len(outputs)]
        )
        op = cls(inputs, outputs, results=result_types(outputs), regions=[Region(block)], **attributes)
        op._fill_body(block)  # type: ignore[attr-defined]
        return op

    def _fill_body(self, block: Block) -> None:
        produced = self.element(block)
        block.append(Yield([produced], results=[]))

    def element(self, block: Block) -> Value:
        """Appends the arithmetic of one iteration and returns the new element."""
        raise AssertionError

    def verify_op(self) -> None:
        if len(self.inputs) != self.num_inputs or len(self.outputs) != 1:
            raise self.error(f"takes {self.num_inputs} inputs and 1 output")
        super().verify_op()

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes = cursor.attr_dict()
        inputs, outputs = parse_ins_outs(cursor)
        attributes.update(cls.parse_tail(cursor))
        attributes.update(cursor.attr_dict())
        results = cursor.type_group() if cursor.accept("->") else result_types(outputs)
        if len(inputs) != cls.num_inputs or len(outputs) != 1:
            raise cursor.parser.error(
                f"'{cls.name}' takes {cls.num_inputs} inputs and 1 output", cursor.anchor
            )
        op = cls.make(inputs, outputs, **attributes)
        op.set_result_types(results)
        return op

    @classmethod
    def parse_tail(cls, cursor: Cursor) -> dict[str, Attribute]:
        """Attributes written behind the operands (`permutation = [1, 0]`)."""
        return {}

    def tail(self) -> tuple[str, str]:
        """What `parse_tail` reads, and the attribute it covers."""
        return "", ""

    def print_custom(self, printer: Printer) -> None:
        text, covered = self.tail()
        shown = {k: v for k, v in self.attributes.items() if k not in ("operandSegmentSizes", covered)}
        printer.token(printer.attributes(shown) if shown else "")
        print_ins_outs(self, printer)
        printer.token(text)
        if not text:
            print_results(self, printer)


class Fill(Named):
    """Every element becomes the scalar."""

    name = "linalg.fill"
    num_inputs = 1

    @property
    def maps(self) -> list[AffineMap]:
        rank = self.outputs[0].type.rank
        return [AffineMap(rank, 0, ()), AffineMap.identity(rank)]

    @property
    def iterators(self) -> list[str]:
        return [PARALLEL] * self.outputs[0].type.rank

    def element(self, block: Block) -> Value:
        return block.args[0]


class Copy(Named):
    """Elements of the input."""

    name = "linalg.copy"
    num_inputs = 1

    @property
    def maps(self) -> list[AffineMap]:
        return [AffineMap.identity(self.outputs[0].type.rank)] * 2

    @property
    def iterators(self) -> list[str]:
        return [PARALLEL] * self.outputs[0].type.rank

    def element(self, block: Block) -> Value:
        return block.args[0]


class _WithList(Named):
    """Base of ops with a list of dimensions behind their operands."""

    num_inputs = 1
    list_name: ClassVar[str] = ""

    @classmethod
    def parse_tail(cls, cursor: Cursor) -> dict[str, Attribute]:
        cursor.expect(cls.list_name)
        cursor.expect("=")
        return {cls.list_name: DenseArrayAttr(i64, tuple(cursor.index_list()[1]))}

    def tail(self) -> tuple[str, str]:
        return f"{self.list_name} = [{', '.join(map(str, self.attr(self.list_name)))}]", self.list_name

    @property
    def iterators(self) -> list[str]:
        return [PARALLEL] * self.outputs[0].type.rank

    def element(self, block: Block) -> Value:
        return block.args[0]


class Transpose(_WithList):
    """Dimension i of the output is dimension `permutation[i]` of the input."""

    name = "linalg.transpose"
    permutation = attr(INTS)
    list_name = "permutation"

    @property
    def maps(self) -> list[AffineMap]:
        permutation = self.attr("permutation")
        positions = [permutation.index(d) for d in range(len(permutation))]
        return [AffineMap.select(len(permutation), positions), AffineMap.identity(len(permutation))]

    def verify_op(self) -> None:
        if sorted(self.attr("permutation")) != list(range(self.outputs[0].type.rank)):
            raise self.error(
                f"permutation {self.attr('permutation')} does not permute {self.outputs[0].type.rank} dimensions"
            )
        super().verify_op()


class Broadcast(_WithList):
    """The input repeated along the `dimensions` of the output."""

    name = "linalg.broadcast"
    dimensions = attr(INTS)
    list_name = "dimensions"

    @property
    def maps(self) -> list[AffineMap]:
        rank = self.outputs[0].type.rank
        kept = [d for d in range(rank) if d not in self.attr("dimensions")]
        return [AffineMap.select(rank, kept), AffineMap.identity(rank)]


class _Contraction(Named):
    """Base of sums of products."""

    num_dims: ClassVar[int]
    selections: ClassVar[tuple[tuple[int, ...], ...]]  # dimensions of each operand
    reductions: ClassVar[tuple[int, ...]]

    @property
    def maps(self) -> list[AffineMap]:
        return [AffineMap.select(self.num_dims, s) for s in self.selections]

    @property
    def iterators(self) -> list[str]:
        return [REDUCTION if d in self.reductions else PARALLEL for d in range(self.num_dims)]

    def element(self, block: Block) -> Value:
        left, right, out = block.args
        product = block.append(arith.multiply(left, right)).result
        return block.append(arith.add(out, product)).result


class Matmul(_Contraction):
    """C(m, n) += A(m, k) B(k, n)."""

    name = "linalg.matmul"
    indexing_maps = attr(ANY_ATTR, optional=True)
    num_dims, selections, reductions = 3, ((0, 2), (2, 1), (0, 1)), (2,)


class BatchMatmul(_Contraction):
    """C(b, m, n) += A(b, m, k) B(b, k, n)."""

    name = "linalg.batch_matmul"
    indexing_maps = attr(ANY_ATTR, optional=True)
    num_dims, selections, reductions = 4, ((0, 1, 3), (0, 3, 2), (0, 1, 2)), (3,)


class Matvec(_Contraction):
    """y(m) += A(m, n) x(n)."""

    name = "linalg.matvec"
    num_dims, selections, reductions = 2, ((0, 1), (1,), (0,)), (1,)


class Vecmat(_Contraction):
    """y(n) += x(m) A(m, n)."""

    name = "linalg.vecmat"
    num_dims, selections, reductions = 2, ((1,), (1, 0), (0,)), (1,)


class Dot(_Contraction):
    """The scalar product of two vectors."""

    name = "linalg.dot"
    num_dims, selections, reductions = 1, ((0,), (0,), ()), (0,)


def _window(position: int, kernel: int, stride: int, dilation: int) -> AffineExpr:
    return Dim(position) * stride + Dim(kernel) * dilation


class _Windowed(Named):
    """Base of convolutions and poolings: loops n, c, h, w, then the window."""

    strides = attr(ANY_ATTR, optional=True)
    dilations = attr(ANY_ATTR, optional=True)

    def pair(self, name: str) -> tuple[int, int]:
        """`strides` or `dilations`, by default 1."""
        found = self.attributes.get(name)
        if isinstance(found, DenseAttr):
            numbers = [int(v) for v in found.array.reshape(-1)]
            if len(numbers) != 2 or min(numbers) < 1:
                raise self.error(f"'{name}' must be two positive numbers, got {numbers}")
            return numbers[0], numbers[1]
        return 1, 1


class ConvNchwFchw(_Windowed, _Contraction):
    """2-D convolution: O(n, f, h, w) += I(n, c, h*sh + kh*dh, w*sw + kw*dw) K(f, c, kh, kw)."""

    name = "linalg.conv_2d_nchw_fchw"
    num_dims, reductions = 7, (4, 5, 6)

    @property
    def maps(self) -> list[AffineMap]:
        (sh, sw), (dh, dw) = self.pair("strides"), self.pair("dilations")
        image = AffineMap(7, 0, (Dim(0), Dim(4), _window(2, 5, sh, dh), _window(3, 6, sw, dw)))
        return [image, AffineMap.select(7, (1, 4, 5, 6)), AffineMap.select(7, (0, 1, 2, 3))]


class ConvNhwcHwcf(_Windowed, _Contraction):
    """2-D convolution: O(n, h, w, f) += I(n, h*sh + kh*dh, w*sw + kw*dw, c) K(kh, kw, c, f)."""

    name = "linalg.conv_2d_nhwc_hwcf"
    num_dims, reductions = 7, (4, 5, 6)

    @property
    def maps(self) -> list[AffineMap]:
        (sh, sw), (dh, dw) = self.pair("strides"), self.pair("dilations")
        image = AffineMap(7, 0, (Dim(0), _window(1, 4, sh, dh), _window(2, 5, sw, dw), Dim(6)))
        return [image, AffineMap.select(7, (4, 5, 6, 3)), AffineMap.select(7, (0, 1, 2, 3))]


class _Pooling(_Windowed):
    """Base of poolings: the second input only gives the window's shape."""

    combine: ClassVar[tuple[type[Op], type[Op]]]

    @property
    def maps(self) -> list[AffineMap]:
        (sh, sw), (dh, dw) = self.pair("strides"), self.pair("dilations")
        image = AffineMap(6, 0, (Dim(0), Dim(1), _window(2, 4, sh, dh), _window(3, 5, sw, dw)))
        return [image, AffineMap.select(6, (4, 5)), AffineMap.select(6, (0, 1, 2, 3))]

    @property
    def iterators(self) -> list[str]:
        return [PARALLEL] * 4 + [REDUCTION] * 2

    def element(self, block: Block) -> Value:
        value, _, out = block.args
        return block.append(self.combine[not arith.is_float(value.type)](out, value)).result


class PoolingMax(_Pooling):
    """The largest element of each window."""

    name = "linalg.pooling_nchw_max"
    combine = (arith.MaximumF, arith.MaxSI)


class PoolingSum(_Pooling):
    """The sum of each window."""

    name = "linalg.pooling_nchw_sum"
    combine = (arith.AddF, arith.AddI)


# Data tiling ----------------------------------------------------------------------------------------------


class _Relayout(Op):
    """Base of pack and unpack: dimensions `inner_dims_pos` split into tiles of `inner_tiles`."""

    source = operand(SHAPED)
    dest = operand(SHAPED)
    inner_tiles = operand(INDEX, variadic=True)
    outer_dims_perm = attr(INTS, default=[])
    inner_dims_pos = attr(INTS)
    static_inner_tiles = attr(INTS)
    results_ = result(variadic=True)

    def infer(self) -> Sequence[Type]:
        return result_types([self.operands[1]])

    def packed_shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """Shape of the packed side for a plain side of shape `plain`: outer dimensions, then tiles."""
        tiles = dict(zip(self.attr("inner_dims_pos"), self.attr("static_inner_tiles"), strict=True))
        outer = [-(-size // tiles.get(d, 1)) for d, size in enumerate(plain)]
        order = self.attr("outer_dims_perm") or range(len(plain))
        return (*(outer[d] for d in order), *self.attr("static_inner_tiles"))

    def verify_layout(self, plain: Type, packed: Type) -> None:
        assert isinstance(plain, ShapedType) and isinstance(packed, ShapedType)
        positions, tiles = self.attr("inner_dims_pos"), self.attr("static_inner_tiles")
        if self.inner_tiles:
            raise self.error("tiles must be numbers")
        if (
            len(positions) != len(tiles)
            or any(not 0 <= p < plain.rank for p in positions)
            or any(t < 1 for t in tiles)
        ):
            raise self.error("inner_dims_pos and inner_tiles do not fit")
        order = self.attr("outer_dims_perm")
        if order and sorted(order) != list(range(plain.rank)):
            raise self.error(f"outer_dims_perm {order} does not permute {plain.rank} dimensions")
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
        own = ("outer_dims_perm", "inner_dims_pos", "static_inner_tiles", "operandSegmentSizes")
        extra = {k: v for k, v in self.attributes.items() if k not in own}
        printer.token(printer.attributes(extra) if extra else "")
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
        tiles = dict(zip(self.attr("inner_dims_pos"), self.attr("static_inner_tiles"), strict=True))
        if self.padding_value is None and any(
            s % tiles.get(d, 1) for d, s in enumerate(_shape(self.operands[0]))
        ):
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
