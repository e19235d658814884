"""The networks whose training steps are measured, and mdsl's adapter for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

from bench.models.encoder import encoder  # noqa: E402
from bench.models.training import cnn, mlp, with_loss  # noqa: E402
from bench.peers.onnx_graph import Graph  # noqa: E402
from bench.steps import mdsl as adapter  # noqa: E402
from bench.steps import weights_of  # noqa: E402
from bench.training import batch_of  # noqa: E402


@pytest.mark.parametrize(
    ("build", "weights"),
    [
        (lambda: mlp(8), 6),
        pytest.param(lambda: cnn(8), 12, marks=pytest.mark.slow),
        pytest.param(lambda: encoder(1, 16, 2, 8, batch=3), 12, marks=pytest.mark.slow),
    ],
)
def test_a_measured_step_learns(build: Callable[[], Any], weights: int, tmp_path: Path) -> None:
    file = str(tmp_path / "step.onnx")
    onnx.save(with_loss(build), file)
    assert len(weights_of(Graph(file))) == weights
    prepared = adapter.prepare(file, batch_of(file), 1, {})
    losses = [float(prepared.arrays(prepared.call())[0]) for _ in range(10)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
