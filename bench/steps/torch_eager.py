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
    return stepping(model, inputs, threads, lambda loss: loss, "eager")


def stepping(
    model: str, inputs: dict[str, np.ndarray], threads: int, compiled: Callable[[Any], Any], how: str
) -> Prepared:
    """A step whose loss, a function of the inputs, is `compiled`."""
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    graph = Graph(model)
    weights = {n: torch.from_numpy(a.copy()).requires_grad_() for n, a in weights_of(graph).items()}
    ops = Training(graph)
    given = [torch.from_numpy(inputs[name]) for name in graph.inputs]
    loss_of = compiled(lambda *x: graph.evaluate(ops, dict(zip(graph.inputs, x, strict=True)), weights)[0])
    optimizer = torch.optim.SGD(weights.values(), RATE, momentum=MOMENTUM)

    def call() -> Any:
        optimizer.zero_grad()
        loss = loss_of(*given)
        loss.backward()
        optimizer.step()
        return loss

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
