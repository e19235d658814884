"""What loops over reductions ask for ahead of its use: each line once, as far as that can be told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from kernels import check, generic, kernel, memref, product, random_inputs, vectorized

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.reference import run
from mdsl.reference.registry import SEMANTICS, meaning

LINE = 16
"""Elements of a cache line."""


def matmul(rows: int, depth: int, columns: int = 32) -> str:
    """The kernel of a product."""
    a, b, c = memref([rows, depth]), memref([depth, columns]), memref([rows, columns])
    return kernel({"a": a, "b": b, "c": c}, f"linalg.matmul ins(%a, %b : {a}, {b}) outs(%c : {c})")


def asked_lines(module: ModuleOp, name: str, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """The cache lines of the argument `name`, counted from its first, that are asked for while the kernel runs, and how often."""
    found: Counter[int] = Counter()

    def record(op: Op, memory: np.ndarray, *indices: Any) -> None:
        if op.operands[0].name == name:
            place = sum(int(i) * stride for i, stride in zip(indices, memory.strides, strict=True))
            found[place // memory.itemsize // LINE] += 1

    assert meaning("memref.prefetch")  # which has it registered
    monkeypatch.setitem(SEMANTICS, "memref.prefetch", record)
    run(module, random_inputs(module), "k")
    return found


@pytest.mark.parametrize("rows, depth", [(2, 512), (2, 1 << 14)])
def test_a_block_asks_for_what_it_reads_later(rows: int, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows are one block: 8 KB further on, each line once."""
    lines = asked_lines(vectorized(matmul(rows, depth), "avx512"), "b", monkeypatch)
    assert lines == dict.fromkeys(range(128, 128 + 2 * depth), 1)


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
@pytest.mark.parametrize("rows", [24, 49, 64])
def test_the_blocks_of_a_tile_ask_for_their_shares_of_the_next(
    rows: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that lies behind this tile's columns, and most of it a few times: a round asks for a line at least."""
    depth = 160
    lines = asked_lines(vectorized(matmul(rows, depth), target), "b", monkeypatch)
    assert set(lines) >= set(range(2 * depth, 4 * depth - 2))
    assert lines.total() < 6 * 2 * depth


def test_shares_follow_all_reductions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 3x3 pixels, of two rows of an image."""
    image, weights, out = memref([4, 18, 16]), memref([3, 3, 16, 32]), memref([2, 16, 32])
    maps = [("%x", image, "y + r, x + s, c"), ("%w", weights, "r, s, c, n")]
    text = kernel(
        {"x": image, "w": weights, "y": out},
        generic(maps, [("%y", out, "y, x, n")], "ppprrr", product("f32"), "yxnrsc"),
    )
    lines = asked_lines(vectorized(text, "avx512"), "w", monkeypatch)
    assert set(lines) >= set(range(288, 2 * 288 - 2))


def test_no_shares_of_what_the_second_level_cache_does_not_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of 1 MB: the two blocks ask for what they read; of 640 rows they would be too many."""
    depth = 1 << 13
    assert asked_lines(vectorized(matmul(24, depth), "avx512"), "b", monkeypatch) == dict.fromkeys(
        range(128, 128 + 2 * depth), 2
    )
    ops = vectorized(matmul(640, depth), "avx512").walk()
    assert not [op for op in ops if op.name == "memref.prefetch"]


def test_short_streams_are_not_asked_for() -> None:
    module = vectorized(matmul(2, 16), "avx512")
    assert not [op for op in module.walk() if op.name == "memref.prefetch"]


def test_prefetching_past_the_end_is_harmless() -> None:
    check(matmul(2, 512), 1e-4)
    check(matmul(24, 80), 1e-4)


@pytest.mark.parametrize("places, expected", [(16, 1), (1, 0)])
def test_the_rows_of_the_next_tile_are_prefetched(places: int, expected: int) -> None:
    """14 rows of 16 channels, in each block of channels at another place; one block's rows lie end to end."""
    pixels, weights, out = memref([places, 14, 16]), memref([places, 16, 32]), memref([14, 32])
    maps = [("%x", pixels, "c, p, k"), ("%w", weights, "c, k, n")]
    body = generic(maps, [("%y", out, "p, n")], "pprr", product("f32"), "pnck")
    text = kernel({"x": pixels, "w": weights, "y": out}, body)
    module = vectorized(text, "avx512")
    found = [op for op in module.walk() if op.name == "memref.prefetch" and op.operands[0].name == "x"]
    assert len(found) == expected
    check(text, 1e-4)
