"""tile: products whose second operand is packed at run time, in panels of columns and blocks of the sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects import linalg, memref, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.reference import run
from mdsl.target import contractions
from mdsl.target.target import Target

_AVX512 = Target.parse("avx512")
SMALL = replace(_AVX512, core=replace(_AVX512.core, l2_bytes=64 << 10, l3_rate=0.5))
"""A machine whose second-level cache holds little of the operands below, and whose next one is slow."""


def products(rows: int, steps: int, columns: int, ends: bool = False, transposed: bool = False) -> str:
    a, b, c = (f"tensor<{n}x{m}xf32>" for n, m in ((rows, steps), (steps, columns), (rows, columns)))
    given = f"tensor<{columns}x{steps}xf32>" if transposed else b
    turn = f"%t = nn.transpose %b {{perm = [1, 0]}} : ({given}) -> {b}" if transposed else ""
    end = f"""%s = nn.add %c, %bias : ({c}, tensor<{columns}xf32>) -> {c}
      %y = nn.relu %s : ({c}) -> {c}"""
    return f"""
    func.func @main(%a: {a}, %b: {given}, %bias: tensor<{columns}xf32>) -> {c} {{
      {turn}
      %c = nn.matmul %a, {"%t" if transposed else "%b"} : ({a}, {b}) -> {c}
      {end if ends else ""}
      return {"%y" if ends else "%c"} : {c}
    }}"""


def arrays(text: str) -> list[np.ndarray]:
    numbers = np.random.default_rng(0)
    main = mdsl.parse(text).body.ops[0]
    return [numbers.standard_normal(v.type.shape).astype(np.float32) for v in main.regions[0].block.args]  # type: ignore[attr-defined]


def blocks_of(module: ModuleOp) -> list[scf.For]:
    """The loops over blocks of the sum."""
    return [op for op in module.walk() if isinstance(op, scf.For)]


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(16, 40),
    steps=st.integers(60, 500),
    vectors=st.integers(4, 20),
    ends=st.booleans(),
    transposed=st.booleans(),
)
def test_blocks_mean_what_the_whole_does(
    rows: int, steps: int, vectors: int, ends: bool, transposed: bool
) -> None:
    text = products(rows, steps, 16 * vectors, ends, transposed)
    values = arrays(text)
    (expected,) = run(mdsl.parse(text), values)
    (tiled,) = run(mdsl.opt(text, "tile", target=SMALL), values)
    np.testing.assert_allclose(tiled, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("steps", [2048, 1999])
def test_blocks_on_every_thread(ends: bool, steps: int) -> None:
    text = products(33, steps, 512, ends)
    values = arrays(text)
    (expected,) = run(mdsl.parse(text), values)
    for threads in (1, 2):
        got = mdsl.compile(text, threads=threads)(*values)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_a_part_is_packed_right_before_its_products() -> None:
    module = mdsl.opt(products(96, 2048, 256), "tile", target=SMALL)
    assert blocks_of(module), "the sum is cut"
    for loop in blocks_of(module):
        heavy = [
            op
            for op in loop.walk()
            if isinstance(op, linalg.Transpose) or getattr(op, "is_contraction", False)
        ]
        assert [isinstance(op, linalg.Transpose) for op in heavy] == [True] * (len(heavy) - 1) + [False]
        assert len(heavy) > 1


def test_blocks_share_the_memory_of_a_panel() -> None:
    module = mdsl.opt(products(96, 2048, 256, ends=True), "plan-memory", target=SMALL)
    (arena,) = [op for op in module.body.ops[0].walk() if isinstance(op, memref.Alloc)]
    packed, sums = 4 * 2048 * 256, 4 * 96 * 256
    assert arena.result.type.nbytes < packed / 2 + sums  # type: ignore[attr-defined]


def test_given_sizes_are_for_the_whole() -> None:
    assert not blocks_of(mdsl.opt(products(96, 2048, 256), "tile{sizes=[8,2,16]}", target=SMALL))


def test_what_fits_the_cache_stays_whole() -> None:
    products = contractions.Products(64, 64, 4, 16, 4, Target.parse("avx512"))
    assert products.blockings().best == (64, 4)
