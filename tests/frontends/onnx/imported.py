"""What becomes of ONNX models, as tests look at it."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

import mdsl
from mdsl.frontends.onnx import import_model


def ops(proto: ModelProto) -> list[str]:
    """The names of the ops that a model becomes, constants and the return left out."""
    block = import_model(proto).body.ops[0].body
    return [op.name for op in block.ops if op.name not in ("arith.constant", "func.return")]


def result(proto: ModelProto, *inputs: np.ndarray) -> np.ndarray:
    found = mdsl.compile(import_model(proto), engine="reference")(*inputs)
    assert isinstance(found, np.ndarray)
    return found


XS = np.array([[-1.5, 0.25, 3], [4, -5, 6]], np.float32)
