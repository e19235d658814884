"""Training steps of ONNX graphs that end in a loss, on mdsl and on its peers: a file a runtime, an adapter as `mdsl.benchmarking.peers`
has them. A call does one step of SGD with momentum on the same batch, and gives the loss before it."""

from __future__ import annotations

import numpy as np

from bench.peers.onnx_graph import Graph

RATE, MOMENTUM = 1e-3, 0.9


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    """What a step trains: all floats but scalars and the statistics of normalisations."""
    observed = {
        name for node in graph.nodes if node.op_type == "BatchNormalization" for name in node.inputs[3:]
    }
    return {
        name: array
        for name, array in graph.constants.items()
        if array.ndim and array.dtype == np.float32 and name not in observed
    }
