"""Rules against onnxruntime, where ONNX's own node tests do not go: combinations of attributes, indices that are
only known at run time, odd ratios. The imported graphs run in the reference; some also through the VM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models_of_nodes import F32, I1, I64, model, node
from onnx import ModelProto, NodeProto, TensorProto

import mdsl
from mdsl.frontends.onnx import import_model

ort = pytest.importorskip("onnxruntime")

RANDOM = np.random.default_rng(11)
KINDS = {
    np.dtype(np.float32): F32,
    np.dtype(np.int64): I64,
    np.dtype(bool): I1,
    np.dtype(np.int32): TensorProto.INT32,
}


def normal(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) / 2).astype(np.float32)


def agree(
    op: NodeProto,
    inputs: dict[str, np.ndarray],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
    engine: str = "reference",
) -> None:
    """One node computes what onnxruntime computes. `inputs` are the graph's, `weights` constants."""
    infos = [(k, KINDS[v.dtype], v.shape) for k, v in inputs.items()]
    proto: ModelProto = model([op], infos, [o for o in op.output if o], weights, opset)
    proto.ir_version = 8
    for output in proto.graph.output:
        if output.name in ("indices", "places"):
            output.type.tensor_type.elem_type = I64
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, inputs)
    found = mdsl.compile(import_model(proto), engine=engine)(*inputs.values())
    for a, b in zip(found if isinstance(found, (list, tuple)) else [found], wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


# Windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ([9], [3], {"strides": [2], "pads": [1, 0], "dilations": [2]}),
        ([6, 7], [3, 2], {"group": 2, "auto_pad": "SAME_LOWER"}),
        ([5, 6, 7], [2, 3, 1], {"strides": [2, 1, 2], "pads": [1, 1, 0, 0, 1, 0], "dilations": [1, 2, 1]}),
        ([4, 5, 5], [1, 3, 3], {"group": 2}),
        ([4, 4, 4], [3, 3, 3], {"group": 2, "auto_pad": "SAME_UPPER", "strides": [1, 2, 2]}),
    ],
)
def test_convolution(size: list[int], kernel: list[int], attributes: dict[str, Any]) -> None:
    w = normal(6, 4 // attributes.get("group", 1), *kernel)
    agree(node("Conv", "x w b", **attributes), {"x": normal(2, 4, *size)}, {"w": w, "b": normal(6)})


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ([5], [4], {"strides": [2], "pads": [1, 1]}),
        ([4, 5], [2, 2], {"strides": [2, 2]}),
        ([4, 5], [3, 3], {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 2]}),
        ([4, 5], [3, 4], {"strides": [1, 1], "dilations": [2, 1], "pads": [3, 1, 2, 0]}),
        ([4, 5], [3, 2], {"strides": [3, 2], "dilations": [2, 3], "group": 2}),
        ([4, 4], [1, 1], {"strides": [2, 3]}),
        ([4, 4], [5, 5], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ([3, 4, 5], [2, 3, 3], {"strides": [2, 1, 2], "pads": [0, 1, 1, 0, 1, 1]}),
        ([4, 3], [4, 4], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ([3, 4], [5, 3], {"strides": [2, 2], "pads": [1, 0, 2, 3], "group": 2}),
        ([9, 8], [3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ([1, 1], [4, 4], {"strides": [1, 1]}),
        ([1, 1], [3, 4], {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 2]}),
        ([1], [3], {"strides": [2], "pads": [2, 0], "output_padding": [1]}),
    ],
)
def test_transposed_convolution(
    size: list[int], kernel: list[int], attributes: dict[str, Any], constant: bool
) -> None:
    x, weights = (
        normal(2, 4, *size),
        {"w": normal(4, 3, *kernel), "b": normal(3 * attributes.get("group", 1))},
    )
    inputs = {"x": x} if constant else {"x": x, **weights}
    agree(node("ConvTranspose", "x w b", **attributes), inputs, weights if constant else None)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "convolutions"),
    [(4, 4, 2, 1, 4), (16, 3, 2, 1, 4), (40, 4, 2, 1, 1), (9, 2, 2, 0, 1), (1, 4, 1, 0, 0)],
)
def test_transposed_convolutions_multiply_few_zeros(
    size: int, kernel: int, stride: int, pad: int, convolutions: int
) -> None:
    """Phases are convolutions of their own where one for all would multiply many zeros; a pixel is multiplied by the whole kernel."""
    op = node("ConvTranspose", "x w", strides=[stride] * 2, pads=[pad] * 4)
    proto = model([op], [("x", F32, [1, 4, size, size])], ["y"], {"w": normal(4, 3, kernel, kernel)}, 17)
    assert sum(op.name == "nn.conv2d" for op in import_model(proto).walk()) == convolutions


def test_a_transposed_convolution_of_halves_rounds_once() -> None:
    """Of one pixel, with a bias: sums of products that f32 holds exactly."""
    random = np.random.default_rng(0)
    x, w, b = (random.integers(-99, 99, shape) / 8 for shape in ((1, 4, 1, 1), (4, 3, 4, 4), (3,)))
    halves = {"w": w.astype(np.float16), "b": b.astype(np.float16)}
    op = node("ConvTranspose", "x w b", strides=[1, 1])
    proto = model([op], [("x", TensorProto.FLOAT16, x.shape)], ["y"], halves, 17)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    found = mdsl.compile(import_model(proto), engine="reference")(x.astype(np.float16))
    exact = np.einsum("c,cokl->okl", x[0, :, 0, 0], w) + b[:, None, None]
    np.testing.assert_array_equal(found[0], exact.astype(np.float16))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_poolings(op: str, rank: int, ceil: int) -> None:
    attributes: dict[str, Any] = {
        "kernel_shape": [3, 2, 4][:rank],
        "strides": [2, 2, 3][:rank],
        "ceil_mode": ceil,
    }
    if op != "LpPool":
        attributes["pads"] = [1, 0, 2][:rank] + [1, 1, 0][:rank]
    x = normal(2, 3, *[7, 6, 8][:rank])
    agree(node(op, "x", **attributes), {"x": x}, opset=19 if op != "LpPool" else 18)


@pytest.mark.parametrize("order", [0, 1])
def test_places_of_maxima(order: int) -> None:
    op = node(
        "MaxPool",
        "x",
        "y indices",
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 1],
        storage_order=order,
    )
    agree(op, {"x": normal(2, 3, 7, 6)}, engine="vm")


# Resizing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1, 2, 10, 21], [1, 2, 3, 14], [1, 2, 7, 3], [1, 2, 5, 28]])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
def test_resize(sizes: list[int], mode: str, transform: str) -> None:
    op = node("Resize", "x _ _ sizes", mode=mode, coordinate_transformation_mode=transform)
    agree(op, {"x": normal(1, 2, 5, 7)}, {"sizes": sizes}, opset=18)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 3, 4], [1, 2, 2, 1]])
def test_resize_by_whole_numbers_through_the_vm(mode: str, scales: list[int]) -> None:
    op = node("Resize", "x _ scales", mode=mode)
    agree(op, {"x": normal(1, 3, 6, 20)}, {"scales": np.array(scales, np.float32)}, engine="vm")


# Recurrent networks ---------------------------------------------------------------------------------------

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(
    op: str, direction: str, lengths: bool, steps: int = 5, engine: str = "reference", **attributes: Any
) -> None:
    directions, size = (2 if direction == "bidirectional" else 1), GATES[op] * 6
    weights: dict[str, Any] = {
        "w": normal(directions, size, 3),
        "r": normal(directions, size, 6),
        "b": normal(directions, 2 * size),
    }
    names = ["x", "w", "r", "b", "lengths" if lengths else "_", "h"]
    inputs = {"x": normal(steps, 2, 3), "h": normal(directions, 2, 6)}
    if lengths:
        inputs["lengths"] = np.array([steps, 2], np.int32)
    outputs = "y state"
    if op == "LSTM":
        names += ["c", "p"]
        inputs["c"], weights["p"] = normal(directions, 2, 6), normal(directions, 18)
        outputs += " cell"
    agree(
        node(op, " ".join(names), outputs, hidden_size=6, direction=direction, **attributes),
        inputs,
        weights,
        engine=engine,
    )


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", list(GATES))
def test_recurrent(op: str, direction: str, lengths: bool) -> None:
    recurrent(op, direction, lengths)


@pytest.mark.parametrize("op", list(GATES))
def test_recurrent_through_the_vm(op: str) -> None:
    recurrent(op, "bidirectional", True, engine="vm")
    recurrent(op, "forward", False, steps=1, engine="vm")


def test_variants_of_recurrent_networks() -> None:
    recurrent("GRU", "bidirectional", True, linear_before_reset=1)
    recurrent("LSTM", "forward", False, input_forget=1)
    recurrent("RNN", "forward", False, activations=["Relu"], clip=0.4)


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("LeakyRelu", [0.3], []),
        ("HardSigmoid", [0.3], [0.4]),
        ("Elu", [0.5], []),
        ("ThresholdedRelu", [0.1], []),
        ("ScaledTanh", [0.7], [0.6]),
        ("Affine", [0.4], [0.3]),
        ("Softsign", [], []),
        ("Softplus", [], []),
    ],
)
def test_activations_of_recurrent_networks(name: str, alpha: list[float], beta: list[float]) -> None:
    parameters = {k: v for k, v in (("activation_alpha", alpha), ("activation_beta", beta)) if v}
    recurrent("RNN", "reverse", False, activations=[name], **parameters)


def test_parameters_of_activations_are_listed_for_those_that_have_them() -> None:
    names = ["HardSigmoid", "Tanh", "Affine"]
    recurrent(
        "LSTM", "forward", False, activations=names, activation_alpha=[0.3, 0.7], activation_beta=[0.4, 0.1]
    )


# Places that are known at run time ------------------------------------------------------------------------


def test_indices_at_run_time() -> None:
    x, i = normal(3, 4, 5), np.array([[0, -1], [2, 1]], np.int64)
    agree(node("Gather", "x i", axis=1), {"x": x, "i": i})
    agree(node("GatherElements", "x i", axis=1), {"x": x, "i": RANDOM.integers(-4, 4, (2, 6, 5))})
    agree(node("GatherND", "x i"), {"x": x, "i": i})
    agree(node("GatherND", "x i", batch_dims=1), {"x": x, "i": np.array([[3], [-2], [0]], np.int64)})
    lengths = np.array([4, 1, 0, 2, 3], np.int64)
    agree(
        node("ReverseSequence", "x lengths", time_axis=0, batch_axis=1),
        {"x": normal(4, 5, 2), "lengths": lengths},
    )
    agree(
        node("ReverseSequence", "x lengths", time_axis=1, batch_axis=0),
        {"x": normal(5, 4, 2), "lengths": lengths},
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["none", "add", "mul", "max", "min"])
def test_scattering(kind: str, known: bool) -> None:
    x = normal(4, 5)
    places = {"i": np.array([[1, 0, -1], [3, -2, 0]], np.int64)}  # no place twice: its order would be open
    new = {"u": normal(2, 3)}
    inputs, weights = {"x": x, **new, **({} if known else places)}, places if known else None
    agree(node("ScatterElements", "x i u", axis=1, reduction=kind), inputs, weights, opset=18)
    agree(node("ScatterElements", "x i u", axis=0, reduction=kind), inputs, weights, opset=18)
    rows = {"i": np.array([[2], [-4]], np.int64)}
    inputs, weights = {"x": x, "u": normal(2, 5), **({} if known else rows)}, rows if known else None
    agree(node("ScatterND", "x i u", reduction=kind), inputs, weights, opset=18)


def test_sums_of_several_updates_in_one_place() -> None:
    for known in (True, False):
        places = {"i": np.array([[1, 1, -4], [3, 3, 0]], np.int64)}
        inputs = {"x": normal(2, 5), "u": normal(2, 3), **({} if known else places)}
        op = node("ScatterElements", "x i u", axis=1, reduction="add")
        agree(op, inputs, places if known else None, opset=18, engine="vm")


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "constant"])
def test_padding(mode: str) -> None:
    for pads in ([0, 1, 2, 3], [2, 0, 0, 1], [-1, 2, 1, -2]):
        if mode == "wrap" and min(pads) < 0:
            continue
        agree(node("Pad", "x pads", mode=mode), {"x": normal(4, 5)}, {"pads": pads}, opset=19)


def test_top_k_and_compress() -> None:
    x = normal(3, 40)
    for largest in (0, 1):
        agree(node("TopK", "x k", "y places", axis=1, largest=largest), {"x": x}, {"k": [7]}, engine="vm")
    agree(node("Compress", "x c", axis=1), {"x": normal(2, 3)}, {"c": np.array([True, False, True])})


# Sums -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,jk->...ik", [(2, 3, 4), (4, 5)]),
        ("ij,jk,kl->li", [(2, 3), (3, 4), (4, 5)]),
        ("i,j->ji", [(3,), (4,)]),
        ("iij->j", [(3, 3, 4)]),
        ("abc->cb", [(2, 3, 4)]),
        ("ab,ab", [(2, 3), (2, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    op = node("Einsum", " ".join(names), equation=equation)
    agree(op, {n: normal(*s) for n, s in zip(names, shapes, strict=True)})


def test_running_sums() -> None:
    for exclusive in (0, 1):
        for reverse in (0, 1):
            op = node("CumSum", "x axis", exclusive=exclusive, reverse=reverse)
            agree(op, {"x": normal(3, 11)}, {"axis": np.array(1, np.int64)})


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "weights", "message"),
    [
        (node("NonZero", "x"), {}, "the size of its result depends on its input, which is not a constant"),
        (node("Unique", "x"), {}, "the size of its result depends on its input, which is not a constant"),
        (node("Einsum", "x", equation="abc->c"), {}, "'abc' does not fit an input of 2 dimensions"),
        (node("Pad", "x pads"), {"pads": [1, 2]}, "pads must hold 4 integers, got [1, 2]"),
        (node("LRN", "x", size=0), {}, "a size of at least 1"),
    ],
)
def test_errors(op: NodeProto, weights: dict[str, Any], message: str) -> None:
    proto = model([op], weights=weights)
    with pytest.raises(mdsl.MdslError) as error:
        import_model(proto)
    assert message in str(error.value)
