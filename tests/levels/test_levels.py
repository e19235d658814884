"""Every level of a program is a program: after each pass it verifies, prints and parses stably, computes the
same, keeps the names of its inputs and outputs, upstream accepts it, and mdsl runs its text from there on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from comparing import as_list, assert_close, settings_for, tolerance_of
from graphs import graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import loops
from structured import structured

import mdsl
from mdsl.api import build
from mdsl.compiler.driver import lowering, to_bytecode
from mdsl.compiler.entry import random_arrays, signature
from mdsl.compiler.pipeline import run_passes
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.verifier import verify
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.syntax.resources import print_section, used
from tests.upstream import needs_upstream, read_by_upstream

Generator = Callable[[Random], str]
EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = [EXAMPLES / f"{name}.mir" for name in ("kernel", "mnist/mlp", "mnist/cnn")]
PIPELINES = [(True, None), (True, 4), (False, None)]
"""With micro-kernels or without, and how many an instruction dispatches."""

kinds = pytest.mark.parametrize("generate", [graph, structured, loops], ids=lambda f: f.__name__)
programs = pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)


def stages(module: ModuleOp, ukernels: bool, unroll: int | None) -> Iterator[tuple[str, ModuleOp]]:
    """The module as it is, then after each pass of its pipeline."""
    yield "as written", module
    for step in lowering(module, settings_for(module, ukernels, unroll)):
        run_passes(module, [step])
        yield f"after {step}", module


def text_of(module: ModuleOp) -> str:
    """The module's text, with the data that it refers to."""
    return print_module(module) + print_section(used(module))


def check_levels(module: ModuleOp, ukernels: bool, unroll: int | None, every: int = 1) -> None:
    """All that this file's first lines say, but for upstream; every so many levels are compiled too."""
    specs = signature(module)
    inputs = random_arrays(specs[0])
    wanted, tolerance = run(module, inputs), tolerance_of(print_module(module))
    for number, (name, current) in enumerate(stages(module, ukernels, unroll)):
        verify(current)
        text = text_of(current)
        again = parse(text)
        assert text_of(again) == text, name
        assert signature(current) == specs, name
        assert_close(run(again, inputs), wanted, tolerance, name)
        if number % every == 0:
            program = build(text, settings_for(current, ukernels, unroll))
            assert (program.inputs, program.outputs) == specs, name
            assert_close(as_list(program(*inputs)), wanted, tolerance, f"run {name}")


@kinds
@settings(max_examples=4, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_programs(generate: Generator, data: st.DataObject) -> None:
    random = data.draw(st.randoms(use_true_random=False))
    ukernels, unroll = random.choice(PIPELINES)
    check_levels(parse(generate(random)), ukernels, unroll, every=4)


def test_a_result_keeps_its_name_beside_an_older_value_that_bears_it() -> None:
    check_levels(parse(structured(Random(12))), True, None)


def test_hand_written_kernel() -> None:
    check_levels(mdsl.parse(EXAMPLES / "kernel.mir"), True, 4)


@pytest.mark.slow  # the weights are part of each level's text
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_networks(name: str) -> None:
    check_levels(mdsl.parse(EXAMPLES / "mnist" / f"{name}.mir"), True, 4, every=5)


# Upstream -------------------------------------------------------------------------------------------------


def check_upstream(module: ModuleOp, ukernels: bool, unroll: int | None) -> None:
    """Upstream parses and verifies the generic form of each level; all are given to it at once."""
    texts = {name: print_module(m, generic=True) for name, m in stages(module, ukernels, unroll)}
    done = read_by_upstream(texts.values())
    assert done.returncode == 0, f"{done.stderr[:2000]}\n{', '.join(texts)}"


@needs_upstream
@programs
@pytest.mark.parametrize(("ukernels", "unroll"), PIPELINES[1:])
def test_upstream_accepts_examples(path: Path, ukernels: bool, unroll: int | None) -> None:
    check_upstream(mdsl.parse(path), ukernels, unroll)


@needs_upstream
@kinds
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 6))])
def test_upstream_accepts_random_programs(generate: Generator, seed: int) -> None:
    check_upstream(parse(generate(Random(seed))), *PIPELINES[seed % len(PIPELINES)])


# What nobody reads ----------------------------------------------------------------------------------------


def test_what_nobody_reads_compiles_to_the_same_code() -> None:
    module = mdsl.parse(EXAMPLES / "mnist" / "cnn.mir")
    read, consumed = (to_bytecode(module.clone(), consumed=flag) for flag in (False, True))
    assert [f.code for f in read.functions] == [f.code for f in consumed.functions]
    assert [k.ir for k in read.kernels] == [k.ir for k in consumed.kernels]
    assert read.function().outputs == consumed.function().outputs
    assert all(consumed.function().locations)


# Names ----------------------------------------------------------------------------------------------------


def test_outputs_keep_their_names_when_their_values_vanish() -> None:
    program = mdsl.compile("""
        func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
          %same = nn.reshape %x : (tensor<4xf32>) -> tensor<4xf32>
          %once = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32>
          %twice = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32>
          return %same, %once, %twice, %x : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
        }
    """)
    assert [spec.name for spec in program.inputs] == ["x"]
    assert [spec.name for spec in program.outputs] == ["same", "once", "twice", "x_1"]
    x = np.array([-1, 0, 1, 2], np.float32)
    for found, wanted in zip(program(x), (x, np.maximum(x, 0), np.maximum(x, 0), x), strict=True):
        np.testing.assert_array_equal(found, wanted)
