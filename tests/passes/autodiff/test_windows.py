"""autodiff: convolutions and poolings of any shape against finite differences."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from differences import check
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects.nn import Conv2d, MaxPool2d
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.typed import tensor_of
from mdsl.passes.base import functions
from mdsl.reference import run
from mdsl.syntax.parser import parse

SMALL = st.integers(1, 3)
PAIRS = st.tuples(SMALL, SMALL)


def shaped(kind: type[NnOp], op: str, operands: list[list[int]], attributes: str) -> str:
    """A function of one op, whose result has the shape that the op infers."""
    types = [f"tensor<{'x'.join(map(str, shape))}xf64>" for shape in operands]
    arguments = ", ".join(f"%a{i}: {type}" for i, type in enumerate(types))
    call = f"{op} {', '.join(f'%a{i}' for i in range(len(types)))} {attributes} : ({', '.join(types)})"

    def text(result: str) -> str:
        return f"func.func @main({arguments}) -> {result} {{\n  %y = {call} -> {result}\n  return %y : {result}\n}}"

    open_result = parse(text("tensor<?x?x?x?xf64>"), "probe.mir")
    return text(str(kind.infer(functions(open_result)[0].body.ops[0])[0]))  # type: ignore[arg-type]


def arranged(last: bool, n: int, c: int, size: tuple[int, int]) -> list[int]:
    return [n, *size, c] if last else [n, c, *size]


def inputs(text: str, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=tensor_of(a).shape) for a in functions(parse(text, "test.mir"))[0].args]


@st.composite
def convolutions(draw: st.DrawFn) -> str:
    """Strides larger than the kernel, pads larger than the window, images that are just as large as it, and sizes of 1."""
    groups, per_group, outs, last = (
        draw(SMALL),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.booleans()),
    )
    kernel, strides, dilations = draw(PAIRS), draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(PAIRS)
    pads = [draw(st.integers(0, 3)) for _ in range(4)]
    window = [(kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    size = tuple(max(1, window[d] - pads[d] - pads[d + 2]) + draw(st.integers(0, 4)) for d in range(2))
    operands = [arranged(last, draw(st.integers(1, 2)), groups * per_group, (size[0], size[1])),
                [groups * outs, per_group, *kernel], *([[groups * outs]] if draw(st.booleans()) else [])]  # fmt: skip
    attributes = f"strides = {list(strides)}, pads = {pads}, dilations = {list(dilations)}, groups = {groups}"
    return shaped(Conv2d, "nn.conv2d", operands, f'{{{attributes}, layout = "{"nhwc" if last else "nchw"}"}}')


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 100))
def test_convolutions(text: str, seed: int) -> None:
    check(text, inputs(text, seed))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("pads", ["0, 3, 0, 0", "0, 0, 0, 3", "0, 4, 0, 3", "3, 1, 4, 0", "2, 2, 2, 2"])
@pytest.mark.parametrize("strides", ["1, 1", "3, 3", "4, 2"])
def test_windows_that_lie_in_the_padding(size: int, pads: str, strides: str) -> None:
    text = f"""func.func @main(%x: tensor<1x1x{size}x{size}xf64>, %w: tensor<2x1x1x2xf64>) -> tensor<?x?x?x?xf64> {{
      %y = nn.conv2d %x, %w {{strides = [{strides}], pads = [{pads}]}} : (tensor<1x1x{size}x{size}xf64>, tensor<2x1x1x2xf64>) -> TYPE
      return %y : TYPE
    }}"""
    top, left, bottom, right = map(int, pads.split(", "))
    down, across = map(int, strides.split(", "))
    height, width = (size + top + bottom - 1) // down + 1, (size + left + right - 2) // across + 1
    type = f"tensor<1x2x{height}x{width}xf64>"
    text = text.replace("TYPE", type).replace("tensor<?x?x?x?xf64>", type)
    check(text, inputs(text, 0))


def products(conv: NnOp) -> int:
    """Multiplications that a convolution takes."""
    return prod(tensor_of(conv.results[0]).shape) * prod(tensor_of(conv.operands[1]).shape[1:])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_gradient_of_strides_takes_no_more_multiplications(stride: int) -> None:
    """No convolution goes over zeros that the strides left between."""
    attributes = f"{{strides = [{stride}, {stride}], pads = [1, 1, 1, 1]}}"
    text = shaped(Conv2d, "nn.conv2d", [[1, 2, 8, 8], [3, 2, 3, 3]], attributes)
    ops = functions(mdsl.grad(text, "a0", seed="argument"))[0].body.ops
    forward, *adjoint = [products(op) for op in ops if isinstance(op, Conv2d)]
    assert sum(adjoint) == forward


@st.composite
def poolings(draw: st.DrawFn) -> str:
    kernel, strides, dilations = draw(PAIRS), draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(PAIRS)
    window = [(kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    pads = [draw(st.integers(0, window[d % 2] - 1)) for d in range(4)]
    size = tuple(max(1, window[d] - pads[d] - pads[d + 2]) + draw(st.integers(0, 4)) for d in range(2))
    last, name = draw(st.booleans()), draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
    attributes = (
        f"kernel = {list(kernel)}, strides = {list(strides)}, pads = {pads}, dilations = {list(dilations)}, "
        f'ceil_mode = {str(draw(st.booleans())).lower()}, layout = "{"nhwc" if last else "nchw"}"'
    )
    if name == "avg_pool2d":
        attributes += f", count_include_pad = {str(draw(st.booleans())).lower()}"
    image = arranged(last, draw(st.integers(1, 2)), draw(st.integers(1, 2)), (size[0], size[1]))
    return shaped(MaxPool2d, f"nn.{name}", [image], f"{{{attributes}}}")


@settings(max_examples=60, deadline=None)
@given(poolings(), st.integers(0, 100))
def test_poolings(text: str, seed: int) -> None:
    arrays = inputs(text, seed)
    with np.errstate(all="ignore"):
        (y,) = run(parse(text, "test.mir"), arrays)
    assume(np.isfinite(y).all())  # a window with gaps may see nothing but padding
    check(text, arrays)


def test_of_equal_largest_elements_the_first_gets_all() -> None:
    text = shaped(MaxPool2d, "nn.max_pool2d", [[1, 1, 2, 4]], "{kernel = [2, 2], strides = [2, 2]}")
    gradient = mdsl.compile(mdsl.grad(text, seed="ones"), engine="reference")
    _, found = gradient(np.ones((1, 1, 2, 4)))
    assert found[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
