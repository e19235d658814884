"""The machine's peak: floating-point operations, and bytes read, a second on one thread.

Both are measured by native loops made by the same code generator as the micro-kernels, and for the same target: without
one, the host.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mdsl.codegen.native import compile_module
from mdsl.target.processor import cache_bytes
from mdsl.target.target import Target

_LLVM_TYPE = {"f32": "float", "f64": "double"}
_STEPS = 100_000


_STREAMS, _VECTORS = 2, 8
"""The read loop goes through so many parts of the buffer at once, so many vectors of each at a step."""
_ALL_CORES_CACHE = 32 << 20
_READ_BYTES = 64 << 20
"""That are read at least while threads are timed, which take some time to begin and to end."""


@dataclass(frozen=True)
class Roofline:
    """Of some threads together: floating-point operations a second (an FMA is two), and bytes a second read from memory, or
    from the cache that holds what is read."""

    flops: float
    bandwidth: float

    def best(self, other: Roofline) -> Roofline:
        """The higher of two measurements of one machine."""
        return Roofline(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))

    def seconds(self, flops: float, nbytes: float) -> float:
        """The time that work takes at least which does `flops` and reads `nbytes`, both at once."""
        return max(flops / self.flops, nbytes / self.bandwidth)


def measure_roofline(
    threads: int = 1, element: str = "f32", target: Target | None = None, nbytes: int | None = None
) -> Roofline:
    """Takes about half a second a thread. `nbytes` as `measure_bandwidth` takes them."""
    flops = 1e9 * measure_peak(element, target=target) * threads
    return Roofline(flops, 1e9 * measure_bandwidth(nbytes, threads=threads, target=target))


def measure_peak(element: str = "f32", repetitions: int = 200, target: Target | None = None) -> float:
    """The most floating-point operations that one thread does in a second, in GFLOP/s (an FMA is two).

    A loop of independent chains of vector FMAs, more than the FMA units can have in flight; the best of
    `repetitions` short runs, so that other processes do not lower the figure.
    """
    run, operations = fma_loop(element, target)
    return operations / min(_seconds(run) for _ in range(repetitions)) / 1e9


def measure_bandwidth(
    nbytes: int | None = None, repetitions: int = 10, threads: int = 1, target: Target | None = None
) -> float:
    """The most bytes that `threads` threads together read in a second, in GB/s: over and over a buffer of
    `nbytes` each, from the cache that holds it; without it from memory, one four times as large as the last cache."""
    loops = [read_loop(nbytes or 4 * last_cache_bytes(), target) for _ in range(threads)]
    passes = max(1, _READ_BYTES // loops[0][1])

    def reads(call: Callable[[], object]) -> None:
        for _ in range(passes):
            call()

    with ThreadPoolExecutor(threads) as pool:
        calls = [call for call, _ in loops]
        best = min(_seconds(lambda: list(pool.map(reads, calls))) for _ in range(repetitions))
    return passes * sum(size for _, size in loops) / best / 1e9


def last_cache_bytes() -> int:
    """The size of the largest cache, from Linux's /sys; 32 MiB where it does not say."""
    sizes = [cache_bytes(level, 0) for level in (2, 3, 4)]
    return max(sizes) or _ALL_CORES_CACHE


def read_loop(nbytes: int, target: Target | None = None) -> tuple[Callable[[], object], int]:
    """A call that reads a buffer of about `nbytes` once, and its exact size."""
    target = target or Target.host()
    step = target.vector_bytes * _VECTORS * _STREAMS
    nbytes = max(nbytes // step, 1) * step
    code = compile_module(_read_loop(target.vector_bytes), ["read"], target=target)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(code.address("read"))
    memory, result = np.ones(nbytes + 64, np.uint8), np.zeros(target.vector_bytes, np.uint8)
    start = memory.ctypes.data + -memory.ctypes.data % 64

    def call(keep: object = (code, memory)) -> None:
        run(start, nbytes // _STREAMS, result.ctypes.data)

    return call, nbytes


def fma_loop(element: str = "f32", target: Target | None = None) -> tuple[Callable[[], object], int]:
    """A call that does nothing but FMAs, for well under a millisecond, and the operations that it does."""
    target = target or Target.host()
    chains = min(2 * target.fma_chains, target.isa.registers - 4)
    code = compile_module(_fma_loop(element, target.lanes(element), chains), ["peak"], target=target)
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
    itself * x + y at every step: one FMA where the target has that, as in micro-kernels."""
    vector = f"<{lanes} x {_LLVM_TYPE[element]}>"
    size = 8 if element == "f64" else 4
    fma = f"@llvm.fmuladd.v{lanes}{element}"
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


def _read_loop(width: int) -> str:
    """LLVM IR of `void read(ptr, i64 bytes, ptr result)`: the exclusive or of `_STREAMS` parts of `bytes` each,
    so that every byte is needed and arithmetic costs nothing."""
    vector, places = f"<{width} x i8>", [(s, v) for s in range(_STREAMS) for v in range(_VECTORS)]
    loop: list[str] = []
    for s, v in places:
        loop.append(f"  %sum{s}_{v} = phi {vector} [ zeroinitializer, %entry ], [ %next{s}_{v}, %loop ]")
    for s, v in places:
        loop += [
            f"  %at{s}_{v} = add i64 %i, {v * width}",
            f"  %p{s}_{v} = getelementptr i8, ptr %part{s}, i64 %at{s}_{v}",
            f"  %x{s}_{v} = load {vector}, ptr %p{s}_{v}, align {width}",
            f"  %next{s}_{v} = xor {vector} %sum{s}_{v}, %x{s}_{v}",
        ]
    total, tail = "zeroinitializer", []
    for s, v in places:
        tail.append(f"  %total{s}_{v} = xor {vector} {total}, %next{s}_{v}")
        total = f"%total{s}_{v}"
    lines = [
        "define void @read(ptr %memory, i64 %bytes, ptr %result) {",
        "entry:",
        "  %part0 = getelementptr i8, ptr %memory, i64 0",
        *(f"  %part{s} = getelementptr i8, ptr %part{s - 1}, i64 %bytes" for s in range(1, _STREAMS)),
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %after, %loop ]",
        *loop,
        f"  %after = add i64 %i, {width * _VECTORS}",
        "  %more = icmp slt i64 %after, %bytes",
        "  br i1 %more, label %loop, label %exit",
        "exit:",
        *tail,
        f"  store {vector} {total}, ptr %result, align 1",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)
