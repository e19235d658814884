"""What `bind` makes work works at the first call with the same sizes and values: in Python, on the command line, and in
the list of `import --check`. ONNX's own evaluator says what is right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_of_nodes import F32, I1, I64, model, node, saved
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import mdsl
from mdsl.cli import command
from mdsl.frontends.onnx import check, import_model

RANDOM = np.random.default_rng(12)
TYPES = {"f": F32, "i": I64, "b": I1}
Case = tuple[list[NodeProto], dict[str, tuple[list[Any], Any]], dict[str, Any], int]
"""Nodes, what each open dimension and what is in each input (a shape stands for random numbers), weights, opset."""


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def graph(nodes: list[NodeProto], output: str, inputs: str = "", **weights: Any) -> GraphProto:
    """The body of a loop or a branch."""
    named = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    types = {"i": I64, "c": I1, "c2": I1}
    starts, ends = (
        [helper.make_tensor_value_info(n, types.get(n, F32), None) for n in names.split()]
        for names in (inputs, output)
    )
    return helper.make_graph(nodes, "body", starts, ends, named)


def branches(then: list[int], otherwise: list[int]) -> dict[str, GraphProto]:
    """Two branches that give x two shapes."""
    return {
        f"{name}_branch": graph([node("Reshape", "x to", name)], name, to=shape)
        for name, shape in (("then", then), ("else", otherwise))
    }


def single(numbers: list[Any]) -> np.ndarray:
    return np.array(numbers, np.float32)


def choice(condition: str, then: list[int], otherwise: list[int], output: str = "y") -> NodeProto:
    """An `If` whose branches give x two shapes."""
    bodies: dict[str, Any] = branches(then, otherwise)
    return node("If", condition, output, **bodies)


LOOP = graph(
    [node("Identity", "c", "c2"), node("Add", "v x", "v2"), node("Identity", "v2", "o")], "c2 v2 o", "i c v"
)
HALF = [
    node("Shape", "x", "s"),
    node("Gather", "s one", "n"),
    node("Div", "n two", "h"),
    node("Reshape", "h minus", "k"),
]
NUMBERS = {"one": np.array(1), "two": np.array(2), "minus": [-1]}
GATES = {"w": normal(1, 20, 4), "r": normal(1, 20, 5)}
HW: list[Any] = [1, 2, "h", "w"]

CASES: dict[str, Case] = {
    "reflected": ([node("Pad", "x p", mode="reflect")], {"x": (["m", "n"], (3, 9))}, {"p": [0, 3, 1, 2]}, 18),
    "unnamed": ([node("Pad", "x p", mode="edge")], {"x": (["?", "?"], (3, 9))}, {"p": [0, 3, 1, 2]}, 18),
    "pads computed": ([*HALF, node("Concat", "p k", "all", axis=0), node("Pad", "x all")], {"x": ([2, "n"], (2, 9))},
                      {**NUMBERS, "p": [0, 0, 0]}, 18),
    "pads given": ([node("Pad", "x p", mode="reflect")], {"x": ([3, "n"], (3, 6)), "p": ([4], [1, 2, 0, 3])}, {}, 18),
    "resized": ([node("Resize", "x _ s", mode="linear")], {"x": (HW, (1, 2, 6, 9))}, {"s": single([1, 1, 2, 0.5])}, 18),
    "scales given": ([node("Resize", "x _ s")], {"x": (HW, (1, 2, 6, 9)), "s": ([4], single([1, 1, 2, 3]))}, {}, 18),
    "upsampled": ([node("Upsample", "x s")], {"x": (HW, (1, 2, 6, 9))}, {"s": single([1, 1, 2, 3])}, 9),
    "LSTM": ([node("LSTM", "x w r", hidden_size=5)], {"x": (["t", 2, 4], (7, 2, 4))}, GATES, 17),
    "LSTM of a given shape": ([node("Reshape", "x s", "z"), node("LSTM", "z w r", hidden_size=5)],
                              {"x": (["n", 4], (6, 4)), "s": ([3], [3, 2, 4])}, GATES, 17),
    "softmax": ([node("Softmax", "x", axis=1)], {"x": (["a", "b", "c"], (2, 3, 4))}, {}, 11),
    "hardmax": ([node("Hardmax", "x", axis=-1)], {"x": (["a", "b"], (2, 5))}, {}, 13),
    "sums": ([node("CumSum", "x axis", exclusive=1)], {"x": (["a", "b"], (2, 5))}, {"axis": np.array(1)}, 17),
    "sums along": ([node("CumSum", "x axis")], {"x": (["a", "b"], (2, 5)), "axis": ([], np.array(0))}, {}, 17),
    "largest": ([*HALF, node("TopK", "x k", "y i", axis=1)], {"x": (["a", "b"], (2, 9))}, NUMBERS, 17),
    "largest given": ([node("TopK", "x k", "y i")], {"x": ([2, "b"], (2, 9)), "k": ([1], [4])}, {}, 17),
    "regions": ([node("RoiAlign", "x rois of", output_height=2, output_width=2, sampling_ratio=2)],
                {"x": (["n", 1, "h", "w"], (2, 1, 7, 8)), "rois": (["k", 4], single([[0, 0, 4, 5], [1, 1, 7, 6]])),
                 "of": (["k"], [0, 1])}, {}, 16),
    "reshaped": ([node("Reshape", "x s")], {"x": ([4, 6], (4, 6)), "s": ([2], [2, -1])}, {}, 17),
    "counted": ([node("Range", "zero n two", "i"), node("Cast", "i", to=F32)], {"n": ([], np.array(7))},
                {"zero": np.array(0), "two": np.array(2)}, 17),
    "a branch by size": ([*HALF, node("Equal", "n four", "c"), choice("c", [2, 2], [1, 3])],
                         {"x": ([1, "n"], (1, 4))}, {**NUMBERS, "four": np.array(4)}, 17),
    "a branch by number": ([node("Equal", "n four", "c"), choice("c", [3, 3], [2, 2])],
                           {"x": ([4], (4,)), "n": ([], np.array(5))}, {"four": np.array(4)}, 17),
    "a branch in a branch": ([node("If", "c", then_branch=graph([choice("d", [4, 1], [7, 7], "t")], "t"),
                                   else_branch=graph([node("Neg", "x", "e")], "e"))],
                             {"x": ([4], (4,)), "c": ([], np.array(True)), "d": ([], np.array(True))}, {}, 17),
    "a loop": ([node("Loop", "n _ x", "y all", body=LOOP)], {"x": (["m"], (3,)), "n": ([], np.array(4))}, {}, 17),
}  # fmt: skip


def softmax_of_rows(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.reshape(len(x), -1))
    return (powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape)


BY_HAND: dict[str, Callable[..., np.ndarray]] = {
    "softmax": softmax_of_rows,
    "a loop": lambda x, n: x * (n + 1),
}
"""Where ONNX's evaluator errs: it does not know the old softmax, nor what a loop collects."""


def build(case: Case) -> tuple[ModelProto, dict[str, np.ndarray], dict[str, int], np.ndarray]:
    """The model, its inputs, the sizes that these have, and what it should give."""
    nodes, inputs, weights, opset = case
    arrays = {n: normal(*a) if isinstance(a, tuple) else np.asarray(a) for n, (_, a) in inputs.items()}
    infos = [(n, TYPES[arrays[n].dtype.kind], shape) for n, (shape, _) in inputs.items()]
    proto = model(nodes, infos, weights=weights, opset=opset)
    dims = [(n, d, s) for n, (shape, _) in inputs.items() for d, s in enumerate(shape)]
    sizes = {s if s != "?" else f"{n}.{d}": arrays[n].shape[d] for n, d, s in dims if isinstance(s, str)}
    name = next((n for n, found in CASES.items() if found is case), "")
    own = BY_HAND.get(name)
    if own is not None:
        return proto, arrays, sizes, own(**arrays)
    found: Any = ReferenceEvaluator(proto).run(None, arrays)
    return proto, arrays, sizes, found[0]


def same(found: Any, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_call_does_what_bind_does(name: str, tmp_path: Path) -> None:
    proto, arrays, sizes, wanted = build(CASES[name])
    network = mdsl.compile(proto, engine="reference")
    same(network(**arrays), wanted)
    same(pickle.loads(pickle.dumps(network))(*arrays.values()), wanted)
    values = {n: a for n, a in arrays.items() if a.ndim < 2 and n not in ("x", "of")}
    bound = mdsl.compile(proto, engine="reference", bind={**sizes, **values})
    same(bound(**{n: a for n, a in arrays.items() if n not in values}), wanted)
    path = saved(tmp_path, proto)
    assert not check(path).problems
    named: dict[str, Any] = dict(arrays)
    np.savez(tmp_path / "in.npz", **named)
    inputs = [f"--input={n + '=' if len(arrays) == 1 else ''}{tmp_path / 'in.npz'}" for n in [*arrays][:1]]
    assert command(["run", str(path), *inputs, "--engine=reference", "-o", str(tmp_path / "y.npy")]) == 0
    same(np.load(tmp_path / "y.npy"), wanted)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(4, 12),
    st.sampled_from(["reflected", "pads computed", "resized", "largest"]),
)
def test_one_program_serves_all_sizes(a: int, b: int, name: str) -> None:
    nodes, inputs, weights, opset = CASES[name]
    shape = inputs["x"][0]
    full = tuple(s if isinstance(s, int) else (a if i < len(shape) - 1 else b) for i, s in enumerate(shape))
    full = tuple(max(s, 2) for s in full) if name != "resized" else (*full[:2], 2 * a, 2 * b)
    proto, arrays, _, wanted = build((nodes, {"x": (shape, full)}, weights, opset))
    same(mdsl.compile(proto, engine="reference")(**arrays), wanted)


def test_each_value_gets_a_program_of_its_own() -> None:
    proto, arrays, _, _ = build(CASES["reshaped"])
    network, x = mdsl.compile(proto), arrays["x"]
    for shape in ([2, -1], [24], [3, 8], [2, -1], [1, 24, 1]):
        if len(shape) == 2:
            same(network(x, np.array(shape)), x.reshape(shape))
    with pytest.raises(mdsl.MdslError, match="has 24 elements"):
        network(x, np.array([5, 5]))


def test_a_program_is_saved_once_the_values_that_decide_shapes_are_bound(tmp_path: Path) -> None:
    proto, arrays, _, _ = build(CASES["reshaped"])
    with pytest.raises(mdsl.MdslError, match="can be saved: bind the values of the inputs 's'"):
        mdsl.compile(proto).save(tmp_path / "net.mbc")
    mdsl.compile(proto, bind={"s": [3, 8]}).save(tmp_path / "net.mbc")
    same(mdsl.load(tmp_path / "net.mbc")(arrays["x"]), arrays["x"].reshape(3, 8))


def test_a_branch_that_does_not_fit_fails_when_it_is_taken() -> None:
    proto, arrays, _, wanted = build(CASES["a branch by number"])
    network = mdsl.compile(proto)
    same(network(**arrays), wanted)
    with pytest.raises(mdsl.MdslError, match=r"node 'then' \(Reshape\)"):
        network(arrays["x"], np.int64(4))
    fixed = mdsl.compile(proto, bind={"n": 5})
    assert [spec.name for spec in fixed.inputs] == ["x"]
    same(fixed(arrays["x"]), wanted)


def test_what_no_size_helps_is_refused_at_once() -> None:
    open_x = [("x", F32, ["n", 3])]
    for op, why in ((node("Nonsense", "x"), "no operator"), (node("Relu", "x", to=3), "attribute")):
        with pytest.raises(mdsl.MdslError, match=why):
            mdsl.compile(
                model([op, node("Pad", "x p", "z", mode="reflect")], open_x, weights={"p": [1, 1, 1, 1]})
            )
    with pytest.raises(mdsl.MdslError, match="has 6 elements"):
        mdsl.compile(model([node("Reshape", "x s")], weights={"s": [5, 5]}))


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ({"k": [1, 2]}, "input 'k' is tensor<1xi64> and cannot be bound to"),
        ({"k": 1.5}, "cannot be bound to 1.5"),
        ({"n": 1.5}, "the size of dimension 'n' must be an integer, got 1.5"),
        ({"n": [2]}, "the size of dimension 'n' must be an integer"),
        ({"kk": 3}, "no dimension 'kk' to bind; did you mean 'k'.*inputs: x, k"),
        ({"k": "3"}, "must be an integer, got '3'"),
    ],
)
def test_what_cannot_be_bound(bind: dict[str, Any], message: str) -> None:
    proto = model([node("TopK", "x k", "y i")], [("x", F32, [2, "n"]), ("k", I64, [1])])
    with pytest.raises(mdsl.MdslError, match=message):
        mdsl.compile(proto, bind=bind)


def test_values_of_every_type_are_bound() -> None:
    for kind, value in (
        (TensorProto.BOOL, True),
        (TensorProto.INT32, -3),
        (TensorProto.FLOAT16, 0.5),
        (F32, 7),
    ):
        proto = model([node("Cast", "k", to=F32)], [("k", kind, [2])])
        assert mdsl.compile(proto, bind={"k": value})().tolist() == [value, value]  # type: ignore[union-attr]


TEXT = """
func.func @main(%x: tensor<?x6xf32> {mdsl.dims = ["n", ""]}, %shape: tensor<2xi64>) -> tensor<?x?xf32> {
  %y = nn.dynamic_reshape %x, %shape : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}
"""


@pytest.mark.parametrize(
    "arguments", [["--bind", "n=4,shape=[3,8]"], ["--bind=shape=[3,8]", "--bind=n=4"], []]
)
def test_text_is_bound_as_a_model_is(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = normal(4, 6)
    same(mdsl.compile(TEXT)(x, np.array([3, 8])), x.reshape(3, 8))
    same(mdsl.compile(TEXT, bind={"shape": (3, 8)})(x), x.reshape(3, 8))
    (tmp_path / "net.mir").write_text(TEXT)
    np.save(tmp_path / "shape.npy", [3, 8])
    inputs = ["--input=x=4x6xf32=1", *([] if arguments else [f"--input=shape={tmp_path / 'shape.npy'}"])]
    assert command(["run", str(tmp_path / "net.mir"), *inputs, *arguments]) == 0
    assert capsys.readouterr().out.startswith("y: 3x8xf32")


def test_check_tells_what_nodes_wait_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Pad", "x p", "z", mode="reflect"), node("Relu", "z", "w"), node("TopK", "w k", "y i")]
    proto = model(nodes, [("x", F32, [2, "n"]), ("k", I64, [1])], weights={"p": [0, 1, 0, 1]})
    assert command(["import", "--check", str(saved(tmp_path, proto))]) == 0
    out = capsys.readouterr().out
    assert "all 3 nodes are supported" in out and "'z' (Pad): " in out and "depends on the size of x" in out
    with pytest.raises(mdsl.MdslError, match="sizes that are open: n"):
        import_model(proto)
