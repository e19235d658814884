"""autodiff: what the import makes of ONNX's operators, against finite differences: formulas, gathers, loops over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from differences import check
from models_of_nodes import F32, model, node
from onnx import TensorProto

import mdsl
from mdsl.dialects.builtin import ModuleOp
from mdsl.frontends.onnx import import_model

F64 = TensorProto.DOUBLE
X = {"x": (2, 4, 6, 6)}
ROWS = {"x": (3, 5)}

CASES: list[tuple[str, dict[str, tuple[int, ...]], dict[str, Any], dict[str, Any]]] = [
    ("LSTM", {"x": (4, 2, 3), "w": (1, 20, 3), "r": (1, 20, 5), "b": (1, 40)}, {"hidden_size": 5}, {}),
    ("LSTM", {"x": (3, 2, 3), "w": (2, 8, 3), "r": (2, 8, 2)}, {"hidden_size": 2, "direction": "bidirectional"}, {}),
    ("GRU", {"x": (4, 2, 3), "w": (1, 15, 3), "r": (1, 15, 5), "b": (1, 30)}, {"hidden_size": 5, "linear_before_reset": 1}, {}),
    ("RNN", {"x": (4, 2, 3), "w": (1, 5, 3), "r": (1, 5, 5)}, {"hidden_size": 5, "direction": "reverse"}, {}),
    ("Attention", {"q": (2, 3, 4, 8), "k": (2, 3, 5, 8), "v": (2, 3, 5, 8)}, {}, {}),
    ("Resize", X, {"mode": "linear"}, {"roi": np.zeros(0), "scales": np.array([1, 1, 2, 1.5], np.float32)}),
    ("Resize", X, {"mode": "cubic"}, {"roi": np.zeros(0), "scales": np.array([1, 1, 1.5, 0.5], np.float32)}),
    ("Resize", X, {"mode": "nearest"}, {"roi": np.zeros(0), "scales": np.array([1, 1, 2, 1.5], np.float32)}),
    ("ConvTranspose", {**X, "w": (4, 2, 3, 3), "b": (2,)}, {"strides": [2, 2], "pads": [1, 0, 0, 1]}, {}),
    ("Conv", {"x": (2, 4, 7), "w": (6, 2, 3)}, {"strides": [2], "group": 2}, {}),
    ("Conv", {"x": (1, 2, 4, 4, 4), "w": (3, 2, 2, 2, 2)}, {}, {}),
    ("MaxPool", {"x": (2, 3, 9)}, {"kernel_shape": [3], "strides": [2]}, {}),
    ("LpPool", X, {"kernel_shape": [2, 2], "p": 2}, {}),
    ("BatchNormalization", {**X, "s": (4,), "b": (4,), "m": (4,)}, {}, {"v": np.ones(4)}),
    ("InstanceNormalization", {**X, "s": (4,), "b": (4,)}, {}, {}),
    ("LayerNormalization", {**ROWS, "s": (5,), "b": (5,)}, {}, {}),
    ("LRN", X, {"size": 3}, {}),
    ("Einsum", {"a": (2, 3, 4), "b": (4, 3)}, {"equation": "bij,ji->bi"}, {}),
    ("Gemm", {"a": (4, 3), "b": (5, 4), "c": (3, 1)}, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, {}),
    ("GatherElements", ROWS, {"axis": 1}, {"at": np.array([[0, 4, 0], [1, -1, 1], [2, 2, 2]])}),
    ("GatherND", ROWS, {}, {"at": np.array([[0, 4], [1, 1], [0, 4]])}),
    ("Gather", ROWS, {"axis": 1}, {"at": np.array([[0, 4, 0], [1, -1, 1]])}),
    ("Pad", X, {"mode": "reflect"}, {"pads": np.array([0, 0, 2, 1, 0, 0, 1, 3])}),
    ("CumSum", ROWS, {}, {"axis": np.int64(1)}),
    ("Trilu", ROWS, {}, {}),
    ("Tile", ROWS, {}, {"n": np.array([2, 3])}),
    ("Softplus", ROWS, {}, {}), ("Mish", ROWS, {}, {}), ("Elu", ROWS, {}, {}), ("Selu", ROWS, {}, {}),
    ("HardSwish", ROWS, {}, {}), ("HardSigmoid", ROWS, {}, {}), ("Celu", ROWS, {}, {}), ("Gelu", ROWS, {}, {}),
    ("PRelu", {**ROWS, "s": (5,)}, {}, {}),
    ("ReduceL1", ROWS, {}, {}), ("ReduceL2", ROWS, {}, {}), ("ReduceLogSumExp", ROWS, {}, {}),
    ("ReduceSumSquare", ROWS, {}, {}), ("Reciprocal", ROWS, {}, {}), ("DepthToSpace", X, {"blocksize": 2}, {}),
    ("Where", {"a": (3, 5), "b": (5,)}, {}, {}),
]  # fmt: skip


Case = tuple[str, dict[str, tuple[int, ...]], dict[str, Any], dict[str, Any]]


def imported(case: Case, kind: int) -> ModuleOp:
    op, shapes, attributes, constants = case
    if op == "Where":
        constants = {"flag": np.array([[True], [False], [True]])}
    names = [*constants, *shapes] if op == "Where" else [*shapes, *constants]
    infos = [(name, kind, shape) for name, shape in shapes.items()]
    proto = model([node(op, " ".join(names), **attributes)], infos, [("y", kind, None)], constants, 23)
    return import_model(proto)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_imported_operators(case: Case) -> None:
    random = np.random.default_rng(0)
    check(imported(case, F64), [random.normal(size=shape) for shape in case[1].values()])


LOWERED = ("LSTM", "GRU", "RNN", "Attention", "Resize", "GatherElements", "ConvTranspose")


@pytest.mark.parametrize("ukernels", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [c for c in CASES if c[0] in LOWERED], ids=lambda case: case[0])
def test_the_engines_compute_the_same(case: Case, ukernels: bool) -> None:
    module = mdsl.grad(imported(case, F32), seed="ones")
    random = np.random.default_rng(0)
    inputs = [np.asarray(random.normal(size=shape), np.float32) for shape in case[1].values()]
    wanted = mdsl.compile(module, engine="reference")(*inputs)
    executable = mdsl.compile(module, threads=2, ukernels=ukernels)
    for found, partial in zip(executable(*inputs), wanted, strict=True):
        scale = max(1.0, float(np.abs(partial).max(initial=0)))
        np.testing.assert_allclose(found, partial, rtol=0, atol=1e-4 * scale)
