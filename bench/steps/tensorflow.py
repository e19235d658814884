"""TensorFlow: the step as one tf.function, as TensorFlow runs it, and compiled by XLA; the faster one is timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node, windows
from bench.peers.ops import Tensor
from bench.peers.tensorflow import TensorFlowOps, fastest, limited
from bench.steps import MOMENTUM, RATE, weights_of
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    tf = limited(threads)
    graph = Graph(model)
    ops = Training(graph)
    weights = {name: tf.Variable(array) for name, array in weights_of(graph).items()}
    moments = {name: tf.Variable(tf.zeros_like(weight)) for name, weight in weights.items()}
    arrays = [tf.constant(inputs[name]) for name in graph.inputs]

    def step(*tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            known = {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}
            (loss,) = graph.evaluate(ops, dict(zip(graph.inputs, tensors, strict=True)), known)
        gradients = tape.gradient(loss, weights)
        for name, gradient in gradients.items():
            moments[name].assign(MOMENTUM * moments[name] + gradient)
            weights[name].assign_sub(RATE * moments[name])
        return loss

    first = graph.evaluate(
        ops,
        dict(zip(graph.inputs, arrays, strict=True)),
        {n: tf.convert_to_tensor(w) for n, w in weights.items()},
    )
    call, how = fastest(step, arrays)
    return Prepared(call, lambda _: [first[0].numpy()], tf.__version__, how)


class Training(TensorFlowOps):
    """Images are (N, H, W, C) in layers: on CPUs TensorFlow has the gradients of others only when XLA compiles them."""

    def Conv(self, node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
        strides, pads, dilations = windows(node, x.shape[2:], weight.shape[2:])
        image, filters = self.tf.transpose(x, [0, 2, 3, 1]), self.tf.transpose(weight, [2, 3, 1, 0])
        padding = [[0, 0], *map(list, pads), [0, 0]]
        y = self.tf.nn.conv2d(image, filters, strides, padding, "NHWC", dilations)
        y = y if bias is None else y + bias
        return self.tf.transpose(y, [0, 3, 1, 2])

    def BatchNormalization(
        self, node: Node, x: Tensor, scale: Any, shift: Any, mean: Any, variance: Any
    ) -> Tensor:
        image = self.tf.transpose(x, [0, 2, 3, 1])
        y = self.tf.compat.v1.nn.fused_batch_norm(image, scale, shift, epsilon=node.get("epsilon", 1e-5))[0]
        return self.tf.transpose(y, [0, 3, 1, 2])

    def SoftmaxCrossEntropyLoss(self, node: Node, x: Tensor, labels: Tensor) -> Tensor:
        return self.tf.reduce_mean(self.tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x))
