"""PyTorch: the translation of `torch_eager`, traced, frozen and optimised for inference by TorchScript, which folds
batch normalisations and fuses with oneDNN; where that fails, it is not optimised, and `how` says so."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.torch_eager import network, to_numpy
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    torch: Any = import_module("torch")

    run, arrays = network(model, inputs, threads)
    warnings.simplefilter("ignore")
    with torch.inference_mode():
        traced: Any = torch.jit.freeze(torch.jit.trace(run, tuple(arrays), check_trace=False))
        how = "traced, frozen"
        try:
            optimised = torch.jit.optimize_for_inference(traced)
            for _ in range(3):
                optimised(*arrays)
            traced, how = optimised, "traced, frozen, optimize_for_inference"
        except RuntimeError:
            pass

    def call() -> Any:
        with torch.inference_mode():
            return traced(*arrays)

    return Prepared(call, to_numpy, torch.__version__, how)
