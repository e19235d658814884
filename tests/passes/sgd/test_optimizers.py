"""sgd, adam, adamw: many steps against their formulas in f64, in place on every engine, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.errors import MdslError
from mdsl.passes.base import functions

GRADIENT = """func.func @main(%w: tensor<33x7xf32>, %x: tensor<33x7xf32>) -> (tensor<f32>, tensor<33x7xf32>) {
  %e = nn.sub %w, %x : (tensor<33x7xf32>, tensor<33x7xf32>) -> tensor<33x7xf32>
  %grad_w = nn.mul %e, %e : (tensor<33x7xf32>, tensor<33x7xf32>) -> tensor<33x7xf32>
  %loss = nn.reduce %grad_w {kind = "sum", keepdims = false} : (tensor<33x7xf32>) -> tensor<f32>
  return %loss, %grad_w : tensor<f32>, tensor<33x7xf32>
}"""
STEPS = 20


class Sgd:
    """The formulas of PyTorch's documentation, in f64."""

    def __init__(self, momentum: float = 0, weight_decay: float = 0, nesterov: bool = False) -> None:
        self.momentum, self.decay, self.nesterov = momentum, weight_decay, nesterov
        self.buffer: np.ndarray | float = 0.0

    def step(self, w: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray:
        g = g + self.decay * w
        self.buffer = self.momentum * self.buffer + g
        return w - lr * (g + self.momentum * self.buffer if self.nesterov else self.buffer)


class Adam:
    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, l2: float = 0, decay: float = 0,
        amsgrad: bool = False,
    ) -> None:  # fmt: skip
        self.beta1, self.beta2, self.epsilon, self.l2, self.decay = beta1, beta2, epsilon, l2, decay
        self.amsgrad = amsgrad
        self.largest: np.ndarray | float = 0.0
        self.mean: np.ndarray | float = 0.0
        self.square: np.ndarray | float = 0.0
        self.count = 0

    def step(self, w: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray:
        self.count += 1
        g = g + self.l2 * w
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * g
        self.square = self.beta2 * self.square + (1 - self.beta2) * g * g
        near = self.mean / (1 - self.beta1**self.count)
        self.largest = np.maximum(self.largest, self.square)
        square = self.largest if self.amsgrad else self.square
        root = np.sqrt(square / (1 - self.beta2**self.count))
        return w - lr * self.decay * w - lr * near / (root + self.epsilon)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
@pytest.mark.parametrize(
    ("pipeline", "wanted"),
    [
        ("sgd", Sgd),
        ("sgd{momentum=0.9,weight_decay=0.1}", lambda: Sgd(0.9, 0.1)),
        ("sgd{momentum=0.8,nesterov=true}", lambda: Sgd(0.8, nesterov=True)),
        ("adam", Adam),
        ("adam{beta1=0.8,beta2=0.95,epsilon=0.01,weight_decay=0.1}", lambda: Adam(0.8, 0.95, 0.01, l2=0.1)),
        ("adam{beta1=0,beta2=0.9999}", lambda: Adam(0, 0.9999)),
        ("adamw{weight_decay=0.2}", lambda: Adam(decay=0.2)),
        ("adam{beta2=0.5,amsgrad=true}", lambda: Adam(beta2=0.5, amsgrad=True)),
        ("adamw{weight_decay=0.2,beta2=0.5,amsgrad=true}", lambda: Adam(beta2=0.5, decay=0.2, amsgrad=True)),
    ],
)
def test_many_steps(engine: str, pipeline: str, wanted: type[Sgd]) -> None:
    step = mdsl.compile(mdsl.opt(GRADIENT, pipeline), engine=engine, threads=1)
    random = np.random.default_rng(0)
    x = random.standard_normal((33, 7)).astype(np.float32)
    arrays = {
        spec.name: np.zeros(spec.shape, spec.dtype.replace("f32", "float32").replace("i32", "int32"))
        for spec in step.inputs
    }
    arrays["w"] += random.standard_normal((33, 7)).astype(np.float32)
    arrays["x"] = x
    optimizer, expected = wanted(), arrays["w"].astype(np.float64)
    given = dict(arrays)
    for number in range(1, STEPS + 1):
        rate = 0.02 / number
        arrays["lr"] = np.array(rate, np.float32)
        if "step" in arrays:
            arrays["step"] = np.array(number, np.int32)
        expected = optimizer.step(expected, (expected - x) ** 2, rate)
        found = dict(zip((s.name for s in step.outputs), step(**arrays), strict=True))
        arrays |= {n.removesuffix("_new"): a for n, a in found.items() if n.endswith("_new")}
    np.testing.assert_allclose(arrays["w"], expected, rtol=2e-6, atol=2e-7)
    if engine != "reference":  # everything lies where it did
        assert all(arrays[name] is given[name] for name in arrays if name.startswith("w"))


def test_what_a_gradient_is_made_of_is_free_once_a_parameter_is_updated() -> None:
    """Updates stand behind their gradients, in the order of these, and what they share in front of all."""
    network = """func.func @main(%x: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %w1 = arith.constant dense<0.0> : tensor<16x16xf32>
  %w2 = arith.constant dense<0.0> : tensor<16x16xf32>
  %h = nn.linear %x, %w1 : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  %y = nn.linear %h, %w2 : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  return %y : tensor<8x16xf32>
}"""
    module = mdsl.opt(network, "parameters,loss{kind=mse},autodiff,adam")
    names = [r.name for op in functions(module)[0].body.ops for r in op.results]
    assert names.index("w2_new") < names.index("grad_w1") < names.index("w1_new")


def test_what_is_refused() -> None:
    with pytest.raises(MdslError, match="has no gradients, results called grad_NAME: run autodiff first"):
        mdsl.opt(GRADIENT.replace("grad_w", "g"), "sgd")
    with pytest.raises(
        MdslError, match="grad_v: there is no argument %v; --parameters makes some of weights"
    ):
        mdsl.opt(GRADIENT.replace("grad_w", "grad_v"), "adam")
    with pytest.raises(MdslError, match="option 'nesterov' needs 'momentum'"):
        mdsl.opt(GRADIENT, "sgd{nesterov=true}")
    with pytest.raises(MdslError, match=r"unknown loss 'cross_entrop'; did you mean 'cross_entropy'\?"):
        mdsl.opt(GRADIENT, "loss{kind=cross_entrop}")
    with pytest.raises(MdslError, match="@main has no result 2 to compare"):
        mdsl.opt(GRADIENT, "loss{kind=mse,result=2}")
    softmax = """
func.func @main(%x: tensor<4x3xf32>) -> tensor<4x3xf32> {
  %y = nn.softmax %x : (tensor<4x3xf32>) -> tensor<4x3xf32>
  return %y : tensor<4x3xf32>
}"""
    for axis in (2, 7, -3):
        with pytest.raises(
            MdslError, match=f"%x is tensor<4x3xf32>: it has no dimension {axis} with classes"
        ):
            mdsl.opt(softmax, f"loss{{axis={axis}}}")
    two = GRADIENT.replace("%x: tensor<33x7", "%x: tensor<32x7")
    with pytest.raises(MdslError):
        mdsl.opt(two, "rebatch{size=2}")
