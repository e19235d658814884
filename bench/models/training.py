"""Networks with a loss behind them, whose training step is measured."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import ModelProto, TensorProto, helper

from bench.models.net import Net

_OPSET = 13
"""The first that has the loss in its present form."""


def with_loss(build: Callable[[], ModelProto]) -> ModelProto:
    """The network with the mean cross entropy of its answers and `labels` as its result. Of answers to several tokens the mean
    counts; a softmax at the end is part of the loss."""
    model = build()
    graph = model.graph
    if graph.node[-1].op_type == "Softmax":
        graph.output[0].name = graph.node.pop().input[0]
    model = onnx.shape_inference.infer_shapes(model)
    graph, scores = model.graph, model.graph.output[0]
    shape = [dim.dim_value for dim in scores.type.tensor_type.shape.dim]
    name = scores.name
    if len(shape) == 3:
        graph.node.append(helper.make_node("ReduceMean", [name], ["pooled"], axes=[1], keepdims=0))
        name = "pooled"
    graph.node.append(helper.make_node("SoftmaxCrossEntropyLoss", [name, "labels"], ["loss"]))
    graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, shape[:1]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    opset = max(_OPSET, *(o.version for o in model.opset_import))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, 8)
    return model


def cnn(batch: int = 64) -> ModelProto:
    """As examples/mnist/cnn.mir, normalisation of pixels left out."""
    net = Net(0)
    x = "image"
    for number, (ins, outs, kernel) in enumerate(((1, 16, 5), (16, 32, 3)), 1):
        x = net.conv(x, ins, outs, kernel)
        names = [f"norm{number}_{what}" for what in ("scale", "shift", "mean", "variance")]
        for name, value in zip(names, (1, 0, 0, 1), strict=True):
            net.weight(name, value + 0 * net.random.standard_normal(outs))
        x = net.op("Relu", net.op("BatchNormalization", x, *names))
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", _dense(net, net.op("Flatten", x), 1568, 64))
    return net.model(("image", (batch, 1, 28, 28)), (_dense(net, x, 64, 10), (batch, 10)))


def mlp(batch: int = 128) -> ModelProto:
    """784-512-512-10 with relu."""
    net = Net(0)
    x = net.op("Relu", _dense(net, "image", 784, 512))
    x = net.op("Relu", _dense(net, x, 512, 512))
    return net.model(("image", (batch, 784)), (_dense(net, x, 512, 10), (batch, 10)))


def _dense(net: Net, x: str, ins: int, outs: int) -> str:
    return net.op("Gemm", x, net.drawn(outs, ins, deviation=(2 / ins) ** 0.5), net.drawn(outs), transB=1)
