"""block-sums: sums in parts are the same sums, and the cost model decides where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.ir.core import Op

ENGINES = ["vm", "jit"]


def _matmul(rows: int, steps: int, columns: int) -> str:
    a, b, c = (f"tensor<{m}x{n}xf32>" for m, n in ((rows, steps), (steps, columns), (rows, columns)))
    return f"""func.func @main(%a: {a}, %b: {b}) -> {c} {{
      %product = nn.matmul %a, %b : ({a}, {b}) -> {c}
      %c = nn.relu %product : ({c}) -> {c}
      return %c : {c}
    }}"""


def _loops(program: Op) -> int:
    """Blocks of sums in kernels."""
    kernels = [op for op in program.walk() if op.name == "ukernel.func"]
    return sum(op.name == "scf.for" for kernel in kernels for op in kernel.walk())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "rows, steps, columns, at_a_time", [(29, 96, 20, 32), (7, 101, 33, 25), (1, 64, 8, 16), (5, 7, 3, 1)]
)
def test_the_result_stays(rows: int, steps: int, columns: int, at_a_time: int, engine: str) -> None:
    program, rng = _matmul(rows, steps, columns), np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((rows, steps), (steps, columns))]
    pipeline = f"tile{{sizes=[12,16]}},block-sums{{steps={at_a_time}}}"
    found = mdsl.compile(program, engine=engine, pipeline=pipeline)(*arrays)
    wanted = np.maximum(arrays[0].astype(np.float64) @ arrays[1], 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_it_is_left_where_all_steps_fit() -> None:
    blocked, whole = (mdsl.opt(_matmul(96, 256, 32), f"tile,block-sums{{steps={n}}}") for n in (128, 256))
    assert _loops(blocked) and not _loops(whole)


def test_the_cost_model_decides_by_the_core() -> None:
    """Zen 3 gains by it: its second-level cache sends less than the multiply-adds take, and shows; of a core
    that is only known to have AVX-512 it is taken to hide."""
    chosen = {
        core: _loops(mdsl.opt(_matmul(96, 1024, 64), "block-sums", target=core))
        for core in ("znver3", "avx512")
    }
    assert chosen["znver3"] and not chosen["avx512"]


CONV = """func.func @main(%x: tensor<1x16x20x20xf32>, %w: tensor<16x1x3x3xf32>) -> tensor<1x16x18x18xf32> {
  %y = nn.conv2d %x, %w {groups = 16} : (tensor<1x16x20x20xf32>, tensor<16x1x3x3xf32>) -> tensor<1x16x18x18xf32>
  return %y : tensor<1x16x18x18xf32>
}"""


@pytest.mark.parametrize(
    "program, pipeline, why",
    [
        (_matmul(96, 256, 32), "block-sums{steps=256}", "256 steps: 256 steps are asked for"),
        (_matmul(96, 1024, 64), "tile{sizes=[96,1,16]},block-sums", "1024 steps: the cheapest"),
        (_matmul(96, 1024, 64), "block-sums", "1024 steps: registers hold the sums of all its rows"),
        (_matmul(96, 1024, 64), "tile{sizes=[1,4,16]},block-sums", "1024 steps: no two rows share columns"),
        (_matmul(96, 64, 64), "block-sums", "64 steps: its columns stay in the first-level cache"),
        (_matmul(96, 1, 64), "block-sums", "it is one step"),
        (CONV, "block-sums{steps=3}", "its outermost loop also moves a window"),
    ],
)
def test_a_sum_that_stays_whole_says_why(program: str, pipeline: str, why: str) -> None:
    told = mdsl.trace(program, pipeline, target="avx512")["block-sums"].remarks
    assert next(r.message for r in told if r.kind == "missed").endswith(why)


def test_few_columns_stay_vectors() -> None:
    """A sum alone, without what followed it, is not done across the lanes: each row would gather its columns anew."""
    text = (Path(__file__).parents[3] / "examples/passes/block-sums.mir").read_text()
    text = text.replace("24x", "196x").replace("256x", "2048x").replace("x256x", "x2048x")
    kernels = mdsl.opt(text, "block-sums{steps=512},vectorize", target="znver3")
    assert not any(op.name == "vector.reduction" for op in kernels.walk())
