"""What converts an ONNX operator: rules, one function an operator, and the `Node` that a rule is given.

A rule reads the node's operands and attributes, builds `nn` ops and returns one value for each output of the
node (or just the value if there is one output; None for an output that nobody asked for):

    @converts("Relu")
    def relu(node: Node) -> Value:
        return node.build(nn.Relu(node.operand(0)))

    @converts("Gemm")
    def gemm(node: Node) -> Value:
        a, b, c = node.operand(0), node.operand(1), node.input(2)        # c is None where the node has none
        if node.attr("transA", 0):
            a = node.build(nn.Transpose(a, perm=[1, 0]), "a_transposed")  # an intermediate value: with a suffix
        ...
        return node.build(nn.Matmul(a, b))                                # takes the name of the node's output

One rule serves all opset versions of its operator; where they differ it looks at `node.version`. What is
known at import is computed there and then: `build` folds an op whose operands are constants, so a rule need
not care. Sizes may be open (`DYNAMIC` in a type's shape): `node.sizes(x)` gives them as numbers and values with which
`node.reshape` builds a shape. `node.constant(i)` gives the data of a constant operand, `node.ints(i, "axes")` a list of integers
that must be known. A rule that returns None leaves the node to the function that the operator's schema says it is.
`raise node.unsupported(reason)` refuses what mdsl cannot do, `raise node.malformed(reason)`
what breaks ONNX's own rules; both become one line of `mdsl import --check`, or the error of an import.

Inputs and attributes were checked against the operator's schema before the rule runs: as many inputs as it
takes, attributes of the right type. A VerifyError of a built op counts as `unsupported` with its message; another
exception is reported as an internal failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.ir.core import Op, OpResult, Value
from mdsl.ir.location import Location
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, dtype_of, element_of

if TYPE_CHECKING:
    from mdsl.frontends.onnx.graph import Graph, Scope

Outputs = Value | Sequence[Value | None] | None
Rule = Callable[["Node"], Outputs]
RuleT = TypeVar("RuleT", bound=Rule)

Size = int | Value
"""The size of a dimension: a number, or where it is open an i64 tensor of one element, tensor<1xi64>, that holds it."""

RULES: dict[tuple[str, str], list[tuple[int, Rule]]] = {}
"""(domain, operator) -> (first version, rule), newest first. The default domain is ""."""


def converts(*op_types: str, since: int = 1, domain: str = "") -> Callable[[RuleT], RuleT]:
    """Registers a rule for the operators `op_types`, from opset version `since` on. Raises ValueError for a
    second one."""

    def register(rule: RuleT) -> RuleT:
        for op_type in op_types:
            rules = RULES.setdefault((domain, op_type), [])
            if any(first == since for first, _ in rules):
                raise ValueError(f"{op_type} has a rule from opset version {since} on already")
            rules.append((since, rule))
            rules.sort(key=lambda entry: -entry[0])
        return rule

    return register


def rule_for(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule that converts `op_type` of opset `version`, if there is one."""
    for since, rule in RULES.get((domain, op_type), []):
        if version >= since:
            return rule
    return None


class Unsupported(Exception):
    """A node that cannot be converted; the message says why."""


class Malformed(Unsupported):
    """A node that breaks ONNX's own rules."""


class Incomplete(Exception):
    """A node whose body holds nodes that cannot be converted: they were reported."""


class Node:
    """One ONNX node during its conversion.

    `op_type`, `domain` ("" is ONNX's own), `version` (of the domain's opset), `name`, `location`; `inputs`: a
    value each, None where the node leaves one out; `outputs`: their names, "" where nobody wants one.
    """

    def __init__(
        self,
        graph: Graph,
        scope: Scope,
        op_type: str,
        domain: str,
        version: int,
        name: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
        attributes: dict[str, Any],
        location: Location | None = None,
    ) -> None:
        self.graph = graph
        self.scope = scope
        self.op_type = op_type
        self.domain = domain
        self.version = version
        self.name = name
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.attributes = attributes
        self.location = location
        self.asked: list[Value] = []
        """Values of which the rule wanted to know the numbers, and they are not all known."""

    # Errors -----------------------------------------------------------------------------------------------

    def unsupported(self, reason: str) -> Unsupported:
        """The exception for what mdsl cannot do, to be raised by the rule."""
        return Unsupported(reason)

    def malformed(self, reason: str) -> Malformed:
        """The exception for a node that is not valid ONNX, to be raised by the rule."""
        return Malformed(reason)

    # Operands and attributes --------------------------------------------------------------------------------

    def input(self, index: int) -> Value | None:
        """Input `index`, None where the node has none there."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> Value:
        """Input `index`, which must be there."""
        found = self.input(index)
        if found is None:
            raise self.malformed(f"input {index} is missing")
        return found

    def type(self, index: int = 0) -> TensorType:
        """The type of input `index`."""
        return tensor_of(self.operand(index))

    def expr(self, which: int | Value) -> Expr:
        """An input, which must be there, or a value, to be computed with."""
        return Expr(self, self.operand(which) if isinstance(which, int) else which)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, str, list of these, np.ndarray (tensor) or a GraphProto."""
        return self.attributes.get(name, default)

    def wanted(self, index: int) -> bool:
        """True if the node has an output `index` and names it."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def check_size(self, shape: Sequence[int], element: Type) -> None:
        """Raises Unsupported for a tensor larger than any machine's: before a rule computes something as large."""
        self.graph.folder.check_size(TensorType(tuple(shape), element))

    def static(self, *values: Value) -> None:
        """Raises Unsupported for values of which some sizes are not known."""
        for value in values:
            if DYNAMIC in tensor_of(value).shape:
                raise self.unsupported(f"needs known sizes, got {tensor_of(value)}")

    def check_made(self, shape: Sequence[int], element: Type) -> None:
        """Raises Unsupported for a constant that is too large to be made: before a rule makes it."""
        self.graph.folder.check_made(TensorType(tuple(shape), element))

    # What is known at import ----------------------------------------------------------------------------------

    def constant(self, which: int | Value) -> np.ndarray | None:
        """The data of an input (by number) or a value, None if it is not known at import."""
        value = self.input(which) if isinstance(which, int) else which
        found = None if value is None else self.graph.folder.constant(value)
        if found is None and value is not None:
            self.asked.append(value)
        return found

    def known(self, which: int | Value) -> list[int | None] | None:
        """The elements of a small integer tensor, None for those that are not known; None if nothing is."""
        value = self.operand(which) if isinstance(which, int) else which
        found = self.graph.folder.known(value)
        if found is None or None in found:
            self.asked.append(value)
        return found

    def ints(self, which: int | Value, what: str) -> list[int]:
        """The integers of an input or a value, flat. `what` names them in the error if they are not known."""
        found = self.constant(which)
        if found is None:
            raise self.unsupported(f"{what} is not a constant")
        if found.dtype.kind not in "iu" or found.ndim > 1:
            raise self.malformed(f"{what} must be a list of integers")
        return [int(v) for v in found.reshape(-1)]

    def axis(self, axis: int, rank: int, what: str = "axis") -> int:
        """`axis` counted from the front."""
        if not -rank <= axis < max(rank, 1):
            raise self.malformed(f"{what} {axis} is out of range for {rank} dimensions")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """`axes` counted from the front, sorted, none twice."""
        return sorted(self.axes_in_order(axes, rank))

    def axes_in_order(self, axes: Sequence[int], rank: int) -> list[int]:
        """`axes` counted from the front, none twice."""
        found = [self.axis(a, rank) for a in axes]
        if len(set(found)) != len(found):
            raise self.malformed(f"axes {list(axes)} name a dimension twice")
        return found

    # Building -------------------------------------------------------------------------------------------------

    def build(self, op: Op, suffix: str | None = None) -> Value:
        """Inserts an op with one result, or folds it. It is named after the node's output, with a suffix (by default what
        the op is called); what the rule returns takes the name of the output that it is."""
        op.location = self.location
        return self.graph.folder.build(op, [self.name_of(suffix or op.name.partition(".")[2])])[0]

    def build_all(self, op: Op) -> list[Value]:
        """Inserts an op of several results, the node's outputs, or folds it."""
        op.location = self.location
        word = op.name.partition(".")[2]
        names = [self.name_of(word if i == 0 else f"{word}_{i}") for i in range(len(op.results))]
        return self.graph.folder.build(op, names)

    def body(self, name: str, arguments: Sequence[Value] = ()) -> list[Value]:
        """Converts the subgraph in attribute `name` in place, and returns its outputs. Raises Incomplete."""
        graph = self.attr(name)
        if graph is None:
            raise self.malformed(f"attribute '{name}' is missing")
        return self.graph.subgraph(graph, self.scope, arguments)

    def const(
        self, array: np.ndarray | np.generic | float | list[int], suffix: str, like: Type | None = None
    ) -> Value:
        """A constant tensor; with `like` of that type's elements."""
        data = np.asarray(array) if like is None else np.asarray(array, dtype_of(element_of(like)))
        return self.graph.folder.constant_value(data, self.name_of(suffix), self.location)

    def sizes(self, x: Value) -> list[Size]:
        """The sizes of x's dimensions; an open one is computed when the program is called."""
        if tensor_of(x).is_static:
            return list(tensor_of(x).shape)
        shape = self.build(nn.Shape(x), "shape")
        return [
            self.build(nn.Slice(shape, starts=[d], ends=[d + 1]), f"size{d}") if s == DYNAMIC else s
            for d, s in enumerate(tensor_of(x).shape)
        ]

    def vector(self, sizes: Sequence[Size]) -> Value:
        """Sizes as one list, tensor<Nxi64>."""
        parts = [self.const([s], "size") if isinstance(s, int) else s for s in sizes]
        return parts[0] if len(parts) == 1 else self.build(nn.Concat(parts, axis=0), "sizes")

    def reshape(self, x: Value, sizes: Sequence[Size], suffix: str | None = None) -> Value:
        """`x` in the shape of these sizes, of which one may be `DYNAMIC`: what remains; `x` itself if it has
        this shape and all is known. Raises Unsupported for several that are `DYNAMIC`."""
        shape = tuple(s if isinstance(s, int) else DYNAMIC for s in sizes)
        result = TensorType(shape, tensor_of(x).element)
        if tensor_of(x) == result and result.is_static:
            return x
        if shape.count(DYNAMIC) <= 1:
            return self.build(nn.Reshape(x, results=[result]), suffix)
        if list(sizes).count(DYNAMIC) > 1:
            raise self.unsupported(f"needs known sizes, got {tensor_of(x)}")
        wanted = self.vector([-1 if s == DYNAMIC else s for s in sizes])
        return self.build(nn.DynamicReshape(x, wanted, results=[result]), suffix)

    def broadcast(self, x: Value, sizes: Sequence[Size], suffix: str | None = None) -> Value:
        """`x` stretched to these sizes, where `DYNAMIC` keeps x's; `x` itself if it has this shape."""
        shape = tuple(s if isinstance(s, int) else DYNAMIC for s in sizes)
        result = TensorType(shape, tensor_of(x).element)
        if tensor_of(x) == result:
            return x
        if all(isinstance(s, int) for s in sizes):
            return self.build(nn.Broadcast(x, results=[result]), suffix)
        wanted = self.vector([1 if s == DYNAMIC else s for s in sizes])
        return self.build(nn.DynamicBroadcast(x, wanted, results=[result]), suffix)

    def cast(self, x: Value, element: Type, suffix: str | None = None) -> Value:
        """`x` with other elements; `x` itself if it has them."""
        if tensor_of(x).element == element:
            return x
        return self.build(nn.Cast(x, results=[tensor_of(x).with_element(element)]), suffix)

    def name_of(self, suffix: str) -> str:
        """The name of an intermediate value."""
        own = next((o for o in self.outputs if o), self.name or self.op_type.lower())
        return f"{own}_{suffix}"

    def name_results(self, values: Sequence[Value | None]) -> None:
        """Gives values that the node has made the names of the outputs that they are."""
        for value, name in reversed(list(zip(values, self.outputs, strict=False))):
            if name and isinstance(value, OpResult) and value.op.location is self.location:
                value.name = name
