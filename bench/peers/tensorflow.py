"""TensorFlow: the ONNX graph's ops as TensorFlow's, in one tf.function: as TensorFlow runs it, and compiled by XLA
(jit_compile); the faster of the two is what is timed, and `how` says which it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node, windows
from bench.peers.ops import Ops, Tensor
from mdsl.benchmarking.peers import Prepared, Refused


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    tf = limited(threads)
    graph = Graph(model)
    ops = TensorFlowOps(graph)
    arrays = [tf.constant(inputs[name]) for name in graph.inputs]

    def network(*tensors: Any) -> Any:
        return graph.evaluate(ops, dict(zip(graph.inputs, tensors, strict=True)))

    call, how = fastest(network, arrays)
    return Prepared(call, lambda tensors: [x.numpy() for x in tensors], tf.__version__, how)


def limited(threads: int) -> Any:
    """TensorFlow, told to use `threads` threads."""
    tf: Any = import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def fastest(network: Callable[..., Any], arrays: list[Any]) -> tuple[Callable[[], Any], str]:
    """The faster call of two that TensorFlow makes of `network` on `arrays`, and which it is. Raises Refused."""
    tf: Any = import_module("tensorflow")
    found: dict[str, Callable[[], Any]] = {}
    failed: Exception | None = None
    for how, compiled in (("tf.function", None), ("tf.function, jit_compile", True)):
        try:
            function = tf.function(network, jit_compile=compiled).get_concrete_function(*arrays)
            function(*arrays)
            found[how] = lambda function=function: function(*arrays)
        except tf.errors.OpError as error:
            failed = error
    if not found:
        raise Refused(str(failed))
    best = min(found, key=lambda how: _seconds(found[how]))
    return found[best], best


def _seconds(call: Callable[[], Any]) -> float:
    """The best of some calls."""
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


class TensorFlowOps(Ops):
    """Images stay in the ONNX graph's layout, (N, C, H, W), which oneDNN and XLA take."""

    def __init__(self, graph: Graph) -> None:
        tf: Any = import_module("tensorflow")

        super().__init__(graph)
        self.tf, self.xp = tf, tf.math

    def tensor(self, x: Any) -> Tensor:
        return self.tf.constant(x) if isinstance(x, np.ndarray) else x

    def Conv(self, node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
        strides, pads, dilations = windows(node, x.shape[2:], weight.shape[2:])
        groups = node.get("group", 1)
        if len(strides) != 2 or not isinstance(weight, np.ndarray):
            raise Refused("this translation to TensorFlow has 2-D convolutions with constant weights only")
        if groups == x.shape[1] and groups > 1:
            y = self._depthwise(x, weight, strides, pads, dilations)
        else:
            filters = self.tf.constant(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))
            padding = [[0, 0], [0, 0], *map(list, pads)]
            y = self.tf.nn.conv2d(x, filters, strides, padding, "NCHW", dilations)
        return y if bias is None else y + self.tensor(bias.reshape(-1, 1, 1))

    def _depthwise(self, x: Tensor, weight: np.ndarray, strides: Any, pads: Any, dilations: Any) -> Tensor:
        """TensorFlow's depthwise convolution takes (N, H, W, C) on CPUs."""
        channels, multiple = x.shape[1], weight.shape[0] // x.shape[1]
        filters = weight.reshape(channels, multiple, *weight.shape[2:]).transpose(2, 3, 0, 1)
        padding = [[0, 0], *map(list, pads), [0, 0]]
        image = self.tf.transpose(x, [0, 2, 3, 1])
        filters = self.tf.constant(np.ascontiguousarray(filters))
        y = self.tf.nn.depthwise_conv2d(image, filters, [1, *strides, 1], padding, "NHWC", dilations)
        return self.tf.transpose(y, [0, 3, 1, 2])

    def _pool(self, node: Node, x: Tensor, function: Any, outside: float) -> Tensor:
        kernel = node.get("kernel_shape")
        strides, pads, _ = windows(node, x.shape[2:], kernel)
        image = self.tf.transpose(x, [0, 2, 3, 1])
        if any(n for pair in pads for n in pair):
            image = self.tf.pad(image, [[0, 0], *map(list, pads), [0, 0]], constant_values=outside)
        return self.tf.transpose(function(image, kernel, strides, "VALID"), [0, 3, 1, 2])

    def MaxPool(self, node: Node, x: Tensor) -> Tensor:
        return self._pool(node, x, self.tf.nn.max_pool2d, float("-inf"))

    def AveragePool(self, node: Node, x: Tensor) -> Tensor:
        average = self._pool(node, x, self.tf.nn.avg_pool2d, 0.0)
        if node.get("count_include_pad", 0) or not any(node.get("pads", [0])):
            return average
        return average / self._pool(node, self.tf.ones_like(x), self.tf.nn.avg_pool2d, 0.0)

    def LRN(self, node: Node, x: Tensor) -> Tensor:
        size = node.get("size")
        settings = (node.get("bias", 1.0), node.get("alpha", 1e-4) / size, node.get("beta", 0.75))
        image = self.tf.transpose(x, [0, 2, 3, 1])
        image = self.tf.nn.local_response_normalization(image, size // 2, *settings)
        return self.tf.transpose(image, [0, 3, 1, 2])

    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        if (low, high) == (0.0, None):
            return self.tf.nn.relu(x)
        x = x if low is None else self.tf.maximum(x, low)
        return x if high is None else self.tf.minimum(x, high)

    def erf(self, x: Tensor) -> Tensor:
        return self.tf.math.erf(x)

    def reshape(self, x: Tensor, shape: list[int]) -> Tensor:
        return self.tf.reshape(x, shape)

    def transpose(self, x: Tensor, order: list[int]) -> Tensor:
        return self.tf.transpose(x, order)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return self.tf.concat(parts, axis)

    def take(self, x: Tensor, indices: Any, axis: int) -> Tensor:
        return self.tf.gather(x, indices, axis=axis)

    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor:
        return self.tf.cast(x, dtype)

    def mean(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return self.tf.reduce_mean(x, axes, keep)

    def sum(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return self.tf.reduce_sum(x, axes, keep)

    def softmax(self, x: Tensor, axis: int) -> Tensor:
        return self.tf.nn.softmax(x, axis)
