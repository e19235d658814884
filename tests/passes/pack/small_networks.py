"""Small networks as text, with random weights in their resources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Network:
    """Writes one op after another; each method returns the name of its result."""

    def __init__(self, *shape: int) -> None:
        self.input = shape
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self.lines: list[str] = []
        self.weights: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(5)

    def op(self, kind: str, operands: Sequence[str], shape: Sequence[int], attributes: str = "") -> str:
        name = f"v{len(self.lines)}"
        types = ", ".join(_type(self.shapes[o]) for o in operands)
        values = ", ".join(f"%{o}" for o in operands)
        options = f" {{{attributes}}}" if attributes else ""
        self.lines.append(f"%{name} = nn.{kind} {values}{options} : ({types}) -> {_type(shape)}")
        self.shapes[name] = tuple(shape)
        return name

    def constant(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.random.standard_normal(shape).astype(np.float32)
        self.lines.append(f"%{name} = arith.constant dense_resource<{name}> : {_type(shape)}")
        self.shapes[name] = shape
        return name

    def conv(self, x: str, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        """With a bias, a border that keeps the size, and a relu."""
        n, c, h, w = self.shapes[x]
        pad = kernel // 2
        shape = (n, outputs, (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1)
        weight, bias = self.constant(outputs, c // groups, kernel, kernel), self.constant(outputs)
        options = f"strides = [{stride}, {stride}], pads = {[pad] * 4}, groups = {groups}"
        return self.op("relu", [self.op("conv2d", [x, weight, bias], shape, options)], shape)

    def same(self, kind: str, *operands: str, attributes: str = "") -> str:
        """An op whose result is shaped like its first operand."""
        return self.op(kind, operands, self.shapes[operands[0]], attributes)

    def concat(self, *parts: str) -> str:
        n, _, h, w = self.shapes[parts[0]]
        return self.op("concat", parts, (n, sum(self.shapes[p][1] for p in parts), h, w), "axis = 1")

    def slice(self, x: str, start: int, end: int) -> str:
        n, _, h, w = self.shapes[x]
        return self.op(
            "slice", [x], (n, end - start, h, w), f"starts = [{start}], ends = [{end}], axes = [1]"
        )

    def shuffle(self, x: str, groups: int) -> str:
        n, c, h, w = self.shapes[x]
        split = self.op("reshape", [x], (n, groups, c // groups, h, w))
        moved = self.op("transpose", [split], (n, c // groups, groups, h, w), "perm = [0, 2, 1, 3, 4]")
        return self.op("reshape", [moved], (n, c, h, w))

    def mean(self, x: str) -> str:
        return self.op("global_avg_pool", [x], (*self.shapes[x][:2], 1, 1))

    def text(self, result: str) -> str:
        data = ", ".join(f'{n}: "0x40000000{w.tobytes().hex()}"' for n, w in self.weights.items())
        body = "\n  ".join([*self.lines, f"return %{result} : {_type(self.shapes[result])}"])
        return (
            f"func.func @main(%x: {_type(self.input)}) -> {_type(self.shapes[result])} {{\n  {body}\n}}\n"
            f"{{-# dialect_resources: {{ builtin: {{ {data} }} }} #-}}\n"
        )


def _type(shape: Sequence[int]) -> str:
    return f"tensor<{'x'.join(map(str, shape))}xf32>"
