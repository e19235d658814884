"""PyTorch, eager: the ONNX graph's ops as calls of torch's functions, in inference mode."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node, windows
from bench.peers.ops import Ops, Tensor
from mdsl.benchmarking.peers import Prepared, Refused


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    torch: Any = import_module("torch")

    run, arrays = network(model, inputs, threads)

    def call() -> Any:
        with torch.inference_mode():
            return run(*arrays)

    return Prepared(call, to_numpy, torch.__version__, "eager")


def network(model: str, inputs: dict[str, np.ndarray], threads: int) -> tuple[Callable[..., Any], list[Any]]:
    """A torch module that evaluates the graph, and its inputs as tensors."""
    torch: Any = import_module("torch")

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    graph = Graph(model)

    class Network(torch.nn.Module):
        """Weights are buffers, which freezing may fold; ops that take constants as arrays make tensors once."""

        def __init__(self) -> None:
            super().__init__()
            self.ops = TorchOps(graph)

        def forward(self, *tensors: Any) -> Any:
            return tuple(graph.evaluate(self.ops, dict(zip(graph.inputs, tensors, strict=True))))

    given = [torch.from_numpy(inputs[name]) for name in graph.inputs]
    return Network().eval(), given


def to_numpy(found: Any) -> list[np.ndarray]:
    return [x.numpy() for x in found]


class TorchOps(Ops):
    """A constant's tensor is made once; later calls find it by the array's identity."""

    def __init__(self, graph: Graph) -> None:
        torch: Any = import_module("torch")

        super().__init__(graph)
        self.xp = torch
        self.nn = torch.nn.functional
        self._known: dict[int, tuple[Any, Tensor]] = {}

    def tensor(self, x: Any) -> Tensor:
        if not isinstance(x, np.ndarray):
            return x
        if id(x) not in self._known:
            self._known[id(x)] = x, self.xp.from_numpy(np.ascontiguousarray(x))
        return self._known[id(x)][1]

    def Conv(self, node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
        strides, pads, dilations = windows(node, x.shape[2:], weight.shape[2:])
        x, padding = self._padded(x, pads, 0.0)
        functions = {1: self.nn.conv1d, 2: self.nn.conv2d, 3: self.nn.conv3d}
        bias = None if bias is None else self.tensor(bias)
        return functions[len(strides)](
            x, self.tensor(weight), bias, strides, padding, dilations, node.get("group", 1)
        )

    def _padded(self, x: Tensor, pads: list[tuple[int, int]], value: float) -> tuple[Tensor, list[int]]:
        """torch pads both ends alike; other padding is an op of its own."""
        if all(before == after for before, after in pads):
            return x, [before for before, _ in pads]
        flat = [n for pair in reversed(pads) for n in pair]
        return self.nn.pad(x, flat, value=value), [0] * len(pads)

    def MaxPool(self, node: Node, x: Tensor) -> Tensor:
        kernel = node.get("kernel_shape")
        strides, pads, dilations = windows(node, x.shape[2:], kernel)
        x, padding = self._padded(x, pads, float("-inf"))
        return self.nn.max_pool2d(x, kernel, strides, padding, dilations)

    def AveragePool(self, node: Node, x: Tensor) -> Tensor:
        kernel = node.get("kernel_shape")
        strides, pads, _ = windows(node, x.shape[2:], kernel)
        count = bool(node.get("count_include_pad", 0))
        if node.get("ceil_mode", 0) or any(before != after for before, after in pads):
            raise Refused("torch has no average pooling with such padding")
        return self.nn.avg_pool2d(x, kernel, strides, [b for b, _ in pads], False, count)

    def BatchNormalization(
        self, node: Node, x: Tensor, scale: Any, shift: Any, mean: Any, variance: Any
    ) -> Tensor:
        scale, shift, mean, variance = (self.tensor(v) for v in (scale, shift, mean, variance))
        return self.nn.batch_norm(x, mean, variance, scale, shift, eps=node.get("epsilon", 1e-5))

    def LayerNormalization(self, node: Node, x: Tensor, scale: Any, shift: Any = None) -> Tensor:
        shape = list(x.shape[node.get("axis", -1) % len(x.shape) :])
        shift = None if shift is None else self.tensor(shift)
        return self.nn.layer_norm(x, shape, self.tensor(scale), shift, node.get("epsilon", 1e-5))

    def Gelu(self, node: Node, x: Tensor) -> Tensor:
        return self.nn.gelu(x, approximate=node.get("approximate", "none"))

    def LRN(self, node: Node, x: Tensor) -> Tensor:
        settings = (node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0))
        return self.nn.local_response_norm(x, node.get("size"), *settings)

    def Sigmoid(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.sigmoid(x)

    def Gemm(self, node: Node, a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
        if node.get("transA", 0) or not node.get("transB", 0) or c is None or np.ndim(c) != 1:
            return super().Gemm(node, a, b, c)
        return self.nn.linear(a, self.tensor(b), self.tensor(c))

    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        return self.nn.relu(x) if (low, high) == (0.0, None) else self.xp.clamp(x, low, high)

    def erf(self, x: Tensor) -> Tensor:
        return self.xp.erf(x)

    def reshape(self, x: Tensor, shape: list[int]) -> Tensor:
        return x.reshape(shape)

    def transpose(self, x: Tensor, order: list[int]) -> Tensor:
        return x.permute(order)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return self.xp.cat(parts, axis)

    def take(self, x: Tensor, indices: Any, axis: int) -> Tensor:
        found = self.tensor(indices)
        flat = self.xp.index_select(x, axis, found.reshape(-1))
        return flat.reshape([*x.shape[:axis], *found.shape, *x.shape[axis % x.dim() + 1 :]])

    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor:
        return x.to(self.xp.from_numpy(np.empty(0, dtype)).dtype)

    def mean(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return x.mean(axes, keep)

    def sum(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return x.sum(axes, keep)

    def softmax(self, x: Tensor, axis: int) -> Tensor:
        return self.xp.softmax(x, axis)
