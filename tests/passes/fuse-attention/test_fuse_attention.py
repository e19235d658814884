"""Attention as one micro-kernel: what it computes for every shape, mask and extreme value, and that it is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.runtime.executable import VmExecutable

Sizes = tuple[int, int, int, int, int]
"""Heads, queries, keys, channels of keys, channels of values."""

MASKS = ("none", "added", "causal", "row of -inf")


def program(heads: int, queries: int, keys: int, d: int, e: int, scale: bool, mask: bool, batch: int) -> str:
    """Attention on (batch, sequence, heads * channels), with heads split off by reshape and transpose."""
    shapes = {"q": (queries, d), "k": (keys, d), "v": (keys, e)}
    types = {n: f"tensor<{batch}x{rows}x{heads * width}xf32>" for n, (rows, width) in shapes.items()}
    scores = f"tensor<{batch}x{heads}x{queries}x{keys}xf32>"
    lines: list[str] = []
    for n, (rows, width) in shapes.items():
        split = f"tensor<{batch}x{rows}x{heads}x{width}xf32>"
        moved = f"tensor<{batch}x{heads}x{rows}x{width}xf32>"
        lines.append(f"%{n}_split = nn.reshape %{n} : ({types[n]}) -> {split}")
        lines.append(f"%{n}_heads = nn.transpose %{n}_split {{perm = [0, 2, 1, 3]}} : ({split}) -> {moved}")
    key, transposed = f"tensor<{batch}x{heads}x{keys}x{d}xf32>", f"tensor<{batch}x{heads}x{d}x{keys}xf32>"
    query, value = f"tensor<{batch}x{heads}x{queries}x{d}xf32>", f"tensor<{batch}x{heads}x{keys}x{e}xf32>"
    out = f"tensor<{batch}x{heads}x{queries}x{e}xf32>"
    lines.append(f"%kt = nn.transpose %k_heads {{perm = [0, 1, 3, 2]}} : ({key}) -> {transposed}")
    lines.append(f"%s0 = nn.matmul %q_heads, %kt : ({query}, {transposed}) -> {scores}")
    name = "s0"
    if scale:
        lines.append("%scale = arith.constant dense<0.5> : tensor<f32>")
        lines.append(f"%s1 = nn.mul %{name}, %scale : ({scores}, tensor<f32>) -> {scores}")
        name = "s1"
    mask_type = f"tensor<{queries}x{keys}xf32>"
    if mask:
        lines.append(f"%s2 = nn.add %{name}, %mask : ({scores}, {mask_type}) -> {scores}")
        name = "s2"
    lines.append(f"%p = nn.softmax %{name} {{axis = -1}} : ({scores}) -> {scores}")
    lines.append(f"%o = nn.matmul %p, %v_heads : ({scores}, {value}) -> {out}")
    back = f"tensor<{batch}x{queries}x{heads}x{e}xf32>"
    lines.append(f"%back = nn.transpose %o {{perm = [0, 2, 1, 3]}} : ({out}) -> {back}")
    result = f"tensor<{batch}x{queries}x{heads * e}xf32>"
    lines.append(f"%y = nn.reshape %back : ({back}) -> {result}")
    arguments = [f"%{n}: {t}" for n, t in types.items()] + ([f"%mask: {mask_type}"] if mask else [])
    body = "\n  ".join(lines)
    return f"func.func @main({', '.join(arguments)}) -> {result} {{\n  {body}\n  return %y : {result}\n}}"


def attention(arrays: list[np.ndarray], heads: int, scale: bool) -> np.ndarray:
    """The same in NumPy, in f64."""
    q, k, v = (a.astype(np.float64).reshape(*a.shape[:2], heads, -1).swapaxes(1, 2) for a in arrays[:3])
    with np.errstate(invalid="ignore", over="ignore"):
        scores = (q @ k.swapaxes(-1, -2)) * (0.5 if scale else 1)
        scores = scores + (arrays[3] if len(arrays) > 3 else 0)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        out = (powers / powers.sum(-1, keepdims=True)) @ v
    return out.swapaxes(1, 2).reshape(*arrays[0].shape[:2], -1)


def masked(kind: str, queries: int, keys: int, random: np.random.Generator) -> np.ndarray | None:
    mask = random.standard_normal((queries, keys)).astype(np.float32)
    if kind == "causal":
        mask[np.arange(keys)[None] > np.arange(queries)[:, None]] = -np.inf
    if kind == "row of -inf":
        mask[random.integers(queries)] = -np.inf
    return None if kind == "none" else mask


def check(sizes: Sizes, scale: bool, kind: str, batch: int, factor: float, threads: int = 1) -> VmExecutable:
    heads, queries, keys, d, e = sizes
    random = np.random.default_rng(sum(sizes))
    shapes = [(batch, queries, heads * d), (batch, keys, heads * d), (batch, keys, heads * e)]
    arrays = [
        (random.standard_normal(s) * f).astype(np.float32)
        for s, f in zip(shapes, (factor, 1, 1), strict=True)
    ]
    mask = masked(kind, queries, keys, random)
    arrays += [] if mask is None else [mask]
    compiled = mdsl.compile(program(*sizes, scale, mask is not None, batch), threads=threads)
    found = compiled(*arrays)
    wanted = attention(arrays, heads, scale)
    tolerance = 2e-5 * max(factor, 1)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=tolerance, atol=tolerance)
    assert isinstance(compiled, VmExecutable)
    return compiled


def kernels(compiled: VmExecutable) -> list[str]:
    return [k.name for k in compiled.module.kernels]


@settings(max_examples=8, derandomize=True, deadline=None)
@given(
    st.tuples(
        st.integers(1, 3), st.integers(1, 21), st.integers(1, 37), st.integers(1, 9), st.integers(1, 18)
    ),
    st.booleans(),
    st.sampled_from(MASKS),
    st.integers(1, 2),
    st.sampled_from([1.0, 100.0]),
)
def test_any_shape(sizes: Sizes, scale: bool, kind: str, batch: int, factor: float) -> None:
    check(sizes, scale, kind, batch, factor)


@pytest.mark.parametrize("kind", MASKS)
def test_is_one_kernel(kind: str) -> None:
    names = kernels(check((4, 48, 64, 16, 16), True, kind, 1, 1.0, threads=2))
    fused = [n for n in names if n.count("matmul") == 2 and "exp" in n]
    assert fused and not any("matmul" in n and n not in fused for n in names), names


def test_long_sequence() -> None:
    names = kernels(check((1, 40, 1500, 16, 16), True, "causal", 1, 1.0))
    assert any(n.count("matmul") == 2 for n in names), names


def test_a_row_without_any_key_is_nan() -> None:
    """As other runtimes have it: the largest of -inf only is -inf, and -inf - -inf is NaN."""
    sizes = (1, 4, 8, 4, 4)
    arrays = [np.ones((1, r, 4), np.float32) for r in (4, 8, 8)]
    mask = np.zeros((4, 8), np.float32)
    mask[2] = -np.inf
    found = np.asarray(mdsl.compile(program(*sizes, False, True, 1))(*arrays, mask))
    assert np.isnan(found[0, 2]).all() and np.isfinite(found[0, [0, 1, 3]]).all()


def test_scores_that_something_else_reads_stay() -> None:
    text = program(1, 16, 16, 4, 4, False, False, 1)
    scores = "tensor<1x1x16x16xf32>"
    text = text.replace("-> tensor<1x16x4xf32> {", f"-> (tensor<1x16x4xf32>, {scores}) {{")
    text = text.replace("return %y : tensor<1x16x4xf32>", f"return %y, %p : tensor<1x16x4xf32>, {scores}")
    arrays = [np.random.default_rng(i).standard_normal((1, 16, 4)).astype(np.float32) for i in range(3)]
    found = mdsl.compile(text)(*arrays)
    wanted = mdsl.compile(text, engine="reference")(*arrays)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
