"""Walking an ONNX graph: every node, through its rule or the body of its function.

What cannot be converted is collected, not raised: a `Problem` for each node, so that one import tells all of
them. The outputs of such a node are `Missing`, or stand-ins if the model says their types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from mdsl.errors import MdslError
from mdsl.frontends.deciding import deciding, is_small
from mdsl.frontends.onnx import functions
from mdsl.frontends.onnx.folding import Folder
from mdsl.frontends.onnx.model import Model, check_text, normal_domain
from mdsl.frontends.onnx.order import in_order, reads
from mdsl.frontends.onnx.registry import Incomplete, Malformed, Node, Unsupported, rule_for
from mdsl.frontends.onnx.schema import attributes_of, check_node
from mdsl.frontends.onnx.scope import ABSENT, MAX_DEPTH, Missing, Scope
from mdsl.frontends.onnx.signature import Signature
from mdsl.frontends.onnx.tensors import plain_attribute
from mdsl.frontends.onnx.weights import Weights
from mdsl.ir.core import Block, BlockArgument, Value, VerifyError
from mdsl.ir.location import Location
from mdsl.ir.types import TensorType

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

MAX_EXPANDED = 20_000
"""Nodes that functions and loops may add to those of the file."""


@dataclass(frozen=True)
class Problem:
    """Why a node cannot be converted."""

    node: str
    op_type: str
    domain: str
    attributes: dict[str, str]
    reason: str
    cause: Exception | None = field(default=None, repr=False, compare=False)
    """What the node's rule raised."""
    sizes: frozenset[Value] = frozenset()
    values: frozenset[Value] = frozenset()
    """The graph's inputs whose sizes, and those whose numbers, may make the node convertible once they are known."""

    @property
    def may_go(self) -> bool:
        """True if the node may be convertible when more is known of the graph's inputs."""
        return bool(self.sizes or self.values)

    def decided_by(self) -> list[str]:
        """What must be known, in the order of the inputs: "the size of x", "the numbers in k"."""
        found = {(v.serial, f"the size of {v.name}") for v in self.sizes}
        found |= {(v.serial, f"the numbers in {v.name}") for v in self.values}
        return [text for _, text in sorted(found)]

    @property
    def kind(self) -> str:
        """The operator, with its domain if that is not ONNX's own."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    @property
    def subject(self) -> str:
        """What cannot be converted: "node", or the "input" or "initializer" of the graph that stands as one."""
        return self.op_type if self.op_type in ("input", "initializer") else "node"

    def __str__(self) -> str:
        attributes = ", ".join(f"{k} = {v}" for k, v in self.attributes.items())
        return f"node '{self.node}' ({self.kind}{' with ' if attributes else ''}{attributes}): {self.reason}"


_FAILURES = ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError
"""What Python and NumPy raise when a rule works with ranks, sizes or values that it did not think of."""


def _reason(error: Exception) -> str:
    """Why a node whose conversion raised `error` cannot be converted."""
    if isinstance(error, VerifyError):
        return str(error).split(": ", 1)[-1]
    if isinstance(error, Unsupported):
        return str(error)
    return (
        f"internal failure ({type(error).__name__}: {error}): either its operands and attributes do not fit "
        "together, and nothing noticed that in time, or mdsl is wrong"
    )


@dataclass
class Graph:
    """One import in progress."""

    model: Model
    block: Block
    hints: dict[str, TensorType] = field(default_factory=dict[str, TensorType])
    """Types that the model states: they stand in for the outputs of nodes that cannot be converted."""

    def __post_init__(self) -> None:
        self.folder = Folder(self.block)
        self.problems: list[Problem] = []
        self.converted = 0
        self.unjudged = 0
        self.functions = functions.local_functions(self.model.proto)
        self._expanded = 0
        self.conditions: list[Value] = []
        self._copies: dict[str, Value] = {}
        """Weights of which the model has only the numbers, as another one."""
        self.reads: Counter[str] = Counter()
        """How often each name is read; in a body twice, for it may run several times."""

    # Graphs ---------------------------------------------------------------------------------------------------

    def enter(self, graph: GraphProto, scope: Scope) -> None:
        """Converts the initializers and nodes of a graph into `scope`."""
        if scope.depth > MAX_DEPTH:
            raise MdslError(f"error: graphs are nested more than {MAX_DEPTH} deep")
        for tensor in graph.initializer:
            check_text(tensor.name)
            where = f"initializer '{tensor.name}'"
            try:
                value: Value | Missing = self.folder.constant_value(
                    self.model.tensors.array(tensor), scope.prefix + tensor.name
                )
            except Malformed as error:
                raise MdslError(f"error: {where}: {error}") from None
            except Unsupported as error:
                self.problem(Problem(tensor.name, "initializer", "", {}, str(error)))
                value = Missing(tensor.name)
            scope.define(tensor.name, value, where)
        if self.folder.weights is not None:
            self._tell_weights([tensor.name for tensor in graph.initializer], scope)
        if graph.sparse_initializer:
            raise MdslError("error: sparse initializers are not supported")
        self.run(graph.node, scope)

    def _tell_weights(self, names: Sequence[str], scope: Scope) -> None:
        """Which of the initializers are parameters; one that is another one moved becomes that."""
        assert self.folder.weights is not None
        weights = Weights(self.model.proto, self.signature)
        found: dict[str, Value] = {}
        for name in names:
            value = scope.values[name]
            data = self.folder.constant(value) if isinstance(value, Value) else None
            if isinstance(value, Value) and data is not None and (name, data) in weights:
                found[name] = value
        self.folder.weights.update(found.values())
        for name, value in found.items():
            value.name = scope.prefix + self.signature.title(name)
            base = found.get(self.signature.origin(name), value)
            if base is not value:
                scope.values[name] = self.folder.moved(base, value)

    @cached_property
    def signature(self) -> Signature:
        return Signature(self.model.proto)

    def _weight(self, node: NodeProto, name: str, value: Value | Missing) -> Value | Missing:
        """What the node reads as the initializer `name`: that, or a weight of its own that began with the same numbers."""
        if self.folder.weights is None or value not in self.folder.weights or not isinstance(value, Value):
            return value
        meant = self.signature.meant(node, name)
        if meant != name and meant not in self._copies:
            check_text(meant)
            self._copies[meant] = self.folder.weight_of_its_own(value, meant)
        return self._copies.get(meant, value) if meant != name else value

    def run(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        """Converts nodes, which may stand in any order."""
        for proto in nodes:
            self.reads.update(reads(proto))
        for proto in in_order(nodes, lambda name: scope.find(name) is not None):
            self.convert(proto, scope)

    def subgraph(self, graph: GraphProto, scope: Scope, arguments: Sequence[Value]) -> list[Value]:
        """Converts a node's body as if it stood in place of the node. Raises Incomplete."""
        inner = Scope(scope)
        self.expand(len(graph.node))
        if len(arguments) != len(graph.input):
            raise Malformed(f"its body takes {len(graph.input)} inputs, not {len(arguments)}")
        for info, value in zip(graph.input, arguments, strict=True):
            inner.define(info.name, value, "a body")
        self.enter(graph, inner)
        found = [self.lookup(info.name, inner, "the output of a body") for info in graph.output]
        values = [v for v in found if isinstance(v, Value)]
        if len(values) < len(found):
            raise Incomplete
        return values

    def expand(self, nodes: int) -> None:
        """Counts nodes that are converted once more. Raises MdslError for too many."""
        self._expanded += nodes + 1
        if self._expanded > MAX_EXPANDED:
            raise MdslError(f"error: functions and loops unroll to more than {MAX_EXPANDED} nodes")

    def lookup(self, name: str, scope: Scope, where: str) -> Value | Missing:
        found = scope.find(name)
        if found is None:
            raise MdslError(f"error: {where} reads '{name}', which nothing defines")
        return found

    # Nodes ----------------------------------------------------------------------------------------------------

    def convert(self, proto: NodeProto, scope: Scope) -> None:
        """Converts one node and defines its outputs. Raises MdslError if the graph itself is broken."""
        check_text(proto.op_type, proto.domain, proto.name, *proto.input, *proto.output)
        domain = normal_domain(proto.domain)
        name = proto.name or next((o for o in proto.output if o), proto.op_type)
        where = f"node '{name}' ({proto.op_type})"
        found = [self._weight(proto, i, self.lookup(i, scope, where)) if i else None for i in proto.input]
        self.folder.shared.update(
            v for i, v in zip(proto.input, found, strict=True) if isinstance(v, Value) and self.reads[i] > 1
        )
        node = Node(
            self, scope, proto.op_type, domain, scope.opsets.get(domain, 0), name,
            [i if isinstance(i, Value) else None for i in found], [scope.prefix + o if o else "" for o in proto.output],
            {}, Location(scope.prefix + name),
        )  # fmt: skip
        values: list[Value | None] | None = None
        try:
            node.attributes = attributes_of(proto, scope.attributes, self.model.tensors)
            if any(isinstance(i, Missing) and i is not ABSENT for i in found):
                self._judge(node)
            else:
                values = self._apply(node, proto)
                self.converted += 1
        except Incomplete:
            pass
        except (Unsupported, VerifyError, *_FAILURES) as error:
            shown = {k: plain_attribute(v) for k, v in node.attributes.items()}
            where_ = scope.prefix + name
            decided = self._decided_by(node, error)
            self.problem(Problem(where_, node.op_type, domain, shown, _reason(error), error, *decided))
        self._define(proto, scope, values, where, name)

    def problem(self, problem: Problem) -> None:
        self.problems.append(problem)

    def _decided_by(self, node: Node, error: Exception) -> tuple[frozenset[Value], frozenset[Value]]:
        """The inputs of the graph whose sizes, and those whose numbers, may keep the error from being raised."""
        if not self.conditions and (isinstance(error, Malformed) or not functions.is_convertible(self, node)):
            return frozenset(), frozenset()
        sizes, numbers = deciding((v for v in node.inputs if v is not None), [*node.asked, *self.conditions])
        # What stands in for the output of a node that may be converted later is no input.
        known = {v for v in numbers if is_small(v) and v in self.block.args}
        return frozenset(sizes | {v for v in numbers if v not in self.block.args}), frozenset(known)

    @contextmanager
    def under(self, condition: Value) -> Generator[None]:
        """While nodes are converted that only run if the condition holds: one that is not convertible is no error yet."""
        self.conditions.append(condition)
        try:
            yield
        finally:
            self.conditions.pop()

    def _judge(self, node: Node) -> None:
        """Counts a node some of whose operands are missing. Raises Unsupported if its operator is not known."""
        if not functions.is_convertible(self, node):
            raise Unsupported(functions.why_not(node))
        self.unjudged += 1

    def _apply(self, node: Node, proto: NodeProto) -> list[Value | None]:
        """The node's outputs. Raises Incomplete, Unsupported, VerifyError."""
        local = self.functions.get((node.domain, node.op_type))
        if local is not None:
            return functions.inline(self, node, local)
        rule = rule_for(node.domain, node.op_type, node.version)
        if rule is not None:
            check_node(node)
            found = rule(node)
            if found is not None:
                values: list[Value | None] = [found] if isinstance(found, Value) else list(found)
                node.name_results(values)
                return values
        body = functions.schema_function(node, proto)
        if body is None:
            raise Unsupported(functions.why_not(node))
        return functions.inline(self, node, body)

    def _define(
        self, proto: NodeProto, scope: Scope, values: list[Value | None] | None, where: str, name: str
    ) -> None:
        for i, output in enumerate(proto.output):
            if not output:
                continue
            value: Value | Missing | None = values[i] if values is not None and i < len(values) else None
            if value is None and values is not None:
                raise MdslError(f"error: {where} has no output {i} ('{output}')")
            if value is None:
                hint = self.hints.get(output) if scope.parent is None and not scope.prefix else None
                value = BlockArgument(hint, Block(), 0, output) if hint is not None else Missing(name)
            scope.define(output, value, where)
