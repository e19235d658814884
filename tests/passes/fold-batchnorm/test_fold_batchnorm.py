"""fold-batchnorm: the same numbers, without the normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import DenseResourceAttr
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.fold_batchnorm import FoldBatchnorm
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

RANDOM = np.random.default_rng(3)


def constant(name: str, *shape: int, element: str = "f32", low: float = -1) -> str:
    """A line that defines `%name` as written-out random data."""
    data = np.round(RANDOM.uniform(low, 1, shape), 3).tolist()
    return f"  %{name} = arith.constant dense<{data}> : tensor<{'x'.join(map(str, shape))}x{element}>\n"


def parameters(channels: int, element: str = "f32") -> str:
    names = ("scale", "shift", "mean")
    variance = constant("variance", channels, element=element, low=0.1)
    return "".join(constant(n, channels, element=element) for n in names) + variance


def normalise(x: str, type: str, channels: int, attributes: str = "", element: str = "f32") -> str:
    vector = f"tensor<{channels}x{element}>"
    types = ", ".join([type, *[vector] * 4])
    return f"  %y = nn.batch_norm {x}, %scale, %shift, %mean, %variance {attributes} : ({types}) -> {type}\n"


def function(input: str, result: str, *lines: str) -> str:
    return f"func.func @main(%x: {input}) -> {result} {{\n{''.join(lines)}  func.return %y : {result}\n}}\n"


def folded(text: str, tolerance: float = 1e-5) -> ModuleOp:
    """The module after the pass, which must compute what it computed before."""
    module = parse(text, "test.mir")
    verify(module)
    type = module.body.ops[0].body.args[0].type
    x = RANDOM.standard_normal(type.shape).astype(np.float32)  # type: ignore[attr-defined]
    (wanted,) = run(module, [x])
    FoldBatchnorm().run(module, Context(Target.host()))
    verify(module)
    (found,) = run(module, [x])
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    return module


def ops(module: ModuleOp) -> list[str]:
    return [op.name for op in module.walk() if op.name.startswith("nn.")]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(bias: bool, layout: str, groups: int) -> None:
    image = "tensor<1x4x5x5xf32>" if layout == "nchw" else "tensor<1x5x5x4xf32>"
    result = "tensor<1x6x3x3xf32>" if layout == "nchw" else "tensor<1x3x3x6xf32>"
    weight = f"tensor<6x{4 // groups}x3x3xf32>"
    operands, types = (
        ("%x, %w, %b", f"{image}, {weight}, tensor<6xf32>") if bias else ("%x, %w", f"{image}, {weight}")
    )
    conv = f'  %c = nn.conv2d {operands} {{groups = {groups}, layout = "{layout}"}} : ({types}) -> {result}\n'
    lines = [constant("w", 6, 4 // groups, 3, 3), constant("b", 6), parameters(6), conv]
    module = folded(function(image, result, *lines, normalise("%c", result, 6, f'{{layout = "{layout}"}}')))
    assert ops(module) == ["nn.conv2d"]
    text = print_module(module)
    assert "%y = nn.conv2d %x, %w_folded, " in text and "%scale" not in text and "%w =" not in text
    weights = next(op for op in module.walk() if isinstance(op, Constant) and op.result.name == "w_folded")
    attr = weights.attributes["value"]
    assert isinstance(attr, DenseResourceAttr) and attr.name == "w_folded"


def test_linear_and_matmul() -> None:
    x, y = "tensor<3x4xf32>", "tensor<3x5xf32>"
    linear = f"  %c = nn.linear %x, %w, %b : ({x}, tensor<5x4xf32>, tensor<5xf32>) -> {y}\n"
    lines = [constant("w", 5, 4), constant("b", 5), parameters(5), linear, normalise("%c", y, 5)]
    assert ops(folded(function(x, y, *lines))) == ["nn.linear"]
    product_ = f"  %c = nn.matmul %x, %w : ({x}, tensor<4x5xf32>) -> {y}\n"
    lines = [constant("w", 4, 5), parameters(5), product_, normalise("%c", y, 5)]
    module = folded(function(x, y, *lines))
    assert ops(module) == ["nn.matmul", "nn.add"]
    assert "%y = nn.add %c, %y_bias" in print_module(module)


def test_a_normalisation_that_stands_alone_becomes_scale_and_offset() -> None:
    type = "tensor<2x3x4xf32>"
    module = folded(function(type, type, parameters(3), normalise("%x", type, 3)))
    assert ops(module) == ["nn.mul", "nn.add"]
    assert "%y = nn.add %y_scaled, %y_offset" in print_module(module)


def test_a_layer_with_another_reader_is_kept() -> None:
    x, y = "tensor<3x4xf32>", "tensor<3x5xf32>"
    linear = f"  %c = nn.linear %x, %w : ({x}, tensor<5x4xf32>) -> {y}\n"
    more = f"  %n = nn.add %c, %c : ({y}, {y}) -> {y}\n"
    norm = normalise("%c", y, 5).replace("%y =", "%z =")
    end = f"  %y = nn.add %n, %z : ({y}, {y}) -> {y}\n"
    module = folded(function(x, y, constant("w", 5, 4), parameters(5), linear, more, norm, end))
    assert ops(module) == ["nn.linear", "nn.add", "nn.mul", "nn.add", "nn.add"]


def test_a_shared_weight_stays_for_its_other_reader() -> None:
    type = "tensor<4x4xf32>"
    layer = "  %{0} = nn.linear %{1}, %w : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>\n"
    lines = [
        constant("w", 4, 4),
        parameters(4),
        layer.format("a", "x"),
        layer.format("c", "a"),
        normalise("%c", type, 4),
    ]
    module = folded(function(type, type, *lines))
    text = print_module(module)
    assert "nn.linear %x, %w :" in text and "nn.linear %a, %w_folded, %y_bias" in text


def test_names_of_resources_stay_unique() -> None:
    x, y = "tensor<3x4xf32>", "tensor<3x5xf32>"
    linear = f"  %c = nn.linear %x, %w : ({x}, tensor<5x4xf32>) -> {y}\n"
    one = function(x, y, constant("w", 5, 4), parameters(5), linear, normalise("%c", y, 5))
    module = parse(one + one.replace("@main", "@other"), "test.mir")
    FoldBatchnorm().run(module, Context(Target.host()))
    names = [
        a.name for op in module.walk() for a in op.attributes.values() if isinstance(a, DenseResourceAttr)
    ]
    assert names == ["w_folded", "w_folded_1"]


@pytest.mark.parametrize("case", ["parameters from outside", "sixteen bits"])
def test_what_is_left_alone(case: str) -> None:
    element = "f16" if case == "sixteen bits" else "f32"
    type, vector = f"tensor<2x3x{element}>", f"tensor<3x{element}>"
    if case == "sixteen bits":
        text = function(type, type, parameters(3, element), normalise("%x", type, 3, element=element))
    else:
        text = function(type, type, normalise("%x", type, 3)).replace(
            "(%x:", "(%scale: V, %shift: V, %mean: V, %variance: V, %x:".replace("V", vector)
        )
    module = parse(text, "test.mir")
    before = print_module(module)
    FoldBatchnorm().run(module, Context(Target.host()))
    assert print_module(module) == before


def test_docstring_example() -> None:
    doc = FoldBatchnorm.__doc__ or ""
    image, result = "tensor<1x3x8x8xf32>", "tensor<1x4x8x8xf32>"
    conv = doc.split("Before:")[1].strip().splitlines()[0] + "\n"
    module = folded(
        function(image, result, constant("w", 4, 3, 1, 1), parameters(4), conv, normalise("%c", result, 4))
    )
    printed = print_module(module)
    for line in doc.split("After:")[1].split("\n\n")[1].splitlines():
        # A weight of 16 elements or fewer is written out; the example elides operand types and data.
        head = line.strip().split(" = ")[0] + " = " + line.strip().split(" = ")[1].split(" ")[0]
        assert head in printed
