"""Training of networks of 16 bits: gradients, weights in f32, and the loss's scale, which goes up and down."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trainer import CNN, DROPOUT, MLP, samples

import mdsl
from mdsl.bytecode.module import DTYPES
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError

TOLERANCE = {"f16": 2e-2, "bf16": 2e-1}
"""Of the largest element: a few roundings of 11 and of 8 bits."""


def half(network: str, element: str) -> str:
    return network.replace("xf32>", f"x{element}>")


def trainer_of(network: str, element: str, **options: Any) -> mdsl.Trainer:
    given: dict[str, Any] = {"batch": 16, "init": "random", "optimizer": "sgd{momentum=0.9}", "lr": 5e-3}
    return mdsl.Trainer(half(network, element), samples(network), **(given | options))


@pytest.mark.parametrize("element", ["f16", "bf16"])
@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("engine", ["vm", pytest.param("reference", marks=pytest.mark.slow)])
def test_gradients_in_16_bits(network: str, element: str, engine: str) -> None:
    random = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {}
    for kind in ("f64", element):
        text = half(network, kind)
        module = mdsl.opt(text, "rebatch{size=4},parameters,loss,train-mode,autodiff")
        run = mdsl.compile(module, engine="reference" if kind == "f64" else engine)
        if not found:
            inputs = [
                random.integers(0, 5, s.shape) if s.dtype == "i64" else random.uniform(0.1, 1, s.shape)
                for s in run.inputs
            ]
        given = [np.asarray(a, DTYPES[s.dtype]) for a, s in zip(inputs, run.inputs, strict=True)]
        found[kind] = [
            np.asarray(a, np.float64)
            for a, s in zip(run(*given), run.outputs, strict=True)
            if s.name.startswith("grad_")
        ]
    # A bias before a normalisation has no slope: what is found there is rounding.
    scale = max(np.abs(a).max() for a in found["f64"])
    for ours, wanted in zip(found[element], found["f64"], strict=True):
        limit = TOLERANCE[element] * max(np.abs(wanted).max(), 0.1 * scale)
        np.testing.assert_allclose(ours, wanted, atol=limit, rtol=0)


@cache
def losses_in_f32() -> np.ndarray:
    return np.array(trainer_of(DROPOUT, "f32").train(200))


@pytest.mark.parametrize(
    ("element", "loss_scale"), [("f16", ""), ("f16", 1024), ("f16", "dynamic"), ("bf16", "dynamic")]
)
def test_200_steps_follow_those_in_f32(element: str, loss_scale: str | float) -> None:
    trainer = trainer_of(DROPOUT, element, loss_scale=loss_scale)
    wanted, found = losses_in_f32(), np.array(trainer.train(200))
    # A dynamic scale skips the first steps in f16, which is as if they came later.
    np.testing.assert_allclose(found[100:].mean(), wanted[100:].mean(), rtol=0.05)
    assert all(a.dtype == np.float32 for a in trainer.parameters.values())
    trained = next(op for op in trainer.trained().body.ops if isinstance(op, FuncOp))
    assert str(trained.type) == f"(tensor<1x20x{element}>) -> tensor<1x5x{element}>"
    mdsl.compile(trainer.trained())


def test_the_statistics_of_a_network_of_16_bits_are_kept_in_f32() -> None:
    trainer = trainer_of(CNN, "f16", loss_scale="dynamic")
    trainer.train(5)
    mean = trainer.parameters["norm1_mean"]
    assert mean.dtype == np.float32 and mean.any() and (mean != mean.astype(np.float16)).any()


SMALL = """func.func @main(%x: tensor<1x4xf16>) -> tensor<1x4xf16> {
  %w = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf16>
  %small = arith.constant dense<1.0e-5> : tensor<f16>
  %a = nn.mul %x, %small : (tensor<1x4xf16>, tensor<f16>) -> tensor<1x4xf16>
  %n = nn.layer_norm %x, %w {axis = 1} : (tensor<1x4xf16>, tensor<4xf16>) -> tensor<1x4xf16>
  %y = nn.mul %n, %a : (tensor<1x4xf16>, tensor<1x4xf16>) -> tensor<1x4xf16>
  return %y : tensor<1x4xf16>
}"""


def small(loss_scale: str, **options: Any) -> mdsl.Trainer:
    data = {"x": np.arange(32, dtype=np.float32).reshape(8, 4) % 5, "target": np.full((8, 4), 1e-3)}
    given = {"optimizer": "sgd", "lr": 1e4, "batch": 8} | options
    return mdsl.Trainer(SMALL, data, loss="mse", loss_scale=loss_scale, **given)


def test_gradients_that_are_lost_in_f16_are_not_with_a_scale() -> None:
    changes = {}
    for scale in ("", "4096", "dynamic"):
        trainer = small(scale)
        before = trainer.arrays["w"].copy()
        trainer.train(8 if scale == "dynamic" else 1)
        changes[scale] = trainer.arrays["w"] - before
    assert not changes[""].any()
    assert changes["dynamic"].all() and changes["4096"].all()


STEEP = """func.func @main(%x: tensor<1x4xf16>) -> tensor<1x4xf16> {
  %w = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf16>
  %n = nn.layer_norm %x, %w {axis = 1} : (tensor<1x4xf16>, tensor<4xf16>) -> tensor<1x4xf16>
  return %n : tensor<1x4xf16>
}"""


def steep(engine: str = "vm", optimizer: str = "adam", **options: Any) -> mdsl.Trainer:
    data = {
        "x": np.arange(32, dtype=np.float32).reshape(8, 4) % 5,
        "target": np.full((8, 4), 50.0, np.float32),
    }
    return mdsl.Trainer(
        STEEP, data, loss="mse", optimizer=optimizer, lr=1e-2, batch=8, engine=engine, **options
    )


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd{momentum=0.9}"])
def test_a_step_whose_gradients_are_infinite_is_skipped(engine: str, optimizer: str) -> None:
    trainer = steep(engine, optimizer, loss_scale="dynamic,interval=4")
    before = {name: array.copy() for name, array in trainer.arrays.items()}
    trainer.train(1)
    assert trainer.arrays["loss_scale"] == 32768 and trainer.arrays["skipped_steps"] == 1
    assert trainer.arrays["good_steps"] == 0  # in a row
    for name in trainer.arrays:
        if name.startswith("w"):
            np.testing.assert_array_equal(trainer.arrays[name], before[name], err_msg=name)
    trainer.train(40)
    skipped = int(trainer.arrays["skipped_steps"])
    assert 1 < skipped < 20 and (trainer.arrays["w"] != before["w"]).all()
    # What was done are the steps of a run without a scale, in which none was skipped.
    other = steep(engine, optimizer)
    other.train(40 - skipped)
    np.testing.assert_allclose(trainer.arrays["w"], other.arrays["w"], rtol=5e-3)


def test_the_scale_grows_after_good_steps() -> None:
    trainer, scales = small("dynamic,interval=3"), []
    for step in range(1, 8):
        trainer.train(step)
        scales.append(float(trainer.arrays["loss_scale"]))
    assert scales == [65536, 65536, 131072, 131072, 131072, 262144, 262144]


def test_a_resumed_run_has_its_scale(tmp_path: Path) -> None:
    whole, first, second = (steep(loss_scale="dynamic,interval=3") for _ in range(3))
    whole.train(30)
    first.train(11, checkpoint=tmp_path / "c.safetensors")
    second.resume(tmp_path / "c.safetensors")
    second.train(30)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array, err_msg=name)


def test_what_no_scale_mends_is_an_error() -> None:
    """An infinite gradient of a finite loss: the slope of a root at 0."""
    text = STEEP.replace(
        "  return",
        "  %zero = nn.sub %n, %n : (tensor<1x4xf16>, tensor<1x4xf16>) -> tensor<1x4xf16>\n"
        "  %root = nn.sqrt %zero : (tensor<1x4xf16>) -> tensor<1x4xf16>\n  return",
    ).replace("return %n", "return %root")
    data = {"x": np.ones((8, 4), np.float32), "target": np.ones((8, 4), np.float32)}
    trainer = mdsl.Trainer(text, data, loss="mse", batch=8, loss_scale="dynamic")
    with pytest.raises(MdslError, match=r"step \d+: %\w+ is NaN, of finite numbers"):
        trainer.train(100)


@pytest.mark.parametrize("scale", ["fast", "-1", "0", "inf", "nan"])
def test_wrong_scales(scale: str) -> None:
    with pytest.raises(
        MdslError, match=f"option 'scale' must be 'dynamic' or a positive number, got '{scale}'"
    ):
        small(scale)


def test_what_the_pass_refuses() -> None:
    with pytest.raises(MdslError, match="@main has no gradients, results called grad_NAME"):
        mdsl.opt(MLP, "loss-scale")
