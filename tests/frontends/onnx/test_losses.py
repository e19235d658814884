"""Losses: which are imported as nn.cross_entropy, and that all compute what the onnx package's evaluator does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

reference = pytest.importorskip("onnx.reference")

from models_of_nodes import F32, I64, model, node  # noqa: E402

import mdsl  # noqa: E402
from mdsl.frontends.onnx import import_model  # noqa: E402

X = np.random.default_rng(0).standard_normal((3, 5, 2), np.float32)
LABELS = np.array([[4, 0], [1, 1], [3, 2]])
WEIGHTS = np.array([1, 2, 0.5, 1, 3], np.float32)


def check(nodes: list[Any], outputs: list[str], meant: bool, weights: dict[str, Any] | None = None) -> None:
    proto = model(nodes, [("x", F32, X.shape), ("labels", I64, LABELS.shape)], outputs, weights, 17)
    imported = import_model(proto)
    assert any(op.name == "nn.cross_entropy" for op in imported.walk()) == meant
    found = mdsl.compile(imported)(X, LABELS)
    wanted = reference.ReferenceEvaluator(proto).run(None, {"x": X, "labels": LABELS})
    for a, b in zip(found if isinstance(found, tuple) else [found], wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [{}, {"ignore_index": 1}])
def test_cross_entropy(reduction: str, ignored: dict[str, int]) -> None:
    options: dict[str, Any] = {"reduction": reduction, **ignored}
    loss = node("SoftmaxCrossEntropyLoss", "x labels", "loss logs", **options)
    check([loss], ["loss", "logs"], meant=True)
    logs = node("LogSoftmax", "x", "logs", axis=-2)
    check([logs, node("NegativeLogLikelihoodLoss", "logs labels", "loss", **options)], ["loss"], meant=True)


def test_what_is_no_cross_entropy() -> None:
    weights = {"w": WEIGHTS}
    check([node("SoftmaxCrossEntropyLoss", "x labels w", "loss")], ["loss"], meant=False, weights=weights)
    logs = node("LogSoftmax", "x", "logs", axis=1)
    check([logs, node("NegativeLogLikelihoodLoss", "logs labels w", "loss")], ["loss"], False, weights)
    check([node("NegativeLogLikelihoodLoss", "x labels", "loss")], ["loss"], meant=False)
    logs = node("LogSoftmax", "x", "logs", axis=2)
    check([logs, node("NegativeLogLikelihoodLoss", "logs labels", "loss")], ["loss"], meant=False)
