"""Structured ops of linalg: what they offer to passes, and `linalg.generic`, which writes all out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from mdsl.dialects import arith
from mdsl.dialects.terminator import Terminator
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    OpaqueAttr,
)
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    INDEX,
    INT,
    MAPS,
    PURE,
    SHAPED,
    SHAPED_OR_SCALAR,
    array_of,
    attr,
    enum,
    operand,
    region,
    result,
)
from mdsl.ir.types import DYNAMIC, MemRefType, ShapedType, TensorType, Type, index

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

PARALLEL, REDUCTION = "parallel", "reduction"


class Yield(Terminator):
    """Ends the body: the new elements of the outputs."""

    name = "linalg.yield"


class IndexOp(Op):
    """The value of one loop counter, in a body."""

    name = "linalg.index"
    traits = PURE
    dim = attr(INT)
    output = result(INDEX)
    assembly = "$dim attr-dict `:` type($output)"

    def verify_op(self) -> None:
        nest = next((a for a in self.ancestors() if isinstance(a, LinalgOp)), None)
        if nest is None or not 0 <= self.attr("dim") < nest.num_loops:
            raise self.error(f"no loop around it has the dimension {self.attr('dim')}")

    def infer(self) -> Sequence[Type]:
        return [index]


class LinalgOp(Op):
    """What every structured op offers to passes: inputs, outputs, maps, iterators, body."""

    inputs = operand(SHAPED_OR_SCALAR, variadic=True)
    outputs = operand(SHAPED, variadic=True)
    results_ = result(variadic=True)
    body_region = region(arguments=True)

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
            for expr, extent in zip(map.results, shape_of(value), strict=True):
                if isinstance(expr, Dim):
                    sizes.setdefault(expr.position, extent)
        loops = range(self.num_loops)
        missing = [d for d in loops if d not in sizes]
        if missing:
            raise self.error(f"the extent of loop dimension d{missing[0]} does not follow from the operands")
        return [sizes[d] for d in loops]

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
        args = self.body.args
        two = len(args) == 3 and len(self.inputs) == 2 and len(self.outputs) == 1
        return two and REDUCTION in self.iterators and all(a.users for a in args)

    @property
    def sums_products(self) -> bool:
        """True for a body `out + left * right` of two inputs, made wider perhaps: zeros add nothing to it."""
        *factors, out = self.body.args
        total = self.body.terminator.operands[0].owner
        if not isinstance(total, arith.AddF | arith.AddI) or out not in total.operands:
            return False
        product = total.operands[0 if total.operands[1] is out else 1].owner
        if not isinstance(product, arith.MulF | arith.MulI):
            return False
        return len(factors) == 2 and {_unconverted(v) for v in product.operands} == set(factors)

    def verify_op(self) -> None:
        maps, loops = self.maps, self.num_loops
        if len(maps) != len(self.operands):
            raise self.error(f"{len(maps)} indexing maps for {len(self.operands)} operands")
        for map, value in zip(maps, self.operands, strict=True):
            if map.num_symbols:
                raise self.error(f"map {map} has symbols")
            if map.num_dims != loops:
                raise self.error(f"a map takes {map.num_dims} dimensions, there are {loops} iterators")
            if len(map.results) != len(shape_of(value)):
                raise self.error(f"map {map} does not fit {value.type}")
        if {TensorType, MemRefType} <= {type(v.type) for v in self.operands}:
            raise self.error("works on tensors or on memory, not on both")
        sizes = self.loop_sizes()
        self._verify_extents(maps, sizes)
        for map in maps[len(self.inputs) :]:
            self._verify_output(map, sizes)
        self._verify_body()

    def _verify_output(self, map: AffineMap, sizes: Sequence[int]) -> None:
        """Each iteration of the parallel loops writes an element of its own, over which the others reduce."""
        looped = {d for d in self.parallel_dims if sizes[d] != 1}
        if {d for d in map.dims() if sizes[d] != 1} != looped:
            raise self.error(f"an output's map {map} must hold each parallel dimension and no reduction")
        if not all(_is_injective(expr, sizes) for expr in map.results):
            raise self.error(f"an output's map {map} must lead each iteration to an element of its own")

    def _verify_extents(self, maps: Sequence[AffineMap], sizes: Sequence[int]) -> None:
        for map, value in zip(maps, self.operands, strict=True):
            for expr, extent in zip(map.results, shape_of(value), strict=True):
                if isinstance(expr, Dim) and sizes[expr.position] == extent:
                    continue
                if DYNAMIC in (extent, *(sizes[d] for d in expr.dims())):
                    continue
                lowest, highest = expr.bounds(sizes)
                inside = 0 in sizes or (lowest >= 0 and highest < extent)
                if not (extent == sizes[expr.position] if isinstance(expr, Dim) else inside):
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


def _is_injective(expr: AffineExpr, sizes: Sequence[int]) -> bool:
    """True for a linear expression each of whose steps is longer than the way that the shorter ones go."""
    linear = expr.coefficients()
    if linear is None:
        return False
    steps = sorted((abs(f), sizes[d]) for d, f in linear[0].items() if sizes[d] != 1)
    if DYNAMIC in sizes:
        return len(steps) < 2
    way = 0
    for step, size in steps:
        if step <= way:
            return False
        way += step * (size - 1)
    return True


def _unconverted(value: Value) -> Value:
    """What `value` was before it was made wider."""
    while isinstance(value.owner, arith.ExtF | arith.ExtSI):
        value = value.owner.operands[0]
    return value


def shape_of(value: Value) -> tuple[int, ...]:
    return value.type.shape if isinstance(value.type, ShapedType) else ()


def result_types(outputs: Sequence[Value]) -> list[Type]:
    """A result for each output that is a tensor."""
    return [v.type for v in outputs if isinstance(v.type, TensorType)]


def iterator_attribute(kinds: Sequence[str]) -> ArrayAttr:
    return _iterators(tuple(kinds))


@lru_cache(maxsize=1024)
def _iterators(kinds: tuple[str, ...]) -> ArrayAttr:
    return ArrayAttr(tuple(OpaqueAttr(f"#linalg.iterator_type<{k}>") for k in kinds))


class Generic(LinalgOp):
    """A loop nest written out: maps, iterators, body."""

    name = "linalg.generic"
    indexing_maps = attr(MAPS)
    iterator_types = attr(array_of(enum("linalg.iterator_type", PARALLEL, REDUCTION), "iterator types"))

    @staticmethod
    def make(
        inputs: Sequence[Value], outputs: Sequence[Value], maps: Sequence[AffineMap], iterators: Sequence[str]
    ) -> Generic:
        """An op with an empty body: append to `.body`, whose arguments are the elements, and end with `linalg.yield`."""
        block = Block(
            [element_type(v) for v in (*inputs, *outputs)], [*["in"] * len(inputs), *["out"] * len(outputs)]
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
        return list(found.maps)

    @property
    def iterators(self) -> list[str]:
        found = self.attributes["iterator_types"]
        assert isinstance(found, ArrayAttr)
        return [iterator_kind(text) for text in found.texts]

    @property
    def num_loops(self) -> int:
        found = self.attributes["iterator_types"]
        assert isinstance(found, ArrayAttr)
        return len(found)

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes = cursor.attr_dict()
        for name in ("indexing_maps", "iterator_types"):
            if not isinstance(attributes.get(name), ArrayAttr):
                raise cursor.fail(f"a dictionary with '{name}' before")
        kinds = attributes["iterator_types"]
        assert isinstance(kinds, ArrayAttr)
        attributes["iterator_types"] = iterator_attribute([iterator_kind(k) for k in kinds.texts])
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
        maps = printer.attribute(self.attributes["indexing_maps"])
        printer.token(f"{{indexing_maps = {maps}, iterator_types = [{kinds}]}}")
        print_ins_outs(self, printer)
        extra = {
            k: v
            for k, v in self.attributes.items()
            if k not in ("indexing_maps", "iterator_types", "operandSegmentSizes")
        }
        printer.token(f"attrs = {printer.attributes(extra)}" if extra else "")
        printer.region(self.regions[0], label=True)
        print_results(self, printer)


@lru_cache(maxsize=64)
def iterator_kind(text: str) -> str:
    """What an iterator's attribute, or a string in its place, says."""
    return text.removeprefix("#linalg.iterator_type<").removesuffix(">")


def element_type(value: Value) -> Type:
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
