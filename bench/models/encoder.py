"""A transformer encoder as torch's TorchScript exporter writes it, node by node."""

from __future__ import annotations

from math import sqrt

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from bench.models.net import Net


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
    net = Net(seed)
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


def _norm(net: Net, x: str, name: str, width: int, output: str | None = None) -> str:
    weight = net.weight(f"{name}.weight", net.random.uniform(0.5, 1.5, width))
    bias = net.normal(f"{name}.bias", (width,), 0.1)
    place = output or f"/{name.replace('.norm', '/norm')}/LayerNormalization_output_0"
    return net.add("LayerNormalization", [x, weight, bias], place, axis=-1, epsilon=1e-5)


def _feed_forward(net: Net, x: str, name: str, width: int, hidden: int, activation: str) -> str:
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


def _dense(net: Net, x: str, name: str, ins: int, outs: int) -> str:
    """A linear layer on 3-D input: a MatMul with the transposed weight, then the bias."""
    place = f"/{name.replace('.linear', '/linear').replace('.self_attn', '/self_attn')}"
    product = net.add(
        "MatMul", [x, net.normal(f"{name}.weight_t", (ins, outs), sqrt(1 / ins))], f"{place}/MatMul_output_0"
    )
    return net.add("Add", [net.normal(f"{name}.bias", (outs,), 0.1), product], f"{place}/Add_output_0")


def _attention(net: Net, x: str, name: str, width: int, heads: int, sequence: int, batch: int) -> str:
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
