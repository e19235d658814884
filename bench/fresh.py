"""What can only be measured in a fresh process: loading, compiling, peak memory. Each is measured several times in
turn with what it is compared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mdsl.benchmarking.peers.iree import cpu, imported

TURNS = 5
COMPILATIONS = 3

_MDSL = """
import time; start = time.perf_counter()
import mdsl
from mdsl.bytecode.module import DTYPES
import numpy as np
imported = time.perf_counter()
run = mdsl.COMMAND(PATH)
inputs = [np.zeros(spec.shape, DTYPES[spec.dtype]) for spec in run.inputs]
run(*inputs)
"""

_ONNXRUNTIME = """
import time; start = time.perf_counter()
import numpy as np, onnxruntime
imported = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])
types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
inputs = [{spec.name: np.zeros(spec.shape, types[spec.type]) for spec in session.get_inputs()}]
run = lambda x: session.run(None, x)
run(*inputs)
"""

_REPORT = """
end, busy = time.perf_counter(), time.process_time()
for _ in range(CALLS):
    run(*inputs)
import json
from bench.resident import peak_bytes
print(json.dumps([imported - start, end - imported, busy, peak_bytes()]))
"""


@dataclass(frozen=True)
class First:
    """Seconds to import the library, and then to load the model and get the first result; seconds of all processors that
    the process took for both, the interpreter's start included; bytes that it had in memory at most."""

    imports: float
    load: float
    busy: float
    memory: float

    @property
    def whole(self) -> float:
        return self.imports + self.load


def first_results(program: str, model: str, calls: int = 0) -> tuple[First, First]:
    """mdsl's on a `.mbc` file, or on an `.onnx` file that it compiled before, onnxruntime's on an `.onnx` file; medians
    over processes, which make so many more `calls`. The kernels are in mdsl's cache, the files in the system's."""
    own = _MDSL.replace("COMMAND", "load" if program.endswith(".mbc") else "compile")
    ours, theirs = _in_turn(lambda: _run(own, program, calls), lambda: _run(_ONNXRUNTIME, model, calls))
    return _first(ours), _first(theirs)


def compile_times(model: str) -> tuple[float, float, float]:
    """Seconds of `mdsl compile` with an empty and with a warm cache, from the .onnx file, and of iree-compile, from
    the imported .mlir file, for the LLVM backend; medians."""
    bin = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        result, text = f"{folder}/net.mbc", str(imported(model, Path(folder)))
        ours = [sys.executable, "-m", "mdsl", "compile", model, "-o", result]
        theirs = [str(bin / "iree-compile"), text, "-o", f"{folder}/net.vmfb"]
        theirs += ["--iree-hal-target-backends=llvm-cpu", f"--iree-llvmcpu-target-cpu={cpu()}"]
        _time(ours, f"{folder}/warm")
        caches = iter(range(COMPILATIONS))
        cold, warm, other = _in_turn(
            lambda: _time(ours, f"{folder}/cache{next(caches)}"),
            lambda: _time(ours, f"{folder}/warm"),
            lambda: _time(theirs, ""),
            turns=COMPILATIONS,
        )
        return median(cold), median(warm), median(other)


def _in_turn(*measurements: Callable[[], object], turns: int = TURNS) -> list[list]:
    found: list[list] = [[] for _ in measurements]
    for _ in range(turns):
        for results, measure in zip(found, measurements, strict=True):
            results.append(measure())
    return found


def _run(code: str, path: str, calls: int) -> list[float]:
    """Runs the code in a new process; what its report prints."""
    text = (code + _REPORT).replace("PATH", repr(path)).replace("CALLS", str(calls))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _first(rows: Sequence[Sequence[float]]) -> First:
    return First(*(median(column) for column in zip(*rows, strict=True)))


def _time(command: list[str], cache: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, env={**os.environ, "MDSL_CACHE_DIR": cache or "off"}, capture_output=True, check=True
    )
    return time.perf_counter() - start
