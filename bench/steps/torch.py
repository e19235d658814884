"""PyTorch: the same compiled by torch.compile, forwards and backwards; it needs a C++ compiler."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.steps.torch_eager import stepping
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    torch: Any = import_module("torch")
    return stepping(model, inputs, threads, torch.compile, "torch.compile")
