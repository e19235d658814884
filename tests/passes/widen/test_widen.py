"""widen: the same numbers from products on f32, where enough rows share the weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.widen import Widen
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.target.target import Target

DTYPES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16), "f32": np.dtype(np.float32)}


def shape(sizes: tuple[int, ...], element: str) -> str:
    return f"tensor<{'x'.join(map(str, (*sizes, element)))}>"


def program(op: str, element: str, sizes: list[tuple[int, ...]], result: tuple[int, ...]) -> ModuleOp:
    """`op` of arguments of these sizes."""
    names = ["%a", "%b", "%c"][: len(sizes)]
    types = [shape(s, element) for s in sizes]
    arguments = ", ".join(f"{n}: {t}" for n, t in zip(names, types, strict=True))
    y = shape(result, element)
    return parse(
        f"func.func @main({arguments}) -> {y} {{\n  %y = {op} {', '.join(names)} : ({', '.join(types)}) -> {y}\n"
        f"  func.return %y : {y}\n}}",
        "test.mir",
    )


def widened(module: ModuleOp) -> ModuleOp:
    module = module.clone()
    Widen().run(module, Context(Target.parse("avx2")))
    verify(module)
    return module


def products(module: ModuleOp) -> set[str]:
    """The element types that products are computed in."""
    kinds = (nn.Conv2d, nn.Matmul, nn.Linear)
    return {str(op.result.type.element) for op in module.walk() if isinstance(op, kinds)}  # type: ignore[attr-defined]


CASES = {
    "conv": ("nn.conv2d", [(1, 3, 6, 6), (4, 3, 3, 3), (4,)], (1, 4, 4, 4)),
    "matmul": ("nn.matmul", [(8, 5), (5, 7)], (8, 7)),
    "batch": ("nn.matmul", [(2, 3, 8, 5), (3, 5, 7)], (2, 3, 8, 7)),
    "column": ("nn.matmul", [(8, 5), (5,)], (8,)),
    "linear": ("nn.linear", [(2, 4, 5), (7, 5), (7,)], (2, 4, 7)),
}


@pytest.mark.parametrize("element", ["f16", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case: str, element: str) -> None:
    op, sizes, result = CASES[case]
    module = program(op, element, sizes, result)
    generator = np.random.default_rng(4)
    arrays = [generator.standard_normal(s).astype(DTYPES[element]) for s in sizes]
    new = widened(module)
    assert products(new) == {"f32"}
    (expected,), (got,) = run(module, arrays), run(new, arrays)
    assert got.dtype == expected.dtype
    step = 2.0**-10 if element == "f16" else 2.0**-7
    np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=step, atol=step)


@pytest.mark.parametrize(
    ("op", "sizes", "result", "element"),
    [
        ("nn.matmul", [(3, 5), (5, 7)], (3, 7), "f16"),
        ("nn.matmul", [(9, 1, 5), (9, 5, 7)], (9, 1, 7), "f16"),
        ("nn.matmul", [(5,), (5, 7)], (7,), "f16"),
        ("nn.matmul", [(8, 5), (5, 7)], (8, 7), "f32"),
    ],
)
def test_few_rows_and_wide_floats_stay(op, sizes, result, element) -> None:
    module = program(op, element, sizes, result)
    assert str(widened(module)) == str(module)
    assert products(module) == {element}


CHAIN = """func.func @main(%x: tensor<1x2x4x4xf16>, %w: tensor<2x2x1x1xf16>) -> tensor<1x4x2x2xf16> {{
  %a = nn.conv2d %x, %w : (tensor<1x2x4x4xf16>, tensor<2x2x1x1xf16>) -> tensor<1x2x4x4xf16>
  %b = nn.clip %a {{min = {low}, max = 0.5}} : (tensor<1x2x4x4xf16>) -> tensor<1x2x4x4xf16>
  %c = nn.concat %b, %x {{axis = 1}} : (tensor<1x2x4x4xf16>, tensor<1x2x4x4xf16>) -> tensor<1x4x4x4xf16>
  %d = nn.max_pool2d %c {{kernel = [2, 2], strides = [2, 2]}} : (tensor<1x4x4x4xf16>) -> tensor<1x4x2x2xf16>
  %filters = arith.constant dense<0.25> : tensor<4x4x1x1xf16>
  %e = nn.conv2d %d, %filters : (tensor<1x4x2x2xf16>, tensor<4x4x1x1xf16>) -> tensor<1x4x2x2xf16>
  func.return %e : tensor<1x4x2x2xf16>
}}"""


@pytest.mark.parametrize(("low", "narrow_clips"), [(0.0, 0), (0.1, 1)])
def test_conversions_come_before_choices_of_elements(low: float, narrow_clips: int) -> None:
    """Not before a bound that 16 bits do not hold."""
    module = parse(CHAIN.format(low=low), "test.mir")
    new = widened(module)
    kinds = [(op.name, str(op.result.type.element)) for op in new.walk() if op.name.startswith("nn.")]  # type: ignore[attr-defined]
    assert kinds.count(("nn.clip", "f16")) == narrow_clips
    assert ("nn.concat", "f32") in kinds and ("nn.max_pool2d", "f32") in kinds
    assert ("nn.concat", "f16") not in kinds and ("nn.max_pool2d", "f16") not in kinds
    generator = np.random.default_rng(6)
    arrays = [generator.standard_normal(s).astype(np.float16) for s in ((1, 2, 4, 4), (2, 2, 1, 1))]
    np.testing.assert_allclose(run(new, arrays)[0], run(module, arrays)[0], rtol=2e-3, atol=1e-3)
