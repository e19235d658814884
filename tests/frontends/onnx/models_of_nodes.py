"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F32, I64, I1 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Info = tuple[str, int, Sequence[int | str | None] | None]

X: Info = ("x", F32, [2, 3])


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Info] = (X,),
    outputs: Sequence[Info | str] = ("y",),
    weights: dict[str, Any] | None = None,
    opset: int = 17,
    functions: Sequence[FunctionProto] = (),
    tensors: Sequence[TensorProto] = (),
) -> ModelProto:
    """A model of these nodes; `weights` are arrays (lists become i64), an output without a type is of f32."""
    named = [numpy_helper.from_array(_array(v), k) for k, v in (weights or {}).items()]
    ends = [helper.make_tensor_value_info(*(o if isinstance(o, tuple) else (o, F32, None))) for o in outputs]
    graph = helper.make_graph(
        list(nodes), "graph", [helper.make_tensor_value_info(*i) for i in inputs], ends, [*named, *tensors]
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.array(value, np.int64)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> NodeProto:
    """A node; the names stand in one string, `_` is one that is left out."""
    names = [["" if n == "_" else n for n in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, **attributes)


def function(name: str, nodes: Sequence[NodeProto], inputs: str = "a", outputs: str = "b") -> FunctionProto:
    """A function of the domain `local`."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs.split(), outputs.split(), list(nodes), opsets)


def saved(folder: Path, proto: ModelProto | bytes, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path
