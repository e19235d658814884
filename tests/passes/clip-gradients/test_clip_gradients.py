"""clip-gradients: lengths and elements as PyTorch clips them, in a step and in training."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.ir.types import dtype_of, scalar
from mdsl.reference import run

TEXT = """
func.func @main(%w: tensor<2x3xELEMENT>, %b: tensor<f64>) -> (tensor<2x3xELEMENT> {mdsl.name = "grad_w"}, tensor<f64> {mdsl.name = "grad_b"}) {
  return %w, %b : tensor<2x3xELEMENT>, tensor<f64>
}"""
W, B = np.array([[1.0, -2, 3], [-4, 5, 6]]), np.array(-1.5)


@pytest.mark.parametrize("norm", [0.5, 100.0])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_lengths_and_elements(norm: float, value: float) -> None:
    clipped = mdsl.opt(TEXT.replace("ELEMENT", "f64"), f"clip-gradients{{norm={norm},value={value}}}")
    w, b = (np.clip(g, -value, value) if value else g for g in (W, B))
    share = min(1.0, norm / (np.sqrt((w * w).sum() + b * b) + 1e-6))
    for found, wanted in zip(run(clipped, [W, B]), (w * share, b * share), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_training_with_clipped_gradients() -> None:
    text = """func.func @main(%x: tensor<1x3xf64>) -> tensor<1x1xf64> {
  %w = arith.constant dense<[[1.0, -1.0, 2.0]]> : tensor<1x3xf64>
  %y = nn.linear %x, %w : (tensor<1x3xf64>, tensor<1x3xf64>) -> tensor<1x1xf64>
  return %y : tensor<1x1xf64>
}"""
    x, target = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[100.0], [-50.0]])
    trainer = mdsl.Trainer(
        text, {"x": x, "target": target}, loss="mse", optimizer="clip-gradients{norm=0.25},sgd", lr=1.0, batch=2, engine="reference"
    )  # fmt: skip
    trainer.train(1)
    w = np.array([[1.0, -1.0, 2.0]])
    gradient = 2 * (x @ w.T - target).T @ x / 2
    wanted = w - gradient * 0.25 / (np.linalg.norm(gradient) + 1e-6)
    np.testing.assert_allclose(trainer.parameters["w"], wanted)


def test_what_is_not_asked_for() -> None:
    with pytest.raises(mdsl.MdslError, match="option 'norm' or 'value' must say how large gradients may be"):
        mdsl.opt(TEXT.replace("ELEMENT", "f64"), "clip-gradients")
    with pytest.raises(mdsl.MdslError, match="has no gradients"):
        mdsl.opt(
            "func.func @main(%x: tensor<f32>) -> tensor<f32> {\n  return %x : tensor<f32>\n}",
            "clip-gradients{norm=1}",
        )


@pytest.mark.parametrize("elements", [("f32", "f64"), ("f64", "f32")])
def test_the_widest_type_decides_whatever_comes_first(elements: tuple[str, str]) -> None:
    """The square of the f64 gradient is beyond f32."""
    types = [f"tensor<2x{element}>" for element in elements]
    text = f"""
func.func @main(%a: {types[0]}, %b: {types[1]}) -> ({types[0]} {{mdsl.name = "grad_a"}}, {types[1]} {{mdsl.name = "grad_b"}}) {{
  return %a, %b : {types[0]}, {types[1]}
}}"""
    small, large = np.array([3.0, -4.0], np.float32), np.array([3e25, -4e25])
    given = [large if element == "f64" else small for element in elements]
    found = run(mdsl.opt(text, "clip-gradients{norm=1}"), given)
    for array, gradient in zip(found, given, strict=True):
        np.testing.assert_allclose(array, gradient / 5e25, rtol=1e-6)


@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_the_share_of_a_long_gradient_is_not_rounded_to_16_bits(element: str) -> None:
    """In f16 it would be 0."""
    type, count = f"tensor<1048576x{element}>", 1 << 20
    text = f"""
func.func @main(%g: {type}) -> ({type} {{mdsl.name = "grad_g"}}) {{
  return %g : {type}
}}"""
    gradient = np.full(count, 60000, dtype_of(scalar(element)))
    (found,) = run(mdsl.opt(text, "clip-gradients{norm=100}"), [gradient])
    np.testing.assert_allclose(found.astype(np.float64), 100 / 2**10, rtol=2**-8)
