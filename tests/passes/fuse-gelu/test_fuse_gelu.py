"""fuse-gelu: which chains are GELU, and what it computes over the whole range, on every engine."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import mdsl
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.fuse_gelu import FuseGelu
from mdsl.syntax.parser import parse
from mdsl.target.target import Target

ROOT, HALF_ROOT = 1.41421354, 0.707106769


def program(*lines: str, type: str = "tensor<8xf32>", result: str = "%y", **numbers: float) -> str:
    """`lines` such as "%y = mul %x %half", in which the constants are named."""
    scalar = f"tensor<{type.split('x')[-1]}"
    types = {"%x": type} | {f"%{name}": scalar for name in numbers}
    text = [f"  %{name} = arith.constant dense<{number}> : {scalar}" for name, number in numbers.items()]
    for line in lines:
        name, _, op, *operands = line.split()
        signature = ", ".join(types.get(operand, type) for operand in operands)
        text.append(f"  {name} = nn.{op} {', '.join(operands)} : ({signature}) -> {type}")
    body = "\n".join(text)
    return f"func.func @main(%x: {type}) -> {type} {{\n{body}\n  return {result} : {type}\n}}"


def ops(text: str) -> list[str]:
    """The nn ops that are left."""
    module = parse(text, "test.mir")
    FuseGelu().run(module, Context(Target.host()))
    verify(module)
    return [op.name for op in module.walk() if op.name.startswith("nn.")]


START = ("%u = div %x %root", "%e = erf %u", "%s = add %e %one")
NUMBERS = {"root": ROOT, "one": 1.0, "half": 0.5}

GELU = {
    "x, then half": (*START, "%p = mul %x %s", "%y = mul %p %half"),
    "half, then x": (*START, "%p = mul %half %s", "%y = mul %p %x"),
    "half of x": (*START, "%h = mul %x %half", "%y = mul %h %s"),
    "half of x, the share first": (*START, "%h = mul %half %x", "%y = mul %s %h"),
    "one and the error": (*START[:2], "%s = add %one %e", "%p = mul %s %x", "%y = mul %half %p"),
}


@pytest.mark.parametrize("chain", GELU)
@pytest.mark.parametrize("element", ["f32", "f64", "f16", "bf16"])
def test_chains(chain: str, element: str) -> None:
    root = {"f64": math.sqrt(2), "f32": ROOT, "f16": 1.41406, "bf16": 1.4140625}[element]
    text = program(*GELU[chain], type=f"tensor<8x{element}>", **NUMBERS | {"root": root})
    assert ops(text) == ["nn.gelu"]


def test_numbers_of_other_forms() -> None:
    by_product = ("%u = mul %x %root", *START[1:], "%p = mul %x %s", "%y = div %p %two")
    assert ops(program(*by_product, root=HALF_ROOT, one=1.0, two=2.0)) == ["nn.gelu"]
    twice = (*GELU["x, then half"][:-1], "%q = mul %p %quarter", "%y = mul %q %two")
    assert ops(program(*twice, **NUMBERS, quarter=0.25, two=2.0)) == ["nn.gelu"]


OTHERS = {
    "another root": (GELU["x, then half"], NUMBERS | {"root": 1.4143}),
    "another share": (GELU["x, then half"], NUMBERS | {"one": 1.00001}),
    "not half": (GELU["x, then half"], NUMBERS | {"half": 0.25}),
    "another factor": ((*START, "%z = exp %x", "%p = mul %z %s", "%y = mul %p %half"), NUMBERS),
    "x twice": ((*START, "%p = mul %x %s", "%q = mul %p %x", "%y = mul %q %half"), NUMBERS),
    "no x": ((*START, "%y = mul %s %half"), NUMBERS),
    "half divided by it": ((*START, "%p = mul %x %s", "%y = div %half %p"), NUMBERS),
    "read elsewhere": ((*GELU["x, then half"][:-1], "%q = mul %p %half", "%y = add %q %p"), NUMBERS),
    "an error of its own": (
        ("%e = erf %x", *START[2:], "%p = mul %x %s", "%y = mul %p %half"),
        {"one": 1.0, "half": 0.5},
    ),
    "nothing to divide by": (GELU["x, then half"], NUMBERS | {"root": 0.0}),
}


@pytest.mark.parametrize("chain", OTHERS)
def test_what_is_not_gelu(chain: str) -> None:
    lines, numbers = OTHERS[chain]
    assert ops(program(*lines, **numbers)) == [f"nn.{line.split()[2]}" for line in lines]


def gelu(x: np.ndarray) -> np.ndarray:
    """In f64."""
    with np.errstate(all="ignore"):
        x = np.maximum(x.astype(np.float64), -64)  # the limit for -infinity
        return np.vectorize(lambda v: v / 2 * math.erfc(-v / math.sqrt(2)))(x)


@pytest.mark.parametrize(
    ("engine", "chain"),
    [("vm", "op"), ("jit", "op"), ("reference", "op"), ("vm", "x, then half"), ("jit", "x, then half")],
)
def test_over_the_whole_range(engine: str, chain: str) -> None:
    """Against f64: a few units in the last place where GELU is not tiny, and never more than 1.2e-7 below -1."""
    some = np.arange(0, 2**32, 2**18 + 1, np.uint32).view(np.float32)
    near = np.linspace(-16, 16, 2**14, dtype=np.float32)
    x = np.concatenate([some, near, np.array([-1e10, 1e10, 0.0, -0.0, np.nan, np.inf], np.float32)])
    type = f"tensor<{x.size}xf32>"
    text = (
        program("%y = gelu %x", type=type) if chain == "op" else program(*GELU[chain], type=type, **NUMBERS)
    )
    found = mdsl.compile(text, engine=engine)(x)
    exact = gelu(x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    finite = np.isfinite(exact)
    exact, inside = exact[finite], found[finite].astype(np.float64)
    ordinary = (x[finite] >= -1) & (np.abs(exact) > 2.0**-126)
    np.testing.assert_allclose(inside[ordinary], exact[ordinary], rtol=5 * 2.0**-23)
    np.testing.assert_allclose(inside[~ordinary], exact[~ordinary], rtol=0, atol=1.2e-7)
    np.testing.assert_array_equal(
        found[-6:][[0, 2, 3, 4, 5]], np.array([0, 0, 0, np.nan, np.inf], np.float32)
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_of_sixteen_bits(dtype: type) -> None:
    """Every number of them, rounded once."""
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    name = {"float16": "f16", "bfloat16": "bf16"}[np.dtype(dtype).name]
    found = mdsl.compile(program("%y = gelu %x", type=f"tensor<{x.size}x{name}>"), engine="vm")(x).astype(
        np.float64
    )
    exact = gelu(x)
    finite = np.isfinite(exact)
    place = 2.0**-11 if name == "f16" else 2.0**-8
    np.testing.assert_allclose(found[finite], exact[finite], rtol=1.01 * place, atol=6e-8)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
