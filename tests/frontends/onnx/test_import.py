"""What an ONNX model becomes: names, shapes, constants, the forms that operators had in older opsets."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from models_of_nodes import F32, I1, I64, X, function, model, node, saved
from onnx import ModelProto, helper, numpy_helper

import mdsl
from mdsl.cli import command
from mdsl.frontends.onnx import check, import_model, import_onnx
from mdsl.frontends.onnx.registry import RULES, Node, converts
from mdsl.ir.core import Value
from mdsl.syntax.parser import parse_file
from mdsl.syntax.printer import print_module


def ops(proto: ModelProto) -> list[str]:
    """The names of the ops that a model becomes, constants and the return left out."""
    block = import_model(proto).body.ops[0].body
    return [op.name for op in block.ops if op.name not in ("arith.constant", "func.return")]


def result(proto: ModelProto, *inputs: np.ndarray) -> np.ndarray:
    found = mdsl.compile(import_model(proto), engine="reference")(*inputs)
    assert isinstance(found, np.ndarray)
    return found


XS = np.array([[-1.5, 0.25, 3], [4, -5, 6]], np.float32)


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


# Control flow, functions --------------------------------------------------------------------------------------


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


# Unsupported --------------------------------------------------------------------------------------------------


def lacking() -> ModelProto:
    return model([
        node("Relu", "x", "a"),
        helper.make_node("Magic", ["a"], ["b"], name="first", domain="local", strength=3),
        helper.make_node("Magic", ["b"], ["c"], name="second", domain="local", strength=4),
        node("StringNormalizer", "c", "d"),
        node("Exp", "d", "y"),
    ])  # fmt: skip


def test_import_names_the_first_problem(tmp_path: Path) -> None:
    path = saved(tmp_path, lacking())
    with pytest.raises(mdsl.MdslError) as caught:
        import_onnx(path)
    first, rest = str(caught.value).splitlines()
    assert first.startswith(f"{path}: error: node 'first' (local.Magic with strength = 3): ")
    assert rest == f"2 more; 'mdsl import --check {path}' lists all"


def test_check_lists_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, lacking())
    assert command(["import", "--check", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{path}: 3 of 5 nodes are not supported" in out
    assert "local.Magic:" in out and "(2 nodes)" in out and "'second': strength = 4" in out
    assert "StringNormalizer:" in out
    assert "the operators of all other nodes are supported; 1 of them could not be checked further" in out
    assert not (tmp_path / "net.mir").exists()


def test_check_goes_on_behind_a_node_whose_type_is_stated(tmp_path: Path) -> None:
    proto = lacking()
    for name in "bcd":
        proto.graph.value_info.append(helper.make_tensor_value_info(name, F32, [2, 3]))
    assert check(saved(tmp_path, proto)).unjudged == 0


def test_check_of_a_supported_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, model([node("Relu", "x")]))
    assert command(["import", "--check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: the only node is supported\n"
    path = saved(tmp_path, model([node("Relu", "x", "z"), node("Exp", "z")]))
    assert command(["import", "--check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: all 2 nodes are supported\n"


def test_check_counts_inputs_and_weights_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"scale": np.float32(1), "zero": np.zeros((), np.uint8)}
    inputs = [("x", F32, [2, 3]), ("unsigned", onnx.TensorProto.UINT8, [2])]
    nodes = [node("Relu", "x"), node("QuantizeLinear", "x scale zero", "q")]
    proto = model(nodes, inputs=inputs, weights=weights)
    path = saved(tmp_path, proto)
    assert command(["import", "--check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 1 of 2 nodes, 1 input, 1 initializer are not supported"
    assert sum(line.endswith(("(1 input)", "(1 initializer)")) for line in lines) == 2
    assert lines[-1] == "all other nodes are supported"
    path = saved(tmp_path, model([node("Magic", "x")]))
    assert command(["import", "--check", str(path)]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{path}: 1 of 1 node is not supported" and last == "    'y'"


def test_sizes_are_asked_for_only_where_they_may_help(tmp_path: Path) -> None:
    proto = model([node("Magic", "x")], inputs=[("x", F32, ["n", 3])])
    with pytest.raises(mdsl.MdslError, match=r"no operator of this name that is known here$"):
        import_onnx(saved(tmp_path, proto))


def test_a_rule_that_fails_is_not_blamed_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(node: Node) -> Value:
        raise TypeError("two is no number")

    monkeypatch.setitem(RULES, ("", "Relu"), [(1, broken)])
    with pytest.raises(mdsl.MdslError, match=r"internal failure \(TypeError: two is no number\)") as caught:
        import_model(model([node("Relu", "x")]))
    assert isinstance(caught.value.__cause__, TypeError)
    assert "broken" in "".join(traceback.format_exception(caught.value))


def test_an_operator_of_an_opset_that_the_model_does_not_name() -> None:
    proto = model([node("Relu", "x")])
    del proto.opset_import[:1]
    with pytest.raises(mdsl.MdslError, match="the domain 'ai.onnx' is not among the model's opsets"):
        import_model(proto)


def test_the_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsl.frontends.onnx.model.find_spec", lambda name: None)
    with pytest.raises(mdsl.MdslError, match=r"pip install 'mdsl\[onnx\]'"):
        import_onnx(saved(tmp_path, model([node("Relu", "x")])))


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
