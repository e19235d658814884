"""mdsl's figures, each measured in one run with what it is compared with."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import mdsl
from bench import vm
from bench.figure import Figure
from bench.timing import interleave, ratio
from mdsl.syntax.printer import print_module

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL_TILE = "pack,fuse,tile{sizes=[4,1,16]}"


def interpreter() -> Iterator[Figure]:
    """What the interpreter itself costs."""
    costs = vm.measure()
    yield Figure("interpreter, a simple instruction (addi)", costs["ns per addi"], "ns", "at most", 1.5)
    yield Figure("interpreter, a load", costs["ns per load"], "ns")
    yield Figure("dispatch of an empty micro-kernel", costs["ns per dispatch"], "ns", "at most", 10)
    yield Figure("the same, four in one instruction", costs["ns per dispatch in a batch of 4"], "ns")


def unrolling() -> Iterator[Figure]:
    """What dispatching several kernels at a time gains a product of 512 x 512 x 512, on one thread."""
    program = EXAMPLES / "matmul.mir"
    inputs = _random((512, 512), (512, 512))
    for name, pipeline, limit in (("4x16 tiles", SMALL_TILE, 1.6), ("default tiles", None, 0.98)):
        single = mdsl.compile(program, pipeline=pipeline)
        unrolled = mdsl.compile(program, pipeline=pipeline, unroll_dispatch=4)
        times = interleave({"single": _call(single, inputs), "unrolled": _call(unrolled, inputs)}, 4)
        gain = ratio(times["single"], times["unrolled"])
        yield Figure(
            f"matmul 512, {name}, unroll-dispatch=4 against single dispatch", gain, "x", "at least", limit
        )


def mnist() -> Iterator[Figure]:
    """The paper's table, on the MNIST CNN: VMVX became 178 times faster with a matmul micro-kernel."""
    program = EXAMPLES / "mnist" / "cnn.mir"
    inputs = _random((1, 1, 28, 28))
    variants = {
        "interpreted": mdsl.compile(program, ukernels=False),
        "ukernels": mdsl.compile(program),
        "unrolled": mdsl.compile(program, unroll_dispatch=4),
        "jit": mdsl.compile(program, engine="jit", unroll_dispatch=4),
    }
    times = interleave({name: _call(exe, inputs) for name, exe in variants.items()}, 4)
    yield Figure("MNIST CNN, interpreted", times["interpreted"].median * 1e6, "us")
    yield Figure("MNIST CNN, + micro-kernels", times["ukernels"].median * 1e6, "us")
    yield Figure("MNIST CNN, + unroll-dispatch=4", times["unrolled"].median * 1e6, "us")
    yield Figure("MNIST CNN, jit", times["jit"].median * 1e6, "us")
    yield Figure(
        "MNIST CNN, micro-kernels against interpreted (the paper's: 178x)",
        ratio(times["interpreted"], times["ukernels"]),
        "x",
    )


def text() -> Iterator[Figure]:
    """Parsing and printing a large module; the default pipeline in a new process, without and with the cache."""
    lines = [
        f"  %v{i + 1} = nn.add %v{i}, %v0 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>"
        for i in range(10_000)
    ]
    text = "\n".join(
        [
            "func.func @main(%v0: tensor<4xf32>) -> tensor<4xf32> {",
            *lines,
            "  return %v10000 : tensor<4xf32>",
            "}",
        ]
    )
    mdsl.parse("func.func @main() { return }")
    start = time.perf_counter()
    print_module(mdsl.parse(text))
    yield Figure("parse + print of 10,000 ops", time.perf_counter() - start, "s", "at most", 3)
    with tempfile.TemporaryDirectory() as folder:
        pycache = f"{folder}/pycache"
        _compile_in_new_process("off", pycache)
        cold = _compile_in_new_process(f"{folder}/kernels", pycache)
        warm = min(_compile_in_new_process(f"{folder}/kernels", pycache) for _ in range(3))
    yield Figure("MNIST CNN, text to executable, empty cache", cold, "s", "at most", 2)
    yield Figure("MNIST CNN, text to executable, with the cache", warm, "s", "at most", 0.5)


def _compile_in_new_process(cache: str, pycache: str) -> float:
    """Seconds of `mdsl.compile` in a process of its own, imports included.

    Python keeps the bytecode of its modules in `pycache`, as an installation keeps it beside them.
    """
    program = EXAMPLES / "mnist" / "cnn.mir"
    code = f"import time; s = time.perf_counter(); import mdsl; mdsl.compile({str(program)!r}); print(time.perf_counter() - s)"
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "MDSL_CACHE_DIR": cache, "PYTHONPYCACHEPREFIX": pycache},
        capture_output=True,
        check=True,
    )
    return float(done.stdout)


def _random(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def _call(exe: mdsl.Executable, inputs: list[np.ndarray]) -> Callable[[], object]:
    return lambda: exe(*inputs)


SECTIONS: dict[str, Callable[[], Iterator[Figure]]] = {
    f.__name__: f for f in (interpreter, unrolling, mnist, text)
}
