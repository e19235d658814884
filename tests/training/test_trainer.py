"""mdsl.Trainer: follows a NumPy training in f64, does the same again, and says what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_layers import (
    Adam,
    BatchNorm,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2,
    Relu,
    softmax_cross_entropy,
)

import mdsl
from mdsl.errors import MdslError
from mdsl.training.checkpoints import Run, load, save
from mdsl.training.schedules import Schedule

MLP = """func.func @main(%x: tensor<1x20xf32>) -> tensor<1x5xf32> {
  %fc1_weight = arith.constant dense<0.0> : tensor<32x20xf32>
  %fc1_bias = arith.constant dense<0.0> : tensor<32xf32>
  %fc2_weight = arith.constant dense<0.0> : tensor<5x32xf32>
  %fc2_bias = arith.constant dense<0.0> : tensor<5xf32>
  %a = nn.linear %x, %fc1_weight, %fc1_bias : (tensor<1x20xf32>, tensor<32x20xf32>, tensor<32xf32>) -> tensor<1x32xf32>
  %h = nn.relu %a : (tensor<1x32xf32>) -> tensor<1x32xf32>
  %z = nn.linear %h, %fc2_weight, %fc2_bias : (tensor<1x32xf32>, tensor<5x32xf32>, tensor<5xf32>) -> tensor<1x5xf32>
  %y = nn.softmax %z : (tensor<1x5xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""
CNN = """func.func @main(%x: tensor<1x3x8x8xf32>) -> tensor<1x5xf32> {
  %conv1_weight = arith.constant dense<0.0> : tensor<8x3x3x3xf32>
  %conv1_bias = arith.constant dense<0.0> : tensor<8xf32>
  %one = arith.constant dense<1.0> : tensor<8xf32>
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %fc1_weight = arith.constant dense<0.0> : tensor<5x128xf32>
  %fc1_bias = arith.constant dense<0.0> : tensor<5xf32>
  %c = nn.conv2d %x, %conv1_weight, %conv1_bias {pads = [1, 1, 1, 1]} : (tensor<1x3x8x8xf32>, tensor<8x3x3x3xf32>, tensor<8xf32>) -> tensor<1x8x8x8xf32>
  %norm1 = nn.batch_norm %c, %one, %zero, %zero, %one : (tensor<1x8x8x8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x8x8xf32>
  %r = nn.relu %norm1 : (tensor<1x8x8x8xf32>) -> tensor<1x8x8x8xf32>
  %p = nn.max_pool2d %r {kernel = [2, 2], strides = [2, 2]} : (tensor<1x8x8x8xf32>) -> tensor<1x8x4x4xf32>
  %f = nn.flatten %p : (tensor<1x8x4x4xf32>) -> tensor<1x128xf32>
  %z = nn.linear %f, %fc1_weight, %fc1_bias : (tensor<1x128xf32>, tensor<5x128xf32>, tensor<5xf32>) -> tensor<1x5xf32>
  %y = nn.softmax %z : (tensor<1x5xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""
SIZES = {MLP: (20,), CNN: (3, 8, 8)}


def samples(network: str, count: int = 400) -> dict[str, np.ndarray]:
    """Clouds of points, one a class, that overlap."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, count)
    centres = random.standard_normal((5, *SIZES[network]))
    return {
        "x": (centres[labels] + 2 * random.standard_normal((count, *SIZES[network]))).astype(np.float32),
        "labels": labels,
    }


def mlp_layers() -> list[Layer]:
    random = np.random.default_rng(0)
    return [Linear("fc1", 20, 32, random), Relu(), Linear("fc2", 32, 5, random)]


def cnn_layers() -> list[Layer]:
    random = np.random.default_rng(0)
    return [
        Conv2d("conv1", 3, 8, 3, random),
        BatchNorm("norm1", 8),
        Relu(),
        MaxPool2(),
        Flatten(),
        Linear("fc1", 128, 5, random),
    ]


class Momentum:
    """PyTorch's SGD: buffer = 0.9 buffer + gradient."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.buffers = {(x.name, k): np.zeros_like(v) for x in layers for k, v in x.parameters.items()}

    def step(self, rate: float) -> None:
        for layer in self.layers:
            for key, value in layer.parameters.items():
                buffer = self.buffers[layer.name, key]
                buffer *= 0.9
                buffer += layer.gradients[key]
                value -= rate * buffer


@pytest.mark.parametrize(("network", "make"), [(MLP, mlp_layers), (CNN, cnn_layers)], ids=["mlp", "cnn"])
@pytest.mark.parametrize(
    ("optimizer", "numpy_optimizer", "rate"),
    [("adam", Adam, 1e-3), ("sgd{momentum=0.9}", Momentum, 5e-3)],
    ids=["adam", "sgd"],
)
@pytest.mark.parametrize("engine", ["vm", pytest.param("jit", marks=pytest.mark.slow)])
def test_200_steps_follow_numpy(
    network: str,
    make: Callable[[], list[Layer]],
    optimizer: str,
    numpy_optimizer: Callable[[list[Layer]], Any],
    rate: float,
    engine: str,
) -> None:
    data, layers = samples(network), make()
    trainer = mdsl.Trainer(network, data, optimizer=optimizer, lr=rate, batch=32, engine=engine, threads=2)
    for layer in layers:
        for key, value in (layer.parameters | layer.statistics).items():
            trainer.arrays[f"{layer.name}_{key}"][...] = value
    other, losses = numpy_optimizer(layers), []
    for step in range(200):
        chosen = trainer.batches(step)
        x = data["x"][chosen].astype(np.float64)
        x = x if network is MLP else np.ascontiguousarray(x.swapaxes(0, 1))
        for layer in layers:
            x = layer.forward(x, True)
        loss, gradient = softmax_cross_entropy(x, data["labels"][chosen])
        for layer in reversed(layers):
            gradient = layer.backward(gradient)
        other.step(rate)
        losses.append(loss)
    found = trainer.train(200)
    np.testing.assert_allclose(found, losses, rtol=1e-3, atol=1e-5)
    assert np.mean(found[-20:]) < 0.7 * np.mean(found[:20])
    for layer in layers:
        # A bias before a normalisation moves no loss: Adam takes it where rounding leads.
        for key, value in layer.statistics.items() if optimizer != "adam" else ():
            np.testing.assert_allclose(trainer.parameters[f"{layer.name}_{key}"], value, rtol=2e-3, atol=1e-4)


DROPOUT = MLP.replace(
    "%z = nn.linear %h",
    "%d = nn.dropout %h {rate = 0.3} : (tensor<1x32xf32>) -> tensor<1x32xf32>\n  %z = nn.linear %d",
)
SIZES[DROPOUT] = SIZES[MLP]


def noisy(batch: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    return batch | {"x": batch["x"] + 0.1 * random.standard_normal(batch["x"].shape)}


def trainer_of(**options: Any) -> mdsl.Trainer:
    given: dict[str, Any] = {"batch": 16, "transform": noisy, "lr": Schedule(1e-2, 90, "cosine", warmup=5)}
    return mdsl.Trainer(DROPOUT, samples(DROPOUT), **(given | options))


def test_a_resumed_run_gives_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = trainer_of(), trainer_of(), trainer_of()
    whole.train(90)
    first.train(37, checkpoint=tmp_path / "c.safetensors")
    second.resume(tmp_path / "c.safetensors")
    assert second.step == 37 and second.losses == pytest.approx(first.losses)
    second.train(90)
    assert second.losses[37:] == whole.losses[37:]
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(second.parameters[name], array)


def test_engines_and_threads_drop_the_same_elements() -> None:
    losses = [
        trainer_of(engine=e, threads=t).train(20)
        for e, t in (("vm", 1), ("vm", 2), ("jit", 1), ("reference", 1))
    ]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)
    assert trainer_of(seed=1).train(20) != losses[0]


def test_the_trained_network_answers_as_the_trainer() -> None:
    trainer, data = trainer_of(), samples(DROPOUT, 23)
    trainer.train(60)
    network = mdsl.compile(trainer.trained())
    answers = trainer.answer(x=data["x"])
    assert answers.shape == (23, 5)
    for sample, answer in zip(data["x"], answers, strict=True):
        np.testing.assert_allclose(network(sample[None])[0], answer, rtol=1e-4, atol=1e-5)
    score = trainer.evaluate(data)
    assert score.accuracy == np.mean(answers.argmax(1) == data["labels"])
    np.testing.assert_allclose(score.loss, -np.log(answers[np.arange(23), data["labels"]]).mean(), rtol=1e-4)


def test_frozen_weights_stay_and_others_do_not() -> None:
    trainer = trainer_of(frozen=["fc1_weight", "fc1_bias"])
    before = {name: array.copy() for name, array in trainer.parameters.items()}
    trainer.train(3)
    same = {name for name, array in trainer.parameters.items() if np.array_equal(array, before[name])}
    assert same == {"fc1_weight", "fc1_bias"}


LOGITS = MLP.replace("  %y = nn.softmax %z : (tensor<1x5xf32>) -> tensor<1x5xf32>\n", "").replace("%y", "%z")


def test_regression_by_mse() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((256, 20)).astype(np.float32)
    data = {"x": x, "target": x[:, :5] * 2}
    trainer = mdsl.Trainer(LOGITS, data, loss="mse", lr=1e-2, batch=32, optimizer="adamw")
    losses = trainer.train(300)
    assert losses[-1] < 0.05 * losses[0] and trainer.accuracy is None
    score = trainer.evaluate(data)
    assert score.accuracy is None and score.loss < 0.05 * losses[0]


@pytest.mark.parametrize(
    "loss", ["mse", "bce", "cross_entropy{smoothing=0.1}", "cross_entropy{weights=[1,0.5,2,3,1]}"]
)
def test_every_sample_is_judged(loss: str) -> None:
    """Those too that fill no batch."""

    def given(count: int) -> dict[str, np.ndarray]:
        found = samples(MLP, count)
        one_hot = np.float32(found["labels"][:, None] == np.arange(5))
        return found if "cross" in loss else {"x": found["x"], "target": one_hot}

    trainer = mdsl.Trainer(LOGITS, given(64), loss=loss, batch=32)
    for count in (5, 32, 77):
        data = given(count)
        z, wanted = trainer.answer(x=data["x"]).astype(np.float64), data.get("target")
        if loss == "mse":
            losses = (z - wanted) ** 2
        elif loss == "bce":
            losses = np.log1p(np.exp(z)) - z * wanted
        else:
            logs = z - np.log(np.exp(z).sum(1, keepdims=True))
            picked = logs[np.arange(count), data["labels"]]
            losses = -0.9 * picked - 0.1 * logs.mean(1)
            if "weights" in loss:  # PyTorch's mean, over the weights
                shares = np.array([1, 0.5, 2, 3, 1])[data["labels"]]
                losses = -picked * shares / shares.mean()
        np.testing.assert_allclose(trainer.evaluate(data).loss, losses.mean(), rtol=1e-5)


@pytest.mark.parametrize(("network", "count"), [(MLP, 2), (DROPOUT, 4)])
def test_a_batch_in_parts_is_the_batch(network: str, count: int, tmp_path: Path) -> None:
    """Dropout takes the same elements away; a run that was resumed goes on with the same bits."""
    data = samples(network)
    settings: dict[str, Any] = {"batch": 32, "lr": 1e-2, "optimizer": "clip-gradients{norm=1},adam"}
    whole = mdsl.Trainer(network, data, **settings)
    parts = mdsl.Trainer(network, data, accumulate=count, **settings)
    np.testing.assert_allclose(parts.train(12), whole.train(12), rtol=1e-5)
    assert whole.accuracy is not None and parts.accuracy == whole.accuracy
    parts.save(tmp_path / "run.safetensors")
    resumed = mdsl.Trainer(network, data, accumulate=count, **settings)
    resumed.resume(tmp_path / "run.safetensors")
    assert resumed.train(20) == parts.train(20)
    with pytest.raises(MdslError, match="another network, loss or optimiser"):
        whole.resume(tmp_path / "run.safetensors")


def test_parts_of_a_batch_are_normalised_by_themselves() -> None:
    """As PyTorch does: what is observed moves with each part."""
    data = samples(CNN)
    trainer = mdsl.Trainer(CNN, data, batch=16, accumulate=2, optimizer="sgd", lr=0.0)
    half = mdsl.Trainer(CNN, data, batch=8, optimizer="sgd", lr=0.0)
    chosen = trainer.batches(0)
    half.batches = lambda step: chosen[8 * step : 8 * step + 8]  # type: ignore[assignment]
    np.testing.assert_allclose(trainer.train(1), np.mean(half.train(2)), rtol=1e-6)
    for name, array in half.parameters.items():
        np.testing.assert_array_equal(trainer.parameters[name], array)
    with pytest.raises(MdslError, match="16 samples cannot be computed in 3 equal parts"):
        mdsl.Trainer(CNN, data, batch=16, accumulate=3)


def test_a_network_that_cannot_be_given_more_samples_is_trained_in_parts() -> None:
    """The mean over what may be samples, or not."""
    network = """func.func @main(%x: tensor<1x20xf32>) -> tensor<1x5xf32> {
  %w = arith.constant dense<0.0> : tensor<5x20xf32>
  %a = nn.reshape %x : (tensor<1x20xf32>) -> tensor<1x1x20xf32>
  %b = nn.softmax %a {axis = 0} : (tensor<1x1x20xf32>) -> tensor<1x1x20xf32>
  %c = nn.reshape %b : (tensor<1x1x20xf32>) -> tensor<1x20xf32>
  %y = nn.linear %c, %w : (tensor<1x20xf32>, tensor<5x20xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""
    with pytest.raises(MdslError) as error:
        mdsl.Trainer(network, samples(MLP), batch=8)
    assert str(error.value).endswith(
        "note: the network is for 1 sample: export it with their number left open (dynamic_shapes or dynamic_axes of "
        "torch.onnx.export), or compute each batch in parts of 1 (--accumulate)"
    )
    assert len(mdsl.Trainer(network, samples(MLP), batch=8, accumulate=8).train(2)) == 2


def test_no_samples_to_judge_by() -> None:
    with pytest.raises(MdslError, match="the data to judge by have no samples"):
        mdsl.Trainer(MLP, samples(MLP), batch=16).evaluate({k: a[:0] for k, a in samples(MLP).items()})


EXPLODING = """func.func @main(%x: tensor<1x20xf32>) -> tensor<1x5xf32> {
  %w = arith.constant dense<0.0> : tensor<5x20xf32>
  %z = nn.linear %x, %w : (tensor<1x20xf32>, tensor<5x20xf32>) -> tensor<1x5xf32>
  %big = nn.exp %z : (tensor<1x5xf32>) -> tensor<1x5xf32>
  %y = nn.log %big : (tensor<1x5xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""


def test_the_op_that_made_infinity_is_named() -> None:
    trainer = mdsl.Trainer(EXPLODING, samples(MLP), optimizer="sgd", lr=100.0, batch=16)
    parts = mdsl.Trainer(EXPLODING, samples(MLP), optimizer="sgd", lr=100.0, batch=16, accumulate=2)
    for run in (trainer, parts):
        with pytest.raises(MdslError, match=r"step \d+: %big is infinity, of finite numbers") as error:
            run.train(200, every=4)
        assert "%big = nn.exp %z" in str(error.value)


def test_data_that_is_no_number_is_named() -> None:
    data = samples(MLP)
    data["x"][100, 3] = np.nan
    with pytest.raises(MdslError, match=r"step \d+: input 'x' holds NaN"):
        mdsl.Trainer(MLP, data, batch=16).train(50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 500}, "400 samples do not fill a batch of 500"),
        ({"batch": 0}, "a batch must have at least 1 sample, got 0"),
        ({"frozen": ["fc3"]}, "the network has no parameter 'fc3'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"loss": "mse"}, "the data has no array for 'target'"),
        ({"optimizer": "adem"}, "unknown optimizer 'adem'"),
        ({"optimizer": ""}, r"optimizer:1:1: error: expected one optimizer \(optimizers: sgd, adam, adamw\)"),
        ({"loss": "cross_entropy{weights=[1,2]}"}, r"is tensor<.*>: 2 weights do not fit its 5 classes"),
        (
            {"loss": "cross_entropy{weights=[1,-2]}"},
            r"option 'weights' must be at least 0, got \[1\.0,-2\.0\]",
        ),
        ({"loss": "cross_entropy{weights=[1,x]}"}, r"takes numbers \(\[1,0\.5\]\), got"),
        ({"optimizer": "adam,sgd"}, r"optimizer:1:1: error: expected one optimizer"),
        ({"optimizer": "canonicalize"}, r"optimizer:1:1: error: expected one optimizer"),
        (
            {"optimizer": "adam{beta1=2}"},
            r"optimizer:1:1: error: pass 'adam': option 'beta1' must be below 1, got 2\.0",
        ),
        ({"optimizer": "adamw{beta2=-1}"}, r"option 'beta2' must be at least 0, got -1\.0"),
        ({"optimizer": "sgd{momentum=1.5}"}, r"option 'momentum' must be at most 1, got 1\.5"),
        ({"optimizer": "adam{epsilon=nan}"}, "option 'epsilon' must be finite, got nan"),
        ({"lr": float("nan")}, "the learning rate must be a finite number from 0 on, got nan"),
        ({"lr": -1}, "the learning rate must be a finite number from 0 on, got -1"),
        ({"init": "zeros"}, "init must be 'keep' or 'random', got 'zeros'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    data = samples(MLP)
    if options.get("loss") == "mse":
        data["other"] = data["labels"]
    with pytest.raises(MdslError, match=message):
        mdsl.Trainer(MLP, data, **options)


def test_wrong_data() -> None:
    data = samples(MLP)
    for wrong, message in (
        ({"x": data["x"]}, "the data has no array for 'labels'"),
        ({"x": data["x"], "labels": data["labels"][:7]}, "different numbers of samples"),
        (
            {"x": data["x"][:, :19], "labels": data["labels"]},
            "samples of 'x' have the shape 20, the array is 400x19",
        ),
        ({"x": data["x"], "labels": data["labels"] / 2}, "'labels' must be i64, got float64"),
    ):
        with pytest.raises(MdslError, match=message):
            mdsl.Trainer(MLP, wrong)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    trainer_of().train(2, checkpoint=path)
    for options, what in (
        ({"seed": 1}, r"another seed \(0, not 1\)"),
        ({"batch": 8}, r"another batch \(16, not 8\)"),
        ({"optimizer": "sgd"}, "another network, loss or optimiser"),
    ):
        with pytest.raises(MdslError, match=what):
            trainer_of(**options).resume(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # of a number
    path.write_bytes(content)
    with pytest.raises(MdslError, match="its numbers are not those that were written"):
        trainer_of().resume(path)
    path.write_bytes(b"0" * 100)
    with pytest.raises(MdslError, match="not a checkpoint of a training"):
        trainer_of().resume(path)


Forgery = Callable[[dict[str, np.ndarray], np.ndarray, Run], tuple[dict[str, np.ndarray], np.ndarray, Run]]


@pytest.mark.parametrize(
    ("forge", "what"),
    [
        (
            lambda a, losses, run: ({k: v for k, v in a.items() if k != "fc1_weight"}, losses, run),
            "lacks 'fc1_weight'",
        ),
        (
            lambda a, losses, run: ({**a, "fc1_weight": a["fc1_weight"].T}, losses, run),
            "has 'fc1_weight' as float32 of shape",
        ),
        (
            lambda a, losses, run: ({**a, "fc1_weight": a["fc1_weight"].astype(np.float64)}, losses, run),
            "'fc1_weight' as float64",
        ),
        (lambda a, losses, run: (a, losses[None], run), "does not say how far"),
        (lambda a, losses, run: (a, losses.astype(np.float64), run), "does not say how far"),
        (lambda a, losses, run: (a, losses, replace(run, step=-1)), "does not say how far"),
        (lambda a, losses, run: (a, losses, replace(run, step=1.5)), "does not say how far"),
        (lambda a, losses, run: (a, losses, replace(run, step=True)), "does not say how far"),
    ],
)
def test_a_checkpoint_that_was_made_by_somebody_else(forge: Forgery, what: str, tmp_path: Path) -> None:
    """Its digest is right, for whoever wrote it has taken it."""
    path = tmp_path / "c.safetensors"
    trainer_of().train(2, checkpoint=path)
    save(path, *forge(*load(path)))
    with pytest.raises(MdslError, match=what):
        trainer_of().resume(path)


def test_schedules() -> None:
    assert [Schedule(2.0, 10)(s) for s in (0, 9)] == [2.0, 2.0]
    assert [Schedule(2.0, 10, "linear")(s) for s in (0, 5)] == [2.0, 1.0]
    assert [round(Schedule(2.0, 10, "cosine")(s), 6) for s in (0, 5, 10)] == [2.0, 1.0, 0.0]
    assert [Schedule(1.0, 10, "step", every=2, factor=0.5)(s) for s in (0, 1, 2, 4)] == [1.0, 1.0, 0.5, 0.25]
    assert [Schedule(1.0, 10, warmup=4)(s) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    with pytest.raises(MdslError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        Schedule(1.0, 10, "cosin")
    with pytest.raises(
        MdslError, match="the decay of the learning rate must be a finite number from 0 on, got inf"
    ):
        Schedule(1.0, 10, "step", factor=float("inf"))


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_no_class(label: int) -> None:
    data = samples(MLP)
    data["labels"][7] = label
    with pytest.raises(MdslError, match=f"the data: sample 7 has the label {label}, the classes are 0 to 4"):
        mdsl.Trainer(MLP, data)


def test_classes_along_another_dimension_and_a_label_that_counts_nothing() -> None:
    """As in PyTorch: one loss a pixel, the classes in front of the pixels."""
    text = """func.func @main(%x: tensor<1x2x3xf64>) -> tensor<1x4x3xf64> {
  %w = arith.constant dense<[[[1.0], [0.5]], [[-1.0], [2.0]], [[0.0], [1.0]], [[0.25], [-2.0]]]> : tensor<4x2x1xf64>
  %b = arith.constant dense<0.0> : tensor<4xf64>
  %turned = nn.transpose %x {perm = [0, 2, 1]} : (tensor<1x2x3xf64>) -> tensor<1x3x2xf64>
  %flat = nn.reshape %w : (tensor<4x2x1xf64>) -> tensor<4x2xf64>
  %z = nn.linear %turned, %flat, %b : (tensor<1x3x2xf64>, tensor<4x2xf64>, tensor<4xf64>) -> tensor<1x3x4xf64>
  %y = nn.transpose %z {perm = [0, 2, 1]} : (tensor<1x3x4xf64>) -> tensor<1x4x3xf64>
  return %y : tensor<1x4x3xf64>
}"""
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(12, 2, 3)), "labels": random.integers(0, 4, (12, 3))}
    data["labels"][:, 1] = -100
    with pytest.raises(
        MdslError, match=r"'labels' have the shape 4, the array is 12x3.*cross_entropy\{axis=1\}"
    ):
        mdsl.Trainer(text, data, batch=4)
    with pytest.raises(MdslError, match="sample 0 has the label -100, the classes are 0 to 3"):
        mdsl.Trainer(text, data, batch=4, loss="cross_entropy{axis=1}")
    loss = "cross_entropy{axis=1,ignore_index=-100}"
    trainer = mdsl.Trainer(text, data, batch=12, loss=loss, engine="reference")
    logits = mdsl.compile(mdsl.parse(text), engine="reference")
    z = np.concatenate([logits(x[None]) for x in data["x"]])[:, :, [0, 2]]
    shares = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    wanted = -np.log(np.take_along_axis(shares, data["labels"][:, None, [0, 2]], 1)).mean()
    np.testing.assert_allclose(trainer.advance(), wanted)
    score = trainer.evaluate(data)
    answers = trainer.answer(x=data["x"])[:, :, [0, 2]]
    assert score.accuracy == np.mean(answers.argmax(axis=1) == data["labels"][:, [0, 2]])
    np.testing.assert_allclose(score.loss, trainer.advance())


def test_convolutions_summed_up_plainly() -> None:
    """The first step is the same but for rounding, and the next ones learn as well."""
    text = """func.func @main(%x: tensor<1x16x12x12xf32>) -> tensor<1x5xf32> {
  %conv_weight = arith.constant dense<0.0> : tensor<32x16x3x3xf32>
  %fc_weight = arith.constant dense<0.0> : tensor<5x32xf32>
  %c = nn.conv2d %x, %conv_weight {pads = [1, 1, 1, 1]} : (tensor<1x16x12x12xf32>, tensor<32x16x3x3xf32>) -> tensor<1x32x12x12xf32>
  %p = nn.reduce %c {kind = "mean", axes = [2, 3], keepdims = false} : (tensor<1x32x12x12xf32>) -> tensor<1x32xf32>
  %y = nn.linear %p, %fc_weight : (tensor<1x32xf32>, tensor<5x32xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""
    random = np.random.default_rng(0)
    data = {
        "x": random.standard_normal((64, 16, 12, 12)).astype(np.float32),
        "labels": random.integers(0, 5, 64),
    }
    losses = {
        winograd: mdsl.Trainer(text, data, init="random", batch=32, lr=0.05, winograd=winograd).train(6)
        for winograd in (True, False)
    }
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-3)
    assert losses[True] != losses[False]
