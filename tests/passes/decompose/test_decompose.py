"""decompose: what the ops are made of computes what they mean, of every element type, shape and attribute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects.nn.training import Composite
from mdsl.ir.registry import operations
from mdsl.ir.types import dtype_of, is_float
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.decompose import Decompose
from mdsl.passes.nn.decompose.rules import RULES
from mdsl.reference import run
from mdsl.syntax.parser import parse

TOLERANCE = {"f64": 1e-12, "f32": 3e-6, "f16": 3e-3, "bf16": 2e-2}


def program(op: str, inputs: str, results: str, attributes: str = "") -> str:
    """A function of one op; `inputs` and `results` are types without `tensor<>`, separated by spaces."""
    types, returned = ([f"tensor<{t}>" for t in names.split()] for names in (inputs, results))
    arguments = ", ".join(f"%a{i}: {t}" for i, t in enumerate(types))
    operands = ", ".join(f"%a{i}" for i in range(len(types)))
    values = ", ".join(f"%y{i}" for i in range(len(returned)))
    made = ", ".join(returned)
    return f"""func.func @main({arguments}) -> ({made}) {{
  {values} = {op} {operands} {{{attributes}}} : ({", ".join(types)}) -> ({made})
  return {values} : {made}
}}"""


def check(text: str, seed: int = 0) -> None:
    """The op and what it is made of give the same numbers."""
    graph, simpler = parse(text, "graph.mir"), parse(text, "graph.mir")
    Decompose().run(simpler, Context())
    verify(simpler)
    assert not any(isinstance(op, Composite) for op in simpler.walk())
    random = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    for arg in graph.body.ops[0].body.args:
        shape, element = arg.type.shape, arg.type.element  # type: ignore[attr-defined]
        numbers = random.uniform(0.1, 3, shape) if is_float(element) else random.integers(-1, 5, shape)
        arrays.append(np.asarray(numbers).astype(dtype_of(element)))
    for found, wanted, result in zip(
        run(simpler, arrays), run(graph, arrays), graph.body.ops[0].body.terminator.operands, strict=True
    ):
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        tolerance = TOLERANCE[str(result.type.element)]  # type: ignore[attr-defined]
        np.testing.assert_allclose(
            found.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance
        )


def test_every_composite_op_has_a_rule() -> None:
    assert set(RULES) == {
        n for n, kind in operations().items() if issubclass(kind, Composite) and n.startswith("nn.")
    }


@pytest.mark.parametrize("element", list(TOLERANCE))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(element: str, reduction: str) -> None:
    logits, pair = f"4x3x5x{element} 4x5xi64", f"2x3x{element} 2x3x{element}"
    result = element if reduction != "none" else f"4x5x{element}"
    for attributes in (
        "axis = 1",
        "axis = -2, ignore_index = 2",
        "axis = 1, smoothing = 0.1, ignore_index = -1",
        "axis = 1, weights = [1, 0.5, 3]",
        "axis = 1, smoothing = 0.1, ignore_index = 2, weights = [1, 0.5, 3]",
    ):
        check(program("nn.cross_entropy", logits, result, f'{attributes}, reduction = "{reduction}"'))
    for op in ("nn.mse", "nn.bce"):
        check(
            program(
                op, pair, element if reduction != "none" else f"2x3x{element}", f'reduction = "{reduction}"'
            )
        )


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    element=st.sampled_from(list(TOLERANCE)),
    last=st.booleans(),
    unbiased=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9, 1.0]),
)
def test_batch_norm(sizes: list[int], element: str, last: bool, unbiased: bool, momentum: float) -> None:
    shape = "x".join(map(str, sizes))
    channels = sizes[-1] if last else sizes[1]
    vector, running = f"{channels}x{element}", f"{channels}xf32"
    attributes = f'epsilon = 0.1, momentum = {momentum}, unbiased = {str(unbiased).lower()}, layout = "{"nhwc" if last else "nchw"}"'
    inputs = f"{shape}x{element} {vector} {vector} {running} {running}"
    check(program("nn.batch_norm_train", inputs, f"{shape}x{element} {running} {running}", attributes))


@pytest.mark.parametrize("element", list(TOLERANCE))
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dropout(element: str, rate: float) -> None:
    for key in ("", " 2xi32"):
        check(program("nn.dropout", f"7x9x{element}{key}", f"7x9x{element}", f"rate = {rate}, stream = 3"))


@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("threads", [1, 2])
def test_random_numbers_are_the_same_everywhere(engine: str, threads: int) -> None:
    text = program("nn.random_uniform", "2xi32", "64x33x17xf32", "stream = 5")
    for key in ([0, 0], [12345, 678], [-1, 2**31 - 1]):
        array = np.array(key, np.int32)
        wanted = mdsl.compile(text, engine="reference")(array)
        np.testing.assert_array_equal(mdsl.compile(text, engine=engine, threads=threads)(array), wanted)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
def test_a_part_has_the_random_numbers_of_its_place(engine: str) -> None:
    whole = mdsl.compile(program("nn.random_uniform", "2xi32", "12x7xf32", "stream = 5"), engine=engine)
    part = mdsl.compile(program("nn.random_uniform", "3xi32", "4x7xf32", "stream = 5"), engine=engine)
    wanted = whole(np.array([3, 4], np.int32))
    found = [part(np.array([3, 4, number], np.int32)) for number in range(3)]
    np.testing.assert_array_equal(np.concatenate(found), wanted)


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_engines_compute_the_same(engine: str) -> None:
    text = """func.func @main(%x: tensor<8x3x6x6xf32>, %c: tensor<3xf32>, %labels: tensor<8x6x6xi32>, %key: tensor<2xi32>)
    -> (tensor<f32>, tensor<3xf32>, tensor<3xf32>) {
  %y, %mean, %variance = nn.batch_norm_train %x, %c, %c, %c, %c : (tensor<8x3x6x6xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> (tensor<8x3x6x6xf32>, tensor<3xf32>, tensor<3xf32>)
  %z = nn.dropout %y, %key {rate = 0.25} : (tensor<8x3x6x6xf32>, tensor<2xi32>) -> tensor<8x3x6x6xf32>
  %loss = nn.cross_entropy %z, %labels {axis = 1, ignore_index = 2} : (tensor<8x3x6x6xf32>, tensor<8x6x6xi32>) -> tensor<f32>
  return %loss, %mean, %variance : tensor<f32>, tensor<3xf32>, tensor<3xf32>
}"""
    random = np.random.default_rng(0)
    inputs = [
        random.standard_normal((8, 3, 6, 6)).astype(np.float32),
        np.array([0.5, 1, 2], np.float32),
        random.integers(0, 3, (8, 6, 6)).astype(np.int32),
        np.array([1, 2], np.int32),
    ]
    wanted = mdsl.compile(text, engine="reference")(*inputs)
    for found, expected in zip(mdsl.compile(text, engine=engine, threads=2)(*inputs), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_the_slope_of_binary_cross_entropy_is_right_at_0() -> None:
    text = program("nn.bce", "5xf32 5xf32", "f32", 'reduction = "sum"')
    x, target = np.array([-2, -0.0, 0, 0, 40], np.float32), np.array([0.5, 0, 0.25, 1, 0], np.float32)
    for engine in ("reference", "vm"):
        _, slope = mdsl.compile(mdsl.grad(text, "a0"), engine=engine)(x, target)
        np.testing.assert_allclose(slope, 1 / (1 + np.exp(-x)) - target, rtol=1e-6, atol=1e-7)
