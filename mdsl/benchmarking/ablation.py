"""`--ablation`: the time of a program with each optimisation added in turn, from scalar interpretation to the JIT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdsl import api
from mdsl.benchmarking.measure import Timing, measure
from mdsl.benchmarking.profile import count
from mdsl.compiler.levels import has_micro_kernels, level_of, standard_passes
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.runtime.executable import VmExecutable

FACTORS = (2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One variant of a program: its time, and the instructions, the dispatches and the micro-kernel calls of one
    call. Of native code, instructions and dispatches are None: nothing is interpreted."""

    name: str
    timing: Timing
    instructions: int | None
    dispatches: int | None
    kernel_calls: int
    speedup: float


def can_ablate(module: ModuleOp) -> bool:
    """False for a program that is lowered so far that it has micro-kernels already, or cannot get any."""
    level = level_of(module)
    loops = standard_passes(Settings(ukernels=False), level)
    return not has_micro_kernels(module) and loops != standard_passes(DEFAULT, level)


def ablation(
    module: ModuleOp, arrays: Sequence[np.ndarray], runs: int, threads: int, settings: Settings
) -> Iterator[Row]:
    """The rows, as they are measured: interpreted without micro-kernels, with them singly, several in an
    instruction, and native code, which has as many in one as the settings say, else 4. Raises MdslError, for a
    module that `can_ablate` refuses too."""
    single = replace(settings, unroll_dispatch=None)
    variants = [
        ("interpreted", "vm", replace(single, ukernels=False)),
        ("+ micro-kernels", "vm", single),
        *((f"+ unroll-dispatch={n}", "vm", replace(settings, unroll_dispatch=n)) for n in FACTORS),
        ("jit", "jit", replace(settings, unroll_dispatch=settings.unroll_dispatch or 4)),
    ]
    first: float | None = None
    for name, engine, chosen in variants:
        executable = api.build(module, chosen, engine, threads)
        assert isinstance(executable, VmExecutable)
        timing = measure(executable, arrays, runs)
        counted = count(executable, arrays)
        first = first or timing.median
        interpreted = engine == "vm"
        yield Row(
            name,
            timing,
            counted.instructions if interpreted else None,
            counted.dispatches if interpreted else None,
            counted.kernel_calls,
            first / timing.median,
        )
