"""Gradients of gathers by indices that a call gives: linear in the table and the indices, the same bits on every engine and
number of threads."""

from __future__ import annotations

import time

import numpy as np
import pytest

import mdsl


def text(rows: int, width: int, count: int, axis: int = 0) -> str:
    table = f"{rows}x{width}" if axis == 0 else f"{width}x{rows}"
    found = f"{count}x{width}" if axis == 0 else f"{width}x{count}"
    return f"""func.func @main(%table: tensor<{table}xf32>, %w: tensor<{found}xf32>, %places: tensor<{count}xi64>) -> tensor<f32> {{
  %x = nn.gather %table, %places {{axis = {axis}}} : (tensor<{table}xf32>, tensor<{count}xi64>) -> tensor<{found}xf32>
  %m = nn.mul %x, %w : (tensor<{found}xf32>, tensor<{found}xf32>) -> tensor<{found}xf32>
  %loss = nn.reduce %m {{kind = "sum", keepdims = false}} : (tensor<{found}xf32>) -> tensor<f32>
  return %loss : tensor<f32>
}}"""


def data(rows: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    table, w = (random.standard_normal((n, width)).astype(np.float32) for n in (rows, count))
    return table, w, random.integers(-rows, rows, count)


@pytest.mark.parametrize("axis", [0, 1])
def test_every_engine_adds_up_in_order(axis: int) -> None:
    """Places that occur often: another order of addition would round otherwise."""
    table, w, places = data(100, 24, 3000)
    wanted = np.zeros_like(table)
    for place, row in zip(places, w, strict=True):
        wanted[place] += row
    module = mdsl.grad(text(100, 24, 3000, axis), "table")
    transposed = [np.ascontiguousarray(a.T) if axis else a for a in (table, w)]
    for engine, threads in (("vm", 1), ("vm", 2), ("jit", 2), ("reference", 1)):
        _, found = mdsl.compile(module, engine=engine, threads=threads)(*transposed, places)
        np.testing.assert_array_equal(found.T if axis else found, wanted)


def test_a_large_table_takes_no_longer_than_its_size() -> None:
    """Comparing each of 200,000 places with each of 20,000 indices would take 128 thousand million operations."""
    rows, width, count = 200_000, 32, 20_000
    table, w, places = data(rows, width, count)
    step = mdsl.compile(mdsl.grad(text(rows, width, count), "table"))
    start = time.monotonic()
    _, found = step(table, w, places)
    assert time.monotonic() - start < 3
    wanted = np.zeros_like(table)
    np.add.at(wanted, places, w)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
