"""lower-nn: random windows and shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import check, program

from mdsl.dialects import nn
from mdsl.syntax.parser import parse


@st.composite
def convolutions(draw: st.DrawFn) -> str:
    groups, per_group, outs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    strides, dilations = ([draw(st.integers(1, 2)) for _ in range(2)] for _ in range(2))
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    size = [draw(st.integers(5, 7)) for _ in range(2)]
    spatial = [
        (size[d] + pads[d] + pads[d + 2] - (kernel[d] - 1) * dilations[d] - 1) // strides[d] + 1
        for d in range(2)
    ]
    last = draw(st.booleans())
    c, o = groups * per_group, groups * outs
    image = [*size, c] if last else [c, *size]
    result = [*spatial, o] if last else [o, *spatial]
    bias = f" {o}xf32" if draw(st.booleans()) else ""
    attributes = f"strides = {strides}, pads = {pads}, dilations = {dilations}, groups = {groups}"
    return program(
        "nn.conv2d",
        f"2x{'x'.join(map(str, image))}xf32 {o}x{per_group}x{kernel[0]}x{kernel[1]}xf32{bias}",
        f"2x{'x'.join(map(str, result))}xf32",
        f'{{{attributes}, layout = "{"nhwc" if last else "nchw"}"}}',
    )


@settings(max_examples=30, deadline=None)
@given(convolutions())
def test_random_convolutions(text: str) -> None:
    check(text)


@st.composite
def poolings(draw: st.DrawFn) -> str:
    kernel, strides, dilations = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    window = [(kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    pads = [draw(st.integers(0, window[d % 2] - 1)) for d in range(4)]
    size = [draw(st.integers(7, 9)) for _ in range(2)]
    ceil, last = draw(st.booleans()), draw(st.booleans())
    name = draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
    extra = ", count_include_pad = true" if name == "avg_pool2d" and draw(st.booleans()) else ""
    image = [*size, 2] if last else [2, *size]
    attributes = (
        f"{{kernel = {kernel}, strides = {strides}, pads = {pads}, dilations = {dilations}, "
        f'ceil_mode = {str(ceil).lower()}, layout = "{"nhwc" if last else "nchw"}"{extra}}}'
    )
    source = f"1x{'x'.join(map(str, image))}xf32"
    # The result's shape is the op's own affair here: inference is tested elsewhere.
    probe = parse(program(f"nn.{name}", source, "?x?x?x?xf32", attributes), "probe.mir")
    result = nn.MaxPool2d.infer(probe.body.ops[0].body.ops[0])[0]  # type: ignore[arg-type]
    return program(f"nn.{name}", source, str(result).removeprefix("tensor<").removesuffix(">"), attributes)


@settings(max_examples=40, deadline=None)
@given(poolings())
def test_random_poolings(text: str) -> None:
    check(text)


@settings(max_examples=40, deadline=None)
@given(st.permutations([2, 3, 2, 1, 4]), st.permutations([2, 3, 2, 1, 4]), st.data())
def test_random_reshapes(a: list[int], b: list[int], data: st.DataObject) -> None:
    def merged(shape: list[int]) -> str:
        at = data.draw(st.integers(0, len(shape) - 2))
        return "x".join(map(str, [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]))

    check(program("nn.reshape", f"{merged(a)}xf32", f"{merged(b)}xf32"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), *[st.booleans()] * 4), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_random_broadcasts(dims: list[tuple[int, bool, bool, bool, bool]], drop_a: int, drop_b: int) -> None:
    shapes = [[1 if d[which] else d[0] for d in dims] for which in (1, 2)]
    shapes = [s[min(drop, len(s)) :] for s, drop in zip(shapes, (drop_a, drop_b), strict=True)]
    result = np.broadcast_shapes(*map(tuple, shapes))
    a, b, y = ("".join(f"{d}x" for d in s) + "f32" for s in (*shapes, result))
    check(program("nn.sub", f"{a} {b}", y))
