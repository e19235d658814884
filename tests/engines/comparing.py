"""Runs a program on every engine and compares the results with the reference's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

import mdsl
from mdsl.bytecode.module import TensorSpec
from mdsl.compiler.driver import to_bytecode
from mdsl.compiler.entry import random_arrays
from mdsl.compiler.levels import without_effect
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.runtime.executable import VmExecutable

TOLERANCE = {"f64": 1e-9, "f32": 2e-4, "f16": 4e-2, "bf16": 3e-1}
"""Largest difference, relative to the output's largest number (at least 1), that rounding in another order explains."""


@dataclass(frozen=True)
class Setting:
    """How a program is compiled and run."""

    engine: str = "vm"
    threads: int = 1
    ukernels: bool = True
    unroll_dispatch: int | None = None


SETTINGS = tuple(
    Setting(engine, threads, ukernels, unroll)
    for ukernels, unrolls in ((True, (None, *range(1, 9))), (False, (None,)))
    for unroll in unrolls
    for engine in ("vm", "jit")
    for threads in (1, 2)
)


def some_settings(random: Random, count: int) -> list[Setting]:
    """`count` of all settings: one without micro-kernels, the others with those of one unrolling, so that two programs
    are compiled."""
    plain = [s for s in SETTINGS if not s.ukernels]
    unroll = random.choice([s.unroll_dispatch for s in SETTINGS if s.ukernels])
    unrolled = [s for s in SETTINGS if s.ukernels and s.unroll_dispatch == unroll]
    return [random.choice(plain), *random.sample(unrolled, count - 1)]


EXCEPTIONS = (np.nan, np.inf, -np.inf, -0.0, 0.0)


def exceptional_arrays(specs: Sequence[TensorSpec], seed: int = 0) -> list[np.ndarray]:
    """Random arrays with NaN, infinities and zeros, or the ends of the integers, in many places."""
    random, arrays = np.random.default_rng(seed), random_arrays(specs, seed)
    for array in arrays:
        flat = array.reshape(-1)
        numbers: Sequence[float] = EXCEPTIONS
        if array.dtype.kind in "bi":
            numbers = (
                (0, 1)
                if array.dtype == np.bool_
                else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max, -1, 0)
            )
        for number in numbers:
            flat[random.integers(0, flat.size, max(1, flat.size // 8))] = number
    return arrays


def settings_for(module: ModuleOp, ukernels: bool, unroll: int | None) -> Settings:
    """The settings, but for those that come too late for the module."""
    asked = Settings(ukernels, unroll)
    return replace(asked, **{name: getattr(DEFAULT, name) for name in without_effect(asked, module)})


Inputs = Callable[[Sequence[TensorSpec]], list[np.ndarray]]


def compare(program: str | Path, settings: Iterable[Setting], make_inputs: Inputs = random_arrays) -> None:
    """Asserts that the program computes the reference's results in each setting, twice in a row."""
    module = mdsl.parse(program)
    reference = mdsl.compile(module, engine="reference")
    inputs = make_inputs(reference.inputs)
    wanted = as_list(reference(*inputs))
    tolerance = tolerance_of(program if isinstance(program, str) else program.read_text())
    compiled: dict[tuple[bool, int | None], object] = {}
    for setting in settings:
        key = (setting.ukernels, setting.unroll_dispatch)
        if key not in compiled:
            compiled[key] = to_bytecode(module.clone(), settings_for(module, *key))
        program = VmExecutable(compiled[key], setting.engine, setting.threads)  # type: ignore[arg-type]
        assert_same_signature(program, reference, setting)
        for _ in range(2):  # the second call finds the arena as the first has left it
            assert_close(as_list(program(*inputs)), wanted, tolerance, setting)


def assert_same_signature(found: mdsl.Executable, wanted: mdsl.Executable, setting: object) -> None:
    assert found.inputs == wanted.inputs, setting
    assert found.outputs == wanted.outputs, setting


def as_list(outputs: np.ndarray | tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def tolerance_of(text: str) -> float:
    """The tolerance of the coarsest floats that the program computes with."""
    return max(
        (
            limit
            for name, limit in TOLERANCE.items()
            if re.search(rf"(?<![a-z]){name}\b", text.replace("x", " "))
        ),
        default=0.0,
    )


def assert_close(
    found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: float, what: object
) -> None:
    """Asserts that arrays agree: floats within the tolerance, relative to the largest of them, the others exactly."""
    assert len(found) == len(wanted), what
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}: output {number}"
        if b.dtype.kind in "bi":
            np.testing.assert_array_equal(a, b, err_msg=f"{what}: output {number}")
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        limit = tolerance * max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        np.testing.assert_allclose(
            a, b, rtol=0, atol=limit, equal_nan=True, err_msg=f"{what}: output {number}"
        )
