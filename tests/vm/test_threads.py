"""Many threads on one program: right results, no deadlock, memory that stays bounded, throughput that holds."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest

import mdsl
from mdsl.runtime.executable import VmExecutable
from mdsl.support.processors import processors
from mdsl.vm.calls import native_calls
from mdsl.vm.memory import Frame, OutputPool

UNGUARDED = True
TEXT = """
func.func @main(%x: tensor<64x256xf32>, %w: tensor<256x256xf32>) -> (tensor<64x256xf32>, tensor<64xf32>) {
  %h = nn.matmul %x, %w : (tensor<64x256xf32>, tensor<256x256xf32>) -> tensor<64x256xf32>
  %r = nn.relu %h : (tensor<64x256xf32>) -> tensor<64x256xf32>
  %y = nn.matmul %r, %w : (tensor<64x256xf32>, tensor<256x256xf32>) -> tensor<64x256xf32>
  %sum = nn.reduce %y {kind = "max", axes = [1], keepdims = false} : (tensor<64x256xf32>) -> tensor<64xf32>
  return %y, %sum : tensor<64x256xf32>, tensor<64xf32>
}
"""
W = np.random.default_rng(0).standard_normal((256, 256), np.float32) / 16


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((64, 256), np.float32)
    return x, np.maximum(x @ W, 0) @ W


def hammer(program: VmExecutable, callers: int, seconds: float) -> int:
    """Calls from many threads for a while, twice from each at least, each checked; how many there were."""
    together = threading.Barrier(callers)

    def caller(seed: int) -> int:
        x, wanted = example(seed)
        together.wait(30)
        end, calls = time.perf_counter() + seconds, 0
        while calls < 2 or time.perf_counter() < end:
            y, largest = program(x, W)
            calls += 1
            if calls % 8 == 1:
                np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(largest, y.max(axis=1))
        return calls

    with ThreadPoolExecutor(callers) as pool:
        return sum(done.result(seconds + 60) for done in [pool.submit(caller, i) for i in range(callers)])


@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("threads", [1, 2])
def test_eight_callers(engine: str, threads: int) -> None:
    program = cast("VmExecutable", mdsl.compile(TEXT, engine=engine, threads=threads))
    hammer(program, 8, 0.2)
    assert len(program.program._frames.frames) <= (processors() if threads == 1 else 1)
    assert all(len(pool._free) <= OutputPool.KEPT for pool in program.program._pools)


def _resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_and_throughput_hold_under_load(threads: int) -> None:
    program = cast("VmExecutable", mdsl.compile(TEXT, threads=threads))
    alone = hammer(program, 1, 2)
    hammer(program, 8, 1)
    before = _resident()
    crowd = hammer(program, 8, 6) / 3
    assert _resident() - before < 8 << 20
    assert crowd > 0.5 * alone, f"{crowd} calls in two seconds by eight threads, {alone} by one"


@pytest.mark.parametrize("threads", [1, 2])
def test_who_finds_no_frame_waits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsl.vm.program.processors", lambda: 1)
    program = cast("VmExecutable", mdsl.compile(TEXT, threads=threads))
    assert hammer(program, 6, 0.1) >= 6
    assert len(program.program._frames.frames) == 1


def test_a_frame_that_cannot_be_made_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    program = cast("VmExecutable", mdsl.compile(TEXT))
    x, wanted = example(0)

    def fails(*_: object, **__: object) -> Frame:
        raise MemoryError

    monkeypatch.setattr("mdsl.vm.program.Frame", fails)
    with pytest.raises(mdsl.MdslError, match="no memory for"):
        program(x, W)
    monkeypatch.undo()
    np.testing.assert_allclose(program(x, W)[0], wanted, rtol=1e-4, atol=1e-4)


PARTLY = """
func.func @main(%x: memref<4xf32>, %y: memref<{0}xf32> {{mdsl.output}}, %z: memref<{0}xf32> {{mdsl.output}}) {{
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  %value = memref.load %x[%c3] : memref<4xf32>
  memref.store %value, %y[%c2] : memref<{0}xf32>
  return
}}
"""


@pytest.mark.parametrize("size", [8, 100_000])
def test_what_is_not_written_is_zero(size: int) -> None:
    program = mdsl.compile(PARTLY.format(size))
    x = np.arange(4, dtype=np.float32)
    for _ in range(3):
        y, z = program(x)
        assert y[2] == 3 and np.count_nonzero(y) == 1 and not z.any()
        y[...] = z[...] = 7
        del y, z


def test_the_clock_goes_on() -> None:
    start, end = native_calls().clock(), time.perf_counter() + 1
    while native_calls().clock() <= start and time.perf_counter() < end:
        pass
    assert native_calls().clock() > start
