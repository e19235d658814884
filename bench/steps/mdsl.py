"""mdsl: the passes that `mdsl train` runs, on the imported graph, in a program that keeps parameters in blocks as it does."""

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
    from mdsl.bytecode.module import DTYPES, TensorSpec
    from mdsl.compiler.entry import closed, entry
    from mdsl.passes.nn.parameters import lift
    from mdsl.runtime.executable import VmExecutable

    weights = lift(entry(mdsl.parse(model)))
    pipeline = ",".join(filter(None, ("keep-layouts", settings.get("pipeline"))))
    executable = mdsl.compile(mdsl.opt(model, PASSES), threads=threads, **{**settings, "pipeline": pipeline})
    assert isinstance(executable, VmExecutable)
    given = {**weights, **inputs, "lr": np.float32(RATE)}

    def array(spec: TensorSpec) -> np.ndarray:
        if spec.name not in given:
            return np.zeros(spec.shape, DTYPES[spec.dtype])
        layout = executable.layouts.get(spec.name)
        return np.array(given[spec.name]) if layout is None else layout.blocked(given[spec.name], spec.shape)

    arrays = [array(spec) for spec in closed(executable.inputs)]
    arrays, outputs = buffers(executable, arrays)

    def call() -> list[np.ndarray]:
        executable.program.run(arrays, outputs)
        return outputs[:1]

    return Prepared(call, lambda found: [x.copy() for x in found], mdsl.__version__, executable.engine)
