"""JAX: the ONNX graph's ops as jax.numpy and jax.lax, compiled as one function by jax.jit; weights are constants."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node, windows
from bench.peers.ops import Ops, Tensor
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    jax: Any = import_module("jax")

    graph = Graph(model)
    ops = JaxOps(graph)

    # Weights are arguments, as in a JAX program: as constants of the function XLA would try to fold them.
    def network(weights: dict[str, Any], *tensors: Any) -> Any:
        return tuple(graph.evaluate(ops, dict(zip(graph.inputs, tensors, strict=True)), weights))

    weights = {n: jax.device_put(a) for n, a in graph.constants.items() if a.ndim > 1 and a.dtype.kind == "f"}
    arrays = [jax.device_put(inputs[name]) for name in graph.inputs]
    compiled = jax.jit(network).lower(weights, *arrays).compile()
    return Prepared(
        lambda: jax.block_until_ready(compiled(weights, *arrays)),
        lambda found: [np.asarray(x) for x in found],
        jax.__version__,
        "jax.jit",
    )


class JaxOps(Ops):
    def __init__(self, graph: Graph) -> None:
        jax: Any = import_module("jax")

        super().__init__(graph)
        self.xp, self.lax, self.jax = jax.numpy, jax.lax, jax

    def tensor(self, x: Any) -> Tensor:
        return self.xp.asarray(x)

    def Conv(self, node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
        strides, pads, dilations = windows(node, x.shape[2:], weight.shape[2:])
        y = self.lax.conv_general_dilated(
            x,
            self.tensor(weight),
            strides,
            pads,
            rhs_dilation=dilations,
            feature_group_count=node.get("group", 1),
        )
        return y if bias is None else y + self.tensor(bias).reshape(-1, *[1] * len(strides))

    def _window(self, node: Node, x: Tensor, start: float, combine: Any) -> Tensor:
        kernel = node.get("kernel_shape")
        strides, pads, dilations = windows(node, x.shape[2:], kernel)
        return self.lax.reduce_window(
            x, start, combine, (1, 1, *kernel), (1, 1, *strides), [(0, 0), (0, 0), *pads],
            window_dilation=(1, 1, *dilations),
        )  # fmt: skip

    def MaxPool(self, node: Node, x: Tensor) -> Tensor:
        return self._window(node, x, -np.inf, self.lax.max)

    def AveragePool(self, node: Node, x: Tensor) -> Tensor:
        total = self._window(node, x, 0.0, self.lax.add)
        if node.get("count_include_pad", 0):
            return total / float(np.prod(node.get("kernel_shape")))
        return total / self._window(node, self.xp.ones_like(x), 0.0, self.lax.add)

    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        return self.xp.clip(x, low, high)

    def erf(self, x: Tensor) -> Tensor:
        return self.lax.erf(x)

    def reshape(self, x: Tensor, shape: list[int]) -> Tensor:
        return x.reshape(shape)

    def transpose(self, x: Tensor, order: list[int]) -> Tensor:
        return x.transpose(order)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return self.xp.concatenate(parts, axis)

    def take(self, x: Tensor, indices: Any, axis: int) -> Tensor:
        return self.xp.take(x, self.tensor(indices), axis)

    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor:
        return x.astype(dtype)

    def mean(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return self.xp.mean(x, tuple(axes), keepdims=keep)

    def sum(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return self.xp.sum(x, tuple(axes), keepdims=keep)

    def softmax(self, x: Tensor, axis: int) -> Tensor:
        return self.jax.nn.softmax(x, axis)
