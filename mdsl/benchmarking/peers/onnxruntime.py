"""ONNX Runtime, its CPU provider. Inputs and outputs are bound beforehand, which its API has for repeated calls."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Prepared, unlimited


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    onnxruntime: Any = import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    session.run_with_iobinding(binding)
    # From now on the outputs stay where the first call put them.
    for output, value in zip(session.get_outputs(), binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(output.name, value)
    return Prepared(
        lambda: session.run_with_iobinding(binding),
        lambda _: [value.numpy() for value in binding.get_outputs()],
        onnxruntime.__version__,
        unlimited(),
    )
