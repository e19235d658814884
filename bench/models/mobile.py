"""Networks for phones: MobileNetV2 with its batch normalisations, MobileNetV4 with them folded, as exporters leave it."""

from __future__ import annotations

from math import sqrt

import numpy as np
from onnx import ModelProto

from bench.models.net import Net


def mobilenet_v2(size: int = 224, seed: int = 0, *, channels: int = 3, batch: int = 1) -> ModelProto:
    """MobileNetV2 1.0 with batch normalisation, as torchvision's. Sandler et al. (2018), table 2."""
    net = Net(seed)

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


def mobilenet_v4(size: int = 224, seed: int = 0, *, channels: int = 3, batch: int = 1) -> ModelProto:
    """MobileNetV4-Conv-S. Qin et al.: MobileNetV4, Universal Models for the Mobile Ecosystem (2024)."""
    net = Net(seed)
    x, wide = "input", channels
    for kernel, stride, outs in ((3, 2, 32), (3, 2, 32), (1, 1, 32), (3, 2, 96), (1, 1, 64)):
        x, wide = net.op("Relu", net.conv(x, wide, outs, kernel, stride)), outs
    for first, second, stride, expansion, outs in _UNIVERSAL:
        x, wide = _bottleneck(net, x, wide, outs, first, second, stride, expansion), outs
    x = net.op("Relu", net.conv(x, wide, 960))
    x = net.op("GlobalAveragePool", x)
    x = net.op("Relu", net.conv(x, 960, 1280))
    x = net.op("Flatten", x, axis=1)
    x = net.op("Gemm", x, net.drawn(1000, 1280, deviation=sqrt(1 / 1280)), net.drawn(1000), transB=1)
    return net.model(("input", (batch, channels, size, size)), (x, (batch, 1000)))


_UNIVERSAL = (
    (5, 5, 2, 3, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (3, 0, 1, 4, 96),
    (3, 3, 2, 6, 128), (5, 5, 1, 4, 128), (0, 5, 1, 4, 128), (0, 5, 1, 3, 128), (0, 3, 1, 4, 128), (0, 3, 1, 4, 128),
)  # fmt: skip
"""(first and second depthwise kernel, 0 for none, stride, expansion, channels) of each universal inverted bottleneck."""


def _bottleneck(
    net: Net, x: str, wide: int, outs: int, first: int, second: int, stride: int, expansion: int
) -> str:
    y, hidden = x, wide * expansion
    if first:
        y = net.conv(y, wide, wide, first, 1 if second else stride, wide)
    y = net.op("Relu", net.conv(y, wide, hidden))
    if second:
        y = net.op("Relu", net.conv(y, hidden, hidden, second, stride, hidden))
    y = net.conv(y, hidden, outs)
    return net.op("Add", x, y) if stride == 1 and wide == outs else y
