"""Networks of torch that learn digits of 28 x 28 pixels, and their training there."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


def mlp() -> Any:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def cnn() -> Any:
    """As examples/mnist/cnn.mir."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        parts = self.packed(self.norm1(x)).chunk(3, -1)
        queries, keys, values = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.feed(self.norm2(x))


class Transformer(nn.Module):
    """Reads an image row by row."""

    def __init__(self, layers: int = 2, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(28, width)
        self.place = nn.Parameter(0.1 * torch.randn(28, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Any) -> Any:
        return self.head(self.norm(self.blocks(self.embed(image.flatten(1, 2)) + self.place)).mean(1))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut."""

    def __init__(self, ins: int, width: int, stride: int) -> None:
        super().__init__()
        sizes = ((ins, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        layers = [part for size in sizes for part in (*_normed(*size), nn.ReLU())]
        self.main = nn.Sequential(*layers[:-1])
        same = ins == 4 * width and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(*_normed(ins, 4 * width, 1, stride))

    def forward(self, x: Any) -> Any:
        return F.relu(self.main(x) + self.short(x))


def _normed(ins: int, outs: int, kernel: int, stride: int) -> list[Any]:
    conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outs)]


def resnet50(channels: int = 1) -> Any:
    """He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (2016)."""
    layers = [*_normed(channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    ins = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(ins, width, stride if block == 0 else 1))
            ins = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ins, 10))


def export(network: Any, path: Path) -> Path:
    """Writes the network as it is in inference, for one image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(network).eval(), (torch.zeros(1, 1, 28, 28),), str(path), dynamo=False, opset_version=17,
            do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"],
        )  # fmt: skip
    return path


def learn(
    network: Any,
    optimizer: Callable[[Any], Any],
    batches: Callable[[int], tuple[np.ndarray, np.ndarray]],
    steps: int,
    double: bool = False,
) -> np.ndarray:
    """The loss of each step of a copy of the network, in f64 if `double`."""
    network = copy.deepcopy(network).train()
    network = network.double() if double else network
    optimiser = optimizer(network.parameters())
    losses: list[float] = []
    for step in range(steps):
        images, labels = batches(step)
        given = torch.from_numpy(images)
        loss = F.cross_entropy(network(given.double() if double else given), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    return np.array(losses)
