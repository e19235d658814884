"""The paper's table for any program: what each step from an interpreter of scalar code to native code is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdsl import api
from mdsl.dialects.builtin import ModuleOp
from mdsl.executable import VmExecutable
from mdsl.report.dispatches import count
from mdsl.report.measure import Timing, measure

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


def ablation(
    module: ModuleOp, arrays: Sequence[np.ndarray], runs: int, threads: int, settings: Mapping[str, Any]
) -> Iterator[Row]:
    """The rows, as they are measured: interpreted without micro-kernels, with them singly, several in an
    instruction, and native code."""
    given = {"pipeline": settings.get("pipeline")}
    last = settings.get("unroll_dispatch") or 4
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("interpreted", "vm", {"ukernels": False}),
        ("+ micro-kernels", "vm", given),
        *((f"+ unroll-dispatch={n}", "vm", {**given, "unroll_dispatch": n}) for n in FACTORS),
        ("jit", "jit", {**given, "unroll_dispatch": last}),
    ]
    first: float | None = None
    for name, engine, options in variants:
        executable = api.compile(module, engine=engine, threads=threads, **options)
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
