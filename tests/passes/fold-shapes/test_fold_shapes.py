"""fold-shapes on random chains of reshapes, transposes, slices and computation: the program means the same."""

from __future__ import annotations

import random
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.compiler.pipeline import run_passes
from mdsl.passes.any.canonicalize import Canonicalize
from mdsl.passes.linalg.fold_shapes import FoldShapes
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.reference import run
from mdsl.syntax.printer import print_module


def text_type(shape: list[int]) -> str:
    return f"tensor<{'x'.join([*map(str, shape), 'f32'])}>"


class Chain:
    """Grows a program op by op; each op's shape follows from the one before."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.shape = [choose.choice([1, 2, 3, 4, 6]) for _ in range(choose.randint(1, 4))]
        self.start = list(self.shape)
        self.lines: list[str] = []
        self.name = "x"

    def add(self, op: str, shape: list[int], attributes: str = "", others: str = "", types: str = "") -> None:
        name = f"v{len(self.lines)}"
        old, new = text_type(self.shape), text_type(shape)
        self.lines.append(f"%{name} = nn.{op} %{self.name}{others} {attributes} : ({old}{types}) -> {new}")
        self.name, self.shape = name, shape

    def reshape(self) -> None:
        """Splits or merges a dimension, or puts in or takes out one of 1."""
        shape, at = list(self.shape), self.choose.randrange(len(self.shape) + 1)
        kind = self.choose.choice(["one", "one", "drop", "merge", "split"])
        if kind == "one" and len(shape) < 6:
            shape.insert(at, 1)
        elif kind == "drop" and 1 in shape and len(shape) > 1:
            shape.remove(1)
        elif kind == "merge" and len(shape) > 1:
            at = min(at, len(shape) - 2)
            shape[at : at + 2] = [prod(shape[at : at + 2])]
        elif kind == "split" and len(shape) < 6:
            at = min(at, len(shape) - 1)
            factor = next(f for f in (2, 3, 1) if shape[at] % f == 0)
            shape[at : at + 1] = [factor, shape[at] // factor]
        self.add("reshape", shape)

    def transpose(self) -> None:
        order = self.choose.sample(range(len(self.shape)), len(self.shape))
        self.add("transpose", [self.shape[d] for d in order], f"{{perm = {order}}}")

    def slice(self) -> None:
        d = self.choose.randrange(len(self.shape))
        start = self.choose.randrange(self.shape[d])
        end = self.choose.randint(start + 1, self.shape[d])
        shape = [end - start if i == d else size for i, size in enumerate(self.shape)]
        self.add("slice", shape, f"{{starts = [{start}], ends = [{end}], axes = [{d}]}}")

    def unary(self) -> None:
        self.add(self.choose.choice(["relu", "tanh"]), self.shape)

    def binary(self) -> None:
        """With itself, or with a row that is broadcast."""
        if self.choose.random() < 0.5:
            self.add("add", self.shape, "", f", %{self.name}", f", {text_type(self.shape)}")
            return
        row = text_type(self.shape[-1:])
        self.lines.append(f"%row{len(self.lines)} = arith.constant dense<0.5> : {row}")
        self.add("mul", self.shape, "", f", %row{len(self.lines) - 1}", f", {row}")

    def normalise(self) -> None:
        self.add("softmax", self.shape, f"{{axis = {self.choose.randrange(len(self.shape))}}}")

    def gram(self) -> None:
        """The product with its own transpose."""
        rank = len(self.shape)
        if not 2 <= rank <= 4:
            return
        order = [*range(rank - 2), rank - 1, rank - 2]
        flipped = text_type([self.shape[d] for d in order])
        name = f"t{len(self.lines)}"
        self.lines.append(
            f"%{name} = nn.transpose %{self.name} {{perm = {order}}} : ({text_type(self.shape)}) -> {flipped}"
        )
        result = [*self.shape[:-1], self.shape[-2]]
        self.add("matmul", result, "", f", %{name}", f", {flipped}")

    def text(self) -> str:
        body = "\n  ".join(self.lines)
        result = text_type(self.shape)
        return f"func.func @main(%x: {text_type(self.start)}) -> {result} {{\n  {body}\n  return %{self.name} : {result}\n}}"


def random_chain(choose: random.Random) -> Chain:
    chain = Chain(choose)
    steps = [chain.reshape, chain.reshape, chain.transpose, chain.transpose, chain.slice]
    steps += [chain.unary, chain.binary, chain.normalise, chain.gram]
    chain.reshape()
    for _ in range(choose.randint(3, 9)):
        choose.choice(steps)()
    return chain


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.randoms(use_true_random=False))
def test_means_the_same(choose: random.Random) -> None:
    chain = random_chain(choose)
    module = mdsl.parse(chain.text())
    x = np.random.default_rng(0).standard_normal(chain.start).astype(np.float32)
    wanted = run(module, [x])
    run_passes(module, [LowerNn(), Canonicalize(), FoldShapes(), Canonicalize()])
    for found, other in zip(run(module, [x]), wanted, strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6, err_msg=chain.text())
    again = mdsl.parse(print_module(module))
    run_passes(again, [FoldShapes()])
    assert print_module(again) == print_module(module), f"a second run changes something:\n{chain.text()}"


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_compiles(choose: random.Random, ukernels: bool) -> None:
    chain = random_chain(choose)
    x = np.random.default_rng(0).standard_normal(chain.start).astype(np.float32)
    wanted = mdsl.compile(chain.text(), engine="reference")(x)
    found = mdsl.compile(chain.text(), ukernels=ukernels)(x)
    np.testing.assert_allclose(
        np.asarray(found), np.asarray(wanted), rtol=1e-4, atol=1e-5, err_msg=chain.text()
    )


def test_heads_cost_nothing() -> None:
    """Splitting off heads and merging them leaves no op that moves an element."""
    text = """func.func @main(%x: tensor<1x16x24xf32>) -> tensor<1x16x24xf32> {
  %split = nn.reshape %x : (tensor<1x16x24xf32>) -> tensor<1x16x4x6xf32>
  %heads = nn.transpose %split {perm = [0, 2, 1, 3]} : (tensor<1x16x4x6xf32>) -> tensor<1x4x16x6xf32>
  %back = nn.transpose %heads {perm = [0, 2, 1, 3]} : (tensor<1x4x16x6xf32>) -> tensor<1x16x4x6xf32>
  %merged = nn.reshape %back : (tensor<1x16x4x6xf32>) -> tensor<1x16x24xf32>
  %y = nn.relu %merged : (tensor<1x16x24xf32>) -> tensor<1x16x24xf32>
  return %y : tensor<1x16x24xf32>
}"""
    printed = print_module(mdsl.opt(text, "fold-shapes,canonicalize"))
    assert printed.count("linalg.generic") == 1
    assert not any(word in printed for word in ("transpose", "expand_shape", "collapse_shape"))


def test_an_activation_follows_the_groups_of_its_convolution() -> None:
    """So the shuffle of channels behind it reads them as they are, too."""
    text = """func.func @main(%x: tensor<1x6x5x5xf32>, %w: tensor<6x3x1x1xf32>) -> tensor<1x6x5x5xf32> {
      %y = nn.conv2d %x, %w {groups = 2} : (tensor<1x6x5x5xf32>, tensor<6x3x1x1xf32>) -> tensor<1x6x5x5xf32>
      %r = nn.relu %y : (tensor<1x6x5x5xf32>) -> tensor<1x6x5x5xf32>
      %g = nn.reshape %r : (tensor<1x6x5x5xf32>) -> tensor<1x2x3x5x5xf32>
      %t = nn.transpose %g {perm = [0, 2, 1, 3, 4]} : (tensor<1x2x3x5x5xf32>) -> tensor<1x3x2x5x5xf32>
      %s = nn.reshape %t : (tensor<1x3x2x5x5xf32>) -> tensor<1x6x5x5xf32>
      func.return %s : tensor<1x6x5x5xf32>
    }"""
    module = mdsl.opt(text, "fold-shapes")
    assert print_module(module).count("tensor.collapse_shape") == 1
    x, w = (
        np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((1, 6, 5, 5), (6, 3, 1, 1))
    )
    wanted = mdsl.compile(text, engine="reference")(x, w)
    np.testing.assert_allclose(mdsl.compile(text)(x, w), wanted, rtol=1e-5, atol=1e-5)
