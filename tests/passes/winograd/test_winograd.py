"""winograd: the result stays, the error is what the pass says, and the cost model picks what gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import mdsl
from mdsl.cli import app
from mdsl.compiler.pipeline import run_passes
from mdsl.ir.core import Op
from mdsl.passes.linalg.fuse import Fuse
from mdsl.passes.linalg.winograd import Winograd
from mdsl.passes.linalg.winograd.cost import gradient_tilings, tilings
from mdsl.passes.linalg.winograd.gradient import filter_gradient_of
from mdsl.passes.linalg.winograd.match import conv_of
from mdsl.reference import run
from mdsl.target.target import Target

ERROR = {2: 1e-6, 4: 6e-6}
"""Bounds of the largest error over the largest output, as the pass's docstring says them."""


def _text(shape: tuple[int, ...], dtype: str = "f32") -> str:
    return f"tensor<{'x'.join(map(str, shape))}x{dtype}>"


def conv(
    shape: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    dtype: str = "f32",
    tail: str = "",
    constant: bool = True,
) -> str:
    """`@main` with one convolution; `tail` may make `%y`, of type TYPE, of its result `%c`."""
    n, c, h, w = shape
    weight = (outputs, c // groups, kernel, kernel)
    reach = dilation * (kernel - 1)
    out = (
        n,
        outputs,
        (h + pads[0] + pads[2] - reach - 1) // stride + 1,
        (w + pads[1] + pads[3] - reach - 1) // stride + 1,
    )
    rng = np.random.default_rng(3)
    scale = np.sqrt(2 / (kernel * kernel * weight[1]))
    data = (rng.standard_normal(weight) * scale).astype({"f32": np.float32, "f64": np.float64}[dtype])
    resource = f'{{-# dialect_resources: {{ builtin: {{ w: "0x40000000{data.tobytes().hex()}" }} }} #-}}'
    x, w_type, y = _text(shape, dtype), _text(weight, dtype), _text(out, dtype)
    given = "" if constant else f", %w: {w_type}"
    known = f"%w = arith.constant dense_resource<w> : {w_type}" if constant else ""
    options = f"strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}], groups = {groups}"
    body = tail.replace("TYPE", y)
    return f"""
func.func @main(%x: {x}{given}) -> {y} {{
  {known}
  %c = nn.conv2d %x, %w {{{options}, pads = {list(pads)}}} : ({x}, {w_type}) -> {y}
  {body}
  return %{"y" if tail else "c"} : {y}
}}
{resource if constant else ""}
"""


RESIDUAL = """
  %s = nn.add %c, %c_more : (TYPE, TYPE) -> TYPE
  %y = nn.relu %s : (TYPE) -> TYPE"""


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def inputs_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(shape).astype(np.float32)


def applied(module: Op) -> bool:
    return any("winograd" in (r.name or "") for op in module.walk() for r in op.results)


CASES = [
    (4, (1, 16, 8, 8), 16, (1, 1, 1, 1), 1),
    (2, (1, 16, 7, 7), 32, (1, 1, 1, 1), 1),
    (4, (2, 3, 9, 6), 5, (1, 1, 1, 1), 1),
    (2, (3, 16, 5, 11), 16, (0, 1, 2, 0), 1),
    (4, (1, 20, 13, 10), 24, (0, 0, 0, 0), 1),
    (4, (1, 32, 3, 3), 16, (0, 0, 0, 0), 1),
    (2, (1, 16, 4, 30), 16, (1, 0, 1, 2), 1),
    (4, (1, 16, 12, 12), 32, (1, 1, 1, 1), 2),
]


@pytest.mark.parametrize(("tile", "shape", "outputs", "pads", "groups"), CASES)
def test_the_result_stays(
    tile: int,
    shape: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int],
    groups: int,
) -> None:
    text = conv(shape, outputs, pads, groups=groups)
    x = inputs_of(shape)
    (wanted,) = run(mdsl.parse(text), [x])
    module = mdsl.opt(text, f"winograd{{tile={tile},all=true}}")
    assert applied(module)
    assert relative_error(run(module, [x])[0], wanted) < ERROR[tile]
    assert relative_error(mdsl.compile(module)(x), wanted) < ERROR[tile]


@pytest.mark.parametrize(("tile", "shape", "outputs", "pads", "groups"), CASES)
def test_weights_that_are_no_constants(
    tile: int,
    shape: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int],
    groups: int,
) -> None:
    text = conv(shape, outputs, pads, groups=groups, constant=False)
    given = [inputs_of(shape), inputs_of((outputs, shape[1] // groups, 3, 3))]
    (wanted,) = run(mdsl.parse(text), given)
    module = mdsl.opt(text, f"winograd{{tile={tile},all=true}}")
    assert applied(module)
    assert relative_error(run(module, given)[0], wanted) < ERROR[tile]
    assert relative_error(mdsl.compile(module, threads=2)(*given), wanted) < ERROR[tile]


def squared_error(
    shape: tuple[int, int, int, int], outputs: int, pads: tuple[int, int, int, int], groups: int = 1
) -> tuple[str, list[np.ndarray]]:
    """A convolution of `%x` with `%w`, compared with `%wanted`; and something for all three."""
    n, c, h, w = shape
    filters = (outputs, c // groups, 3, 3)
    made = (n, outputs, h - 2 + pads[0] + pads[2], w - 2 + pads[1] + pads[3])
    x_type, w_type, y_type = map(_text, (shape, filters, made))
    text = f"""
func.func @main(%x: {x_type}, %w: {w_type}, %wanted: {y_type}) -> tensor<f32> {{
  %c = nn.conv2d %x, %w {{pads = {list(pads)}, groups = {groups}}} : ({x_type}, {w_type}) -> {y_type}
  %loss = nn.mse %c, %wanted : ({y_type}, {y_type}) -> tensor<f32>
  return %loss : tensor<f32>
}}
"""
    return text, [inputs_of(size) for size in (shape, filters, made)]


def count(module: Op, kind: str) -> int:
    return sum(op.name == f"linalg_ext.winograd_{kind}_transform" for op in module.walk())


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("channels", "outputs", "pads"), [(16, 32, (1, 1, 1, 1)), (20, 3, (0, 2, 1, 0))])
def test_the_gradient_of_an_image(
    tile: int, channels: int, outputs: int, pads: tuple[int, int, int, int]
) -> None:
    """A convolution with the filters from last to first."""
    text, given = squared_error((2, channels, 9, 14), outputs, pads)
    forward = mdsl.opt(text, "autodiff{wrt=[x]}")
    wanted = run(forward, given)
    module = mdsl.opt(forward, f"winograd{{tile={tile},all=true}}")
    assert count(module, "input") == 2
    for found, exact in zip(mdsl.compile(module)(*given), wanted, strict=True):
        assert relative_error(found, exact) < 3 * ERROR[tile]


GRADIENTS = [
    ((2, 16, 9, 14), 32, (1, 1, 1, 1), 1),
    ((1, 20, 8, 8), 3, (0, 2, 1, 0), 1),
    ((16, 16, 14, 14), 16, (1, 1, 1, 1), 1),  # images are numbered in blocks, and sums are cut
    ((2, 32, 7, 7), 32, (1, 1, 1, 1), 2),
    ((3, 8, 3, 3), 8, (0, 0, 0, 0), 1),
    ((1, 64, 34, 18), 16, (0, 0, 0, 0), 1),  # a multiple of 4096 bytes lies between the factors
]


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("shape", "outputs", "pads", "groups"), GRADIENTS)
def test_the_gradient_of_filters(
    tile: int,
    shape: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int],
    groups: int,
) -> None:
    text, given = squared_error(shape, outputs, pads, groups)
    forward = mdsl.opt(text, "autodiff{wrt=[w]}")
    wanted = run(forward, given)
    module = mdsl.opt(forward, f"winograd{{tile={tile},all=true}}")
    assert count(module, "gradient") == 1
    engines = [mdsl.compile(module), mdsl.compile(module, threads=2), mdsl.compile(module, engine="jit")]
    for outputs_of in [lambda *given: run(module, given), *engines]:
        for found, exact in zip(outputs_of(*given), wanted, strict=True):
            assert relative_error(found, exact) < ERROR[tile]


def test_the_gradient_of_filters_reads_what_the_convolution_reads() -> None:
    """The image with its border, and no copy in another order of dimensions; the update is behind the same sum."""
    text, _ = squared_error((32, 16, 14, 14), 32, (1, 1, 1, 1))
    image = _text((32, 16, 14, 14))
    before = f"""
  %v = arith.constant dense<0.1> : tensor<16x16x1x1xf32>
  %made = nn.conv2d %x, %v : ({image}, tensor<16x16x1x1xf32>) -> {image}
  %c = nn.conv2d %made,"""
    step = mdsl.opt(text.replace("\n  %c = nn.conv2d %x,", before), "autodiff{wrt=[w]},sgd")
    module = mdsl.opt(step, "winograd{tile=4,all=true}")
    first, second = (op for op in module.walk() if op.name == "linalg_ext.winograd_input_transform")
    assert first.operands[0] is second.operands[0]
    assert not any(op.name == "linalg.transpose" for op in module.walk())
    plain = mdsl.opt(step, "bufferize")
    copies = [
        sum(op.name == "memref.copy" for op in m.walk()) for m in (mdsl.opt(module, "bufferize"), plain)
    ]
    assert copies[0] <= copies[1]


@pytest.mark.parametrize("settings", [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"groups": 16}], ids=str)
def test_gradients_that_it_leaves_alone(settings: dict[str, object]) -> None:
    weight = _text((16, 16 // (16 if "groups" in settings else 1), 3, 3))
    options = ", ".join(f"{name} = {value}" for name, value in settings.items())
    size = {"strides": 6, "dilations": 10}.get(*settings, 12)  # type: ignore[call-overload]
    x, y = _text((2, 16, 12, 12)), _text((2, 16, size, size))
    text = f"""
func.func @main(%x: {x}, %w: {weight}, %wanted: {y}) -> tensor<f32> {{
  %c = nn.conv2d %x, %w {{pads = [1, 1, 1, 1], {options}}} : ({x}, {weight}) -> {y}
  %loss = nn.mse %c, %wanted : ({y}, {y}) -> tensor<f32>
  return %loss : tensor<f32>
}}
"""
    assert not count(mdsl.opt(text, "autodiff{wrt=[w]},winograd{all=true}"), "gradient")


@pytest.mark.parametrize(
    ("shape", "outputs", "chosen"),
    [
        ((64, 16, 14, 14), 32, 4),
        ((4, 256, 14, 14), 256, 4),
        ((4, 512, 7, 7), 512, None),
        ((1, 64, 7, 7), 64, None),
    ],
    ids=str,
)
def test_the_cost_model_of_gradients(
    shape: tuple[int, int, int, int], outputs: int, chosen: int | None
) -> None:
    """36 sums for each filter must be worth their way to memory and back."""
    text, _ = squared_error(shape, outputs, (1, 1, 1, 1))
    module = mdsl.opt(text, "autodiff{wrt=[w]},fuse", target="znver4")
    (gradient,) = [g for g in map(filter_gradient_of, module.walk()) if g]
    choice = gradient_tilings(gradient, 0, False, Target.parse("znver4"))
    assert choice.best == chosen and {c.what for c in choice.candidates} == {None, 2, 4}


def test_what_follows_is_fused() -> None:
    tile = 4
    more = """
  %v = arith.constant dense<0.1> : tensor<16x16x1x1xf32>
  %more = nn.conv2d %x, %v : (TYPE, tensor<16x16x1x1xf32>) -> TYPE"""
    text = conv((2, 16, 9, 6), 16, tail=more + RESIDUAL.replace("%c_more", "%more"))
    x = inputs_of((2, 16, 9, 6))
    (wanted,) = run(mdsl.parse(text), [x])
    module = mdsl.opt(text, f"winograd{{tile={tile},all=true}}")
    results = [op for op in module.walk() if op.name == "linalg_ext.winograd_output_transform"]
    assert any(inner.name == "arith.maximumf" for op in results for inner in op.body.ops)
    assert relative_error(mdsl.compile(module, threads=2)(x), wanted) < ERROR[tile]
    assert relative_error(mdsl.compile(module, engine="jit")(x), wanted) < ERROR[tile]


def test_other_layouts() -> None:
    """Channels last, without `pack`: the pass reads the maps, not the dimensions' order."""
    data = np.random.default_rng(5).standard_normal((3, 3, 4, 6)).astype(np.float32)
    text = f"""
func.func @main(%x: tensor<1x8x7x4xf32>) -> tensor<1x6x5x6xf32> {{
  %w = arith.constant dense_resource<w> : tensor<3x3x4x6xf32>
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<1x6x5x6xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<1x6x5x6xf32>) -> tensor<1x6x5x6xf32>
  %c = linalg.conv_2d_nhwc_hwcf ins(%x, %w : tensor<1x8x7x4xf32>, tensor<3x3x4x6xf32>) outs(%init : tensor<1x6x5x6xf32>) -> tensor<1x6x5x6xf32>
  return %c : tensor<1x6x5x6xf32>
}}
{{-# dialect_resources: {{ builtin: {{ w: "0x40000000{data.tobytes().hex()}" }} }} #-}}
"""
    x = inputs_of((1, 8, 7, 4))
    module = mdsl.parse(text)
    (wanted,) = run(module, [x])
    run_passes(module, [Fuse(), Winograd(4, True)])
    assert applied(module)
    assert relative_error(run(module, [x])[0], wanted) < ERROR[4]
    assert relative_error(mdsl.compile(module)(x), wanted) < ERROR[4]


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2},
        {"dilation": 2},
        {"groups": 16},
        {"kernel": 5, "pads": (2, 2, 2, 2)},
        {"kernel": 1, "pads": (0, 0, 0, 0)},
        {"dtype": "f64"},
    ],
    ids=str,
)
def test_what_it_leaves_alone(settings: dict[str, object]) -> None:
    text = conv((1, 16, 12, 12), 16, **settings)  # type: ignore[arg-type]
    assert not applied(mdsl.opt(text, "winograd{all=true}"))


@pytest.mark.parametrize(("channels", "tile"), [(64, 4), (256, 2), (256, 4)])
def test_the_error_is_as_stated(channels: int, tile: int) -> None:
    """On non-negative inputs, with weights as in He et al. 2015."""
    text = conv((1, channels, 12, 12), 32)
    x = np.maximum(inputs_of((1, channels, 12, 12)), 0)
    wanted = run(mdsl.parse(text), [x])[0].astype(np.float64)  # summed in float64
    found = mdsl.compile(text, pipeline=f"winograd{{tile={tile},all=true}}")(x)
    assert relative_error(found, wanted) < ERROR[tile]


def test_large_inputs() -> None:
    """Far from the largest number the error is the same; infinity spreads over a tile, not farther."""
    text = conv((1, 16, 12, 12), 16)
    executable = mdsl.compile(text, pipeline="winograd{tile=4,all=true}")
    x = inputs_of((1, 16, 12, 12)) * np.float32(1e30)
    assert relative_error(executable(x) / 1e30, run(mdsl.parse(text), [x])[0] / 1e30) < ERROR[4]
    x[0, 0, 0, 0] = np.inf
    found = executable(x)
    assert not np.isfinite(found[..., :4, :4]).any() and np.isfinite(found[..., 4:, 4:]).all()


@pytest.mark.parametrize(
    ("shape", "outputs", "chosen"),
    [
        ((1, 64, 56, 56), 64, (4, 4)),
        ((1, 256, 14, 14), 256, (4, 4)),
        (
            (1, 512, 7, 7),
            512,
            (2, 4),
        ),  # fewer multiplications, but memory sends the weights, 4 times as large, as slowly
        (
            (1, 64, 7, 7),
            64,
            (None, 4),
        ),  # those that a cache would hold come from memory again at each call, too
        ((16, 512, 7, 7), 512, (4, 4)),
        ((1, 16, 2, 2), 16, (None, None)),
    ],
    ids=str,
)
def test_the_cost_model(
    shape: tuple[int, int, int, int], outputs: int, chosen: tuple[int | None, int | None]
) -> None:
    n, c, h, w = shape
    x, y, weight = _text(shape), _text((n, outputs, h, w)), _text((outputs, c, 3, 3))
    text = f"""
func.func @main(%x: {x}) -> {y} {{
  %w = arith.constant dense<0.5> : {weight}
  %c = nn.conv2d %x, %w {{pads = [1, 1, 1, 1]}} : ({x}, {weight}) -> {y}
  return %c : {y}
}}
"""
    found = [conv_of(op) for op in mdsl.opt(text, "fuse", target="avx512").walk()]
    (known,) = [c for c in found if c is not None]
    for target, tile in zip(("avx512", "avx2"), chosen, strict=True):
        found = tilings(known, 0, False, Target.parse(target))
        assert found.best == tile and {c.what for c in found.candidates} == {None, 2, 4}


@pytest.mark.parametrize("channels", [32, 64])  # with 64, the transformed input is spread out in memory
def test_no_copies(channels: int) -> None:
    """The transforms write into the parts of one buffer, and into the result: nothing is moved afterwards."""
    text = conv((1, channels, 14, 14), 32)
    module, plain = mdsl.opt(text, "winograd{tile=4,all=true},bufferize"), mdsl.opt(text, "bufferize")
    copies = [sum(op.name == "memref.copy" for op in m.walk()) for m in (module, plain)]
    assert copies[0] <= copies[1]


def test_it_can_be_switched_off() -> None:
    text = conv((1, 32, 12, 12), 32)
    x = inputs_of((1, 32, 12, 12))
    plain, fast = mdsl.compile(text, winograd=False)(x), mdsl.compile(text)(x)
    assert relative_error(fast, plain) < ERROR[4] and not np.array_equal(fast, plain)


def test_a_wrong_tile() -> None:
    with pytest.raises(mdsl.MdslError, match="option 'tile' must be 0, 2 or 4, got 3"):
        mdsl.opt(conv((1, 16, 8, 8), 16), "winograd{tile=3}")


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "conv.mir"
    path.write_text(conv((1, 32, 12, 12), 32))
    for flags in (["--no-winograd"], [], ["--winograd"]):
        result = CliRunner().invoke(app, ["compile", str(path), "--emit", "mir", "-o", "-", *flags])
        assert result.exit_code == 0, result.output
        assert ("winograd" in result.stdout) == (flags != ["--no-winograd"])
