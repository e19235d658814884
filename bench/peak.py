"""The FMA peak of one thread: what the micro-kernels' speed is compared with."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from mdsl.codegen.native import compile_module
from mdsl.codegen.target import Target

_LLVM_TYPE = {"f32": "float", "f64": "double"}
_STEPS = 100_000


def measure_peak(element: str = "f32", repetitions: int = 200) -> float:
    """The most floating-point operations that one thread does in a second, in GFLOP/s (an FMA is two).

    A loop of independent chains of vector FMAs, more than the FMA units can have in flight; the best of
    `repetitions` short runs, so that other processes do not lower the figure.
    """
    run, operations = fma_loop(element)
    return operations / min(_seconds(run) for _ in range(repetitions)) / 1e9


def fma_loop(element: str = "f32") -> tuple[Callable[[], object], int]:
    """A call that does nothing but FMAs, for well under a millisecond, and the operations that it does."""
    target = Target.host()
    chains = min(2 * target.fma_chains, target.vector_registers - 4)
    code = compile_module(_fma_loop(element, target.lanes(element), chains), ["peak"])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address("peak"))
    memory = (ctypes.c_char * (target.vector_bytes * chains))()

    def call(keep: object = code) -> None:
        run(ctypes.addressof(memory), _STEPS)

    return call, 2 * target.lanes(element) * chains * _STEPS


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _fma_loop(element: str, lanes: int, chains: int) -> str:
    """LLVM IR of `void peak(ptr, i64 steps)`: each of `chains` vectors, loaded from memory, becomes
    fma(itself, x, y) at every step."""
    vector = f"<{lanes} x {_LLVM_TYPE[element]}>"
    size = 8 if element == "f64" else 4
    fma = f"@llvm.fma.v{lanes}{element}"
    head, loop, tail = [], [], []
    for c in range(chains):
        head += [
            f"  %p{c} = getelementptr i8, ptr %memory, i64 {c * lanes * size}",
            f"  %a{c} = load {vector}, ptr %p{c}, align {size}",
        ]
        loop.append(f"  %b{c} = phi {vector} [ %a{c}, %entry ], [ %c{c}, %loop ]")
        tail.append(f"  store {vector} %c{c}, ptr %p{c}, align {size}")
    fmas = [
        f"  %c{c} = call {vector} {fma}({vector} %b{c}, {vector} %a0, {vector} %a1)" for c in range(chains)
    ]
    lines = [
        f"declare {vector} {fma}({vector}, {vector}, {vector})",
        "define void @peak(ptr %memory, i64 %steps) {",
        "entry:",
        *head,
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]",
        *loop,
        *fmas,
        "  %next = add i64 %i, 1",
        "  %more = icmp slt i64 %next, %steps",
        "  br i1 %more, label %loop, label %exit",
        "exit:",
        *tail,
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    for element in _LLVM_TYPE:
        print(f"{element}: {measure_peak(element):.1f} GFLOP/s")
