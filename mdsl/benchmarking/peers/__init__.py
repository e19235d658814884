"""Other runtimes that `mdsl bench --vs` runs beside mdsl: one file each, imported in a process of its own. An adapter
that lies elsewhere is named by its module.

An adapter has one function, `prepare(model, inputs, threads)`: it loads the ONNX file `model` for arrays of the
shapes and types of `inputs` (by the names of the graph's inputs) and gives what calls it. It raises ImportError
if its runtime is not installed, `Refused` if the runtime cannot take the model; whatever the runtime itself raises
counts as a refusal too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdsl.target.target import HOST, Target


@dataclass(frozen=True)
class Prepared:
    """A model on a runtime. `call` runs it once on the inputs that it was prepared with, `arrays` makes NumPy
    arrays of what `call` returned, in the order of the graph's outputs; `version` is the runtime's, `how` what
    exactly runs, where a runtime has several ways."""

    call: Callable[[], Any]
    arrays: Callable[[Any], list[np.ndarray]]
    version: str
    how: str = ""


class Refused(Exception):
    """A runtime that cannot take a model, and why."""


PEERS: dict[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "iree": "iree-base-compiler iree-base-runtime onnx",
    "iree-vmvx": "iree-base-compiler iree-base-runtime onnx",
    "tvm": "apache-tvm onnx",
}
"""The packages to install for each peer, by the name that `--vs` knows it by: that of its module here."""


def environment(threads: int, target: Target | None = None) -> dict[str, str]:
    """The environment in which every peer runs: what decides over threads before a library is loaded, and, with a
    `target` that is not the processor itself, over the instructions that a library may use."""
    count = str(threads)
    found = {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TVM_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if target is not None and target.architecture == "x86_64" and target.name != "host":
        openblas, onednn, torch, mkl = _ISA[target.vector_bytes]
        found |= {"OPENBLAS_CORETYPE": openblas, "ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": torch}
        found |= {"MKL_ENABLE_INSTRUCTIONS": mkl, HOST: target.name}
        found["XLA_FLAGS"] += f" --xla_cpu_max_isa={mkl}"
    return found


_ISA = {
    16: ("Nehalem", "SSE41", "default", "SSE4_2"),
    32: ("Haswell", "AVX2", "avx2", "AVX2"),
    64: ("SkylakeX", "AVX512_CORE", "avx512", "AVX512"),
}
"""By bytes of a vector, what OpenBLAS, oneDNN (in torch, OpenVINO and TensorFlow), torch's own code, and MKL and XLA call
the instructions. ONNX Runtime looks at the processor alone."""


UNLIMITED = "uses all that the processor has"


def unlimited() -> str:
    """What to say of a library that cannot be told where this process takes the processor for one that can do less."""
    return "" if Target.host().name == "host" else UNLIMITED
