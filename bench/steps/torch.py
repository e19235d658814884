"""PyTorch: the same compiled by torch.compile, forwards and backwards; it needs a C++ compiler."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.steps.torch_eager import stepping
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    return stepping(model, inputs, threads, _compiled, "torch.compile")


def _compiled(loss: Any, arguments: Any) -> Any:
    """The whole of it as one graph. It is traced by a run: what torch.compile reads itself is Python's code, in which it stumbles over
    NumPy's functions, and makes a graph of each part between."""
    torch: Any = import_module("torch")
    tracing: Any = import_module("torch.fx.experimental.proxy_tensor")
    return torch.compile(tracing.make_fx(loss)(*arguments), fullgraph=True)
