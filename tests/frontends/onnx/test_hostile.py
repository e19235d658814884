"""Whatever is wrong with a model, there is one clear error, soon, and without much memory."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from models_of_nodes import F32, I1, I64, X, function, model, node, saved
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import mdsl
from mdsl.cli import command
from mdsl.frontends.onnx import import_onnx

GOOD = model([node("Relu", "x")]).SerializeToString()
HUGE = 10**12
ONE = np.ones(4, np.float32)


def raw(**changes: object) -> TensorProto:
    tensor = numpy_helper.from_array(ONE, "w")
    for name, value in changes.items():
        if name == "dims":
            tensor.dims[0] = value  # type: ignore[index]
        else:
            setattr(tensor, name, value)
    return tensor


def adding(tensor: TensorProto) -> ModelProto:
    return model([node("Add", "x w")], inputs=[("x", F32, [4])], tensors=[tensor])


def scalars(start: object, limit: object, delta: object) -> dict[str, object]:
    return {"s": np.array(start), "l": np.array(limit), "d": np.array(delta)}


def endless(**weights: object) -> ModelProto:
    """A loop over nothing much."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "going", "go_on"), node("Relu", "v", "next")], "body",
        [info("i", I64, []), info("going", I1, []), info("v", F32, None)], [info("go_on", I1, []), info("next", F32, None)],
    )  # fmt: skip
    return model([node("Loop", "m _ x" if "m" in weights else "_ c x", body=body)], weights=weights)


def nested(depth: int) -> bytes:
    """An If in the branch of an If, and so on: deeper than `helper` can make it."""
    then = node("If", "c", "o").SerializeToString()
    branch = helper.make_graph([node("Relu", "x", "o")], "b", [], []).SerializeToString()
    for _ in range(depth):
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
        branch = field(1, then + field(5, attribute + field(6, branch)))
    whole = ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    return whole + field(7, branch)


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([(size & 127) | 128]), size >> 7
    return bytes([number * 8 + 2]) + length + bytes([size]) + content


def laughing(levels: int) -> ModelProto:
    """Functions each of which calls the one before it twice."""
    found = [function("F0", [node("Relu", "a", "b")])]
    for i in range(1, levels):
        calls = [node(f"F{i - 1}", "a", "t", domain="local"), node(f"F{i - 1}", "t", "b", domain="local")]
        found.append(function(f"F{i}", calls))
    return model([node(f"F{levels - 1}", "x", domain="local")], functions=found)


def doubling() -> ModelProto:
    nodes = [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(60)]
    return model([node("Identity", "x", "c0"), *nodes, node("Relu", "c60")])


def calling(*names: str) -> ModelProto:
    """Functions that call each other in a ring."""
    ring = [
        function(a, [node(b, "a", "b", domain="local")])
        for a, b in zip(names, (*names[1:], names[0]), strict=True)
    ]
    return model([node(names[0], "x", domain="local")], functions=ring)


IMAGE = [("x", F32, [1, 1, 8, 8])]

# The model, and what its error says.
MODELS: dict[str, tuple[ModelProto | bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "noise": (bytes(range(256)) * 9, "damaged or no protobuf message"),
    "text": (b"hello world\n" * 99, "not an ONNX model: it is text"),
    "truncated": (GOOD[: len(GOOD) // 2], "damaged or no protobuf message"),
    "no graph": (ModelProto(ir_version=8), "it has no graph"),
    "no opset": (ModelProto(ir_version=8, graph=model([node("Relu", "x")]).graph), "it has no opset"),
    "opset of the future": (model([node("Relu", "x")], opset=9999), "opset 9999 is newer than"),
    "opset of the past": (model([node("Relu", "x")], opset=2), "opset 2 is too old"),
    "no outputs": (model([node("Relu", "x")], outputs=[]), "no outputs"),
    "output from nowhere": (model([node("Relu", "x")], outputs=["z"]), "'z', which nothing defines"),
    "output of another type": (model([node("Relu", "x")], outputs=[("y", I64, None)]), "elements of type i64, its node gives"),
    "undefined": (model([node("Relu", "q")]), "reads 'q', which nothing defines"),
    "cycle": (model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "a")]), "a cycle of nodes: 'a' reads 'b' reads 'a'"),
    "defined twice": (model([node("Relu", "x"), node("Neg", "x")]), "defines 'y', which is defined already"),
    "two inputs of a name": (model([node("Relu", "x")], inputs=[X, X]), "defines 'x', which is defined already"),
    "not UTF-8": (GOOD.replace(b"Relu", b"\xff\xfe\xfd\xfc"), "not UTF-8|damaged"),
    "too little data": (adding(raw(raw_data=b"123")), "takes 16 bytes, it has 3"),
    "too much data": (adding(raw(raw_data=b"1" * 99)), "takes 16 bytes, it has 99"),
    "vast tensor": (adding(raw(dims=HUGE)), "takes 4000000000000 bytes, it has 16"),
    "negative dimension": (adding(raw(dims=-4)), r"the dimensions \[-4\]"),
    "unknown type": (adding(raw(data_type=77)), "elements of type number 77"),
    "strings": (model([node("Identity", "x")], inputs=[("x", TensorProto.STRING, [2])]), "elements of type string"),
    "no rank": (model([node("Relu", "x")], inputs=[("x", F32, None)]), "not even how many dimensions"),
    "200 dimensions": (model([node("Relu", "x")], inputs=[("x", F32, [1] * 200)]), "200 dimensions are more than 32"),
    "vast input": (model([node("Relu", "x")], inputs=[("x", F32, [HUGE, HUGE])]), "more than 16 GiB"),
    "vast constant": (model([node("ConstantOfShape", "s")], weights={"s": [HUGE]}), "more than 16 GiB"),
    "negative shape": (model([node("ConstantOfShape", "s")], weights={"s": [-1]}), r"a shape cannot be \[-1\]"),
    "vast expand": (model([node("Expand", "x s")], weights={"s": [HUGE, 2, 3]}), "more than 16 GiB"),
    "vast tile": (model([node("Tile", "x s")], weights={"s": [HUGE, HUGE]}), "more than 16 GiB"),
    "vast pad": (model([node("Pad", "x s")], weights={"s": [0, 0, HUGE, HUGE]}), "more than 16 GiB"),
    "vast range": (model([node("Range", "s l d")], weights=scalars(0, 2**62, 1)), "a range of 4611686018427387904"),
    "vast range of floats": (model([node("Range", "s l d")], weights=scalars(0.0, 1e300, 1e-300)), "delta must not be 0|a range of|fit"),
    "range that stands still": (model([node("Range", "s l d")], weights=scalars(0, 9, 0)), "delta must not be 0"),
    "vast resize": (
        model([node("Resize", "x _ s")], inputs=IMAGE, weights={"s": np.float32([1, 1, 1e9, 1e9])}), "more than 16 GiB",
    ),
    "constant of nothing": (
        model([node("ConstantOfShape", "s", "a"), node("ReduceSum", "a", "b", keepdims=0), node("Add", "x b")],
              weights={"s": [3 * 2**28]}),
        r"node 'b' \(ReduceSum.*more than 1 GiB",
    ),
    "vast identity": (model([node("EyeLike", "x")], inputs=[("x", F32, [2**28, 4])]), "more than 1 GiB"),
    "one-hot among many": (
        model([node("OneHot", "x n v")], inputs=[("x", I64, [2])], weights={"n": [2**30], "v": np.float32([0, 1])}),
        "more than 1 GiB",
    ),
    "vast strides": (
        model([node("MaxPool", "x", kernel_shape=[1, 1], strides=[2**63 - 1] * 2, pads=[2**62] * 4)], inputs=IMAGE),
        "node 'y' .*beyond 2147483647",
    ),
    "vast pads": (
        model([node("AveragePool", "x", kernel_shape=[10**5] * 2, pads=[99999] * 4, strides=[10**5] * 2)], inputs=IMAGE),
        "node 'y' .*more than 16 GiB",
    ),
    "vast dilations": (
        model([node("Conv", "x w", dilations=[10**8] * 2, pads=[10**8] * 4)], inputs=IMAGE,
              weights={"w": np.ones((1, 1, 3, 3), np.float32)}),
        "node 'y' .*more than 16 GiB",
    ),
    "vast LRN": (model([node("LRN", "x", size=2**40 + 1)], inputs=IMAGE), "node 'y' .*more than 16 GiB"),
    "vast one-hot": (
        model([node("OneHot", "x n v")], inputs=[("x", I64, [2])], weights={"n": [2**50], "v": np.float32([0, 1])}),
        "more than 16 GiB",
    ),
    "vast padding": (
        model([node("Conv", "x w", pads=[HUGE] * 4)], inputs=IMAGE, weights={"w": np.ones((1, 1, 3, 3), np.float32)}),
        "more than 16 GiB",
    ),
    "doubling": (doubling(), "more than 16 GiB"),
    "recursion": (calling("F"), "function 'F' calls itself"),
    "recursion in a ring": (calling("F", "G", "H"), "function 'F' calls itself"),
    "billion laughs": (laughing(40), "unroll to more than 20000 nodes"),
    "endless loop": (endless(c=np.array(True)), "more than 1024 times"),
    "long loop": (endless(m=np.array(2**40)), "more than 1024 times"),
    "deep": (nested(2000), "damaged or no protobuf message"),
    "attribute of another type": (model([node("Softmax", "x", axis="one")]), "'axis' must be an integer, not a string"),
    "unknown attribute": (model([node("Relu", "x", alpha=1)]), "opset 17 has no attribute 'alpha' here"),
    "attribute missing": (model([node("Concat", "x x")]), "attribute 'axis' is missing"),
    "no inputs": (model([node("Conv", "")]), "takes 2 to 3 inputs, got 0"),
    "too many inputs": (model([node("Relu", "x x x")]), "takes 1 inputs, got 3"),
    "axis out of range": (model([node("Softmax", "x", axis=2**40)]), "axis 1099511627776 is out of range"),
    "permutation": (model([node("Transpose", "x", perm=[0, 0])]), "name a dimension twice"),
    "reshape": (model([node("Reshape", "x s")], weights={"s": [7, 7]}), "has 6 elements, tensor<7x7xf32> has 49"),
    "shape of floats": (model([node("Reshape", "x s")], weights={"s": np.float32([6])}), "must be a list of i64"),
    "index out of range": (model([node("Gather", "x s")], weights={"s": [99]}), "index 99 is outside dimension 0"),
    "pieces": (model([node("Split", "x s", "y z")], weights={"s": [-5, 7]}), r"pieces of \[-5, 7\]"),
    "windows without size": (model([node("MaxPool", "x", kernel_shape=[0, 0])], inputs=IMAGE), "at least 1"),
    "strides of 0": (
        model([node("AveragePool", "x", kernel_shape=[2, 2], strides=[0, 0], auto_pad="SAME_UPPER")], inputs=IMAGE),
        "at least 1",
    ),
    "triangle of a line": (model([node("Trilu", "x")], inputs=[("x", F32, [6])]), "internal failure .ValueError: .* do not fit"),
    "shapes that do not fit": (
        model([node("MatMul", "x w")], weights={"w": np.ones((5, 2), np.float32)}), "inner dimensions differ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_one_clear_error(tmp_path: Path, name: str) -> None:
    content, message = MODELS[name]
    path = saved(tmp_path, content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(mdsl.MdslError, match=message) as caught:
        import_onnx(path)
    assert str(caught.value).startswith(f"{path}: error: ")
    assert time.process_time() - start < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize(
    "name", ["noise", "undefined", "vast expand", "attribute missing", "triangle of a line"]
)
def test_the_command_says_it_and_writes_nothing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, MODELS[name][0])
    for check in ([], ["--check"]):
        assert command(["import", str(path), "-o", str(tmp_path / "out.mir"), *check]) == 1
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


# External data ------------------------------------------------------------------------------------------------


def external(location: str, **entries: object) -> ModelProto:
    tensor = TensorProto(name="w", data_type=F32, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return adding(tensor)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with links that lead out of it."""
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(ONE.tobytes())
    (tmp_path / "secret.bin").write_bytes(ONE.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "up").symlink_to(tmp_path)
    (inside / "inner.bin").symlink_to("w.bin")
    (inside / "circle").symlink_to("circle")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("none.bin", {}, "No such file"),
        ("../secret.bin", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside the model's folder"),
        ("link.bin", {}, "outside the model's folder"),
        ("up/secret.bin", {}, "outside the model's folder"),
        ("circle", {}, "symbolic links|outside"),
        ("pipe", {}, "not a regular file"),
        (".", {}, "not a regular file"),
        ("", {}, "without a location"),
        ("\0here", {"offset": 0, "length": 16}, "without a location"),
        ("w.bin", {"offset": 8}, "takes 16 bytes, it has 8"),
        ("w.bin", {"offset": -8, "length": 16}, "the file has 16"),
        ("w.bin", {"offset": 0, "length": 2**60}, "the file has 16"),
        ("w.bin", {"offset": "x"}, "must be numbers"),
    ],
)
def test_external_data_that_is_not_there(
    folder: Path, location: str, entries: dict[str, object], message: str
) -> None:
    with pytest.raises(mdsl.MdslError, match=message):
        import_onnx(saved(folder, external(location, **entries)))


@pytest.mark.parametrize("location", ["w.bin", "inner.bin"])
def test_external_data_in_the_folder(folder: Path, location: str) -> None:
    found = mdsl.compile(saved(folder, external(location)))(ONE)
    np.testing.assert_array_equal(found, ONE * 2)


# Files --------------------------------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "circle.onnx").symlink_to("circle.onnx")
    for name in ("folder.onnx", "circle.onnx", "missing.onnx"):
        assert command(["import", str(tmp_path / name)]) == 1
        assert f"{name}: error: " in capsys.readouterr().err


def test_damage_anywhere_is_an_error_or_another_model(tmp_path: Path) -> None:
    """Bytes changed at random: never anything but a module or an MdslError."""
    proto = model(
        [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Reshape", "a s", "b"), node("Gemm", "b g", "c"),
         node("Slice", "c f t", "d"), node("Softmax", "d")],
        inputs=IMAGE,
        weights={"w": np.ones((2, 1, 3, 3), np.float32), "s": [1, -1], "g": np.ones((128, 4), np.float32),
                 "f": [0], "t": [1]},
    )  # fmt: skip
    data = proto.SerializeToString()
    random = np.random.default_rng(0)
    imported = 0
    for _ in range(300):
        changed = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            changed[at] = random.integers(0, 256)
        try:
            import_onnx(saved(tmp_path, bytes(changed)))
            imported += 1
        except mdsl.MdslError as error:
            assert "error: " in str(error)
    assert imported
