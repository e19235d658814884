"""Long and wide programs: each pass's work grows with their length, and nothing in them is too deep."""

from __future__ import annotations

from cProfile import Profile

import numpy as np
import pytest

import mdsl
from mdsl.compiler.levels import passes_from, ukernel_stages
from mdsl.compiler.pipeline import run_passes

T = "tensor<8x8xf32>"


def chain(line: str, length: int, every: bool = False) -> str:
    """`line` that many times, each time on the result before: `every` one is returned, or the last."""
    lines = [f"%a{i + 1} = {line.replace('%a', f'%a{i}')}" for i in range(length)]
    returned = [f"%a{i + 1}" for i in range(length)][0 if every else -1 :]
    types = ", ".join([T] * len(returned))
    return "\n".join(
        [f"func.func @main(%a0: {T}, %x: {T}) -> ({types}) {{", *lines,
         f"return {', '.join(returned)} : {types}", "}"]
    )  # fmt: skip


def sum_of(count: int) -> str:
    """The sum of that many arguments."""
    arguments = ", ".join(f"%x{i}: {T}" for i in range(count))
    lines = [
        f"%s{i} = nn.add {'%x0' if i == 1 else f'%s{i - 1}'}, %x{i} : ({T}, {T}) -> {T}"
        for i in range(1, count)
    ]
    return "\n".join([f"func.func @main({arguments}) -> {T} {{", *lines, f"return %s{count - 1} : {T}", "}"])


PROGRAMS = {
    "product": lambda n: chain(f"nn.mul %a, %x : ({T}, {T}) -> {T}", n),
    "softmax": lambda n: chain(f"nn.softmax %a {{axis = 1}} : ({T}) -> {T}", n),
    "matmul": lambda n: chain(f"nn.matmul %a, %x : ({T}, {T}) -> {T}", n),
    "sum": sum_of,
    "results": lambda n: chain(f"nn.tanh %a : ({T}) -> {T}", n, every=True),
}


def test_a_chain_of_elementary_functions_makes_no_kernel_that_is_too_large() -> None:
    text = chain(f"nn.tanh %a : ({T}) -> {T}", 70)
    (y,) = [mdsl.compile(mdsl.parse(text))(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32))]
    assert not y.any()


def calls_to_compile(text: str) -> int:
    """How many functions are called to compile the program: what its time is proportional to."""
    module, profile = mdsl.parse(text), Profile(builtins=False)
    with profile:
        run_passes(module, passes_from(ukernel_stages(), "nn"), verify_each=False)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("name", PROGRAMS)
def test_work_does_not_grow_with_the_square_of_the_length(name: str) -> None:
    make = PROGRAMS[name]
    once, twice = calls_to_compile(make(40)), calls_to_compile(make(80))
    assert twice < 3 * once, twice / once


@pytest.mark.parametrize("name", ["product", "sum"])
def test_what_is_fused_is_bounded(name: str) -> None:
    """No body of thousands of ops, which the passes could not walk; no kernel of more tensors than a dispatch names."""
    program = PROGRAMS[name](400)
    arguments = list(np.random.default_rng(0).uniform(0.99, 1.01, (400, 8, 8)).astype(np.float32))
    arguments = arguments if name == "sum" else arguments[:2]
    wanted = mdsl.compile(program, engine="reference")(*arguments)
    np.testing.assert_allclose(mdsl.compile(program)(*arguments), wanted, rtol=1e-5)


def test_a_long_chain_of_normalisations_computes_the_same() -> None:
    program = PROGRAMS["softmax"](40)
    arguments = list(np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32))
    wanted = mdsl.compile(program, engine="reference")(*arguments)
    np.testing.assert_allclose(mdsl.compile(program)(*arguments), wanted, rtol=1e-5)
