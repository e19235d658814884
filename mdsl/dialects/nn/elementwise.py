"""nn, element by element: functions of one tensor, of two that broadcast together, selection, conversion."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects.nn.base import NUMBER_TENSOR, NnOp, broadcast_shapes, require_number, same_element
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Value
from mdsl.ir.declare import BOOL_TENSOR, FLOAT, FLOAT_TENSOR, TENSOR, attr, define, one_of, operand, result
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, i1


class Unary(NnOp):
    """Base: a function of each element; the result has the operand's type."""

    x = operand(FLOAT_TENSOR)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        return [self.operands[0].type]


class NumberUnary(Unary):
    """Base: a function of floats or integers."""

    x = operand(NUMBER_TENSOR)
    y = result(NUMBER_TENSOR)


Relu = define(NumberUnary, "nn.relu", "max(x, 0). NaN stays NaN.")


class LeakyRelu(Unary):
    """x where x >= 0, else alpha * x."""

    name = "nn.leaky_relu"
    alpha = attr(FLOAT, default=0.01)


class Clip(NumberUnary):
    """min(max(x, min), max); a bound that is absent does not limit. NaN stays NaN."""

    name = "nn.clip"
    min = attr(FLOAT, optional=True)
    max = attr(FLOAT, optional=True)

    def infer(self) -> Sequence[Type]:
        for name in ("min", "max"):
            bound = self.attr(name)
            if bound is not None:
                require_number(self, name, bound, tensor_of(self.operands[0]).element)
        return super().infer()


Sigmoid = define(Unary, "nn.sigmoid", "1 / (1 + exp(-x)).")
Tanh = define(Unary, "nn.tanh", "Hyperbolic tangent.")


class Gelu(Unary):
    """Gaussian error linear unit, x * P(normal variate <= x).

    approximate = "none": x/2 * (1 + erf(x / sqrt 2));
    "tanh": x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).
    """

    name = "nn.gelu"
    approximate = attr(one_of("none", "tanh"), default="none")


Erf = define(Unary, "nn.erf", "Gauss error function.")
Exp = define(Unary, "nn.exp", "e to the power of x.")
Log = define(Unary, "nn.log", "Natural logarithm.")
Sqrt = define(Unary, "nn.sqrt", "Square root; NaN below 0.")
Neg = define(NumberUnary, "nn.neg", "-x; integers wrap.")
Abs = define(NumberUnary, "nn.abs", "|x|; the smallest integer stays itself.")


class Binary(NnOp):
    """Base: a function of two elements; shapes broadcast as NumPy's, element types are equal."""

    a = operand(NUMBER_TENSOR)
    b = operand(NUMBER_TENSOR)
    y = result(NUMBER_TENSOR)

    def infer(self) -> Sequence[Type]:
        a, b = self.operands
        return [
            TensorType(
                broadcast_shapes(self, tensor_of(a).shape, tensor_of(b).shape), same_element(self, a, b)
            )
        ]


Add = define(Binary, "nn.add", "a + b, broadcasting; integers wrap.")
Sub = define(Binary, "nn.sub", "a - b, broadcasting; integers wrap.")
Mul = define(Binary, "nn.mul", "a * b, broadcasting; integers wrap.")
Div = define(Binary, "nn.div", "a / b, broadcasting; integers round towards zero, and give 0 where b is 0.")


class Pow(Binary):
    """a to the power of b, broadcasting; floats only."""

    name = "nn.pow"
    a = operand(FLOAT_TENSOR)
    b = operand(FLOAT_TENSOR)
    y = result(FLOAT_TENSOR)


Maximum = define(Binary, "nn.maximum", "The larger of a and b, broadcasting; NaN if either is NaN.")
Minimum = define(Binary, "nn.minimum", "The smaller of a and b, broadcasting; NaN if either is NaN.")


class Compare(NnOp):
    """a `kind` b as i1, broadcasting; signed, false where either is NaN except for "ne"."""

    name = "nn.compare"
    a = operand(TENSOR)
    b = operand(TENSOR)
    y = result(BOOL_TENSOR)
    kind = attr(one_of("eq", "ne", "lt", "le", "gt", "ge"))

    def infer(self) -> Sequence[Type]:
        a, b = self.operands
        if same_element(self, a, b) == i1 and self.attr("kind") not in ("eq", "ne"):
            raise self.error(f'kind "{self.attr("kind")}" has no meaning for i1')
        return [TensorType(broadcast_shapes(self, tensor_of(a).shape, tensor_of(b).shape), i1)]


class Select(NnOp):
    """a where cond holds, else b; all three broadcast together."""

    name = "nn.select"
    cond = operand(BOOL_TENSOR)
    a = operand(TENSOR)
    b = operand(TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        cond, a, b = self.operands
        shape = broadcast_shapes(self, *(tensor_of(v).shape for v in (cond, a, b)))
        return [TensorType(shape, same_element(self, a, b))]


class Cast(NnOp):
    """x converted to the result's element type.

    Float to integer rounds towards zero, saturates, and makes 0 of NaN; integer to integer keeps the low
    bits; to i1 is `x != 0`; from i1 gives 0 or 1.
    """

    name = "nn.cast"
    x = operand(TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        assert self.results, "nn.cast needs its result type"
        return [TensorType(tensor_of(self.operands[0]).shape, tensor_of(self.result).element)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.operands[0]] if self.operands[0].type == self.result.type else None
