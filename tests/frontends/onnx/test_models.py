"""Whole networks, against onnxruntime on the same file: outputs within 1e-4 of their scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from models_of_nodes import saved
from onnx import ModelProto, TensorProto

import mdsl
from bench.models.attention import minilm, swin
from bench.models.encoder import encoder
from bench.models.half import halved
from bench.models.light import LIGHT, light, light_file
from bench.models.mixing import conv_gelu, convnext, matmul, mixer, product, resize
from bench.models.mobile import mobilenet_v2, mobilenet_v4
from bench.models.recurrent import head
from bench.models.yolo import yolo
from mdsl.frontends.onnx import check, import_model

MODELS: dict[str, Callable[[], ModelProto]] = {
    **{name: (lambda name=name: light(name)) for name in LIGHT},
    "resnet50, 64 pixels": lambda: light("resnet50", 64),
    "resnet50, 28 pixels of one channel": lambda: light("resnet50", 28, channels=1),
    "resnet50, two images": lambda: light("resnet50", 64, batch=2),
    "mobilenet_v2": lambda: mobilenet_v2(),
    "mobilenet_v4": lambda: mobilenet_v4(),
    "convnext": lambda: convnext(),
    "mixer": lambda: mixer(),
    "minilm": lambda: minilm(),
    "swin": lambda: swin(),
    "yolo": lambda: yolo(416),
    "lstm": lambda: head("LSTM"),
    "gru": lambda: head("GRU"),
    "encoder": lambda: encoder(),
    "encoder, normalised first, gelu": lambda: encoder(pre_norm=True, activation="gelu"),
    "encoder, two sentences": lambda: encoder(layers=2, sequence=32, batch=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_onnxruntime(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = saved(tmp_path, MODELS[name]())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {
        i.name: random.standard_normal(i.shape, np.float32)
        if i.type == "tensor(float)"
        else random.integers(0, 99, i.shape)
        for i in session.get_inputs()
    }
    (wanted,) = session.run(None, feeds)
    executable = mdsl.compile(path, threads=2)
    assert [s.name for s in executable.inputs] == [i.name for i in session.get_inputs()]
    assert [s.name for s in executable.outputs] == [o.name for o in session.get_outputs()]
    found = np.asarray(executable(**feeds))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert wanted.std() > 1e-6, "an output that is the same everywhere proves nothing"


SMALL: dict[str, Callable[[], ModelProto]] = {
    "mobilenet_v4": lambda: mobilenet_v4(64),
    "convnext": lambda: convnext(64, depths=(1, 1, 1, 1)),
    "mixer": lambda: mixer(64, layers=1, wide=64),
    "conv_gelu": lambda: conv_gelu(4, 16, 32),
    "product": lambda: product(3, 4, 5),
    "matmul": lambda: matmul(3, 4, 5),
    "resize": lambda: resize(4, 3),
    "minilm": lambda: minilm(8, layers=1, words=99),
    "swin, shifted windows": lambda: swin(56, depths=(2, 1)),
    "yolo": lambda: yolo(64),
    "lstm": lambda: head("LSTM", 3),
    "gru": lambda: head("GRU", 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_what_is_built_is_what_it_says(tmp_path: Path, name: str) -> None:
    """ONNX's own inference of types and shapes, and mdsl's import."""
    model = SMALL[name]()
    onnx.checker.check_model(model, full_check=True)
    said = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (found,) = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    assert [dim.dim_value for dim in found.type.tensor_type.shape.dim] == said
    assert not check(saved(tmp_path, model)).problems


@pytest.mark.parametrize("build", [lambda: light("squeezenet"), lambda: yolo(64), lambda: encoder(layers=1)])
def test_a_model_in_half_precision_has_no_single_left(build: Callable[[], ModelProto]) -> None:
    model = halved(build())
    scales = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    singles = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert {*singles} == scales
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert TensorProto.FLOAT16 in found and TensorProto.FLOAT not in found


@pytest.mark.parametrize("name", LIGHT)
def test_the_graphs_of_the_package_are_supported(name: str) -> None:
    assert not check(str(light_file(name))).problems


def test_an_encoder_has_no_shape_arithmetic_left() -> None:
    block = import_model(encoder(layers=1)).body.ops[0].body
    names = {op.name for op in block.ops}
    assert names <= {
        "arith.constant", "nn.transpose", "nn.matmul", "nn.add", "nn.reshape", "nn.slice", "nn.mul", "nn.softmax",
        "nn.linear", "nn.layer_norm", "nn.relu", "func.return",
    }  # fmt: skip
