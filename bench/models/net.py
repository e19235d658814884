"""A graph that grows node by node, and what networks are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class Net:
    """Nodes and weights of a graph. What has no name gets one as torch's exporter gives: `/Conv_3_output_0`."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.random = np.random.default_rng(seed)
        self._count: Counter[str] = Counter()

    # Weights ----------------------------------------------------------------------------------------------

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        return self.weight(name, self.random.standard_normal(shape, np.float32) * np.float32(deviation))

    def drawn(self, *shape: int, deviation: float = 0.1) -> str:
        """A weight with a name that follows from its number."""
        return self.normal(f"weight_{len(self.weights)}", shape, deviation)

    # Nodes ------------------------------------------------------------------------------------------------

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        """A node with one output, `name`, which it returns."""
        self.nodes.append(
            helper.make_node(op, inputs, [name], name=name.removesuffix("_output_0"), **attributes)
        )
        return name

    def constant(self, value: object, name: str, dtype: type = np.int64) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        return self.add("Constant", [], name, value=tensor)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """A node whose only output has a name of its own, which it returns."""
        number = self._count[kind]
        self._count[kind] += 1
        return self.add(kind, list(inputs), f"/{kind}{f'_{number}' * (number > 0)}_output_0", **attributes)

    def ints(self, *values: int) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))

    def number(self, value: float) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.array(value, np.float32)))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=list(order))

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self.op("Slice", x, *map(self.ints, (start, end, axis, step)))

    # Layers -----------------------------------------------------------------------------------------------

    def conv(
        self, x: str, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1, pad: int = -1
    ) -> str:
        """With a bias; padded so that a stride of 1 keeps the size, if `pad` does not say otherwise."""
        inputs = ins // groups * kernel**2
        weights = (
            self.drawn(outs, ins // groups, kernel, kernel, deviation=sqrt(2 / inputs)),
            self.drawn(outs),
        )
        pads = [kernel // 2 if pad < 0 else pad] * 4
        around = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "dilations": [1, 1]}
        return self.op("Conv", x, *weights, group=groups, **around)

    def dense(self, x: str, ins: int, outs: int, bias: bool = True) -> str:
        """A linear layer on input of three dimensions or more."""
        product = self.op("MatMul", x, self.drawn(ins, outs, deviation=sqrt(1 / ins)))
        return self.op("Add", self.drawn(outs), product) if bias else product

    def layer_norm(self, x: str, width: int) -> str:
        scale = self.weight(f"weight_{len(self.weights)}", self.random.uniform(0.5, 1.5, width))
        return self.op("LayerNormalization", x, scale, self.drawn(width), axis=-1, epsilon=1e-6)

    def gelu(self, x: str) -> str:
        error = self.op("Erf", self.op("Div", x, self.number(sqrt(2))))
        product = self.op("Mul", x, self.op("Add", error, self.number(1.0)))
        return self.op("Mul", product, self.number(0.5))

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    # The whole --------------------------------------------------------------------------------------------

    def model(self, input: tuple[str, tuple[int, ...]], output: tuple[str, tuple[int, ...]]) -> ModelProto:
        return self.models([input], [output])

    def models(
        self,
        inputs: Sequence[tuple[str, tuple[int, ...]]],
        outputs: Sequence[tuple[str, tuple[int, ...]]],
        type: int = TensorProto.FLOAT,
    ) -> ModelProto:
        """The model of several inputs, of this type, and outputs, of f32."""
        starts = [helper.make_tensor_value_info(name, type, shape) for name, shape in inputs]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
        graph = helper.make_graph(self.nodes, "main_graph", starts, ends, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
