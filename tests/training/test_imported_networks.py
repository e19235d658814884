"""Training imported models: which of their numbers are parameters, and how many samples they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.cli import command

onnx = pytest.importorskip("onnx")
from models_of_nodes import F32, I64, model, node  # noqa: E402


def test_a_model_that_leaves_the_number_of_samples_open() -> None:
    """It is imported for a batch: of a recurrent layer the import has to know the sizes, and what it writes has time in front."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(1, 12, 4)).astype(np.float32),
        "r": random.normal(size=(1, 12, 4)).astype(np.float32),
        "f": random.normal(size=(4, 5)).astype(np.float32),
    }
    nodes = [
        node("Transpose", "x", "by_time", perm=[1, 0, 2]),
        node("GRU", "by_time w r", "all last", hidden_size=4),
        node("Squeeze", "last axes", "state"),
        node("MatMul", "state f"),
    ]
    proto = model(nodes, [("x", F32, ["n", 6, 4])], [("y", F32, ["n", 5])], {**weights, "axes": [0]})
    data = {"x": random.normal(size=(200, 6, 4)).astype(np.float32), "labels": random.integers(0, 5, 200)}
    trainer = mdsl.Trainer(proto, data, batch=20, lr=0.02)
    losses = trainer.train(60)
    total = sum(a.size for a in trainer.parameters.values())
    assert total == sum(a.size for a in weights.values())
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])


def test_every_weight_of_a_model_is_trained_whatever_numbers_it_holds() -> None:
    """Small ones, and such that are one number; equal weights that were written once, with an Identity for each; two that are added up."""
    weights = {
        "first": np.zeros(4, np.float32),
        "slope": np.ones((4, 1), np.float32),
        "both": np.eye(4, 3, dtype=np.float32),
    }
    nodes = [
        node("Identity", "first", "second"),
        node("Add", "first second", "bias"),
        node("Add", "x bias", "moved"),
        node("Transpose", "slope", "row", perm=[1, 0]),
        node("Mul", "moved row", "scaled"),
        node("MatMul", "scaled both"),
    ]
    proto = model(nodes, [("x", F32, ["n", 4])], [("y", F32, ["n", 3])], weights)
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(50, 4)).astype(np.float32), "labels": random.integers(0, 3, 50)}
    trainer = mdsl.Trainer(proto, data, batch=10, lr=0.01)
    before = {name: array.copy() for name, array in trainer.parameters.items()}
    assert sorted(a.size for a in before.values()) == [4, 4, 4, 12]
    trainer.train(2)
    assert all((trainer.parameters[name] != array).any() for name, array in before.items())
    assert mdsl.compile(trainer.trained())(data["x"][:7]).shape == (7, 3)


def test_what_no_framework_would_train_stays() -> None:
    """Numbers in nodes, a mask that is only compared, one that holds infinities, single numbers of other exporters than PyTorch's."""
    weights = {
        "w": np.eye(4, dtype=np.float32) / 2,
        "seen": np.tri(4, dtype=np.float32),
        "hidden": np.triu(np.full((4, 4), -np.inf, np.float32), 1),
        "far": np.float32([0, np.finfo(np.float32).min, 0, 0]),
        "half": np.array(0.5, np.float32),
        "learnt": np.array(0.25, np.float32),
        "scaled_twice": np.full((1, 4), 2, np.float32),
        "zero": np.array(0, np.float32),
    }
    nodes = [
        node("Constant", "", "one", value_floats=[1.0, 2.0, 3.0, 4.0]),
        node("Mul", "x one", "a"),
        node("MatMul", "a w", "b"),
        node("Equal", "seen zero", "is_hidden"),
        node("Where", "is_hidden zero w", "shown"),
        node("MatMul", "b shown", "c"),
        node("Add", "hidden far", "mask"),
        node("Softmax", "mask", "share"),
        node("MatMul", "c share", "d"),
        node("Mul", "d half", "e"),
        node("Mul", "e scaled_twice", "f"),
        node("Mul", "f learnt"),
    ]
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(50, 4)).astype(np.float32), "labels": random.integers(0, 4, 50)}
    proto = model(nodes, [("x", F32, ["n", 4])], [("y", F32, ["n", 4])], weights)

    def trained() -> set[str]:
        return {*mdsl.Trainer(proto, data, batch=10).parameters}

    assert trained() == {"w", "scaled_twice"}
    proto.producer_name = "pytorch"
    assert trained() == {
        "w",
        "scaled_twice",
        "half",
        "learnt",
        "zero",
    }  # and none that only a comparison reads
    for name, kind in (
        ("w", "PARAMETER"),
        ("scaled_twice", "BUFFER"),
        ("half", "CONSTANT_TENSOR"),
        ("learnt", "PARAMETER"),
    ):
        info = proto.graph.value_info.add(name=name)
        info.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value=kind)
    assert trained() == {"w", "learnt"}


def test_the_constant_scale_of_a_group_norm_is_no_parameter_again_after_training() -> None:
    """PyTorch writes an InstanceNormalization of ones and zeros in `Constant` nodes, and the learnt scale behind it."""
    nodes = [
        node("Constant", "", "ones", value_floats=[1.0, 1.0]),
        node("Constant", "", "zeros", value_floats=[0.0, 0.0]),
        node("InstanceNormalization", "x ones zeros", "normal"),
        node("Mul", "normal scale", "scaled"),
        node("ReduceMean", "scaled", axes=[2], keepdims=0),
    ]
    proto = model(
        nodes, [("x", F32, [1, 2, 5])], [("y", F32, [1, 2])], {"scale": np.ones((2, 1), np.float32)}, 17
    )
    random = np.random.default_rng(0)
    data = {
        "x": random.normal(size=(50, 2, 5)).astype(np.float32),
        "target": random.normal(size=(50, 2)).astype(np.float32),
    }
    settings = {"loss": "mse", "optimizer": "sgd{momentum=0.9}", "lr": 0.1, "batch": 10}
    trainer = mdsl.Trainer(proto, data, **settings)
    trainer.train(3)
    assert {*trainer.parameters} == {"scale"}
    assert {*mdsl.Trainer(trainer.trained(), data, **settings).parameters} == {"scale"}


def test_a_weight_that_several_nodes_move_is_one() -> None:
    """A token for each sample, a vector in two shapes, and an embedding whose matrix is that of the last layer too."""
    weights = {
        "token": np.full((1, 1, 3), 0.5, np.float32),
        "scale": np.float32([1, 2, 3]),
        "table": np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3),
        "ends": np.int64([3]), "starts": np.int64([1]), "axis": np.int64([1]), "last": np.int64([-1]), "first": np.int64([0]),
    }  # fmt: skip
    nodes = [
        node("Gather", "table x", "seen"),
        node("Expand", "token sizes", "tokens"),
        node("Concat", "tokens seen", "all", axis=1),
        node("Unsqueeze", "scale first", "row"),
        node("Unsqueeze", "scale last", "column"),
        node("Mul", "all row", "scaled"),
        node("MatMul", "scaled column", "weighed"),
        node("Mul", "scaled weighed", "b"),
        node("ReduceMean", "b", "mean", axes=[1], keepdims=0),
        node("Transpose", "table", "turned", perm=[1, 0]),
        node("MatMul", "mean turned"),
    ]
    proto = model(
        nodes, [("x", I64, [4, 2])], [("y", F32, [4, 5])], {**weights, "sizes": np.int64([4, 1, 3])}, 17
    )
    data = {"x": np.arange(40).reshape(20, 2) % 5, "labels": np.arange(20) % 5}
    trainer = mdsl.Trainer(proto, data, batch=4, optimizer="sgd", lr=0.1)
    assert {n: a.shape for n, a in trainer.parameters.items()} == {
        "token": (1, 1, 3), "scale": (3,), "table": (5, 3)
    }  # fmt: skip
    losses = trainer.train(40)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert len(mdsl.Trainer(proto, data, batch=10).train(1)) == 1  # another number than it was exported for


def test_how_much_classes_count_is_not_learnt() -> None:
    weights = {"w": np.eye(3, dtype=np.float32), "counts": np.float32([1, 2, 0.5])}
    nodes = [node("MatMul", "x w", "z"), node("SoftmaxCrossEntropyLoss", "z labels counts", reduction="mean")]
    proto = model(nodes, [("x", F32, ["n", 3]), ("labels", I64, ["n"])], [("y", F32, [])], weights, 17)
    data = {"x": np.eye(3, dtype=np.float32)[np.arange(30) % 3], "labels": np.arange(30) % 3}
    trainer = mdsl.Trainer(proto, data, loss="own", batch=6)
    assert {*trainer.parameters} == {"w"} and trainer.trains == "1 parameter, 9 numbers"
    assert trainer.train(20)[-1] < trainer.losses[0]


def _recurrent() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A layer of which the import has to know the sizes; a zero bias, which an import that is only run would write in the text."""
    random = np.random.default_rng(1)
    weights = {
        "w": random.normal(size=(1, 12, 4)).astype(np.float32),
        "r": random.normal(size=(1, 12, 4)).astype(np.float32),
        "f": random.normal(size=(4, 5)).astype(np.float32),
        "b": np.zeros(5, np.float32),
        "mask": np.full((1, 5), 0.5, np.float32),
        "axes": np.int64([0]),
    }
    nodes = [
        node("Constant", "", "scale", value_floats=[1.0, 2.0, 3.0, 4.0]),
        node("Mul", "x scale", "wide"),
        node("Transpose", "wide", "by_time", perm=[1, 0, 2]),
        node("GRU", "by_time w r", "all last", hidden_size=4),
        node("Squeeze", "last axes", "state"),
        node("MatMul", "state f", "z"),
        node("Add", "z b", "moved"),
        node("Greater", "moved mask", "seen"),
        node("Where", "seen moved b"),
    ]
    return nodes, weights


def _shared() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A scale that is the sum of two weights, and a weight in two layers."""
    weights = {
        "first": np.zeros((4, 1), np.float32),
        "second": np.ones((4, 1), np.float32),
        "w": np.eye(4, dtype=np.float32),
        "f": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5),
    }
    nodes = [
        node("Add", "first second", "column"),
        node("Transpose", "column", "row", perm=[1, 0]),
        node("ReduceMean", "x", "mean", axes=[1], keepdims=0),
        node("Mul", "mean row", "scaled"),
        node("MatMul", "scaled w", "a"),
        node("Transpose", "w", "turned", perm=[1, 0]),
        node("Tanh", "a", "b"),
        node("MatMul", "b turned", "c"),
        node("MatMul", "c f"),
    ]
    return nodes, weights


@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("make", [_recurrent, _shared])
def test_a_model_that_was_imported_before_trains_to_the_bit_as_the_model_does(
    make: Callable[[], tuple[list[onnx.NodeProto], dict[str, np.ndarray]]], batch: int | str, tmp_path: Path
) -> None:
    nodes, weights = make()
    proto = model(nodes, [("x", F32, [batch, 6, 4])], [("y", F32, [batch, 5])], weights, 17)
    onnx.save(proto, tmp_path / "net.onnx")
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(60, 6, 4)).astype(np.float32), "labels": random.integers(0, 5, 60)}
    assert command(["import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.mir")]) == 0
    assert command(["opt", str(tmp_path / "net.mir"), "--generic", "-o", str(tmp_path / "generic.mir")]) == 0
    assert command(["opt", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "opt.mir")]) == 0
    runs: dict[str, list[Any]] = {}
    for program in (tmp_path / "net.onnx", *sorted(tmp_path.glob("*.mir")), proto):
        for init in ("keep", "random"):
            trainer = mdsl.Trainer(program, data, batch=10, lr=0.01, init=init)
            losses = trainer.train(8)
            runs.setdefault(init, []).append(
                (losses, [(n, a.tobytes()) for n, a in trainer.parameters.items()])
            )
    for found in runs.values():
        assert len(found) == 5 and all(run == found[0] for run in found)


def _tell(proto: onnx.ModelProto, parameters: str, folded: dict[str, str], nodes: dict[int, str]) -> None:
    """Writes the metadata of PyTorch's newer exporter: its parameters, of what initializers were computed, what nodes read."""
    names = parameters.split()
    lines = [f"p_{name.replace('.', '_')}: PARAMETER target='{name}'" for name in names]
    text = "\n# inputs\n" + "\n".join(
        [*lines, "b_mask: BUFFER target='mask' persistent=True", "x: USER_INPUT"]
    )
    proto.graph.metadata_props.add(key="pkg.torch.export.ExportedProgram.graph_signature", value=text)
    for name, sources in folded.items():
        info = proto.graph.value_info.add(name=name)
        info.metadata_props.add(key="pkg.onnxscript.optimizer.folded_from", value=str(sources.split()))
    for number, read in nodes.items():
        arguments = ", ".join(f"%p_{name.replace('.', '_')}" for name in read.split())
        value = (
            f"%y : [num_users=1] = call_function[target=aten.linear](args = (%x, {arguments}), kwargs = {{}})"
        )
        proto.graph.node[number].metadata_props.add(key="pkg.torch.onnx.fx_node", value=value)


def test_what_torch_s_newer_exporter_has_computed_merged_and_left_out() -> None:
    """It folds transposes (so that a tied weight is there twice), and writes tensors of equal numbers once, whether they are one weight or not."""
    random = np.random.default_rng(0)
    table, inner = (random.normal(size=size).astype(np.float32) for size in ((6, 4), (4, 4)))
    zeros, mask = np.zeros(4, np.float32), np.float32([1, 0.5, 1, 1])
    folded = {"table.weight": table, "val_1": inner.T, "a.bias": zeros, "val_2": table.T, "val_3": mask}
    nodes = [
        node("Gather", "table.weight x", "seen"),
        node("Mul", "seen val_3", "masked"),
        node("MatMul", "masked val_1", "first"),
        node("Add", "first a.bias", "a"),
        node("MatMul", "a val_1", "second"),
        node("Add", "second a.bias", "b"),
        node("MatMul", "b val_2"),
    ]
    inputs, outputs = [("x", I64, ["n"])], [("y", F32, ["n", 6])]
    proto = model(nodes, inputs, outputs, folded)
    proto.producer_name = "pytorch"
    reads = {
        0: "table.weight",
        2: "a.weight a.bias",
        3: "a.weight a.bias",
        4: "a.weight b.bias",
        5: "a.weight b.bias",
    }
    _tell(
        proto, "table.weight head.weight a.weight a.bias b.bias head.bias",
        {"val_1": "a.weight", "val_2": "table.weight", "val_3": "mask val_0"},
        {**reads, 6: "table.weight head.bias"},
    )  # fmt: skip

    plain = {"table": table, "inner": inner, "a_bias": zeros, "b_bias": zeros}
    nodes = [
        node("Constant", "", "mask", value=onnx.numpy_helper.from_array(mask)),
        node("Gather", "table x", "seen"),
        node("Mul", "seen mask", "masked"),
        node("Transpose", "inner", "turned", perm=[1, 0]),
        node("Transpose", "table", "head", perm=[1, 0]),
        node("MatMul", "masked turned", "first"),
        node("Add", "first a_bias", "a"),
        node("MatMul", "a turned", "second"),
        node("Add", "second b_bias", "b"),
        node("MatMul", "b head"),
    ]
    data = {"x": random.integers(0, 6, 60), "labels": random.integers(0, 6, 60)}
    trainers = [mdsl.Trainer(p, data, batch=12) for p in (proto, model(nodes, inputs, outputs, plain))]
    assert {n: a.shape for n, a in trainers[0].parameters.items()} == {
        "table.weight": (6, 4), "a.weight_folded": (4, 4), "a.bias": (4,), "b.bias": (4,)
    }  # fmt: skip
    assert trainers[0].left_out == ("head.bias",) and trainers[1].left_out == ()
    losses = [trainer.train(20) for trainer in trainers]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert mdsl.Trainer(proto, data, batch=12, frozen=["a.*"]).programs.trained == ("table.weight", "b.bias")


def test_metadata_of_an_exporter_may_say_anything() -> None:
    """A tensor that is not what it is said to be computed of is a weight of its own; names that there are not, nonsense."""
    w = np.eye(4, dtype=np.float32)
    weights = {"w": w, "v": 2 * w, "u": np.arange(2, 10, dtype=np.float32), "z": np.zeros(4, np.float32)}
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "a v", "b"),
        node("Add", "b z", "c"),
        node("Add", "c z"),
    ]
    proto = model(nodes, [("x", F32, ["n", 4])], [("y", F32, ["n", 4])], weights)
    _tell(proto, "w z q", {"v": "w", "u": "w", "q": "no"}, {0: "q", 1: "w q", 2: "w q q %", 3: "v"})
    proto.graph.metadata_props.add(
        key="pkg.torch.export.ExportedProgram.graph_signature", value="p_: PARAMETER target="
    )
    data = {"x": np.ones((20, 4), np.float32), "labels": np.arange(20) % 4}
    assert {*mdsl.Trainer(proto, data, batch=10).parameters} == {"w", "w_folded", "z"}
