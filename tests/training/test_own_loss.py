"""Networks that compute their loss themselves: several heads, weights of classes, whatever can be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl import cli

HEADS = """func.func @main(%x: tensor<1x4xf64>, %labels: tensor<1xi64>, %heights: tensor<1x1xf64>) -> (RESULT, tensor<1x3xf64>) {
  %w = arith.constant dense<0.5> : tensor<3x4xf64>
  %v = arith.constant dense<0.25> : tensor<1x4xf64>
  %z = nn.linear %x, %w : (tensor<1x4xf64>, tensor<3x4xf64>) -> tensor<1x3xf64>
  %h = nn.linear %x, %v : (tensor<1x4xf64>, tensor<1x4xf64>) -> tensor<1x1xf64>
  %first = nn.cross_entropy %z, %labels {reduction = "none"} : (tensor<1x3xf64>, tensor<1xi64>) -> tensor<1xf64>
  %away = nn.sub %h, %heights : (tensor<1x1xf64>, tensor<1x1xf64>) -> tensor<1x1xf64>
  %square = nn.mul %away, %away : (tensor<1x1xf64>, tensor<1x1xf64>) -> tensor<1x1xf64>
  %second = nn.reshape %square : (tensor<1x1xf64>) -> tensor<1xf64>
  %each = nn.add %first, %second : (tensor<1xf64>, tensor<1xf64>) -> tensor<1xf64>
  END
}"""
EACH = HEADS.replace("RESULT", "tensor<1xf64>").replace(
    "END", "return %each, %z : tensor<1xf64>, tensor<1x3xf64>"
)
MEAN = HEADS.replace("RESULT", "tensor<f64>").replace(
    "END",
    """%mean = nn.reduce %each {kind = "mean", keepdims = false} : (tensor<1xf64>) -> tensor<f64>
  return %mean, %z : tensor<f64>, tensor<1x3xf64>""",
)


def samples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4))
    return {"x": x, "labels": x[:, :3].argmax(axis=1), "heights": x @ random.normal(size=(4, 1))}


@pytest.mark.parametrize("text", [EACH, MEAN], ids=["each", "mean"])
def test_several_heads(text: str) -> None:
    data = samples()
    trainer = mdsl.Trainer(text, data, loss="own", optimizer="sgd", lr=0.1, batch=10, engine="reference")
    start = trainer.evaluate(data)
    z, h = np.full((50, 3), 0.5 * data["x"].sum(axis=1, keepdims=True)), None
    w, v = trainer.parameters["w"].copy(), trainer.parameters["v"].copy()
    z, h = data["x"] @ w.T, data["x"] @ v.T
    entropy = np.log(np.exp(z).sum(axis=1)) - z[np.arange(50), data["labels"]]
    np.testing.assert_allclose(start.loss, np.mean(entropy + (h - data["heights"])[:, 0] ** 2))
    assert start.accuracy is None
    losses = trainer.train(100)
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    again = mdsl.Trainer(trainer.trained(), data, loss="own", batch=10, engine="reference")
    np.testing.assert_allclose(again.evaluate(data).loss, trainer.evaluate(data).loss)


def test_a_rest_is_judged_where_each_sample_has_a_loss() -> None:
    data = {name: array[:17] for name, array in samples().items()}
    settings = {"loss": "own", "batch": 10, "engine": "reference"}
    each, mean = (mdsl.Trainer(text, data, **settings) for text in (EACH, MEAN))  # type: ignore[arg-type]
    assert each.evaluate(data).loss != mean.evaluate(data).loss
    few = {name: array[:7] for name, array in data.items()}
    assert np.isfinite(each.evaluate(few).loss)
    with pytest.raises(mdsl.MdslError, match="the data to judge by do not fill a batch of 10"):
        mean.evaluate(few)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.mir").write_text(MEAN)
    np.savez("train.npz", **samples())  # type: ignore[arg-type]
    arguments = [
        "train",
        "net.mir",
        "--data=train.npz",
        "--valid=train.npz",
        "--loss=own",
        "--steps=5",
        "--batch=10",
        "-o",
        "t.mir",
    ]
    assert cli.command(arguments) == 0
    assert "held out: step 5" in capsys.readouterr().out
    Path("net.mir").write_text(
        "func.func @main(%x: tensor<1x2xi64>) -> tensor<1x2xi64> {\n  return %x : tensor<1x2xi64>\n}"
    )
    assert cli.command(["train", "net.mir", "--data=train.npz", "--loss=own"]) == 1
    assert "its loss is tensor<64x2xi64>, and must be floats" in capsys.readouterr().err
