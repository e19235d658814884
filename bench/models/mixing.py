"""Networks that mix pixels and channels by turns, with GELU: ConvNeXt, MLP-Mixer, and the layers that they consist of."""

from __future__ import annotations

from math import sqrt

from onnx import ModelProto

from bench.models.net import Net


def convnext(size: int = 224, seed: int = 0, *, depths: tuple[int, ...] = (1, 1, 3, 1)) -> ModelProto:
    """ConvNeXt-T with fewer blocks, as torchvision's: channels go last for the dense layers. Liu et al. (2022)."""
    net, widths = Net(seed), (96, 192, 384, 768)
    x, wide = net.conv("input", 3, widths[0], 4, 4, pad=0), widths[0]
    x = _norm_of_channels(net, x, wide)
    for stage, depth in enumerate(depths):
        if stage:
            x = net.conv(_norm_of_channels(net, x, wide), wide, widths[stage], 2, 2, pad=0)
            wide = widths[stage]
        for _ in range(depth):
            x = _convnext_block(net, x, wide)
    x = net.op("Flatten", _norm_of_channels(net, net.op("GlobalAveragePool", x), wide), axis=1)
    x = net.op("Gemm", x, net.drawn(1000, wide, deviation=sqrt(1 / wide)), net.drawn(1000), transB=1)
    return net.model(("input", (1, 3, size, size)), (x, (1, 1000)))


def _norm_of_channels(net: Net, x: str, wide: int) -> str:
    return net.transpose(net.layer_norm(net.transpose(x, 0, 2, 3, 1), wide), 0, 3, 1, 2)


def _convnext_block(net: Net, x: str, wide: int) -> str:
    y = net.transpose(net.conv(x, wide, wide, 7, groups=wide), 0, 2, 3, 1)
    y = net.gelu(net.dense(net.layer_norm(y, wide), wide, 4 * wide))
    y = net.transpose(net.dense(y, 4 * wide, wide), 0, 3, 1, 2)
    return net.op("Add", net.op("Mul", net.drawn(wide, 1, 1), y), x)


def mixer(size: int = 224, seed: int = 0, *, layers: int = 8, wide: int = 512, patch: int = 32) -> ModelProto:
    """MLP-Mixer-S/32. Tolstikhin et al. (2021), table 1."""
    net, tokens = Net(seed), (size // patch) ** 2
    x = net.conv("input", 3, wide, patch, patch, pad=0)
    x = net.transpose(net.reshape(x, 1, wide, tokens), 0, 2, 1)
    for _ in range(layers):
        y = net.transpose(net.layer_norm(x, wide), 0, 2, 1)
        y = net.dense(net.gelu(net.dense(y, tokens, wide // 2)), wide // 2, tokens)
        x = net.op("Add", x, net.transpose(y, 0, 2, 1))
        y = net.gelu(net.dense(net.layer_norm(x, wide), wide, 4 * wide))
        x = net.op("Add", x, net.dense(y, 4 * wide, wide))
    x = net.op("ReduceMean", net.layer_norm(x, wide), axes=[1], keepdims=0)
    x = net.op("Gemm", x, net.drawn(1000, wide, deviation=sqrt(1 / wide)), net.drawn(1000), transB=1)
    return net.model(("input", (1, 3, size, size)), (x, (1, 1000)))


def conv_gelu(size: int = 14, ins: int = 384, outs: int = 1536, seed: int = 0) -> ModelProto:
    """A 1x1 convolution and GELU."""
    net = Net(seed)
    y = net.gelu(net.conv("x", ins, outs))
    return net.model(("x", (1, ins, size, size)), (y, (1, outs, size, size)))


def product(rows: int = 49, inner: int = 2048, columns: int = 512, seed: int = 0) -> ModelProto:
    """A matrix by a constant one."""
    net = Net(seed)
    y = net.op("MatMul", "x", net.drawn(inner, columns, deviation=sqrt(1 / inner)))
    return net.model(("x", (rows, inner)), (y, (rows, columns)))


def matmul(rows: int, inner: int, columns: int) -> ModelProto:
    """A matrix by another, none of them constant."""
    net = Net(0)
    y = net.op("MatMul", "a", "b")
    return net.models([("a", (rows, inner)), ("b", (inner, columns))], [(y, (rows, columns))])


def resize(size: int = 56, channels: int = 64) -> ModelProto:
    """Twice as high and wide, linearly."""
    net = Net(0)
    scales = net.weight("scales", [1.0, 1.0, 2.0, 2.0])  # type: ignore[arg-type]
    kind = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    y = net.op("Resize", "x", "", scales, **kind)
    return net.model(("x", (1, channels, size, size)), (y, (1, channels, 2 * size, 2 * size)))
