"""Normalisations as one micro-kernel: every kind, as ops and as exporters decompose them, for random shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.reference import run
from mdsl.runtime.executable import VmExecutable
from mdsl.target.target import Target

Program = Callable[[int, int], str]


def decomposed_layer_norm(rows: int, columns: int) -> str:
    x, one, row, unit = (f"tensor<{s}xf32>" for s in (f"{rows}x{columns}", f"{rows}x1", f"{columns}", "1"))
    return f"""func.func @main(%x: {x}, %scale: {row}, %shift: {row}) -> {x} {{
  %mean = nn.reduce %x {{kind = "mean", axes = [1], keepdims = true}} : ({x}) -> {one}
  %centred = nn.sub %x, %mean : ({x}, {one}) -> {x}
  %two = arith.constant dense<2.0> : {unit}
  %squares = nn.pow %centred, %two : ({x}, {unit}) -> {x}
  %variance = nn.reduce %squares {{kind = "mean", axes = [1], keepdims = true}} : ({x}) -> {one}
  %epsilon = arith.constant dense<1.0e-5> : {unit}
  %safe = nn.add %variance, %epsilon : ({one}, {unit}) -> {one}
  %deviation = nn.sqrt %safe : ({one}) -> {one}
  %normal = nn.div %centred, %deviation : ({x}, {one}) -> {x}
  %scaled = nn.mul %normal, %scale : ({x}, {row}) -> {x}
  %y = nn.add %scaled, %shift : ({x}, {row}) -> {x}
  return %y : {x}
}}"""


def test_what_only_arithmetic_made_is_no_normalisation() -> None:
    """A number a channel that is read for each element: the pass leaves it to `fuse`, and `pack` can block it."""
    x, c = "tensor<2x16x8x8xf32>", "tensor<1x16x1x1xf32>"
    text = f"""func.func @main(%x: {x}, %a: {c}, %b: {c}) -> {x} {{
  %f = nn.mul %a, %b : ({c}, {c}) -> {c}
  %y = nn.mul %x, %f : ({x}, {c}) -> {x}
  return %y : {x}
}}"""
    assert "ukernel.region" not in str(mdsl.opt(text, "fuse-rows"))


def one_op(op: str) -> Program:
    def text(rows: int, columns: int) -> str:
        x = f"tensor<{rows}x{columns}xf32>"
        y = f"%y = nn.{op} %x {{axis = 1}} : ({x}) -> {x}"
        return f"func.func @main(%x: {x}) -> {x} {{\n  {y}\n  return %y : {x}\n}}"

    return text


def softmax_of_columns(rows: int, columns: int) -> str:
    return one_op("softmax")(rows, columns).replace("axis = 1", "axis = 0")


def rms_norm(rows: int, columns: int) -> str:
    x, one = f"tensor<{rows}x{columns}xf32>", f"tensor<{rows}x1xf32>"
    return f"""func.func @main(%x: {x}, %scale: tensor<{columns}xf32>) -> {x} {{
  %squares = nn.mul %x, %x : ({x}, {x}) -> {x}
  %mean = nn.reduce %squares {{kind = "mean", axes = [1], keepdims = true}} : ({x}) -> {one}
  %root = nn.sqrt %mean : ({one}) -> {one}
  %normal = nn.div %x, %root : ({x}, {one}) -> {x}
  %y = nn.mul %normal, %scale : ({x}, tensor<{columns}xf32>) -> {x}
  return %y : {x}
}}"""


def instance_norm(rows: int, columns: int) -> str:
    x, one = f"tensor<2x{rows}x{columns}x3xf32>", f"tensor<2x{rows}x1x1xf32>"
    return f"""func.func @main(%x: {x}) -> {x} {{
  %mean = nn.reduce %x {{kind = "mean", axes = [2, 3], keepdims = true}} : ({x}) -> {one}
  %centred = nn.sub %x, %mean : ({x}, {one}) -> {x}
  %squares = nn.mul %centred, %centred : ({x}, {x}) -> {x}
  %variance = nn.reduce %squares {{kind = "mean", axes = [2, 3], keepdims = true}} : ({x}) -> {one}
  %epsilon = arith.constant dense<1.0e-5> : {one}
  %safe = nn.add %variance, %epsilon : ({one}, {one}) -> {one}
  %deviation = nn.sqrt %safe : ({one}) -> {one}
  %y = nn.div %centred, %deviation : ({x}, {one}) -> {x}
  return %y : {x}
}}"""


PROGRAMS = {
    "softmax": one_op("softmax"),
    "log_softmax": one_op("log_softmax"),
    "softmax of columns": softmax_of_columns,
    "decomposed layer norm": decomposed_layer_norm,
    "rms norm": rms_norm,
    "instance norm": instance_norm,
}


def inputs(program: str, seed: int, factor: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = [[int(n or 0) for n in s.shape] for s in mdsl.compile(program, engine="reference").inputs]
    return [(random.standard_normal(s) * factor).astype(np.float32) for s in shapes]


@pytest.mark.parametrize("kind", PROGRAMS)
@settings(max_examples=4, derandomize=True, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(2, 70), factor=st.sampled_from([1.0, 50.0]))
def test_any_shape(kind: str, rows: int, columns: int, factor: float) -> None:
    program = PROGRAMS[kind](rows, columns)
    arrays = inputs(program, rows + columns, factor)
    wanted = np.asarray(mdsl.compile(program, engine="reference")(*arrays))
    np.testing.assert_allclose(np.asarray(mdsl.compile(program)(*arrays)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_is_one_kernel_a_tile(kind: str) -> None:
    """With remainders there may be two sizes of tile, and each row is visited by one dispatch."""
    compiled = mdsl.compile(PROGRAMS[kind](24, 64))
    assert isinstance(compiled, VmExecutable)
    names = [k.name.rsplit("_", 1)[0] for k in compiled.module.kernels]
    assert len(set(names)) == 1, names


def test_what_something_else_reads_stays_outside() -> None:
    """The sum is a result too: it is computed on its own, and the rest still fuses."""
    text = """func.func @main(%x: tensor<16x32xf32>) -> (tensor<16x1xf32>, tensor<16x32xf32>) {
  %mean = nn.reduce %x {kind = "mean", axes = [1], keepdims = true} : (tensor<16x32xf32>) -> tensor<16x1xf32>
  %centred = nn.sub %x, %mean : (tensor<16x32xf32>, tensor<16x1xf32>) -> tensor<16x32xf32>
  %y = nn.softmax %centred {axis = 1} : (tensor<16x32xf32>) -> tensor<16x32xf32>
  return %mean, %y : tensor<16x1xf32>, tensor<16x32xf32>
}"""
    arrays = inputs(text, 1)
    wanted = mdsl.compile(text, engine="reference")(*arrays)
    for one, other in zip(mdsl.compile(text, threads=2)(*arrays), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_special_values() -> None:
    """An infinity or a NaN spoils its own row, as in the reference, and no other."""
    program = one_op("softmax")(8, 33)
    (x,) = inputs(program, 3)
    x[1, 5], x[2, 7], x[3, :], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        wanted = np.asarray(mdsl.compile(program, engine="reference")(x))
    np.testing.assert_allclose(np.asarray(mdsl.compile(program)(x)), wanted, rtol=1e-5, atol=1e-7)


def test_as_many_rows_as_the_local_memory_holds() -> None:
    """What is reduced over the rows of a softmax keeps several of its rows at a time, and a large cache would hold
    more of them than a kernel's stack."""
    text = """func.func @main(%x: tensor<8x97x768xf32>) -> tensor<97x768xf32> {
  %n = nn.softmax %x {axis = -1} : (tensor<8x97x768xf32>) -> tensor<8x97x768xf32>
  %y = nn.reduce %n {kind = "mean", axes = [0], keepdims = false} : (tensor<8x97x768xf32>) -> tensor<97x768xf32>
  return %y : tensor<97x768xf32>
}"""
    host = Target.host()
    target = replace(host, core=replace(host.core, l1_bytes=1 << 20, l2_bytes=64 << 20))
    arrays = inputs(text, 5)
    wanted = mdsl.compile(text, engine="reference")(*arrays)
    np.testing.assert_allclose(mdsl.compile(text, target=target)(*arrays), wanted, atol=1e-5)


NORMS = {
    "softmax": "%n = nn.softmax %x {{axis = {axis}}} : ({x}) -> {x}",
    "centred": """%m = nn.reduce %x {{kind = "mean", axes = [{axis}]}} : ({x}) -> {m}
  %n = nn.sub %x, %m : ({x}, {m}) -> {x}""",
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shape", [(7,), (6, 15), (5, 1, 9), (2, 3, 4, 5)])
def test_a_normalisation_and_a_reduction_over_any_axes(
    shape: tuple[int, ...], kind: str, keepdims: bool
) -> None:
    """Whatever the rank of the result: all of it may be rows, or none."""
    rank = len(shape)
    x, m = (f"tensor<{'x'.join(map(str, s))}xf32>" for s in (shape, (*shape[:-1], 1)))
    array = np.random.default_rng(rank).standard_normal(shape).astype(np.float32)
    for count in range(1, rank + 1):
        for axes in combinations(range(rank), count):
            left = [1 if d in axes else s for d, s in enumerate(shape) if keepdims or d not in axes]
            y = f"tensor<{'x'.join([*map(str, left), 'f32'])}>"
            text = f"""func.func @main(%x: {x}) -> {y} {{
  {NORMS[kind].format(x=x, m=m, axis=rank - 1)}
  %r = nn.reduce %n {{kind = "sum", axes = {list(axes)}, keepdims = {str(keepdims).lower()}}} : ({x}) -> {y}
  %y = nn.tanh %r : ({y}) -> {y}
  return %y : {y}
}}"""
            (found,) = run(mdsl.opt(text, "tile"), [array])
            wanted = mdsl.compile(text, engine="reference")(array)
            np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=text)
