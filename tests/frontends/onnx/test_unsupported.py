"""What is said of ONNX models that cannot be imported, or not yet."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from models_of_nodes import F32, model, node, saved
from onnx import ModelProto, helper

import mdsl
from mdsl.cli import command
from mdsl.frontends.onnx import check, import_model, import_onnx
from mdsl.frontends.onnx.registry import RULES, Node
from mdsl.ir.core import Value


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
