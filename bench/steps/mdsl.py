"""mdsl: the passes that `mdsl train` runs, on the imported graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.steps import MOMENTUM, RATE
from mdsl.benchmarking.peers import Prepared

PASSES = f"parameters,train-mode,trim-filters,autodiff,sgd{{momentum={MOMENTUM}}}"


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int, settings: Mapping[str, Any]) -> Prepared:
    import mdsl
    from mdsl.benchmarking.measure import buffers
    from mdsl.bytecode.module import DTYPES
    from mdsl.compiler.entry import closed, entry
    from mdsl.passes.nn.parameters import lift
    from mdsl.runtime.executable import VmExecutable

    weights = lift(entry(mdsl.parse(model)))
    executable = mdsl.compile(mdsl.opt(model, PASSES), threads=threads, **settings)
    assert isinstance(executable, VmExecutable)
    given = {**weights, **inputs, "lr": np.float32(RATE)}
    arrays = [
        np.array(given[s.name]) if s.name in given else np.zeros(s.shape, DTYPES[s.dtype])
        for s in closed(executable.inputs)
    ]
    arrays, outputs = buffers(executable, arrays)

    def call() -> list[np.ndarray]:
        executable.program.run(arrays, outputs)
        return outputs[:1]

    return Prepared(call, lambda found: [x.copy() for x in found], mdsl.__version__, executable.engine)
