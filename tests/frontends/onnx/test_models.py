"""Whole networks, against onnxruntime on the same file: outputs within 1e-4 of their scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from models_of_nodes import saved
from onnx import ModelProto

import mdsl
from bench.models import LIGHT, encoder, light, mobilenet_v2
from mdsl.frontends.onnx import check, import_model

MODELS: dict[str, Callable[[], ModelProto]] = {
    **{name: (lambda name=name: light(name)) for name in LIGHT},
    "resnet50, 64 pixels": lambda: light("resnet50", 64),
    "resnet50, 28 pixels of one channel": lambda: light("resnet50", 28, channels=1),
    "resnet50, two images": lambda: light("resnet50", 64, batch=2),
    "mobilenet_v2": lambda: mobilenet_v2(),
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
    feeds = {i.name: random.standard_normal(i.shape, np.float32) for i in session.get_inputs()}
    (wanted,) = session.run(None, feeds)
    executable = mdsl.compile(path, threads=2)
    assert [s.name for s in executable.inputs] == [i.name for i in session.get_inputs()]
    assert [s.name for s in executable.outputs] == [o.name for o in session.get_outputs()]
    found = np.asarray(executable(**feeds))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert wanted.std() > 1e-6, "an output that is the same everywhere proves nothing"


@pytest.mark.parametrize("name", LIGHT)
def test_the_graphs_of_the_package_are_supported(tmp_path: Path, name: str) -> None:
    report = check(saved(tmp_path, light(name)))
    assert not report.problems


def test_an_encoder_has_no_shape_arithmetic_left() -> None:
    block = import_model(encoder(layers=1)).body.ops[0].body
    names = {op.name for op in block.ops}
    assert names <= {
        "arith.constant", "nn.transpose", "nn.matmul", "nn.add", "nn.reshape", "nn.slice", "nn.mul", "nn.softmax",
        "nn.linear", "nn.layer_norm", "nn.relu", "func.return",
    }  # fmt: skip
