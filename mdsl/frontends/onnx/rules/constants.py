"""Rules for constants: given, filled, counted."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import stretched_type
from mdsl.frontends.onnx.folding import MOVED
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.types import DYNAMIC, TensorType, type_of_dtype


@converts("Constant")
def constant(node: Node) -> Value:
    """The value stands in one of several attributes."""
    given = {k: v for k, v in node.attributes.items() if k.startswith("value") or k == "sparse_value"}
    if len(given) != 1:
        raise node.malformed("must have exactly one value")
    name, value = next(iter(given.items()))
    if name == "value":
        data = value
    elif name in ("value_int", "value_ints"):
        data = np.asarray(value, np.int64)
    elif name in ("value_float", "value_floats"):
        data = np.asarray(value, np.float32)
    else:
        raise node.unsupported(f"a constant of kind {name}")
    return node.const(data, "value")


@converts("ConstantOfShape")
def constant_of_shape(node: Node) -> Value:
    value = node.attr("value", np.zeros(1, np.float32)).reshape(-1)
    if value.size != 1:
        raise node.malformed("value must have one element")
    if node.constant(0) is None:
        scalar = node.const(value.reshape(()), "value")
        return node.build(
            nn.DynamicBroadcast(scalar, node.operand(0), results=[stretched_type(node, 0, scalar)])
        )
    sizes = node.ints(0, "the shape")
    if any(s < 0 for s in sizes):
        raise node.malformed(f"a shape cannot be {sizes}")
    node.check_size(sizes, type_of_dtype(value.dtype))
    return node.const(np.broadcast_to(value[0], sizes), "value")


@converts("Range")
def range_(node: Node) -> Value:
    numbers = [node.constant(i) for i in range(3)]
    if any(n is None for n in numbers):
        type = TensorType((DYNAMIC,), node.type(0).element)
        return node.build(
            nn.Range(*(node.reshape(node.operand(i), [], f"scalar{i}") for i in range(3)), results=[type])
        )
    start, limit, delta = (np.asarray(n).reshape(()) for n in numbers)
    if delta == 0 or not all(np.isfinite(n) for n in (start, limit, delta)):
        raise node.malformed("delta must not be 0, and all three must be finite")
    count = max(int(np.ceil((limit.item() - start.item()) / delta.item())), 0)
    if count > MOVED:
        raise node.unsupported(f"a range of {count} numbers")
    data = (np.arange(count) * delta + start).astype(start.dtype)
    return node.const(data, "value")
