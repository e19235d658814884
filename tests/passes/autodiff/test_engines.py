"""autodiff: the adjoints of ops in f32 on every engine, against the reference."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from lowering import arrays, program
from test_autodiff import RANGES

import mdsl
from mdsl.passes.nn.autodiff.build import VJPS
from mdsl.runtime.executable import VmExecutable
from mdsl.syntax.parser import parse

lower_nn = import_module("tests.passes.lower-nn.test_lower_nn")

CASES = [c for c in lower_nn.CASES if c[0] in VJPS and c[2].endswith("f32") and "f32" in c[1]]


@pytest.mark.parametrize("ukernels", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_engine_computes_the_adjoint(case: tuple[str, str, str, str], ukernels: bool) -> None:
    text = program(*case)
    inputs = arrays(parse(text, "test.mir"), 0, *RANGES.get(case[0], (-3, 3)))
    floats = [i for i, array in enumerate(inputs) if array.dtype == np.float32]
    gradient = mdsl.grad(text, floats, seed="argument")
    y = mdsl.compile(text, engine="reference")(*inputs)
    seed = np.asarray(np.random.default_rng(1).normal(size=np.shape(y)), np.float32)
    wanted = mdsl.compile(gradient, engine="reference")(*inputs, seed)
    compiled = mdsl.compile(gradient, ukernels=ukernels)
    assert isinstance(compiled, VmExecutable)
    for executable in (compiled, VmExecutable(compiled.module, "jit", threads=2)):
        for found, partial in zip(executable(*inputs, seed), wanted, strict=True):
            scale = max(1.0, float(np.abs(partial).max(initial=0)))
            np.testing.assert_allclose(found, partial, rtol=0, atol=1e-4 * scale)
