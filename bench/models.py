"""Full-size networks as ONNX models, with seeded random weights: `python -m bench.models resnet50 --size 224 -o x.onnx`.

The convolutional ones are the `light_*` graphs that the `onnx` package brings, whose weights are all 0.02: here
they get random ones with which activations neither vanish nor grow (He et al.: Delving Deep into Rectifiers,
2015). MobileNetV2 and the transformer encoder are built op by op as torch's exporter writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import sqrt
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mdsl.cli.errors import shown
from mdsl.frontends.onnx.model import require_onnx
from mdsl.support.files import replacing

with shown() if __name__ == "__main__" else nullcontext():
    require_onnx()

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LIGHT = {
    "resnet50": "resnet50", "densenet121": "densenet121", "inception_v1": "inception_v1",
    "inception_v2": "inception_v2", "shufflenet": "shufflenet", "squeezenet": "squeezenet", "vgg19": "vgg19",
    "alexnet": "bvlc_alexnet", "zfnet512": "zfnet512",
}  # fmt: skip

WITHOUT_SOFTMAX = ("resnet50", "shufflenet")
"""Their softmax saturates with random weights, and would hide differences."""


# The graphs of the onnx package ---------------------------------------------------------------------------


def light(
    name: str, size: int | None = None, seed: int = 0, *, channels: int = 3, batch: int = 1
) -> ModelProto:
    """A `light_*` model with random weights, for images of `size` x `size` pixels (224 without it).

    In another size the last pooling spans whatever is left of the image; with other `channels` the first
    convolution takes as many.
    """
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{LIGHT[name]}.onnx")
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


# Networks that are built ----------------------------------------------------------------------------------


class _Net:
    """Nodes and weights of a graph that grows node by node."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        return self.weight(name, self.random.standard_normal(shape, np.float32) * np.float32(deviation))

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        """A node with one output, `name`, which it returns."""
        self.nodes.append(
            helper.make_node(op, inputs, [name], name=name.removesuffix("_output_0"), **attributes)
        )
        return name

    def constant(self, value: object, name: str, dtype: type = np.int64) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        return self.add("Constant", [], name, value=tensor)

    def model(self, input: tuple[str, tuple[int, ...]], output: tuple[str, tuple[int, ...]]) -> ModelProto:
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (input, output)]
        graph = helper.make_graph(self.nodes, "main_graph", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mobilenet_v2(size: int = 224, seed: int = 0, *, channels: int = 3, batch: int = 1) -> ModelProto:
    """MobileNetV2 1.0 with batch normalisation, as torchvision's. Sandler et al. (2018), table 2."""
    net = _Net(seed)

    def conv(
        x: str, name: str, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        weight = net.normal(
            f"{name}.weight", (outs, ins // groups, kernel, kernel), sqrt(2 * groups / ins / kernel**2)
        )
        around = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = net.add("Conv", [x, weight], f"/{name}/Conv_output_0", group=groups, dilations=[1, 1], **around)
        between = net.random.uniform(0.5, 1.5, (2, outs))
        names = [
            net.weight(f"{name}.bn.weight", between[0]),
            net.normal(f"{name}.bn.bias", (outs,), 0.1),
            net.normal(f"{name}.bn.running_mean", (outs,), 0.1),
            net.weight(f"{name}.bn.running_var", between[1]),
        ]
        return net.add(
            "BatchNormalization", [y, *names], f"/{name}/BatchNormalization_output_0", epsilon=1e-5
        )

    def relu6(x: str, name: str) -> str:
        bounds = [
            net.constant(v, f"/{name}/Constant_{i}_output_0", np.float32) for i, v in enumerate((0.0, 6.0))
        ]
        return net.add("Clip", [x, *bounds], f"/{name}/Clip_output_0")

    x = relu6(conv("input", "features.0", channels, 32, 3, 2), "features.0")
    wide, number = 32, 1
    for expansion, outs, repeats, first in _MOBILENET:
        for stride in (first, *[1] * (repeats - 1)):
            name, hidden, y = f"features.{number}", wide * expansion, x
            if expansion != 1:
                y = relu6(conv(y, f"{name}.expand", wide, hidden), f"{name}.expand")
            y = relu6(conv(y, f"{name}.depthwise", hidden, hidden, 3, stride, hidden), f"{name}.depthwise")
            y = conv(y, f"{name}.project", hidden, outs)
            x = net.add("Add", [x, y], f"/{name}/Add_output_0") if stride == 1 and wide == outs else y
            wide, number = outs, number + 1
    x = relu6(conv(x, "features.18", wide, 1280), "features.18")
    x = net.add("GlobalAveragePool", [x], "/GlobalAveragePool_output_0")
    x = net.add("Flatten", [x], "/Flatten_output_0", axis=1)
    weight = net.normal("classifier.1.weight", (1000, 1280), sqrt(1 / 1280))
    net.add("Gemm", [x, weight, net.normal("classifier.1.bias", (1000,), 0.1)], "output", transB=1)
    return net.model(("input", (batch, channels, size, size)), ("output", (batch, 1000)))


_MOBILENET = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""(expansion, channels, repeats, first stride) of each stage."""


def encoder(
    layers: int = 6,
    width: int = 384,
    heads: int = 12,
    sequence: int = 128,
    seed: int = 0,
    *,
    hidden: int | None = None,
    pre_norm: bool = False,
    activation: str = "relu",
    batch: int = 1,
) -> ModelProto:
    """torch.nn.TransformerEncoder (batch_first, feed forward 4 x width), as its TorchScript exporter writes it:
    with the shape arithmetic that an importer has to fold. `activation`: "relu" or "gelu"."""
    net = _Net(seed)
    hidden = hidden or 4 * width
    x = "x"
    for layer in range(layers):
        name = f"layers.{layer}"
        if pre_norm:
            x = net.add("Add", [x, _attention(net, _norm(net, x, f"{name}.norm1", width), f"{name}.self_attn",
                                              width, heads, sequence, batch)], f"/{name}/Add_output_0")  # fmt: skip
            fed = _feed_forward(net, _norm(net, x, f"{name}.norm2", width), name, width, hidden, activation)
            x = net.add("Add", [x, fed], "y" if layer == layers - 1 else f"/{name}/Add_2_output_0")
        else:
            attended = _attention(net, x, f"{name}.self_attn", width, heads, sequence, batch)
            x = _norm(net, net.add("Add", [x, attended], f"/{name}/Add_output_0"), f"{name}.norm1", width)
            fed = _feed_forward(net, x, name, width, hidden, activation)
            total = net.add("Add", [x, fed], f"/{name}/Add_1_output_0")
            x = _norm(net, total, f"{name}.norm2", width, "y" if layer == layers - 1 else None)
    shape = (batch, sequence, width)
    return net.model(("x", shape), ("y", shape))


def _norm(net: _Net, x: str, name: str, width: int, output: str | None = None) -> str:
    weight = net.weight(f"{name}.weight", net.random.uniform(0.5, 1.5, width))
    bias = net.normal(f"{name}.bias", (width,), 0.1)
    place = output or f"/{name.replace('.norm', '/norm')}/LayerNormalization_output_0"
    return net.add("LayerNormalization", [x, weight, bias], place, axis=-1, epsilon=1e-5)


def _feed_forward(net: _Net, x: str, name: str, width: int, hidden: int, activation: str) -> str:
    x = _dense(net, x, f"{name}.linear1", width, hidden)
    if activation == "relu":
        x = net.add("Relu", [x], f"/{name}/Relu_output_0")
    else:
        assert activation == "gelu"
        root = net.constant(sqrt(2), f"/{name}/Constant_output_0", np.float32)
        error = net.add("Erf", [net.add("Div", [x, root], f"/{name}/Div_output_0")], f"/{name}/Erf_output_0")
        one = net.constant(1.0, f"/{name}/Constant_1_output_0", np.float32)
        plus = net.add("Add", [error, one], f"/{name}/Add_1_output_0")
        product = net.add("Mul", [x, plus], f"/{name}/Mul_output_0")
        half = net.constant(0.5, f"/{name}/Constant_2_output_0", np.float32)
        x = net.add("Mul", [product, half], f"/{name}/Mul_1_output_0")
    return _dense(net, x, f"{name}.linear2", hidden, width)


def _dense(net: _Net, x: str, name: str, ins: int, outs: int) -> str:
    """A linear layer on 3-D input: a MatMul with the transposed weight, then the bias."""
    place = f"/{name.replace('.linear', '/linear').replace('.self_attn', '/self_attn')}"
    product = net.add(
        "MatMul", [x, net.normal(f"{name}.weight_t", (ins, outs), sqrt(1 / ins))], f"{place}/MatMul_output_0"
    )
    return net.add("Add", [net.normal(f"{name}.bias", (outs,), 0.1), product], f"{place}/Add_output_0")


def _attention(net: _Net, x: str, name: str, width: int, heads: int, sequence: int, batch: int) -> str:
    """Multi-head self-attention: queries, keys and values from one product, taken apart by computed shapes."""
    place, size = f"/{name.replace('.self_attn', '/self_attn')}", width // heads
    count: dict[str, int] = {}

    def add(op: str, *inputs: str, **attributes: object) -> str:
        count[op] = count.get(op, -1) + 1
        number = f"_{count[op]}" if count[op] else ""
        return net.add(op, list(inputs), f"{place}/{op}{number}_output_0", **attributes)

    def constant(value: object, dtype: type = np.int64) -> str:
        return add("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    x = add("Transpose", x, perm=[1, 0, 2])
    weight = net.normal(f"{name}.in_proj_weight_t", (width, 3 * width), sqrt(1 / width))
    x = add("Add", net.normal(f"{name}.in_proj_bias", (3 * width,), 0.1), add("MatMul", x, weight))
    packed = constant([3, width])
    last = add("Mod", constant([2]), constant([3]))
    shape = add("Shape", x)
    before = add("Slice", shape, constant([0]), add("Reshape", last, constant([1])))
    behind = add(
        "Slice", shape, add("Reshape", add("Add", last, constant([1])), constant([1])), constant([2**63 - 1])
    )
    x = add("Reshape", x, add("Concat", before, packed, behind, axis=0), allowzero=0)
    x = add("Transpose", add("Unsqueeze", x, constant([0])), perm=[3, 1, 2, 0, 4])
    x = add("Squeeze", x, constant([3]))
    parts: list[str] = []
    for i in range(3):
        part = add(
            "Reshape", add("Gather", x, constant(i), axis=0), constant([sequence, batch * heads, size])
        )
        part = add("Transpose", part, perm=[1, 0, 2])
        parts.append(add("Reshape", part, constant([batch, heads, sequence, size])))
    query, key, value = parts
    width_of_head = add("Slice", add("Shape", query), constant([-1]), constant([2**63 - 1]))
    root = add("Sqrt", add("Cast", width_of_head, to=TensorProto.FLOAT))
    scale = add("Cast", add("Div", constant([1.0], np.float32), root), to=TensorProto.FLOAT)
    key = add("Mul", add("Transpose", key, perm=[0, 1, 3, 2]), add("Sqrt", scale))
    scores = add("Softmax", add("MatMul", add("Mul", query, add("Sqrt", scale)), key), axis=-1)
    x = add("Transpose", add("MatMul", scores, value), perm=[2, 0, 1, 3])
    x = add("Reshape", x, constant([batch * sequence, width]))
    weight = net.normal(f"{name}.out_proj.weight", (width, width), sqrt(1 / width))
    x = add("Gemm", x, weight, net.normal(f"{name}.out_proj.bias", (width,), 0.1), transB=1)
    x = add("Reshape", x, constant([sequence, batch, width]))
    return add("Transpose", x, perm=[1, 0, 2])


# Command --------------------------------------------------------------------------------------------------

BUILDERS: dict[str, Callable[..., ModelProto]] = {"mobilenet_v2": mobilenet_v2, "encoder": encoder}
NAMES = (*LIGHT, *BUILDERS)


def build(
    name: str, size: int | None = None, seed: int = 0, *, channels: int = 3, batch: int = 1
) -> ModelProto:
    """The model `name`. `size` is that of an image, or the encoder's sequence."""
    if name in LIGHT:
        return light(name, size, seed, channels=channels, batch=batch)
    if name == "encoder":
        return encoder(sequence=size or 128, seed=seed, batch=batch)
    return mobilenet_v2(size or 224, seed, channels=channels, batch=batch)


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    size: Annotated[
        int | None, typer.Option(help="Pixels of an image's side; the encoder's sequence.", min=1)
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of an image.", min=1)] = 3,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the random weights.", min=0)] = 0,
) -> None:
    """Write a network with random weights as an ONNX file."""
    if name not in NAMES:
        raise typer.BadParameter(f"no model '{name}': {', '.join(NAMES)}")
    model = build(name, size, seed, channels=channels, batch=batch)
    with shown(), replacing(output) as file:
        file.write(model.SerializeToString())


if __name__ == "__main__":
    typer.run(main)
