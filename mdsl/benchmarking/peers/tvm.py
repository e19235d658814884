"""TVM's Relax, from its ONNX front end, built with its default pipeline for the host's CPU: not tuned."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Prepared
from mdsl.codegen.llvm_target import cpu_of
from mdsl.target.target import Target


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    import onnx

    tvm: Any = import_module("tvm")
    relax: Any = import_module("tvm.relax")
    frontend: Any = import_module("tvm.relax.frontend.onnx")

    module = frontend.from_onnx(onnx.load(model), {name: array.shape for name, array in inputs.items()})
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu_of(Target.host()), "num-cores": threads})
    with target:
        built = relax.build(module, target)
    machine: Any = relax.VirtualMachine(built, tvm.cpu())
    arrays = [tvm.runtime.tensor(array) for array in inputs.values()]

    def to_numpy(found: Any) -> list[np.ndarray]:
        return [found.numpy()] if hasattr(found, "numpy") else [x.numpy() for x in found]

    return Prepared(lambda: machine["main"](*arrays), to_numpy, tvm.__version__, "untuned")
