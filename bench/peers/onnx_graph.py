"""A small evaluator of ONNX graphs, for frameworks that have no ONNX importer of their own.

A framework gives a class of functions, one an op type, on its own tensors (see `ops.Ops`). What depends on constants
alone is computed once, by the reference implementation in the `onnx` package; so are shapes, which are known when
the graph is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Refused


@dataclass
class Node:
    """A node of the graph: op type, names of its inputs and outputs ("" for one that is left out), attributes."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    proto: Any

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class Graph:
    """An ONNX model, read. `constants` holds its initializers."""

    def __init__(self, path: str) -> None:
        import onnx
        from onnx import numpy_helper

        model = onnx.load(path)
        self.opsets = list(model.opset_import)
        self.opset = next((o.version for o in self.opsets if o.domain in ("", "ai.onnx")), 1)
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in model.graph.output]
        self.nodes = [
            Node(
                n.op_type,
                list(n.input),
                list(n.output),
                {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in n.attribute},
                n,
            )
            for n in model.graph.node
        ]

    def evaluate(
        self, ops: Any, inputs: Mapping[str, Any], constants: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """The outputs. Values are NumPy arrays while they are constant, else tensors of the framework;
        `constants` may hold some of the constants as tensors already."""
        values: dict[str, Any] = {**self.constants, **(constants or {}), **inputs}
        for node in self.nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            results = self._one(ops, node, arguments)
            values.update(zip(node.outputs, results, strict=False))
        return [values[name] for name in self.outputs]

    def _one(self, ops: Any, node: Node, arguments: list[Any]) -> Sequence[Any]:
        if node.op_type == "Shape":
            shape = arguments[0].shape
            return [np.array([int(size) for size in shape], np.int64)[node.get("start", 0) : node.get("end")]]
        if all(argument is None or type(argument) is np.ndarray for argument in arguments):
            return self._reference(node, arguments)
        function: Callable[..., Any] | None = getattr(ops, node.op_type, None)
        if function is None:
            raise Refused(f"this translation of ONNX graphs has no {node.op_type}")
        found = function(node, *arguments)
        return found if isinstance(found, (list, tuple)) else [found]

    def _reference(self, node: Node, arguments: list[Any]) -> Sequence[np.ndarray]:
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        names = [name for name in node.inputs if name]
        infos = [
            helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in dict.fromkeys(names)
        ]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.outputs if name
        ]
        model = helper.make_model(
            helper.make_graph([node.proto], "constant", infos, outputs), opset_imports=self.opsets
        )
        feeds = dict(zip(node.inputs, arguments, strict=True))
        return ReferenceEvaluator(model).run(None, {name: feeds[name] for name in names})  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def windows(
    node: Node, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Strides, padding before and after each spatial dimension, and dilations of a convolution or a pooling."""
    rank = len(kernel)
    strides, dilations = list(node.get("strides", [1] * rank)), list(node.get("dilations", [1] * rank))
    pads = list(node.get("pads", [0] * 2 * rank))
    automatic = node.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pairs: list[tuple[int, int]] = []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if automatic == "SAME_UPPER" else (more, less))
        return strides, pairs, dilations
    pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    if node.get("ceil_mode", 0):
        for d, (size, k) in enumerate(zip(spatial, kernel, strict=True)):
            before, after = pairs[d]
            rest = (size + before + after - (k - 1) * dilations[d] - 1) % strides[d]
            pairs[d] = before, after + (strides[d] - rest if rest else 0)
    return strides, pairs, dilations
