"""The `light_*` graphs that the `onnx` package brings, whose weights are all 0.02: here they get random ones with which
activations neither vanish nor grow (He et al.: Delving Deep into Rectifiers, 2015)."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

LIGHT = {
    "resnet50": "resnet50", "densenet121": "densenet121", "inception_v1": "inception_v1",
    "inception_v2": "inception_v2", "shufflenet": "shufflenet", "squeezenet": "squeezenet", "vgg19": "vgg19",
    "alexnet": "bvlc_alexnet", "zfnet512": "zfnet512",
}  # fmt: skip

WITHOUT_SOFTMAX = ("resnet50", "shufflenet")
"""Their softmax saturates with random weights, and would hide differences."""


def light_file(name: str) -> Path:
    """The package's file of the model."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return folder / f"light_{LIGHT[name]}.onnx"


def light(
    name: str, size: int | None = None, seed: int = 0, *, channels: int = 3, batch: int = 1
) -> ModelProto:
    """A `light_*` model with random weights, for images of `size` x `size` pixels (224 without it).

    In another size the last pooling spans whatever is left of the image; with other `channels` the first
    convolution takes as many.
    """
    model = onnx.load(light_file(name))
    graph = model.graph
    if name in WITHOUT_SOFTMAX:
        last = graph.node.pop()
        assert last.op_type == "Softmax"
        graph.output[0].name = last.input[0]
    _resize(graph, size or 224, channels, batch)
    _randomise(graph, channels, np.random.default_rng(seed))
    del graph.value_info[:]
    return model


def _resize(graph: onnx.GraphProto, size: int, channels: int, batch: int) -> None:
    weights = {t.name for t in graph.initializer}
    (image,) = [i for i in graph.input if i.name not in weights]
    for dim, value in zip(image.type.tensor_type.shape.dim, (batch, channels, size, size), strict=True):
        dim.dim_value = value
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    if size != 224:
        for node in graph.node:
            if node.op_type == "AveragePool" and list(_attribute(node, "kernel_shape")) == [7, 7]:
                node.op_type = "GlobalAveragePool"
                del node.attribute[:]
    if batch != 1:  # the flattening Reshape says [1, features]
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.INT64 and list(numpy_helper.to_array(tensor)[:1]) == [1]:
                shape = numpy_helper.to_array(tensor).copy()
                shape[0] = batch
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _attribute(node: NodeProto, name: str) -> list[int]:
    return next(list(a.ints) for a in node.attribute if a.name == name)


def _randomise(graph: onnx.GraphProto, channels: int, random: np.random.Generator) -> None:
    """Replaces every weight, be it an initializer or what a ConstantOfShape makes, by a random one."""
    users = {name: (node, i) for node in reversed(graph.node) for i, name in enumerate(node.input)}
    damped = _before_sums(graph)
    initial = {t.name: t for t in graph.initializer}
    first = next(n for n in graph.node if n.op_type == "Conv")
    nodes, fresh = [], []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = numpy_helper.to_array(initial.pop(node.input[0])).tolist()
        if node.output[0] == first.input[1]:
            shape[1] = channels
        fresh.append((node.output[0], shape))
    for name, tensor in list(initial.items()):
        if tensor.data_type == TensorProto.FLOAT or name not in users:
            del initial[name]
            if name in users:
                fresh.append((name, list(tensor.dims)))
    for name, shape in fresh:
        initial[name] = numpy_helper.from_array(_weight(name, shape, users, damped, random), name)
    given = {i.name for i in graph.input} & {t.name for t in graph.initializer}
    kept = [i for i in graph.input if i.name not in given]
    for field, values in ((graph.node, nodes), (graph.initializer, initial.values()), (graph.input, kept)):
        found = list(values)
        del field[:]
        field.extend(found)  # type: ignore[arg-type]


def _before_sums(graph: onnx.GraphProto) -> set[str]:
    """Scales of the batch normalisations whose result a residual Sum adds: they would make it grow."""
    makers = {n.output[0]: n for n in graph.node}
    summed = [makers[i] for n in graph.node if n.op_type == "Sum" for i in n.input if i in makers]
    return {n.input[1] for n in summed if n.op_type == "BatchNormalization"}


def _weight(
    name: str,
    shape: list[int],
    users: dict[str, tuple[NodeProto, int]],
    damped: set[str],
    random: np.random.Generator,
) -> np.ndarray:
    """Random numbers that suit the operand of the node that reads them."""
    node, position = users[name]
    while node.op_type in ("Unsqueeze", "Reshape"):  # a weight that is brought into shape first
        node, position = users[node.output[0]]
    normal = random.standard_normal(shape, np.float32)
    scale = node.op_type == "Mul" or (node.op_type == "BatchNormalization" and position in (1, 4))
    if scale:
        found = random.uniform(0.5, 1.5, shape).astype(np.float32)
        return found * np.float32(0.3) if name in damped else found
    if node.op_type in ("Conv", "Gemm") and position == 1:
        inputs = int(np.prod(shape[1:])) if node.op_type == "Conv" else shape[-1]
        return normal * np.float32(sqrt(2 / inputs))
    return normal * np.float32(0.1)
