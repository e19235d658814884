"""Checking nodes against the schemas of ONNX's operators: number of inputs, names and types of attributes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from mdsl.frontends.onnx.registry import Malformed, Node
from mdsl.frontends.onnx.tensors import TensorReader

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = range(1, 9)
_FIELDS = {
    _FLOAT: "f", _INT: "i", _STRING: "s", _TENSOR: "t", _GRAPH: "g",
    _FLOATS: "floats", _INTS: "ints", _STRINGS: "strings",
}  # fmt: skip
_WORDS = {
    _FLOAT: "a number", _INT: "an integer", _STRING: "a string", _TENSOR: "a tensor", _GRAPH: "a graph",
    _FLOATS: "a list of numbers", _INTS: "a list of integers", _STRINGS: "a list of strings",
}  # fmt: skip


class Attributes(dict[str, Any]):
    """A node's attributes as Python values; `kinds` has the number of each one's type."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, int] = {}


def attributes_of(proto: NodeProto, outer: dict[str, Any], tensors: TensorReader) -> Attributes:
    """The node's attributes; those that refer to an attribute of the function around them come from `outer`.
    Raises Malformed, Unsupported."""
    found = Attributes()
    for attribute in proto.attribute:
        if attribute.name in found:
            raise Malformed(f"attribute '{attribute.name}' stands twice")
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in outer:
                found[attribute.name] = outer[attribute.ref_attr_name]
                found.kinds[attribute.name] = getattr(outer, "kinds", {}).get(attribute.ref_attr_name, 0)
            continue
        found[attribute.name] = value_of(attribute, tensors)
        found.kinds[attribute.name] = kind_of(attribute)
    return found


def kind_of(attribute: AttributeProto) -> int:
    """The number of the attribute's type; files of old exporters do not say it."""
    if attribute.type:
        return attribute.type
    single = (k for k in (_FLOAT, _INT, _STRING, _TENSOR, _GRAPH) if attribute.HasField(_FIELDS[k]))
    several = (k for k in (_FLOATS, _INTS, _STRINGS) if len(getattr(attribute, _FIELDS[k])))
    return next(single, next(several, 0))


def value_of(attribute: AttributeProto, tensors: TensorReader) -> Any:
    """The attribute as a Python value; kinds that no rule reads stay as they are."""
    kind = kind_of(attribute)
    if kind not in _FIELDS:
        return attribute
    value = getattr(attribute, _FIELDS[kind])
    try:
        if kind == _STRING:
            return value.decode()
        if kind == _STRINGS:
            return [v.decode() for v in value]
    except UnicodeDecodeError:
        raise Malformed(f"attribute '{attribute.name}' is not UTF-8 text") from None
    if kind == _TENSOR:
        return tensors.array(value)
    return list(value) if kind in (_FLOATS, _INTS) else value


@cache
def operator_schema(op_type: str, domain: str, version: int) -> Any:
    """The OpSchema (onnx's stubs lack half of it) of an operator in a version of its domain's opset, None of one
    that ONNX does not know."""
    from onnx import defs

    try:
        return defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return None


def check_node(node: Node) -> None:
    """Raises Malformed if the node does not keep to its operator's schema."""
    schema = operator_schema(node.op_type, node.domain, node.version)
    if schema is None:
        return
    fewest, most, attributes = schema.min_input, schema.max_input, schema.attributes
    if not fewest <= len(node.inputs) <= most:
        takes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise Malformed(f"takes {takes} inputs, got {len(node.inputs)}")
    kinds: dict[str, int] = getattr(node.attributes, "kinds", {})
    for name in node.attributes:
        if name not in attributes:
            raise Malformed(f"opset {node.version} has no attribute '{name}' here")
        wanted, got = attributes[name].type.value, kinds.get(name, 0)
        if got and got != wanted:
            raise Malformed(
                f"attribute '{name}' must be {_WORDS.get(wanted, 'of another type')}, not {_WORDS.get(got, 'what it is')}"
            )
    for name, attribute in attributes.items():
        if attribute.required and name not in node.attributes:
            raise Malformed(f"attribute '{name}' is missing")
