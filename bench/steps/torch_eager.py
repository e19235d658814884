"""PyTorch, eager: autograd and torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node
from bench.peers.ops import Tensor
from bench.peers.torch_eager import TorchOps
from bench.steps import MOMENTUM, RATE, weights_of
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    return stepping(model, inputs, threads, lambda loss, _: loss, "eager")


def stepping(
    model: str, inputs: dict[str, np.ndarray], threads: int, compiled: Callable[[Any, Any], Any], how: str
) -> Prepared:
    """A step whose loss, a function of the constants by name and of the inputs, is `compiled` for the arguments of that function."""
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    graph = Graph(model)
    constants = {
        name: torch.from_numpy(array.copy())
        for name, array in graph.constants.items()
        if array.ndim and array.dtype == np.float32
    }
    weights = {n: constants[n].requires_grad_() for n in weights_of(graph)}
    ops = Training(graph)
    arguments = constants, *(torch.from_numpy(inputs[name]) for name in graph.inputs)

    def loss(constants: Any, *tensors: Any) -> Any:
        return graph.evaluate(ops, dict(zip(graph.inputs, tensors, strict=True)), constants)[0]

    loss_of = compiled(loss, arguments)
    optimizer = torch.optim.SGD(weights.values(), RATE, momentum=MOMENTUM)

    def call() -> Any:
        optimizer.zero_grad()
        found = loss_of(*arguments)
        found.backward()
        optimizer.step()
        return found

    return Prepared(call, lambda loss: [loss.detach().numpy()], torch.__version__, how)


class Training(TorchOps):
    def BatchNormalization(
        self, node: Node, x: Tensor, scale: Any, shift: Any, mean: Any, variance: Any
    ) -> Tensor:
        running = self.tensor(mean), self.tensor(variance)
        share = 1 - node.get("momentum", 0.9)
        return self.nn.batch_norm(x, *running, scale, shift, True, share, node.get("epsilon", 1e-5))

    def SoftmaxCrossEntropyLoss(self, node: Node, x: Tensor, labels: Tensor) -> Tensor:
        return self.nn.cross_entropy(x, labels)
