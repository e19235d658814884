"""Operators that are functions: their body stands in the model, or in the schema of the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mdsl.errors import MdslError
from mdsl.frontends.onnx.model import normal_domain
from mdsl.frontends.onnx.registry import Incomplete, Node, Unsupported, rule_for
from mdsl.frontends.onnx.schema import Attributes, kind_of, operator_schema, value_of
from mdsl.frontends.onnx.scope import ABSENT, MAX_DEPTH, Scope
from mdsl.frontends.onnx.tensors import onnx_type
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto, TypeProto

    from mdsl.frontends.onnx.graph import Graph


def local_functions(model: ModelProto) -> dict[tuple[str, str], FunctionProto]:
    """The functions that a model brings, by domain and name."""
    return {(normal_domain(f.domain), f.name): f for f in model.functions}


def is_convertible(graph: Graph, node: Node) -> bool:
    """True if there is a rule or a function body for the node's operator."""
    key = (node.domain, node.op_type)
    if key in graph.functions or rule_for(node.domain, node.op_type, node.version) is not None:
        return True
    schema = operator_schema(node.op_type, node.domain, node.version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def why_not(node: Node) -> str:
    """What to say of a node that is not convertible."""
    if node.domain not in node.scope.opsets:
        return f"the domain '{node.domain or 'ai.onnx'}' is not among the model's opsets"
    if operator_schema(node.op_type, node.domain, node.version) is None:
        where = f"the domain '{node.domain}'" if node.domain else f"opset {node.version}"
        return f"{where} has no operator of this name that is known here"
    return "the operator is not supported"


def schema_function(node: Node, proto: NodeProto) -> FunctionProto | None:
    """The body that the operator's schema gives it for these inputs, None if it has none."""
    from onnx import FunctionProto

    schema = operator_schema(node.op_type, node.domain, node.version)
    if schema is None:
        return None
    data = b""
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= node.version]
        data = schema.get_function_with_opset_version(max(versions)) if versions else b""
    if not data and schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= node.version]
        types = [_type_proto(v).SerializeToString() for v in node.inputs]
        if versions:
            data = schema.get_context_dependent_function_with_opset_version(
                max(versions), _resolved(proto, node).SerializeToString(), types
            )
    if not data:
        return None
    body = FunctionProto()
    body.ParseFromString(data)
    return body


def _resolved(proto: NodeProto, node: Node) -> NodeProto:
    """The node with values for the attributes that it takes from the function around it."""
    from onnx import NodeProto, helper, numpy_helper

    if not any(a.ref_attr_name for a in proto.attribute):
        return proto
    found = NodeProto()
    found.CopyFrom(proto)
    del found.attribute[:]
    for name, value in node.attributes.items():
        plain = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        found.attribute.append(helper.make_attribute(name, plain))
    return found


def _type_proto(value: Value | None) -> TypeProto:
    """ONNX's form of a value's type; an empty one for an input that the node leaves out."""
    from onnx import TypeProto, helper

    if value is None:
        return TypeProto()
    shape = [None if d == DYNAMIC else d for d in tensor_of(value).shape]
    return helper.make_tensor_type_proto(onnx_type(tensor_of(value).element), shape)


def inline(graph: Graph, node: Node, body: FunctionProto) -> list[Value | None]:
    """Converts the body in place of the node. Raises Incomplete."""
    key = (node.domain, node.op_type)
    if key in node.scope.active:
        raise MdslError(f"error: function '{node.op_type}' calls itself")
    if node.scope.depth > MAX_DEPTH:
        raise MdslError(f"error: functions are nested more than {MAX_DEPTH} deep")
    if len(node.inputs) > len(body.input) or len(node.outputs) > len(body.output):
        raise node.malformed(
            f"the function takes {len(body.input)} inputs and has {len(body.output)} outputs"
        )
    graph.expand(len(body.node))
    # A schema's body may leave out the opset that it is itself a part of.
    opsets = {**node.scope.opsets, **{normal_domain(o.domain): o.version for o in body.opset_import}}
    scope = Scope(None, opsets, node.scope.depth + 1)
    scope.active = (*node.scope.active, key)
    scope.prefix = (
        f"{node.scope.prefix}{node.name}." if not node.name.startswith(node.scope.prefix) else f"{node.name}."
    )
    scope.attributes = _attributes(graph, node, body)
    for i, name in enumerate(body.input):
        value = node.input(i)
        scope.values[name] = value if value is not None else ABSENT
    before = len(graph.problems)
    graph.run(body.node, scope)
    if len(graph.problems) > before:
        raise Incomplete
    found: list[Value | None] = []
    for i, name in enumerate(body.output):
        value = scope.find(name)
        if not isinstance(value, Value):
            found.append(None)
            continue
        if node.wanted(i) and value.name and value.name.startswith(scope.prefix):
            value.name = node.outputs[i]
        found.append(value)
    return found


def _attributes(graph: Graph, node: Node, body: FunctionProto) -> Attributes:
    """What the body's nodes can refer to: the node's attributes, defaults of the function or the schema."""
    found = Attributes()
    for attribute in body.attribute_proto:
        found[attribute.name] = value_of(attribute, graph.model.tensors)
        found.kinds[attribute.name] = kind_of(attribute)
    is_local = (node.domain, node.op_type) in graph.functions
    schema = None if is_local else operator_schema(node.op_type, node.domain, node.version)
    for name, attribute in (schema.attributes if schema is not None else {}).items():
        if attribute.default_value.name:
            found[name] = value_of(attribute.default_value, graph.model.tensors)
            found.kinds[name] = kind_of(attribute.default_value)
    found.update(node.attributes)
    found.kinds.update(getattr(node.attributes, "kinds", {}))
    unknown = [
        n for n in node.attributes if n not in {*body.attribute, *(a.name for a in body.attribute_proto)}
    ]
    if unknown and schema is None:
        raise Unsupported(f"the function has no attribute '{unknown[0]}'")
    return found
