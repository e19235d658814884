"""An infinity or a NaN reaches the outputs that the reference's semantics reach, and no other: nothing that a rewrite pads
with zeros (channels, groups, borders, blocks) meets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import mdsl

Shape = tuple[int, ...]


class Network:
    """The text of a chain of nn ops from `%x`. Weights are positive, so that an infinity stays one."""

    def __init__(self, *shape: int) -> None:
        self.random = np.random.default_rng(0)
        self.shape: Shape = shape
        self.first, self.value = type_of(shape), "%x"
        self.lines: list[str] = []

    def weight(self, *shape: int) -> tuple[str, str]:
        data = self.random.uniform(0.1, 1, shape).astype(np.float32).tobytes().hex().upper()
        name = f"%w{len(self.lines)}"
        self.lines.append(f'{name} = arith.constant dense<"0x{data}"> : {type_of(shape)}')
        return name, type_of(shape)

    def op(self, name: str, attributes: str = "", shape: Shape = (), *others: tuple[str, str]) -> Network:
        operands = [(self.value, type_of(self.shape)), *others]
        self.value, self.shape = f"%v{len(self.lines)}", shape or self.shape
        values, types = (", ".join(words) for words in zip(*operands, strict=True))
        self.lines.append(
            f"{self.value} = nn.{name} {values} {attributes} : ({types}) -> {type_of(self.shape)}"
        )
        return self

    def conv(
        self, made: int, k: int = 3, stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1
    ) -> Network:
        n, c, *image = self.shape
        sizes = [(s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s in image]
        weights = self.weight(made, c // groups, k, k), self.weight(made)
        attributes = f"{{strides = {[stride] * 2}, pads = {[pad] * 4}, dilations = {[dilation] * 2}, groups = {groups}}}"
        return self.op("conv2d", attributes, (n, made, *sizes), *weights)

    def pool(self, kind: str) -> Network:
        n, c, h, w = self.shape
        attributes = "{kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]}"
        return self.op(f"{kind}_pool2d", attributes, (n, c, (h + 1) // 2, (w + 1) // 2))

    def linear(self, made: int) -> Network:
        *rows, depth = self.shape
        return self.op("linear", "", (*rows, made), self.weight(made, depth), self.weight(made))

    def scalar(self, name: str, number: float) -> Network:
        self.lines.append(
            f"%s{len(self.lines)} = arith.constant dense<0x{np.float32(number).view(np.uint32):08X}> : tensor<1xf32>"
        )
        return self.op(name, "", (), (f"%s{len(self.lines) - 1}", "tensor<1xf32>"))

    def negative(self) -> Network:
        """Makes zeros of infinities: what follows is finite again."""
        return self.op("neg").op("relu")

    def text(self) -> str:
        result = type_of(self.shape)
        return "\n  ".join(
            [
                f"func.func @main(%x: {self.first}) -> {result} {{",
                *self.lines,
                f"return {self.value} : {result}\n}}",
            ]
        )


def type_of(shape: Shape) -> str:
    return f"tensor<{'x'.join(map(str, shape))}xf32>"


def image(channels: int, size: int = 7) -> Network:
    return Network(1, channels, size, size)


NETWORKS: dict[str, Callable[[], Network]] = {
    "groups of 4": lambda: image(32).conv(32, groups=8),
    "groups of 8, 1x1": lambda: image(16).conv(16, 1, groups=2).op("relu"),
    "groups of 2, stride": lambda: image(32).conv(32, stride=2, pad=1, groups=16).negative().conv(5, 1),
    "groups between convolutions": lambda: image(3).conv(64, 1).op("relu").conv(64, pad=1, groups=16).op("relu").conv(8, 1),
    "groups of 12": lambda: image(24).conv(24, groups=2).negative().conv(4, 1),
    "4 channels from each": lambda: image(8).conv(32, groups=8).negative().conv(4, 1),
    "depthwise": lambda: image(20).conv(20, pad=1, groups=20).negative().conv(20, 1),
    "depthwise between": lambda: image(5).conv(20, 1).negative().conv(20, stride=2, pad=1, groups=20).negative().conv(9, 1),
    "20 channels between": lambda: image(3).conv(20).negative().conv(20, 1).negative().conv(7, 1),
    "dilated, 33 channels": lambda: image(5).conv(33, pad=2, dilation=2).negative().conv(3),
    "max pool": lambda: image(6).conv(20).op("neg").pool("max").op("relu").conv(5, 1),
    "average pool": lambda: image(6).conv(20).negative().pool("avg").conv(5, 1),
    "infinite summand": lambda: image(6).conv(20).scalar("add", -np.inf).op("relu").conv(5, 1).op("sigmoid"),
    "infinite factor": lambda: image(6).conv(20).scalar("mul", -np.inf).op("relu").conv(5, 1).op("sigmoid"),
    "overflow": lambda: image(6).conv(20).op("abs").op("neg").scalar("mul", 0.0).op("exp").scalar("mul", 3e38).op("neg").scalar("mul", 2.0).op("relu").conv(5, 1),
    "layers": lambda: Network(17, 33).linear(20).negative().linear(37).negative().linear(9),
    "layers of a row": lambda: Network(1, 100).linear(20).op("gelu").linear(37).op("sigmoid").linear(9),
}  # fmt: skip


def kinds(array: np.ndarray) -> np.ndarray:
    return np.select([np.isnan(array), array == np.inf, array == -np.inf], [3, 2, 1])


@pytest.mark.parametrize("ukernels", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_finite_stays_in_its_place(name: str, ukernels: bool) -> None:
    program = NETWORKS[name]().text()
    reference = mdsl.compile(program, engine="reference")
    compiled = mdsl.compile(program, winograd=False, ukernels=ukernels)
    (spec,) = reference.inputs
    for number in (np.inf, -np.inf, np.nan):
        x = np.random.default_rng(1).uniform(-1, 1, spec.shape).astype(np.float32)
        for place in (0, x.size // 2, x.size - 1):
            changed = x.copy()
            changed.flat[place] = number
            wanted = np.asarray(reference(changed))
            found = np.asarray(compiled(changed))
            np.testing.assert_array_equal(kinds(found), kinds(wanted), err_msg=f"{number} at {place}")
            finite = np.isfinite(wanted)
            np.testing.assert_allclose(found[finite], wanted[finite], rtol=1e-4, atol=1e-4)
