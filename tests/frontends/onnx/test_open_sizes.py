"""Operators with open sizes: a program that gets them at the first call gives what one does that was imported with
these sizes bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from models_of_nodes import F32, I64, model, node
from onnx import NodeProto

import mdsl
from mdsl.frontends.onnx import import_model

RANDOM = np.random.default_rng(5)
Shape = Sequence[int | str]
Sizes = dict[str, int]
BATCHES: list[Sizes] = [{"b": 3}, {"b": 1}, {"b": 2}]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def check(
    nodes: NodeProto | list[NodeProto],
    inputs: Shape | dict[str, Shape],
    weights: dict[str, Any] | None = None,
    sizes: Sequence[Sizes] = BATCHES,
    outputs: Sequence[Any] = ("y",),
    opset: int = 18,
) -> None:
    """Calls one program with each of `sizes`."""
    nodes = nodes if isinstance(nodes, list) else [nodes]
    shapes = inputs if isinstance(inputs, dict) else {"x": inputs}
    proto = model(nodes, [(n, F32, s) for n, s in shapes.items()], outputs, weights, opset)
    network = mdsl.compile(import_model(proto), engine="reference")
    for given in sizes:
        x = [normal(*(s if isinstance(s, int) else given[s] for s in shape)) for shape in shapes.values()]
        wanted = mdsl.compile(import_model(proto, given), engine="reference")(*x)
        found = network(*x)
        for a, b in zip(*(r if isinstance(r, (list, tuple)) else [r] for r in (found, wanted)), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Windows --------------------------------------------------------------------------------------------------

LENGTHS: list[Sizes] = [{"b": 2, "t": 30}, {"b": 1, "t": 30}, {"b": 3, "t": 7}]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_along_an_open_length(op: str) -> None:
    check(node(op, "x", kernel_shape=[2], strides=[2]), ["b", 5, "t"], sizes=LENGTHS)


def test_convolution_along_an_open_length() -> None:
    op = node("Conv", "x w", pads=[1, 1], strides=[2])
    check(op, ["b", 4, "t"], {"w": normal(6, 4, 3)}, LENGTHS)
    check(op, [1, 4, "t"], {"w": normal(6, 4, 3)}, [{"t": 30}, {"t": 7}])


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ([4], {"strides": [2], "pads": [1, 1]}),
        ([3], {"strides": [3], "pads": [2, 0], "output_padding": [1]}),
        ([4], {"auto_pad": "SAME_LOWER", "group": 2}),
        ([1], {"pads": [1, 1]}),
        ([7], {"strides": [3], "pads": [1, 4], "dilations": [2]}),
    ],
)
def test_transposed_convolution_along_an_open_length(kernel: list[int], attributes: dict[str, Any]) -> None:
    weights = {"w": normal(4, 3, *kernel), "b": normal(3 * attributes.get("group", 1))}
    check(node("ConvTranspose", "x w b", **attributes), ["b", 4, "t"], weights, LENGTHS)


def test_transposed_convolution_of_a_batch_of_images() -> None:
    for attributes in ({"output_shape": [9, 11]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}):
        op = node("ConvTranspose", "x w", strides=[2, 3], **attributes)
        check(op, ["b", 2, 4, 4], {"w": normal(2, 3, 3, 2)})


def test_convolution_of_a_batch_of_volumes() -> None:
    op = node("Conv", "x w", strides=[2, 1, 1], pads=[1, 0, 1, 1, 0, 1])
    check(op, ["b", 2, 5, 4, 4], {"w": normal(3, 2, 3, 1, 3)})
    sizes: list[Sizes] = [{"b": 2, "h": 4}, {"b": 1, "h": 7}]
    check(op, ["b", 2, 5, "h", 4], {"w": normal(3, 2, 3, 1, 3)}, sizes)


# Padding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 2, 0, 2, 0], [0, -1, 1, 0, 2, -1]])
def test_padding_of_a_batch(mode: str, pads: list[int]) -> None:
    check(node("Pad", "x pads", mode=mode), ["b", 4, 5], {"pads": pads}, opset=19)


def test_what_padding_removes_along_open_axes() -> None:
    sizes: list[Sizes] = [{"b": 4, "t": 6}, {"b": 5, "t": 4}]
    check(node("Pad", "x pads"), ["b", "t"], {"pads": [-1, 0, 0, -2]}, sizes)


# Resizing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_a_batch(mode: str) -> None:
    scales = {"scales": np.array([1, 1, 2, 1.5], np.float32)}
    check(node("Resize", "x _ scales", mode=mode), ["b", 2, 4, 6], scales)


def test_resize_to_sizes_of_which_the_batch_is_computed() -> None:
    sizes = [node("Shape", "x", "batch", end=1), node("Concat", "batch rest", "sizes", axis=0)]
    rest = {"rest": [2, 9, 8]}
    check([*sizes, node("Resize", "x _ _ sizes", mode="linear")], ["b", 2, 4, 6], rest)
    sizes = [node("Shape", "z", "batch", end=1), node("Concat", "batch rest", "sizes", axis=0)]
    resize = node("Resize", "x _ _ sizes", axes=[0, 3])
    proto = model(
        [*sizes, resize], [("x", F32, ["b", 2, 4, 6]), ("z", F32, ["c"])], weights={"rest": [12]}, opset=18
    )
    network, x = mdsl.compile(import_model(proto), engine="reference"), normal(3, 2, 4, 6)
    np.testing.assert_array_equal(network(x, normal(3)), x.repeat(2, axis=3))
    with pytest.raises(mdsl.MdslError, match="reshape"):
        network(x, normal(4))


# Shapes ---------------------------------------------------------------------------------------------------


def test_dimensions_of_one_come_and_go_between_open_sizes() -> None:
    unsqueezed = node("Unsqueeze", "x middle", "wide")
    kept = ["a", 1, "b", "c"]
    sizes: list[Sizes] = [{"a": 2, "b": 3, "c": 4}, {"a": 1, "b": 1, "c": 5}, {"a": 4, "b": 1, "c": 1}]
    check([unsqueezed, node("Squeeze", "wide one")], kept, {"middle": [3], "one": [1]}, sizes)
    ones: list[Sizes] = [{"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 4, "c": 1}]
    check(node("Squeeze", "x first"), ["a", "b", "c"], {"first": [0]}, ones)
    check(node("Gather", "x i", axis=1), ["a", 2, "b"], {"i": 1}, [{"a": 2, "b": 3}, {"a": 1, "b": 1}])


def test_scan_over_elements_with_open_sizes() -> None:
    from onnx import helper

    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Add", "state piece", "sum"), node("Identity", "sum", "row")],
        "body",
        [info(n, F32, ["b", "c"]) for n in ("state", "piece")],
        [info(n, F32, ["b", "c"]) for n in ("sum", "row")],
    )
    sizes: list[Sizes] = [{"b": 2, "c": 3}, {"b": 1, "c": 4}]
    op = node("Scan", "start x", "last rows", body=body, num_scan_inputs=1)
    check(op, {"start": ["b", "c"], "x": [4, "b", "c"]}, sizes=sizes, outputs=("last", "rows"))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_of_images_of_any_size(mode: str) -> None:
    sizes: list[Sizes] = [{"b": 2, "h": 3, "w": 4}, {"b": 1, "h": 1, "w": 5}]
    check(node("DepthToSpace", "x", blocksize=2, mode=mode), ["b", 8, "h", "w"], sizes=sizes)


# Places ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_top_k_and_elements_along_any_axis(axis: int) -> None:
    shape: list[int | str] = ["a", "b", 5]
    shape[axis] = 6
    sizes: list[Sizes] = [{"a": 3, "b": 4}, {"a": 1, "b": 2}, {"a": 2, "b": 1}]
    if axis < 2:
        sizes = [{k: v for k, v in s.items() if k in shape} for s in sizes]
    check(node("TopK", "x k", "y places", axis=axis), shape, {"k": [2]}, sizes, ["y", ("places", I64, None)])
    chain = [node("ArgMax", "x", "i", axis=axis), node("GatherElements", "x i", axis=axis)]
    check(chain, shape, sizes=sizes)


def test_top_k_along_an_open_axis() -> None:
    check(node("TopK", "x k", "y places", axis=1), ["b", "n"], {"k": [2]}, [{"b": 2, "n": 5}, {"b": 1, "n": 9}],
          ["y", ("places", I64, None)])  # fmt: skip


def test_elements_at_indices_of_a_batch() -> None:
    places = {"i": [[0, 1], [2, -1]]}
    check(node("GatherND", "x i"), [4, 5, "b"], places)
    check(node("GatherND", "x i"), ["n", "b", 3], places, [{"n": 3, "b": 2}, {"n": 7, "b": 4}])
    indices = [node("ArgMax", "x", "i", axis=2), node("GatherND", "x i", batch_dims=2)]
    check(indices, ["b", "n", 5], sizes=[{"b": 3, "n": 2}, {"b": 1, "n": 4}])


# Patterns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper", [0, 1])
def test_triangles_of_matrices_of_any_size(upper: int) -> None:
    sizes: list[Sizes] = [{"n": 4, "m": 6}, {"n": 1, "m": 1}, {"n": 7, "m": 3}]
    check(node("Trilu", "x k", upper=upper), [2, "n", "m"], {"k": np.array(1)}, sizes)


# Sums -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("bld,dn->bldn", ["b", "n", 5], [5, 3]),
        ("bhqd,bhkd->bhqk", ["b", 3, "n", 4], ["b", 3, "n", 4]),
        ("bhqk,bhkd->bqhd", ["b", 3, 5, "n"], ["b", 3, "n", 4]),
        ("...ij,jk->...ki", ["b", "n", 4], [4, 5]),
        ("bi,bj->b", ["b", "n"], ["b", 6]),
        ("bi,ij->bj", ["b", "n"], [4, 3]),
    ],
)
def test_einsum_over_open_sizes(equation: str, left: Shape, right: Shape) -> None:
    lengths = [4, 4, 4] if equation.startswith("bi,ij") else [2, 7, 1]
    sizes: list[Sizes] = [{"b": b, "n": n} for b, n in zip((3, 1, 2), lengths, strict=True)]
    check(node("Einsum", "x z", equation=equation), {"x": left, "z": right}, sizes=sizes)


# Recurrent networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_networks_on_a_batch(op: str, gates: int, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    weights = {"w": normal(directions, gates * 4, 3), "r": normal(directions, gates * 4, 4)}
    attributes: dict[str, Any] = {"hidden_size": 4, "direction": direction}
    check(node(op, "x w r", "y state", **attributes), [5, "b", 3], weights, outputs=("y", "state"))
    check(node(op, "x w r _ _ h", **attributes), {"x": [5, "b", 3], "h": [directions, "b", 4]}, weights)


def test_recurrent_network_whose_inputs_are_what_remains() -> None:
    nodes = [node("Reshape", "x shape", "rows"), node("LSTM", "rows w r", hidden_size=4)]
    weights = {"shape": [0, 0, -1], "w": normal(1, 16, 6), "r": normal(1, 16, 4)}
    check(nodes, [5, "b", 2, 3], weights)


# Names ----------------------------------------------------------------------------------------------------


def test_dimensions_that_have_different_names_or_none_are_different() -> None:
    shapes: list[list[Any]] = [
        ["?", "?"],
        ["a+b", "a_b"],
        [None, "x.0"],
        ["-1", "-1"],
        ["", ""],
        ["1x", "_1x"],
    ]
    for names in shapes:
        network = mdsl.compile(import_model(model([node("Relu", "x")], [("x", F32, [*names, "a+b"])])))
        assert network(np.ones((2, 3, 4 if names[0] != "a+b" else 2), np.float32)).shape[:2] == (2, 3)  # type: ignore[union-attr]


def test_an_unnamed_dimension_is_bound_by_its_place() -> None:
    proto = model([node("Relu", "x")], [("x", F32, ["?", "?"])])
    network = mdsl.compile(import_model(proto, {"x.1": 3}))
    assert network.inputs[0].shape == ("x.0", 3)
