"""trim-filters: the result stays, whatever the image, the filter and its steps; what is cut is what lies on padding alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects import nn
from mdsl.ir.typed import tensor_of
from mdsl.reference import run

Pair = tuple[int, int]


def _type(shape: tuple[int, ...]) -> str:
    return f"tensor<{'x'.join(map(str, shape))}xf32>"


def program(
    image: Pair,
    kernel: Pair,
    pads: list[int],
    strides: Pair = (1, 1),
    dilations: Pair = (1, 1),
    layout: str = "nchw",
    loss: bool = False,
) -> str:
    """A convolution of 4 channels in 2 groups to 6; with `loss` also how far it is from a wanted result."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    made = [(image[d] + pads[d] + pads[d + 2] - reach[d]) // strides[d] + 1 for d in range(2)]
    x, y = (1, 4, *image), (1, 6, *made)
    if layout == "nhwc":
        x, y = (1, *image, 4), (1, *made, 6)
    attributes = f"strides = {list(strides)}, pads = {pads}, dilations = {list(dilations)}, groups = 2, layout = {layout!r}"
    x, w, y = _type(x), _type((6, 2, *kernel)), _type(y)
    more, end = "", f"func.return %y : {y}"
    if loss:
        more = f"%loss = nn.mse %y, %wanted : ({y}, {y}) -> tensor<f32>"
        end = "func.return %loss : tensor<f32>"
    wanted = f", %wanted: {y}" if loss else ""
    return f"""
func.func @main(%x: {x}, %w: {w}{wanted}) -> {"tensor<f32>" if loss else y} {{
  %y = nn.conv2d %x, %w {{{attributes.replace("'", '"')}}} : ({x}, {w}) -> {y}
  {more}
  {end}
}}
"""


def arrays(text: str) -> list[np.ndarray]:
    """Whole numbers, of which all sums are exact."""
    random, (function,) = np.random.default_rng(1), mdsl.parse(text).body.ops
    return [random.integers(-9, 9, tensor_of(a).shape).astype(np.float32) for a in function.body.args]


def kernel_of(text: str) -> Pair:
    (conv,) = (op for op in mdsl.opt(text, "trim-filters").walk() if isinstance(op, nn.Conv2d))
    rows, columns = tensor_of(conv.weight).shape[2:]
    return rows, columns


PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None)
@given(
    image=PAIR,
    kernel=PAIR,
    pads=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    strides=PAIR,
    dilations=PAIR,
    layout=st.sampled_from(["nchw", "nhwc"]),
)
def test_the_result_stays(
    image: Pair, kernel: Pair, pads: list[int], strides: Pair, dilations: Pair, layout: str
) -> None:
    assume(all(image[d] + pads[d] + pads[d + 2] > (kernel[d] - 1) * dilations[d] for d in range(2)))
    text = program(image, kernel, pads, strides, dilations, layout)
    given = arrays(text)
    np.testing.assert_array_equal(
        run(mdsl.opt(text, "trim-filters"), given)[0], run(mdsl.parse(text), given)[0]
    )


@pytest.mark.parametrize(
    ("image", "kernel", "pads", "strides", "dilations", "left"),
    [
        ((1, 1), (3, 3), [1, 1, 1, 1], (1, 1), (1, 1), (1, 1)),
        ((1, 7), (5, 5), [2, 2, 2, 2], (1, 1), (1, 1), (1, 5)),
        (
            (14, 14),
            (3, 3),
            [18, 18, 18, 18],
            (1, 1),
            (18, 18),
            (1, 1),
        ),  # DeepLab's wide filters on a small image
        ((2, 2), (3, 3), [1, 1, 1, 1], (2, 2), (1, 1), (2, 2)),
        ((2, 2), (3, 3), [1, 1, 1, 1], (1, 1), (1, 1), (3, 3)),
        ((3, 3), (7, 7), [3, 3, 3, 3], (2, 2), (1, 1), (5, 5)),
        ((2, 2), (2, 2), [0, 2, 2, 0], (3, 3), (1, 1), (2, 2)),
        ((1, 1), (2, 2), [1, 1, 1, 1], (1, 1), (2, 2), (2, 2)),  # no tap ever lies on the image's only pixel
    ],
)
def test_what_is_cut(
    image: Pair, kernel: Pair, pads: list[int], strides: Pair, dilations: Pair, left: Pair
) -> None:
    assert kernel_of(program(image, kernel, pads, strides, dilations)) == left


def test_no_border_is_left_where_none_is_needed() -> None:
    (conv,) = (
        op
        for op in mdsl.opt(program((2, 2), (3, 3), [1, 1, 1, 1], (2, 2)), "trim-filters").walk()
        if isinstance(op, nn.Conv2d)
    )
    assert conv.attr("pads") == [0, 0, 0, 0]


def test_the_gradient_of_what_is_cut_is_zero() -> None:
    text = program((1, 4), (3, 3), [1, 1, 1, 1], loss=True)
    given = arrays(text)
    whole, cut = (mdsl.opt(text, f"{passes}autodiff{{wrt=[x,w]}}") for passes in ("", "trim-filters,"))
    for found, wanted in zip(mdsl.compile(cut)(*given), run(whole, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    gradient = mdsl.compile(cut)(*given)[2]
    assert np.all(gradient[:, :, [0, 2]] == 0) and np.any(gradient[:, :, 1])


def test_a_size_that_is_not_known_says_so() -> None:
    text = """
func.func @main(%x: tensor<1x2x?x1xf32>, %w: tensor<2x2x3x3xf32>) -> tensor<1x2x?x1xf32> {
  %y = nn.conv2d %x, %w {pads = [1, 1, 1, 1]} : (tensor<1x2x?x1xf32>, tensor<2x2x3x3xf32>) -> tensor<1x2x?x1xf32>
  func.return %y : tensor<1x2x?x1xf32>
}
"""
    assert kernel_of(text) == (3, 3)
