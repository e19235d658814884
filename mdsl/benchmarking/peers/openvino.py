"""OpenVINO's CPU device, in f32 as the others (left alone, it takes bf16 where the processor has it)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    openvino: Any = import_module("openvino")

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled: Any = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    outputs = range(len(compiled.outputs))
    return Prepared(
        lambda: request.infer(),
        lambda _: [request.get_output_tensor(i).data.copy() for i in outputs],
        openvino.__version__.split("-")[0],
    )
