"""JAX: value_and_grad and the update as one function of jax.jit, which is given the weights' memory."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.jax import JaxOps
from bench.peers.onnx_graph import Graph, Node
from bench.peers.ops import Tensor
from bench.steps import MOMENTUM, RATE, weights_of
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    jax: Any = import_module("jax")
    graph = Graph(model)
    ops = Training(graph)

    def loss_of(weights: Any, *tensors: Any) -> Any:
        return graph.evaluate(ops, dict(zip(graph.inputs, tensors, strict=True)), weights)[0]

    def step(weights: Any, moments: Any, *tensors: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(weights, *tensors)
        moments = {n: MOMENTUM * moments[n] + gradients[n] for n in weights}
        return loss, {n: weights[n] - RATE * moments[n] for n in weights}, moments

    weights = {name: jax.device_put(array) for name, array in weights_of(graph).items()}
    state = [weights, {name: jax.numpy.zeros_like(weight) for name, weight in weights.items()}]
    arrays = [jax.device_put(inputs[name]) for name in graph.inputs]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, *arrays).compile()

    def call() -> Any:
        loss, *state[:] = compiled(*state, *arrays)
        jax.block_until_ready(state)
        return loss

    return Prepared(call, lambda loss: [np.asarray(loss)], jax.__version__, "jax.jit")


class Training(JaxOps):
    def BatchNormalization(
        self, node: Node, x: Tensor, scale: Any, shift: Any, mean: Any, variance: Any
    ) -> Tensor:
        axes, column = (0, *range(2, x.ndim)), [-1, *[1] * (x.ndim - 2)]
        centred = x - x.mean(axes, keepdims=True)
        deviation = self.xp.sqrt((centred * centred).mean(axes, keepdims=True) + node.get("epsilon", 1e-5))
        return centred / deviation * scale.reshape(column) + shift.reshape(column)

    def SoftmaxCrossEntropyLoss(self, node: Node, x: Tensor, labels: Tensor) -> Tensor:
        logs = self.jax.nn.log_softmax(x)
        return -self.xp.take_along_axis(logs, labels[:, None], 1).mean()
