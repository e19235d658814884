"""bind: `?` dimensions get sizes, and every shape that follows from them is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import DIMS, Call, FuncOp
from mdsl.dialects.nn import Range, Shape
from mdsl.dialects.nn.base import NnOp
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.scf import For
from mdsl.dialects.tensor import DimOp, Empty, ExtractSlice, InsertSlice
from mdsl.errors import nearest
from mdsl.ir.attributes import ArrayAttr, StringAttr, tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import (
    DYNAMIC,
    MAX_ELEMENTS,
    ShapedType,
    TensorType,
    Type,
    dtype_of,
    element_of,
    index,
    is_integer,
    shapes_agree,
)
from mdsl.passes.any.inline import Inline
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.nn.bind.rules import RULES
from mdsl.reference.registry import EvaluationError, meaning
from mdsl.rewriting.constants import constant_data, fresh_resource

LARGEST = 1 << 16
"""Elements of a tensor that is evaluated: shapes and positions are smaller, weights are not meant."""


@dataclass(frozen=True)
class Bind(Pass):
    """Give `?` dimensions their sizes, compute the shapes that follow, and put static ops for dynamic ones.

    Before:

        func.func @main(%x: tensor<?x6xf32> {mdsl.dims = ["batch", ""]}) -> tensor<?x2x3xf32> {
          %sizes = nn.shape %x : (tensor<?x6xf32>) -> tensor<2xi64>
          %batch = nn.slice %sizes {starts = [0], ends = [1]} : (tensor<2xi64>) -> tensor<1xi64>
          %rest = arith.constant dense<[2, 3]> : tensor<2xi64>
          %shape = nn.concat %batch, %rest {axis = 0} : (tensor<1xi64>, tensor<2xi64>) -> tensor<3xi64>
          %y = nn.dynamic_reshape %x, %shape : (tensor<?x6xf32>, tensor<3xi64>) -> tensor<?x2x3xf32>
          return %y : tensor<?x2x3xf32>
        }

    After, with `--bind batch=4`:

        func.func @main(%x: tensor<4x6xf32>) -> tensor<4x2x3xf32> {
          %y = nn.reshape %x : (tensor<4x6xf32>) -> tensor<4x2x3xf32>
          return %y : tensor<4x2x3xf32>
        }

    Dimensions are named by `mdsl.dims`; one without a name is called by its argument and position, `x.0`.
    Those that get no size stay `?`. Calls are inlined first. When no argument has a `?` any more, a shape
    that is still unknown is an error.
    """

    name: ClassVar[str] = "bind"
    level: ClassVar[str | None] = "nn"
    subject = "dimension without a size"

    sizes: tuple[tuple[str, int], ...] = option(
        (), "the sizes of dimensions by name, batch=8,seq=128", least=0
    )

    def run(self, module: ModuleOp, context: Context) -> None:
        self._check_names(module)
        if any(is_open(f) for f in functions(module)):
            _inline(module, context)
        for function in functions(module):
            with rewriting(function, "bind"):
                _Binder(function).bind(dict(self.sizes))

    @staticmethod
    def of(sizes: Mapping[str, int]) -> Bind:
        return Bind(tuple((name, int(size)) for name, size in sizes.items()))

    def _check_names(self, module: ModuleOp) -> None:
        known = [n for f in functions(module) for names in f.dim_names() for n in names if n]
        for name, _ in self.sizes:
            if name not in known:
                listed = ", ".join(dict.fromkeys(known)) or "none"
                raise (functions(module) or [module])[0].error(
                    f"no dimension '{name}'{nearest(name, known)} (dimensions without a size: {listed})"
                )


def is_open(function: FuncOp) -> bool:
    """True if a dimension of a tensor in `function`, or an op's shape, is not known."""
    values = [*function.body.args, *(r for op in function.walk() for r in op.results)]
    return any(isinstance(v.type, TensorType) and not v.type.is_static for v in values) or any(
        isinstance(op, Dynamic) for op in function.walk()
    )


def _inline(module: ModuleOp, context: Context) -> None:
    """Inlines all calls: what is called with several sizes cannot stay one function. Of what was called, a
    function with open dimensions goes."""
    called = {str(op.attr("callee")) for op in module.walk() if isinstance(op, Call)}
    if called:
        Inline().run(module, context)
    for function in functions(module):
        if function.symbol in called and is_open(function):
            function.erase()


class _Binder:
    """Binds one function. `computed` are the values that follow from shapes."""

    def __init__(self, function: FuncOp) -> None:
        self.function = function
        self.changed: set[Value] = set()
        self.computed: set[Value] = set()

    def bind(self, sizes: Mapping[str, int]) -> None:
        self._bind_arguments(sizes)
        for op in self.function.walk():
            if op is not self.function:
                self.visit(op)
        for op in reversed(list(self.function.walk())):
            if isinstance(op, Constant | Shape) and not op.result.users:
                op.erase()
        self.function.update_type()
        if all(_is_known(a) for a in self.function.args):
            self._check()

    def _bind_arguments(self, sizes: Mapping[str, int]) -> None:
        attributes = self.function.arg_attributes()
        for arg, names, attrs in zip(self.function.args, self.function.dim_names(), attributes, strict=True):
            if not isinstance(arg.type, ShapedType):
                continue
            arg.type = arg.type.with_shape(
                tuple(sizes.get(n, s) if n else s for n, s in zip(names, arg.type.shape, strict=True))
            )
            _check_size(self.function, arg.type)
            self.changed.add(arg)
            given = attrs.pop(DIMS, None)
            if isinstance(given, ArrayAttr) and any(n and n not in sizes for n in names):
                left = [StringAttr("") if n in sizes else a for n, a in zip(names, given, strict=True)]
                attrs[DIMS] = ArrayAttr(tuple(left))
        self.function.set_arg_attributes(attributes)

    def visit(self, op: Op) -> None:
        """Gives the op's results the types that follow from its operands, or puts a constant or a static op
        in its place."""
        if isinstance(op, Constant) or not op.results:
            return
        if isinstance(op, For):
            self._carry(op)
        elif isinstance(op, DimOp):
            self._measure(op)
        elif isinstance(op, ExtractSlice | InsertSlice | Empty) and _sizes_of(op):
            self._size(op)
        elif any(v in self.changed for v in op.operands) or not all(map(_is_known, op.results)):
            self._infer(op)
        if op.name in RULES and isinstance(op, Dynamic):
            self._make_static(op)
        elif isinstance(op, NnOp):
            self._evaluate(op)

    def _infer(self, op: Op) -> None:
        if type(op).infer is Op.infer and not op.has("same-type"):
            return  # its types are written; what it leaves open, `_check` tells
        for result, found in zip(op.results, op.infer(), strict=True):
            if found != result.type:
                result.type = _merged(op, result.type, found)
                _check_size(op, result.type)
                self.changed.add(result)

    def _carry(self, op: For) -> None:
        """What a loop carries keeps its first type."""
        for init, inside, after in zip(op.operands[3:], op.carried, op.results, strict=True):
            for value in (inside, after):
                value.type = init.type
                self.changed.add(value)

    def _measure(self, op: DimOp) -> None:
        """Replaces a dimension's size that is known now."""
        dimension = constant_data(op.operands[1])
        size = DYNAMIC if dimension is None else tensor_of(op.operands[0]).shape[int(dimension)]
        if size != DYNAMIC:
            op.replace_by(Builder.before(op).value(Constant.of(size, index), op.result.name))

    def _size(self, op: ExtractSlice | InsertSlice | Empty) -> None:
        """Writes the sizes of a part, or of an empty tensor, as numbers once they are known."""
        found = [constant_data(v) for v in _sizes_of(op)]
        known = [int(n) for n in found if n is not None]
        if len(known) != len(found):
            return

        def filled(sizes: Sequence[int]) -> list[int]:
            numbers = iter(known)
            return [next(numbers) if s == DYNAMIC else s for s in sizes]

        if isinstance(op, Empty):
            shape = tuple(filled(tensor_of(op.result).shape))
            new: Op = Empty([], results=[TensorType(shape, element_of(op.result.type))])
        else:
            sizes = filled(op.attr("static_sizes"))
            offsets, strides = op.mixed("offsets"), op.mixed("strides")
            if isinstance(op, InsertSlice):
                new = InsertSlice.of(op.operands[0], op.operands[1], offsets, sizes, strides)
            else:
                shape = filled(tensor_of(op.result).shape)
                new = ExtractSlice.of(op.operands[0], offsets, sizes, strides, shape)
        value = Builder.before(op).value(new, op.result.name)
        self.changed.add(value)
        op.replace_by(value)

    def _make_static(self, op: Dynamic) -> None:
        """Puts static ops in the place of `op` if the numbers that it depends on are known."""
        numbers = [_numbers(v) for v in op.operands[1:]]
        builder = Builder.before(op)

        def emit(new: NnOp, suffix: str | None) -> Value:
            value = builder.value(new, f"{op.result.name}_{suffix}" if suffix else None)
            self.changed.add(value)
            self._infer(new)
            return value

        value = None if any(n is None for n in numbers) else RULES[op.name](op, emit, *numbers)
        if value is None:
            return
        value.type = _merged(op, op.result.type, value.type)
        op.replace_by(value)
        if isinstance(value.owner, NnOp):
            self._evaluate(value.owner)

    def _evaluate(self, op: NnOp) -> None:
        """Replaces an op on known numbers, if shapes follow from them, by its result."""
        value = _sizes(op) if isinstance(op, Shape) else self._computed(op)
        if value is None:
            return
        type = TensorType(value.shape, element_of(op.result.type))
        attribute = tensor_attribute(value, type, fresh_resource(op, op.result.name or "computed"))
        constant = Builder.before(op).value(Constant(value=attribute, results=[type]))
        self.changed.add(constant)
        self.computed.add(constant)
        op.replace_by(constant)

    def _computed(self, op: NnOp) -> np.ndarray | None:
        """What the reference makes of `op`; None if its operands are not known or have nothing to do with
        shapes: integers, and what is computed from them."""
        found = meaning(op.name)
        numbers = [_numbers(v) for v in op.operands]
        wanted = all(v in self.computed or is_integer(v.type) for v in op.operands)
        if found is None or not numbers or not wanted or any(n is None for n in numbers):
            return None
        if isinstance(op, Range):
            _check_length(op, *(n.item() for n in numbers if n is not None))
        elif _is_known(op.result) and tensor_of(op.result).size > LARGEST:
            return None
        try:
            with np.errstate(all="ignore"):
                return np.asarray(found[0](op, *numbers))
        except EvaluationError as error:
            raise op.error(str(error).partition(f"'{op.name}': ")[2]) from None

    def _check(self) -> None:
        """Every shape must be known now. Raises VerifyError with the first that is not."""
        for op in self.function.walk():
            if isinstance(op, Dynamic) or not all(map(_is_known, op.results)):
                unknown = [f"%{v.name}" for v in op.operands[1:] if _numbers(v) is None]
                why = (
                    f": it depends on the numbers in {', '.join(unknown)}" if isinstance(op, Dynamic) else ""
                )
                types = ", ".join(str(r.type) for r in op.results)
                raise op.error(
                    f"the shape of its result {types} does not follow from the inputs' shapes{why}"
                )


def _sizes_of(op: ExtractSlice | InsertSlice | Empty) -> Sequence[Value]:
    """The operands that are sizes."""
    return op.operands if isinstance(op, Empty) else op.sizes


def _is_known(value: Value) -> bool:
    return not isinstance(value.type, ShapedType) or value.type.is_static


def _check_size(op: Op, type: Type) -> None:
    if isinstance(type, ShapedType) and type.is_static and type.size > MAX_ELEMENTS:
        raise op.error(f"{type} has more elements than can be addressed")


def _merged(op: Op, written: Type, inferred: Type) -> Type:
    """Of two types that say the same, all that both know."""
    if not isinstance(written, TensorType) or not isinstance(inferred, TensorType):
        return inferred
    if written.element != inferred.element or not shapes_agree(written.shape, inferred.shape):
        raise op.error(f"the result is a {inferred}, not a {written}")
    sizes = zip(inferred.shape, written.shape, strict=True)
    return TensorType(tuple(w if i == DYNAMIC else i for i, w in sizes), inferred.element)


def _numbers(value: Value) -> np.ndarray | None:
    """The numbers in a constant that may be a shape; what has no elements is known without one."""
    if not isinstance(value.type, TensorType) or not value.type.is_static or value.type.size > LARGEST:
        return None
    return (
        constant_data(value) if value.type.size else np.empty(value.type.shape, dtype_of(value.type.element))
    )


def _sizes(op: Shape) -> np.ndarray | None:
    x = tensor_of(op.operands[0])
    return np.array(x.shape, np.int64) if x.is_static else None


def _check_length(op: Range, start: float, limit: float, delta: float) -> None:
    if delta and (limit - start) / delta > LARGEST:
        raise op.error(f"from {start} to {limit} by {delta} is more than {LARGEST} numbers")
