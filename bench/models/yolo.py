"""A detector like YOLOv8-n, as exporters leave it: batch normalisations folded, boxes decoded in the graph."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from bench.models.net import Net

STRIDES, CLASSES, BINS = (8, 16, 32), 80, 16


def yolo(size: int = 640, seed: int = 0) -> ModelProto:
    """1 x 3 x `size` x `size` to 1 x 84 x anchors: boxes and scores of classes."""
    net = Net(seed)
    maps = _neck(net, _backbone(net))
    rows, anchors = [], sum((size // stride) ** 2 for stride in STRIDES)
    for x, wide, stride in zip(maps, (64, 128, 256), STRIDES, strict=True):
        parts = [_branch(net, x, wide, hidden, outs) for hidden, outs in ((64, 4 * BINS), (80, CLASSES))]
        x = net.op("Concat", *parts, axis=1)
        rows.append(net.reshape(x, 1, 4 * BINS + CLASSES, (size // stride) ** 2))
    x = net.op("Concat", *rows, axis=2)
    boxes = _boxes(net, net.slice(x, 1, 0, 4 * BINS), size, anchors)
    scores = net.op("Sigmoid", net.slice(x, 1, 4 * BINS, 4 * BINS + CLASSES))
    y = net.op("Concat", boxes, scores, axis=1)
    return net.model(("images", (1, 3, size, size)), (y, (1, 4 + CLASSES, anchors)))


def _conv(net: Net, x: str, ins: int, outs: int, kernel: int = 1, stride: int = 1) -> str:
    return net.silu(net.conv(x, ins, outs, kernel, stride))


def _c2f(net: Net, x: str, ins: int, outs: int, depth: int, add: bool) -> str:
    """A bottleneck whose parts are all kept."""
    half = outs // 2
    x = _conv(net, x, ins, outs)
    parts = [net.slice(x, 1, 0, half), net.slice(x, 1, half, outs)]
    for _ in range(depth):
        y = _conv(net, _conv(net, parts[-1], half, half, 3), half, half, 3)
        parts.append(net.op("Add", parts[-1], y) if add else y)
    return _conv(net, net.op("Concat", *parts, axis=1), (2 + depth) * half, outs)


def _backbone(net: Net) -> list[str]:
    x, wide, found = _conv(net, "images", 3, 16, 3, 2), 16, []
    for outs, depth in ((32, 1), (64, 2), (128, 2), (256, 1)):
        x = _c2f(net, _conv(net, x, wide, outs, 3, 2), outs, outs, depth, True)
        wide = outs
        found.append(x)
    x = _conv(net, x, 256, 128)
    pools = [x]
    for _ in range(3):
        around = {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2] * 4}
        pools.append(net.op("MaxPool", pools[-1], **around))
    found[-1] = _conv(net, net.op("Concat", *pools, axis=1), 512, 256)
    return found[1:]


def _neck(net: Net, maps: list[str]) -> list[str]:
    small, middle, large = maps
    middle = _c2f(net, net.op("Concat", _doubled(net, large), middle, axis=1), 384, 128, 1, False)
    small = _c2f(net, net.op("Concat", _doubled(net, middle), small, axis=1), 192, 64, 1, False)
    halved = _conv(net, small, 64, 64, 3, 2)
    middle = _c2f(net, net.op("Concat", halved, middle, axis=1), 192, 128, 1, False)
    halved = _conv(net, middle, 128, 128, 3, 2)
    large = _c2f(net, net.op("Concat", halved, large, axis=1), 384, 256, 1, False)
    return [small, middle, large]


def _doubled(net: Net, x: str) -> str:
    scales = net.weight(f"scales_{len(net.weights)}", np.array([1, 1, 2, 2]))
    kind = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net.op("Resize", x, "", scales, **kind)


def _branch(net: Net, x: str, wide: int, hidden: int, outs: int) -> str:
    return net.conv(_conv(net, _conv(net, x, wide, hidden, 3), hidden, hidden, 3), hidden, outs)


def _boxes(net: Net, x: str, size: int, anchors: int) -> str:
    """From distributions over distances to a box's four sides: its centre, width and height."""
    x = net.op("Softmax", net.transpose(net.reshape(x, 1, 4, BINS, anchors), 0, 2, 1, 3), axis=1)
    bins = net.weight("bins", np.arange(BINS).reshape(1, BINS, 1, 1))
    x = net.op("Conv", x, bins, kernel_shape=[1, 1])
    x = net.reshape(x, 1, 4, anchors)
    sides = [np.arange(size // stride) + 0.5 for stride in STRIDES]
    centres = np.concatenate([np.stack(np.meshgrid(s, s)).reshape(2, -1) for s in sides], axis=1)
    steps = np.concatenate([np.full(len(s) ** 2, stride) for s, stride in zip(sides, STRIDES, strict=True)])
    centre = net.weight("anchors", centres[None])
    first = net.op("Sub", centre, net.slice(x, 1, 0, 2))
    last = net.op("Add", net.slice(x, 1, 2, 4), centre)
    middle = net.op("Div", net.op("Add", first, last), net.number(2.0))
    both = net.op("Concat", middle, net.op("Sub", last, first), axis=1)
    return net.op("Mul", both, net.weight("strides", steps[None, None]))
