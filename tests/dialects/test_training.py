"""nn's training ops: the reference against formulas, the generator's published numbers, and what the verifier says."""

from __future__ import annotations

import numpy as np
import pytest

from mdsl.errors import MdslError
from mdsl.reference import run
from mdsl.reference.nn.training import threefry
from mdsl.syntax.parser import parse


def compute(op: str, signature: str, results: str, *arrays: np.ndarray) -> list[np.ndarray]:
    """`op` with its attributes on arguments of the types in `signature`."""
    name, _, attributes = op.partition(" ")
    types, returned = signature.split(", "), results.split(", ")
    arguments = ", ".join(f"%a{i}: {t}" for i, t in enumerate(types))
    operands = ", ".join(f"%a{i}" for i in range(len(types)))
    values = ", ".join(f"%y{i}" for i in range(len(returned)))
    text = f"""func.func @main({arguments}) -> ({results}) {{
  {values} = {name} {operands} {attributes} : ({signature}) -> ({results})
  return {values} : {results}
}}"""
    return run(parse(text, "test.mir"), list(arrays))


# Counters, keys and results of Random123's kat_vectors for threefry2x32 with 20 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry(counter: tuple[int, int], key: tuple[int, int], wanted: tuple[int, int]) -> None:
    with np.errstate(over="ignore"):
        found = threefry(key, *(np.array([word], np.uint32) for word in counter))
    assert tuple(int(word[0]) for word in found) == wanted


def test_random_numbers() -> None:
    def numbers(seed: int, step: int, stream: int = 0) -> np.ndarray:
        key = np.array([seed, step], np.int32)
        (found,) = compute(
            f"nn.random_uniform {{stream = {stream}}}", "tensor<2xi32>", "tensor<100x100xf32>", key
        )
        return found

    first = numbers(3, 4)
    assert first.min() >= 0 and first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01 and abs(first.var() - 1 / 12) < 0.002
    np.testing.assert_array_equal(first, numbers(3, 4))
    for other in (numbers(4, 4), numbers(3, 5), numbers(3, 4, 1)):
        assert np.mean(first == other) < 0.001 and abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.05


def test_dropout() -> None:
    x, key = np.ones((200, 200), np.float32), np.array([1, 2], np.int32)
    (y,) = compute(
        "nn.dropout {rate = 0.2}", "tensor<200x200xf32>, tensor<2xi32>", "tensor<200x200xf32>", x, key
    )
    assert abs(np.mean(y == 0) - 0.2) < 0.01
    np.testing.assert_allclose(y[y != 0], 1.25)
    (y,) = compute("nn.dropout {rate = 0.2}", "tensor<200x200xf32>", "tensor<200x200xf32>", x)
    np.testing.assert_array_equal(y, x)


def test_cross_entropy() -> None:
    logits, labels = np.array([[1.0, 2, 3], [1000, 0, 0], [0, 0, 0]], np.float32), np.array([2, 1, 0])
    types = "tensor<3x3xf32>, tensor<3xi64>"
    (losses,) = compute('nn.cross_entropy {reduction = "none"}', types, "tensor<3xf32>", logits, labels)
    np.testing.assert_allclose(losses, [np.log(np.exp([-2, -1, 0]).sum()), 1000, np.log(3)], rtol=1e-6)
    (mean,) = compute("nn.cross_entropy {ignore_index = 1}", types, "tensor<f32>", logits, labels)
    np.testing.assert_allclose(mean, (losses[0] + losses[2]) / 2, rtol=1e-6)
    (smooth,) = compute(
        'nn.cross_entropy {smoothing = 0.3, reduction = "sum"}', types, "tensor<f32>", logits, labels
    )
    (weighed,) = compute("nn.cross_entropy {weights = [1.0, 4, 0.5]}", types, "tensor<f32>", logits, labels)
    np.testing.assert_allclose(weighed, np.sum(losses * [0.5, 4, 1]) / 5.5, rtol=1e-6)
    (weighed,) = compute(
        "nn.cross_entropy {weights = [1.0, 4, 0.5], ignore_index = 1}", types, "tensor<f32>", logits, labels
    )
    np.testing.assert_allclose(weighed, (0.5 * losses[0] + losses[2]) / 1.5, rtol=1e-6)
    spread = -(
        logits
        - logits.max(1, keepdims=True)
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    )
    np.testing.assert_allclose(smooth, (0.7 * losses + 0.3 * spread.mean(1)).sum(), rtol=1e-6)


def test_binary_cross_entropy_at_the_ends() -> None:
    x = np.array([-1e4, -1, 0, 1, 1e4], np.float32)
    target = np.array([1, 0.25, 0.5, 1, 1], np.float32)
    (losses,) = compute(
        'nn.bce {reduction = "none"}', "tensor<5xf32>, tensor<5xf32>", "tensor<5xf32>", x, target
    )
    p = 1 / (1 + np.exp(-x[1:4].astype(np.float64)))
    middle = -(target[1:4] * np.log(p) + (1 - target[1:4]) * np.log(1 - p))
    np.testing.assert_allclose(losses, [1e4, *middle, 0], rtol=1e-6, atol=1e-7)


def test_batch_norm_in_training() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((4, 3, 5)) * 3 + 100).astype(np.float32)
    scale, shift, mean, variance = (random.uniform(1, 2, 3).astype(np.float32) for _ in range(4))
    vectors = ", ".join(["tensor<3xf32>"] * 4)
    y, new_mean, new_variance = compute(
        "nn.batch_norm_train {momentum = 0.75, unbiased = true, epsilon = 0.0}",
        f"tensor<4x3x5xf32>, {vectors}",
        "tensor<4x3x5xf32>, tensor<3xf32>, tensor<3xf32>",
        *(x, scale, shift, mean, variance),
    )
    np.testing.assert_allclose(y.mean((0, 2)), shift, rtol=1e-5)
    np.testing.assert_allclose(y.std((0, 2)), scale, rtol=1e-5)
    np.testing.assert_allclose(new_mean, 0.75 * mean + 0.25 * x.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(new_variance, 0.75 * variance + 0.25 * x.var((0, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "signature", "results", "message"),
    [
        ("nn.cross_entropy", "tensor<4x3xf32>, tensor<3xi64>", "tensor<f32>", "labels must have the shape 4, got tensor<3xi64>"),
        ("nn.cross_entropy {smoothing = 2.0}", "tensor<4x3xf32>, tensor<4xi64>", "tensor<f32>", "smoothing must be 0 to 1, got 2.0"),
        ("nn.cross_entropy {weights = [1.0, 2.0]}", "tensor<4x3xf32>, tensor<4xi64>", "tensor<f32>", "2 weights do not fit the classes in dimension 1 of tensor<4x3xf32>"),
        ("nn.cross_entropy {weights = [1, 2, -1]}", "tensor<4x3xf32>, tensor<4xi64>", "tensor<f32>", "weights must be finite numbers from 0 on, got [1, 2, -1]"),
        ("nn.cross_entropy {axis = 2}", "tensor<4x3xf32>, tensor<4xi64>", "tensor<f32>", "axis 2 is out of range for 2 dimensions"),
        ("nn.mse", "tensor<4xf32>, tensor<3xf32>", "tensor<f32>", "x and target must have one shape, got tensor<4xf32> and tensor<3xf32>"),
        ("nn.mse", "tensor<4xf32>, tensor<4xf32>", "tensor<4xf32>", "the result is a tensor<f32>, not a tensor<4xf32>"),
        ("nn.dropout {rate = 1.0}", "tensor<4xf32>", "tensor<4xf32>", "rate must be at least 0 and below 1, got 1.0"),
        ("nn.dropout", "tensor<4xf32>, tensor<2xi64>", "tensor<4xf32>", "operand 'key' must be a tensor<2xi32>, the seed and the number of the step, or a tensor<3xi32>, with that of a part"),
        (
            "nn.batch_norm_train",
            "tensor<4x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<4xf32>",
            "tensor<4x3xf32>, tensor<3xf32>, tensor<3xf32>",
            "running_variance must have 3 elements, got tensor<4xf32>",
        ),
        (
            "nn.batch_norm_train",
            "tensor<4x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>",
            "tensor<4x3xf32>, tensor<3xf32>, tensor<3xf64>",
            "%y2 is a tensor<3xf32>, not a tensor<3xf64>",
        ),
    ],
)  # fmt: skip
def test_refused(op: str, signature: str, results: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        compute(op, signature, results)
    assert message in str(error.value)
