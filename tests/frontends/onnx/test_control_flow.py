"""Branches, loops and functions of ONNX models."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from imported import XS, ops, result
from models_of_nodes import F32, I1, I64, X, model, node
from onnx import helper

import mdsl
from mdsl.frontends.onnx import import_model
from mdsl.frontends.onnx.registry import converts


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(name, F32, None)])


CHOICE = {
    "then_branch": branch("t", node("Relu", "x", "t")),
    "else_branch": branch("e", node("Neg", "x", "e")),
}


def test_if_with_a_known_condition_is_its_branch() -> None:
    assert ops(model([node("If", "c", **CHOICE)], weights={"c": np.array(False)})) == ["nn.neg"]


@pytest.mark.parametrize("condition", [True, False])
def test_if_with_an_unknown_condition_selects(condition: bool) -> None:
    proto = model([node("If", "c", **CHOICE)], inputs=[X, ("c", I1, [])])
    np.testing.assert_array_equal(
        result(proto, XS, np.array(condition)), np.maximum(XS, 0) if condition else -XS
    )


def test_loop_unrolls_and_collects() -> None:
    ends = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "going", "go_on"), node("Add", "v v", "next"), node("Neg", "v", "piece")], "body",
        [ends("i", I64, []), ends("going", I1, []), ends("v", F32, None)],
        [ends("go_on", I1, []), ends("next", F32, None), ends("piece", F32, None)],
    )  # fmt: skip
    proto = model(
        [node("Loop", "m _ x", "y pieces", body=body)], outputs=["y", "pieces"], weights={"m": np.array(3)}
    )
    last, pieces = mdsl.compile(import_model(proto), engine="reference")(XS)
    np.testing.assert_array_equal(last, XS * 8)
    np.testing.assert_array_equal(pieces, np.stack([-XS, -2 * XS, -4 * XS]))


def test_scan_unrolls_backwards_too() -> None:
    ends = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Add", "s e", "t"), node("Mul", "t e", "p")], "body",
        [ends("s", F32, [2]), ends("e", F32, [2])], [ends("t", F32, [2]), ends("p", F32, [2])],
    )  # fmt: skip
    scan = node(
        "Scan", "zero x", "y pieces", body=body, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[1], scan_output_axes=[1],
    )  # fmt: skip
    proto = model([scan], outputs=["y", "pieces"], weights={"zero": np.zeros(2, np.float32)})
    last, pieces = mdsl.compile(import_model(proto), engine="reference")(XS)
    flipped = XS[:, ::-1]
    np.testing.assert_allclose(last, XS.sum(axis=1))
    np.testing.assert_allclose(pieces, flipped.cumsum(axis=1) * flipped)


def test_local_functions_are_inlined() -> None:
    leaky = node("LeakyRelu", "a", "t")
    reference = leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    assert reference.ref_attr_name
    body = helper.make_function(
        "local", "Act", ["a"], ["b"], [leaky, node("Neg", "t", "b")], [helper.make_opsetid("", 17)], ["slope"]
    )
    proto = model([helper.make_node("Act", ["x"], ["y"], domain="local", slope=0.5)], functions=[body])
    assert ops(proto) == ["nn.leaky_relu", "nn.neg"]
    np.testing.assert_array_equal(result(proto, XS), -np.where(XS < 0, XS * 0.5, XS))


def test_functions_of_operators_are_inlined() -> None:
    """GroupNormalization has a rule or a function; MeanVarianceNormalization is one that depends on nothing."""
    proto = model([node("MeanVarianceNormalization", "x", axes=[0, 1])])
    np.testing.assert_allclose(result(proto, XS), (XS - XS.mean()) / XS.std(), rtol=1e-5)


def test_an_operator_has_one_rule_a_version() -> None:
    with pytest.raises(ValueError, match="Gather has a rule from opset version 1 on already"):
        converts("Gather")(lambda node: node.operand(0))
