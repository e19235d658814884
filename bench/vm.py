"""What the virtual machine itself costs: an instruction, a dispatch, a call.

Run as a script, it prints the figures; `measure` returns them. All are minima over repetitions, which is
what other programs on the machine disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mdsl.analysis.footprints import KernelArgument
from mdsl.bytecode.module import BufferArgument, Function, Instruction, Kernel, Module, TensorSpec
from mdsl.codegen import native
from mdsl.codegen.kernels import Kernels
from mdsl.vm.program import Program

_EMPTY_KERNEL = "define void @empty(ptr %arguments) {\n  ret void\n}\n"
_UNROLL = 16
_TRIPS = 20_000
_LOOP = [Instruction("parallel_begin", (2, 0, 7, 1)), Instruction("parallel_end")]


def measure(repetitions: int = 15) -> dict[str, float]:
    """Nanoseconds of an instruction (in a loop of adds), of a trip of an empty loop, of a dispatch of an
    empty micro-kernel with three arguments (single, and in a batch of 4), of a multiply-add in the scalar
    interpreter; microseconds of a call with one input and one output and a parallel loop of 8 empty trips, by engine and threads, and
    of another such loop."""
    kernel = native.compile_module(_EMPTY_KERNEL, ["empty"])
    address = kernel.address("empty")
    once = _time(_program(_looped([])), repetitions)
    figures = {"ns per loop trip": once / _TRIPS}
    for name, body, count in (
        ("ns per addi", [Instruction("addi.i64", (3, 3, 1))] * _UNROLL, _UNROLL),
        ("ns per addf", [Instruction("addf.f32", (4, 4, 5))] * _UNROLL, _UNROLL),
        ("ns per load", [Instruction("load.f32", (4, 0, 0))] * _UNROLL, _UNROLL),
        ("ns per dot", [Instruction("dot.f32", (4, 0, 0, 0, 1, 0, 0, 0, 1))] * _UNROLL, _UNROLL),
        ("ns per dispatch", [_dispatch(1)] * 4, 4),
        ("ns per dispatch in a batch of 4", [_dispatch(4)], 4),
    ):
        figures[name] = (_time(_program(_looped(body), address), repetitions) - once) / (_TRIPS * count)
    for engine in ("vm", "jit"):
        for threads in (1, 2):
            how = f"({engine}, {threads} thread{'s'[: threads - 1]})"
            once, often = (_call(_program(_LOOP * n, engine=engine, threads=threads)) for n in (1, 101))
            figures[f"us per call {how}"] = once * 1e-3
            figures[f"us per parallel loop {how}"] = (often - once) * 1e-5
    return figures


def _looped(body: list[Instruction]) -> list[Instruction]:
    return [Instruction("loop_begin", (2, 0, 6, 1)), *body, Instruction("loop_end")]


def _dispatch(batch: int) -> Instruction:
    arguments = (BufferArgument(0), BufferArgument(0, 0, 4), BufferArgument(1, 0, 4))
    return Instruction("dispatch", (0, (arguments,) * batch))


def _program(
    code: list[Instruction], address: int | None = None, engine: str = "vm", threads: int = 1
) -> Program:
    integers, floats = [(0, 0), (1, 1), (3, 0), (6, _TRIPS), (7, 8)], [(4, 0.0), (5, 1.0)]
    function = Function(
        "main",
        (TensorSpec("x", "f32", (16,)),),
        (TensorSpec("y", "f32", (16,)),),
        ("i64", "i64", "i64", "i64", "f32", "f32", "i64", "i64"),
        0,
        [
            *(Instruction("const.i64", operands) for operands in integers),
            *(Instruction("const.f32", operands) for operands in floats),
            *code,
            Instruction("ret"),
        ],
    )
    if address is None:
        return Program(Module([function]), engine=engine, threads=threads)
    signature = (KernelArgument("read", 4), KernelArgument("read", 4), KernelArgument("write", 4))
    return Program(
        Module([function], [Kernel("empty", "")]), Kernels({"empty": address}, {"empty": signature})
    )


def _time(program: Program, repetitions: int) -> float:
    """Nanoseconds of a run."""
    x, y = np.zeros(16, np.float32), np.zeros(16, np.float32)
    return _minimum(lambda: program.run([x], [y]), repetitions)


def _call(program: Program, calls: int = 200) -> float:
    x, y = [np.zeros(16, np.float32)], [np.zeros(16, np.float32)]

    def repeat() -> None:
        for _ in range(calls):
            program.run(x, y)

    return _minimum(repeat, 50) / calls


def _minimum(function: Callable[[], object], repetitions: int) -> float:
    """The shortest of some runs, in nanoseconds."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter_ns()
        function()
        best = min(best, time.perf_counter_ns() - start)
    return best


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:34} {value:8.2f}")
