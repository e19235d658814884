"""A model in f16: its weights, inputs, outputs and what lies between."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def halved(model: ModelProto) -> ModelProto:
    """A copy of the model in which f16 takes the place of f32."""
    found = ModelProto()
    found.CopyFrom(model)
    kept = {node.input[2] for node in found.graph.node if node.op_type == "Resize"}  # its scales stay f32
    for tensor in found.graph.initializer:
        if tensor.name not in kept:
            _halve(tensor)
    for value in (*found.graph.input, *found.graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = HALF
    for attribute in (a for node in found.graph.node for a in node.attribute):
        if attribute.name == "value":
            _halve(attribute.t)
        elif attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = HALF
    del found.graph.value_info[:]
    return found


def _halve(tensor: TensorProto) -> None:
    if tensor.data_type == FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
