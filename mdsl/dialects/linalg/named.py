"""Named ops of linalg: each stands for one loop nest, and builds the body that it hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mdsl.dialects import arith
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DenseAttr,
)
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    INDICES,
    MAPS,
    SCALAR,
    SHAPED,
    Constraint,
    attr,
    operand,
)
from mdsl.ir.types import i64

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer
from mdsl.dialects.linalg.structured import (
    PARALLEL,
    REDUCTION,
    LinalgOp,
    Yield,
    element_type,
    parse_ins_outs,
    print_ins_outs,
    print_results,
    result_types,
)

L = TypeVar("L", bound="LinalgOp")


class Named(LinalgOp):
    """Base of named ops: a subclass gives maps, iterators and the body's arithmetic."""

    num_inputs: ClassVar[int] = 2

    @classmethod
    def make(cls: type[L], inputs: Sequence[Value], outputs: Sequence[Value], **attributes: Any) -> L:
        """The op with its body built."""
        block = Block(
            [element_type(v) for v in (*inputs, *outputs)], [*["in"] * len(inputs), *["out"] * len(outputs)]
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
        printer.token(printer.dictionary(self, covered))
        print_ins_outs(self, printer)
        printer.token(text)
        if not text:
            print_results(self, printer)


class Fill(Named):
    """Every element becomes the scalar."""

    name = "linalg.fill"
    inputs = operand(SCALAR, variadic=True)
    outputs = operand(SHAPED, variadic=True)
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
    permutation = attr(INDICES)
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
    dimensions = attr(INDICES)
    list_name = "dimensions"

    def verify_op(self) -> None:
        dimensions, rank = self.attr("dimensions"), self.outputs[0].type.rank
        if len(set(dimensions)) != len(dimensions) or not set(dimensions) <= set(range(rank)):
            raise self.error(f"dimensions {dimensions} are not some of {rank}")
        super().verify_op()

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

    def verify_op(self) -> None:
        super().verify_op()
        maps = self.attributes.get("indexing_maps")
        if isinstance(maps, ArrayAttr) and [m.map for m in maps if isinstance(m, AffineMapAttr)] != self.maps:
            raise self.error("takes other indexing_maps than its own as a 'linalg.generic' only")

    def element(self, block: Block) -> Value:
        left, right, out = block.args
        product = block.append(arith.multiply(left, right)).result
        return block.append(arith.add(out, product)).result


class Matmul(_Contraction):
    """C(m, n) += A(m, k) B(k, n)."""

    name = "linalg.matmul"
    indexing_maps = attr(MAPS, optional=True)
    num_dims, selections, reductions = 3, ((0, 2), (2, 1), (0, 1)), (2,)


class BatchMatmul(_Contraction):
    """C(b, m, n) += A(b, m, k) B(b, k, n)."""

    name = "linalg.batch_matmul"
    indexing_maps = attr(MAPS, optional=True)
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


PAIR = Constraint(
    "dense<...> : tensor<2xi64>, of positive numbers",
    lambda a: (
        isinstance(a, DenseAttr) and a.type.shape == (2,) and a.type.element == i64 and a.array.min() > 0
    ),
)


class _Windowed(Named):
    """Base of convolutions and poolings: loops n, c, h, w, then the window."""

    strides = attr(PAIR, optional=True)
    dilations = attr(PAIR, optional=True)

    def pair(self, name: str) -> tuple[int, int]:
        """`strides` or `dilations`, by default 1."""
        found = self.attributes.get(name)
        if isinstance(found, DenseAttr):
            first, second = (int(v) for v in found.array)
            return first, second
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
