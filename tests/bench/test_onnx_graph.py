"""The evaluator of ONNX graphs that the peers without an importer use, held against the reference implementation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.peers.onnx_graph import Graph, Node, windows
from bench.peers.ops import Ops
from mdsl.benchmarking.peers import Refused

onnx = pytest.importorskip("onnx")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator


class Tensor(np.ndarray):
    """An array that is no constant, as a framework's tensor is none."""


class ArrayOps(Ops):
    """The shared ops on arrays."""

    xp = np

    def tensor(self, x: Any) -> Any:
        return np.asarray(x).view(Tensor)

    def erf(self, x: Any) -> Any:
        return np.vectorize(math.erf, [x.dtype])(x).view(Tensor)

    def clip(self, x: Any, low: float | None, high: float | None) -> Any:
        return np.clip(x, low, high)

    def reshape(self, x: Any, shape: list[int]) -> Any:
        return x.reshape(shape)

    def transpose(self, x: Any, order: list[int]) -> Any:
        return x.transpose(order)

    def concat(self, parts: list[Any], axis: int) -> Any:
        return self.tensor(np.concatenate(parts, axis))

    def take(self, x: Any, indices: Any, axis: int) -> Any:
        return np.take(x, indices, axis)

    def cast(self, x: Any, dtype: np.dtype) -> Any:
        return x.astype(dtype)

    def mean(self, x: Any, axes: list[int], keep: bool) -> Any:
        return x.mean(tuple(axes), keepdims=keep)

    def sum(self, x: Any, axes: list[int], keep: bool) -> Any:
        return x.sum(tuple(axes), keepdims=keep)

    def softmax(self, x: Any, axis: int) -> Any:
        powers = np.exp(x - x.max(axis, keepdims=True))
        return powers / powers.sum(axis, keepdims=True)


def node(op: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(op, ["x", *inputs], ["y"], **attributes)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


RANDOM = np.random.default_rng(1)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 1.5, shape).astype(np.float32)


CASES = {
    "arithmetic": ([node("Mul", "c")], {"c": floats(3, 1, 1)}),
    "square": ([node("Pow", "c")], {"c": np.array(2.0, np.float32)}),
    "clip": ([node("Clip", "a", "b")], {"a": np.array(-0.5, np.float32), "b": np.array(0.5, np.float32)}),
    "erf": ([node("Erf")], {}),
    "leaky relu": ([node("LeakyRelu", alpha=0.2)], {}),
    "hard swish": ([node("HardSwish")], {}),
    "sigmoid": ([node("Sigmoid")], {}),
    "reshape": ([node("Reshape", "s")], {"s": integers(0, -1, 2)}),
    "flatten": ([node("Flatten", axis=2)], {}),
    "transpose": ([node("Transpose", perm=[0, 2, 3, 1])], {}),
    "unsqueeze": ([node("Unsqueeze", "a")], {"a": integers(0, -1)}),
    "slice": (
        [node("Slice", "from", "to", "axes", "by")],
        {"from": integers(-1, 1), "to": integers(-99, 9999), "axes": integers(3, 2), "by": integers(-2, 1)},
    ),
    "gather": ([node("Gather", "i", axis=2)], {"i": integers(3, 0)}),
    "matmul": ([node("MatMul", "w")], {"w": floats(6, 5)}),
    "mean": ([node("ReduceMean", axes=[1, -1], keepdims=0)], {}),
    "global pooling": ([node("GlobalAveragePool")], {}),
    "softmax": ([node("Softmax", axis=2)], {}),
    "batch norm": ([node("BatchNormalization", *"abcd")], {n: floats(3) for n in "abcd"}),
    "layer norm": ([node("LayerNormalization", "a", "b", axis=-2)], {n: floats(4, 6) for n in "ab"}),
    "shape of the input": (
        [
            onnx.helper.make_node("Shape", ["x"], ["s"], start=1, end=3),
            onnx.helper.make_node("Concat", ["n", "s"], ["t"], axis=0),
            node("Reshape", "t"),
        ],
        {"n": integers(-1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_op_agrees_with_the_reference(case: str, tmp_path: Path) -> None:
    nodes, constants = CASES[case]
    helper, proto = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", proto.FLOAT, [2, 3, 4, 6])],
        [helper.make_tensor_value_info("y", proto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "graph.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6), np.float32)
    read = Graph(str(tmp_path / "graph.onnx"))
    (found,) = read.evaluate(ArrayOps(read), {"x": x.view(Tensor)})
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(found, Tensor), "it was computed beforehand"
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-5, atol=1e-6)


def test_an_op_that_is_missing_is_named(tmp_path: Path) -> None:
    read = Graph.__new__(Graph)
    read.constants, read.outputs = {}, ["y"]
    read.nodes = [Node("Frobnicate", ["x"], ["y"], {}, None)]
    with pytest.raises(Refused, match="no Frobnicate"):
        read.evaluate(ArrayOps.__new__(ArrayOps), {"x": np.zeros(1).view(Tensor)})


@pytest.mark.parametrize(
    "attributes, pads",
    [
        ({"pads": [1, 2, 3, 4]}, [(1, 3), (2, 4)]),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [(0, 1), (0, 1)]),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [(1, 0), (1, 0)]),
        ({"ceil_mode": 1, "strides": [2, 2]}, [(0, 1), (0, 1)]),
        ({}, [(0, 0), (0, 0)]),
    ],
)
def test_windows_make_padding_explicit(attributes: dict, pads: list) -> None:
    """A window of 3 on 8 pixels."""
    found = windows(Node("MaxPool", [], [], attributes, None), [8, 8], [3, 3])
    assert found == (attributes.get("strides", [1, 1]), pads, [1, 1])
