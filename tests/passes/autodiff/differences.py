"""Gradients against finite differences, in f64 on the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import mdsl
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import functions
from mdsl.reference import run

STEP = 1e-5


def float_arguments(module: ModuleOp) -> list[int]:
    """The numbers of the arguments that are f64."""
    args = functions(module)[0].args
    return [i for i, a in enumerate(args) if str(a.type).endswith("f64>")]


def check(program: str | ModuleOp, inputs: Sequence[np.ndarray], tolerance: float = 1e-6) -> ModuleOp:
    """J^T c of the appended adjoint, for a random c, against central differences of c . f along random directions."""
    module = mdsl.parse(program)
    wrt = float_arguments(module)
    gradient = mdsl.grad(program, wrt, seed="argument")
    (y,) = run(module, inputs)
    random = np.random.default_rng(1)
    c = np.asarray(random.normal(size=y.shape))
    same, *found = run(gradient, [*inputs, c])
    np.testing.assert_allclose(same, y, rtol=1e-12, atol=1e-12)  # losses are decomposed
    for at, partial in zip(wrt, found, strict=True):
        assert partial.shape == inputs[at].shape and np.isfinite(partial).all()
        for _ in range(3):
            direction = np.asarray(random.normal(size=partial.shape))
            ends = []
            for sign in (1, -1):
                moved = list(inputs)
                moved[at] = np.asarray(inputs[at] + sign * STEP * direction)
                ends.append(float((run(module, moved)[0] * c).sum()))
            slope, wanted = float((partial * direction).sum()), (ends[0] - ends[1]) / (2 * STEP)
            scale = max(1.0, abs(wanted), float(np.abs(partial).sum()))
            assert abs(slope - wanted) <= tolerance * scale, (at, slope, wanted)
    return gradient
