"""What an ONNX model becomes: names, shapes, constants, the forms that operators had in older opsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from imported import XS, ops, result
from models_of_nodes import F32, I64, X, function, model, node, saved
from onnx import helper, numpy_helper

import mdsl
from mdsl.cli import command
from mdsl.frontends.onnx import import_model, import_onnx
from mdsl.syntax.parser import parse_file
from mdsl.syntax.printer import print_module

# Names --------------------------------------------------------------------------------------------------------


def test_inputs_and_outputs_keep_their_exact_names(tmp_path: Path) -> None:
    proto = model([node("Relu", "in:0", "out/1")], inputs=[("in:0", F32, [2])], outputs=["out/1"])
    path = saved(tmp_path, proto)
    assert command(["import", str(path), "-o", str(tmp_path / "net.mir")]) == 0
    for program in (path, tmp_path / "net.mir"):
        executable = mdsl.compile(program)
        assert [s.name for s in executable.inputs] == ["in:0"]
        assert [s.name for s in executable.outputs] == ["out/1"]


def test_values_are_called_as_in_the_graph() -> None:
    text = print_module(
        import_model(model([node("Relu", "x", "/a/Relu_output_0"), node("Neg", "/a/Relu_output_0")]))
    )
    assert "%_a_Relu_output_0 = nn.relu %x" in text
    assert "%y = nn.neg %_a_Relu_output_0" in text


def test_names_that_become_one_stay_different() -> None:
    proto = model([node("Relu", "x", "a/b"), node("Neg", "a/b", "a:b"), node("Add", "a/b a:b")])
    assert "nn.add %a_b, %a_b_1" in print_module(import_model(proto))


def test_an_op_knows_its_node() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"], name="layer1/relu")])
    text = print_module(import_model(proto), locations=True)
    assert '-> tensor<2x3xf32> loc("layer1/relu")' in text
    assert '-> tensor<2x3xf32> loc("layer1/relu")' in print_module(mdsl.parse(text), locations=True)


def test_identities_vanish() -> None:
    proto = model(
        [
            node("Identity", "x", "a"),
            node("Relu", "a", "b"),
            node("Identity", "b", "c"),
            node("Identity", "c"),
        ]
    )
    assert ops(proto) == ["nn.relu"]
    assert [s.name for s in mdsl.compile(import_model(proto)).outputs] == ["y"]


def test_an_output_may_be_an_input_or_a_constant() -> None:
    proto = model([node("Identity", "x", "y")], outputs=["y", ("w", I64, [2])], weights={"w": [5, 7]})
    same, constant = mdsl.compile(import_model(proto))(XS)
    np.testing.assert_array_equal(same, XS)
    np.testing.assert_array_equal(constant, [5, 7])


# Weights ------------------------------------------------------------------------------------------------------


def test_import_writes_weights_beside_the_program(tmp_path: Path) -> None:
    weight = np.arange(300, dtype=np.float32).reshape(3, 100)
    path = saved(tmp_path, model([node("MatMul", "x w/eight")], weights={"w/eight": weight}))
    assert command(["import", str(path), "-o", str(tmp_path / "out.mir")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out.mir", "out.safetensors"]
    assert 'dense_resource<"w/eight">' in (tmp_path / "out.mir").read_text()
    parse_file(tmp_path / "out.mir")
    found = mdsl.compile(tmp_path / "out.mir")(XS)
    np.testing.assert_allclose(found, XS @ weight, rtol=1e-5)


@pytest.mark.parametrize("as_node", [False, True])
def test_large_weights_stay_in_the_file(tmp_path: Path, as_node: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 50_000)).astype(np.float32)
    if as_node:
        constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight, "w"))
        path = saved(tmp_path, model([constant, node("MatMul", "x w")]))
    else:
        path = saved(tmp_path, model([node("MatMul", "x w")], weights={"w": weight}))
    module = import_onnx(path)
    data = module.body.ops[0].body.ops[0].attributes["value"].array  # type: ignore[attr-defined]
    assert not data.flags.owndata and not data.flags.writeable  # a view of the mapped file
    np.testing.assert_array_equal(data, weight)


def test_external_data(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    proto = model([node("Add", "x w")], weights={"w": weight})
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_array_equal(mdsl.compile(tmp_path / "net.onnx")(XS), XS + weight)


def test_initializers_that_are_listed_as_inputs_are_weights() -> None:
    weight = np.ones(3, np.float32)
    proto = model([node("Add", "x w")], inputs=[X, ("w", F32, [3])], weights={"w": weight})
    assert [s.name for s in mdsl.compile(import_model(proto)).inputs] == ["x"]


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64", "int8", "int16", "int32", "int64", "bool"]
)
def test_data_that_is_not_raw(dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    array = np.array([0, 1, 1, 0], kind)
    bits = {"float16": np.uint16, "bfloat16": np.uint16, "bool": np.uint8}
    values = array.view(bits[dtype]) if dtype in bits else array
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=helper.np_dtype_to_tensor_dtype(kind))
    field = {"int64": "int64_data", "float64": "double_data"}.get(dtype, "int32_data")
    getattr(tensor, field).extend(values.tolist())
    proto = model([node("Identity", "w")], outputs=[("y", tensor.data_type, [4])], tensors=[tensor])
    np.testing.assert_array_equal(result(proto, XS), array)


# Shapes and folding -------------------------------------------------------------------------------------------


def test_shape_arithmetic_folds() -> None:
    proto = model(
        [
            node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axis", "n1"),
            node("Slice", "s axis1 end", "rest"), node("ReduceProd", "rest", "total", keepdims=1),
            node("Concat", "n1 total", "new", axis=0), node("Reshape", "x new"),
        ],
        inputs=[("x", F32, [2, 3, 4])],
        weights={"zero": np.array(0), "axis": [0], "axis1": [1], "end": [2**63 - 1]},
    )  # fmt: skip
    assert ops(proto) == ["nn.reshape"]


def test_a_shape_known_in_part_folds_in_part() -> None:
    """batch is open, but what is taken from the rest of the shape is a number."""
    proto = model(
        [node("Shape", "x", "s"), node("Gather", "s one", "c"), node("Unsqueeze", "c axis", "c1"),
         node("Concat", "minus c1", "new", axis=0), node("Reshape", "x new")],
        inputs=[("x", F32, ["batch", 6, 2])],
        weights={"one": np.array(1), "axis": [0], "minus": [-1]},
    )  # fmt: skip
    assert ops(proto) == ["nn.reshape"]
    assert "-> tensor<?x6xf32>" in print_module(import_model(proto))


def test_expand_as_exporters_write_it() -> None:
    """Where(Equal(shape, -1), ones, shape): the shape has no -1, though one size is open."""
    proto = model(
        [
            node("Shape", "z", "s"),
            node("Equal", "s minus", "e"),
            node("Where", "e ones s", "t"),
            node("Expand", "x t"),
        ],
        inputs=[("x", F32, [1, 3]), ("z", F32, ["batch", 3])],
        weights={"minus": [-1, -1], "ones": [1, 1]},
    )
    assert ops(proto) == ["nn.shape", "nn.dynamic_broadcast"]
    found = mdsl.compile(import_model(proto))(XS[:1], np.zeros((4, 3), np.float32))
    np.testing.assert_array_equal(found, np.broadcast_to(XS[:1], (4, 3)))


def test_open_dimensions_are_named_and_bound(tmp_path: Path) -> None:
    proto = model([node("Relu", "x")], inputs=[("x", F32, ["batch size", 3])], outputs=[("y", F32, None)])
    assert 'mdsl.dims = ["batch_size", ""]' in print_module(import_model(proto))
    for name in ("batch size", "batch_size"):
        assert "tensor<7x3xf32>" in print_module(import_model(proto, {name: 7}))
    with pytest.raises(mdsl.MdslError, match="no dimension 'batch_siz' to bind; did you mean 'batch_size'"):
        import_model(proto, {"batch_siz": 7})


def test_a_node_that_needs_sizes_gets_them_by_bind(tmp_path: Path) -> None:
    proto = model(
        [node("Pad", "x p", mode="reflect")], inputs=[("x", F32, ["n", 3])], weights={"p": [1, 1, 1, 1]}
    )
    path = saved(tmp_path, proto)
    with pytest.raises(mdsl.MdslError, match=r"sizes that are open: n \(give them with --bind\)"):
        import_onnx(path)
    wanted = np.pad(XS, 1, mode="reflect")
    np.testing.assert_array_equal(mdsl.compile(path, bind={"n": 2})(XS), wanted)
    np.testing.assert_array_equal(mdsl.compile(path)(XS), wanted)
    for arguments in (["run"], ["compile", "-o", str(tmp_path / "net.mbc")], ["bench", "--runs", "1"]):
        assert command([arguments[0], str(path), "--bind", "n=2", *arguments[1:]]) == 0


def test_weights_made_by_constant_of_shape_are_splats() -> None:
    proto = model(
        [helper.make_node("ConstantOfShape", ["s"], ["w"], value=numpy_helper.from_array(np.array([0.02], np.float32))),
         node("MatMul", "x w")],
        weights={"s": [3, 1_000_000]},
    )  # fmt: skip
    assert "dense<0.02> : tensor<3x1000000xf32>" in print_module(import_model(proto))


def test_what_nothing_uses_is_gone() -> None:
    assert ops(model([node("Exp", "x", "dead"), node("Log", "dead", "also"), node("Relu", "x")])) == [
        "nn.relu"
    ]


# Older and newer forms ----------------------------------------------------------------------------------------

FORMS = {
    "Clip, attributes": (6, node("Clip", "x", min=0.0, max=2.0), {}, XS.clip(0, 2)),
    "Clip, inputs": (13, node("Clip", "x low _"), {"low": np.array(0, np.float32)}, XS.clip(0)),
    "Softmax of the flattened rest": (9, node("Softmax", "x", axis=0), {}, np.exp(XS) / np.exp(XS).sum()),
    "Softmax along one axis": (13, node("Softmax", "x", axis=0), {}, np.exp(XS) / np.exp(XS).sum(axis=0)),
    "Slice, attributes": (9, node("Slice", "x", starts=[1], ends=[9], axes=[1]), {}, XS[:, 1:9]),
    "Slice, backwards": (13, node("Slice", "x s e a t"), {"s": [-1], "e": [-9], "a": [1], "t": [-1]}, XS[:, ::-1]),
    "Squeeze, attribute": (11, node("Squeeze", "x"), {}, XS),
    "Unsqueeze, attribute": (11, node("Unsqueeze", "x", axes=[0, 3]), {}, XS[None, :, :, None]),
    "Unsqueeze, input": (13, node("Unsqueeze", "x a"), {"a": [-1]}, XS[..., None]),
    "ReduceSum, attribute": (11, node("ReduceSum", "x", axes=[1], keepdims=0), {}, XS.sum(axis=1)),
    "ReduceSum, input": (13, node("ReduceSum", "x a", keepdims=0), {"a": [1]}, XS.sum(axis=1)),
    "Add, aligned at an axis": (6, node("Add", "x b", broadcast=1, axis=0), {"b": np.float32([1, 2])}, XS + np.float32([[1], [2]])),
    "Reshape, 0 and -1": (13, node("Reshape", "x s"), {"s": [0, -1, 1]}, XS[..., None]),
    "Dropout": (7, node("Dropout", "x", ratio=0.5), {}, XS),
    "Gemm, all attributes": (
        13, node("Gemm", "x w c", transA=1, transB=1, alpha=2.0, beta=0.5),
        {"w": np.float32([[1, 2], [3, 4]]), "c": np.float32([[1], [2], [3]])},
        2 * XS.T @ np.float32([[1, 3], [2, 4]]) + 0.5 * np.float32([[1], [2], [3]]),
    ),
    "Pow of a whole number": (13, node("Pow", "x e"), {"e": np.array(2, np.float32)}, XS**2),
    "BatchNormalization of every element": (
        7, node("BatchNormalization", "x s b m v", spatial=0, epsilon=0.0),
        {k: np.float32([1, 2, 4]) for k in "sbmv"}, (XS - [1, 2, 4]) / np.sqrt([1, 2, 4]) * [1, 2, 4] + [1, 2, 4],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    opset, proto, weights, wanted = FORMS[name]
    found = result(model([proto], weights=weights, opset=opset), XS)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_split_into_unequal_pieces() -> None:
    parts = mdsl.compile(
        import_model(model([node("Split", "x", "a b", axis=1, num_outputs=2)], outputs=["a", "b"], opset=18))
    )(XS)
    np.testing.assert_array_equal(parts[0], XS[:, :2])
    np.testing.assert_array_equal(parts[1], XS[:, 2:])


# Commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["run"], ["compile", "-o", "net.mbc"], ["opt", "--canonicalize"], ["bench", "--runs", "2"]]
)
def test_commands_take_onnx_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, model([node("Relu", "x")]))
    assert command([arguments[0], "net.onnx", *arguments[1:]]) == 0


def test_nodes_may_stand_in_any_order() -> None:
    """The body of a branch reads what a later node makes, and its own nodes are in disorder, too."""
    info = helper.make_tensor_value_info("out", F32, None)
    then = helper.make_graph([node("Neg", "late", "out"), node("Add", "x two", "late")], "then", [], [info])
    other = helper.make_graph([node("Identity", "x", "out")], "other", [], [info])
    nodes = [
        node("If", "yes", "z", then_branch=then, else_branch=other), node("twice", "z"),
        node("Add", "one one", "two"), node("Abs", "x", "unused"), node("Exp", "zero", "one"),
    ]  # fmt: skip
    nodes[1].domain = "local"
    body = function("twice", [node("Add", "c c", "b"), node("Identity", "a", "c")])
    weights = {"yes": np.array(True), "zero": np.zeros(3, np.float32)}
    proto = model(nodes, weights=weights, functions=[body])
    np.testing.assert_allclose(mdsl.compile(proto)(XS), -2 * (XS + 2), rtol=1e-6)


def test_nodes_keep_their_order_where_that_is_free() -> None:
    nodes = [node("Relu", "b", "c"), node("Exp", "x", "a"), node("Log", "x", "b"), node("Sum", "a b c")]
    assert [op.split(".")[1] for op in ops(model(nodes))][:3] == ["exp", "log", "relu"]


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_cycle_is_refused_by_name(count: int) -> None:
    nodes = [node("Relu", f"n{(i + 1) % count}", f"n{i}") for i in range(count)]
    with pytest.raises(mdsl.MdslError, match="a cycle of nodes: 'n0' reads .*'n0'"):
        import_model(model([*nodes, node("Relu", "n0")]))
