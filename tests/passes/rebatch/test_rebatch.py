"""rebatch: a network of more samples computes of each what it computed of it alone."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.passes.base import functions
from mdsl.reference import run

RECURRENT = """
func.func @main(%x: tensor<Nx5x4xf64>) -> tensor<Nx3xf64> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c5 = arith.constant 5 : index
  %w = arith.constant dense<[[1.0, -0.5, 0.25, 0.5], [0.5, 1.0, -1.0, 0.25], [0.25, 0.5, 1.0, -1.0]]> : tensor<3x4xf64>
  %u = arith.constant dense<[[0.5, -0.5, 0.25], [1.0, 0.5, -0.25], [0.25, -1.0, 0.5]]> : tensor<3x3xf64>
  %start = arith.constant dense<0.5> : tensor<Nx3xf64>
  %by_time = nn.transpose %x {perm = [1, 0, 2]} : (tensor<Nx5x4xf64>) -> tensor<5xNx4xf64>
  %rows = nn.reshape %by_time : (tensor<5xNx4xf64>) -> tensor<R1x4xf64>
  %z = nn.linear %rows, %w : (tensor<R1x4xf64>, tensor<3x4xf64>) -> tensor<R1x3xf64>
  %zs = nn.reshape %z : (tensor<R1x3xf64>) -> tensor<5xNx3xf64>
  %empty = tensor.empty() : tensor<5xNx3xf64>
  %all, %last = scf.for %t = %c0 to %c5 step %c1 iter_args(%states = %empty, %h = %start) -> (tensor<5xNx3xf64>, tensor<Nx3xf64>) {
    %now = tensor.extract_slice %zs[%t, 0, 0] [1, N, 3] [1, 1, 1] : tensor<5xNx3xf64> to tensor<Nx3xf64>
    %turned = nn.matmul %h, %u : (tensor<Nx3xf64>, tensor<3x3xf64>) -> tensor<Nx3xf64>
    %sum = nn.add %now, %turned : (tensor<Nx3xf64>, tensor<Nx3xf64>) -> tensor<Nx3xf64>
    %new = nn.tanh %sum : (tensor<Nx3xf64>) -> tensor<Nx3xf64>
    %with = tensor.insert_slice %new into %states[%t, 0, 0] [1, N, 3] [1, 1, 1] : tensor<Nx3xf64> into tensor<5xNx3xf64>
    scf.yield %with, %new : tensor<5xNx3xf64>, tensor<Nx3xf64>
  }
  %mean = nn.reduce %all {kind = "mean", axes = [0], keepdims = false} : (tensor<5xNx3xf64>) -> tensor<Nx3xf64>
  %y = nn.sub %mean, %last : (tensor<Nx3xf64>, tensor<Nx3xf64>) -> tensor<Nx3xf64>
  return %y : tensor<Nx3xf64>
}"""

TOKEN = """
func.func @main(%x: tensor<Nx4x6xf64>) -> tensor<Nx5x6xf64> {
  %token = arith.constant dense<2.0> : tensor<Nx1x6xf64>
  %all = nn.concat %token, %x {axis = 1} : (tensor<Nx1x6xf64>, tensor<Nx4x6xf64>) -> tensor<Nx5x6xf64>
  %by_place = nn.transpose %all {perm = [1, 0, 2]} : (tensor<Nx5x6xf64>) -> tensor<5xNx6xf64>
  %heads = nn.reshape %by_place : (tensor<5xNx6xf64>) -> tensor<5xH2x3xf64>
  %front = nn.transpose %heads {perm = [1, 0, 2]} : (tensor<5xH2x3xf64>) -> tensor<H2x5x3xf64>
  %keys = nn.transpose %front {perm = [0, 2, 1]} : (tensor<H2x5x3xf64>) -> tensor<H2x3x5xf64>
  %products = nn.matmul %front, %keys : (tensor<H2x5x3xf64>, tensor<H2x3x5xf64>) -> tensor<H2x5x5xf64>
  %shares = nn.softmax %products : (tensor<H2x5x5xf64>) -> tensor<H2x5x5xf64>
  %mixed = nn.matmul %shares, %front : (tensor<H2x5x5xf64>, tensor<H2x5x3xf64>) -> tensor<H2x5x3xf64>
  %places = nn.transpose %mixed {perm = [1, 0, 2]} : (tensor<H2x5x3xf64>) -> tensor<5xH2x3xf64>
  %wide = nn.reshape %places : (tensor<5xH2x3xf64>) -> tensor<5xNx6xf64>
  %y = nn.transpose %wide {perm = [1, 0, 2]} : (tensor<5xNx6xf64>) -> tensor<Nx5x6xf64>
  return %y : tensor<Nx5x6xf64>
}"""

STATES = """
func.func @main(%x: tensor<Nx4xf64>) -> tensor<Nx4xf64> {
  %a = nn.tanh %x : (tensor<Nx4xf64>) -> tensor<Nx4xf64>
  %first = nn.reshape %x : (tensor<Nx4xf64>) -> tensor<1xNx4xf64>
  %second = nn.reshape %a : (tensor<Nx4xf64>) -> tensor<1xNx4xf64>
  %both = nn.concat %first, %second {axis = 0} : (tensor<1xNx4xf64>, tensor<1xNx4xf64>) -> tensor<2xNx4xf64>
  %last = nn.slice %both {starts = [1], ends = [2], axes = [0]} : (tensor<2xNx4xf64>) -> tensor<1xNx4xf64>
  %y = nn.reshape %last : (tensor<1xNx4xf64>) -> tensor<Nx4xf64>
  return %y : tensor<Nx4xf64>
}"""


def of(text: str, count: int) -> str:
    """The program for so many samples."""
    text = text.replace("R1", str(5 * count)).replace("H2", str(2 * count))
    return (
        text.replace("<Nx", f"<{count}x")
        .replace("xNx", f"x{count}x")
        .replace("[1, N, 3]", f"[1, {count}, 3]")
    )


@pytest.mark.parametrize("old", [1, 3])
@pytest.mark.parametrize("text", [RECURRENT, TOKEN, STATES], ids=["recurrent", "token", "states"])
def test_each_sample_is_computed_as_alone(text: str, old: int) -> None:
    module = mdsl.opt(of(text, old), "rebatch{size=6}")
    (argument,) = functions(module)[0].args
    x = np.random.default_rng(0).normal(size=argument.type.shape)  # type: ignore[attr-defined]
    (together,) = run(module, [x])
    for sample in range(6):
        (alone,) = run(mdsl.parse(of(text, 1)), [x[sample : sample + 1]])
        np.testing.assert_allclose(together[sample : sample + 1], alone)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_a_loss_tells_where_the_samples_lie(kind: str) -> None:
    """What types leave open a trial decides: also where all that a network gives is its loss, over all samples."""
    loss = f'%loss = nn.reduce %y {{kind = "{kind}", keepdims = false}} : (tensor<Nx5x6xf64>) -> tensor<f64>\n  return %loss : tensor<f64>'
    text = TOKEN.replace("-> tensor<Nx5x6xf64> {", "-> tensor<f64> {", 1)
    text = text.replace("return %y : tensor<Nx5x6xf64>", loss)
    x = np.random.default_rng(0).normal(size=(6, 4, 6))
    (together,) = run(mdsl.opt(of(text, 1), "rebatch{size=6}"), [x])
    alone = [run(mdsl.parse(of(text, 1)), [x[sample : sample + 1]])[0] for sample in range(6)]
    np.testing.assert_allclose(together, np.mean(alone) if kind == "mean" else np.sum(alone))


def test_what_types_do_not_tell_is_refused() -> None:
    """The mean over a dimension that is the samples', or another of size one, of whose order nothing says anything."""
    text = """
func.func @main(%x: tensor<1x4xf64>) -> tensor<1x4xf64> {
  %a = nn.reshape %x : (tensor<1x4xf64>) -> tensor<1x1x4xf64>
  %b = nn.softmax %a {axis = 0} : (tensor<1x1x4xf64>) -> tensor<1x1x4xf64>
  %y = nn.reshape %b : (tensor<1x1x4xf64>) -> tensor<1x4xf64>
  return %y : tensor<1x4xf64>
}"""
    with pytest.raises(mdsl.MdslError, match="its types do not tell where the samples lie"):
        mdsl.opt(text, "rebatch{size=6}")


@pytest.mark.parametrize(
    "body",
    [
        "%y = nn.reshape %x : (tensor<0x8xf32>) -> tensor<0x8xf32>",
        """%c = arith.constant dense<0.0> : tensor<0x8xf32>
  %z = nn.concat %x, %c {axis = 1 : i64} : (tensor<0x8xf32>, tensor<0x8xf32>) -> tensor<0x16xf32>
  %y = nn.slice %z {starts = [0], ends = [8], axes = [1]} : (tensor<0x16xf32>) -> tensor<0x8xf32>""",
        "%y = nn.relu %x : (tensor<0x8xf32>) -> tensor<0x8xf32>",
    ],
)
def test_no_samples_tell_nothing(body: str) -> None:
    text = f"func.func @main(%x: tensor<0x8xf32>) -> tensor<0x8xf32> {{\n  {body}\n  return %y : tensor<0x8xf32>\n}}"
    with pytest.raises(mdsl.MdslError, match="of 0 samples its types do not tell where they lie"):
        mdsl.opt(text, "rebatch{size=4}")
