"""keep-layouts: random steps whose arguments are read in several layouts, returned, handed on as they are or to another's place."""

from __future__ import annotations

from itertools import count
from random import Random

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.module import DTYPES, Layout
from mdsl.compiler.entry import closed, signature
from mdsl.dialects.func import FuncOp
from mdsl.reference import run

Shape = tuple[int, ...]


class Step:
    """The `text` of one program; `donated` are the numbers of arguments and of the results in their places."""

    def __init__(self, seed: int) -> None:
        self.random, self.lines, self.names = Random(seed), [], count()
        self.element = self.random.choice(("f32", "f32", "f16"))
        self.weight: Shape = self.random.choice(((64, 64), (32, 64), (48, 64)))
        self.rows = self.random.choice((8, 16, 33))
        weights = [f"w{k}" for k in range(self.random.choice((1, 2, 3)))]
        self.shapes: dict[str, Shape] = {"x": (self.rows, self.weight[1])} | dict.fromkeys(
            weights, self.weight
        )
        self.alike, self.results = list(weights), [self.op("linear", (self.rows, self.weight[0]), "x", "w0")]
        for _ in range(self.random.randint(2, 6)):
            self.read(self.random.choice(self.alike))
        self.results += [w for w in weights if self.random.random() < 0.2]
        self.donated = {
            1 + number: len(self.results) + k
            for k, number in enumerate(n for n in range(len(weights)) if n == 0 or self.random.random() < 0.7)
        }
        self.results += [self.random.choice(self.alike) for _ in self.donated]
        marks = {n: f" {{tf.aliasing_output = {result} : i32}}" for n, result in self.donated.items()}
        given = ", ".join(
            f"%{name}: {self.type(self.shapes[name])}{marks.get(n, '')}"
            for n, name in enumerate(("x", *weights))
        )
        types = ", ".join(self.type(self.shapes[name]) for name in self.results)
        ends = ", ".join(f"%{name}" for name in self.results)
        self.text = "\n".join(
            (f"func.func @main({given}) -> ({types}) {{", *self.lines, f"  return {ends} : {types}", "}")
        )

    def type(self, shape: Shape) -> str:
        return f"tensor<{'x'.join(map(str, shape))}x{self.element}>"

    def op(self, kind: str, shape: Shape, *operands: str, options: str = "") -> str:
        name = f"v{next(self.names)}"
        given = ", ".join(f"%{operand}" for operand in operands)
        types = ", ".join(self.type(self.shapes[operand]) for operand in operands)
        self.lines.append(f"  %{name} = nn.{kind} {given} {options} : ({types}) -> {self.type(shape)}")
        self.shapes[name] = shape
        return name

    def read(self, weight: str) -> None:
        """One more op that reads a weight, or what is made of it."""
        shape, rows = self.weight, self.rows
        match self.random.randrange(6):
            case 0:
                self.alike.append(self.op(self.random.choice(("tanh", "neg")), shape, weight))
            case 1:
                kind = self.random.choice(("add", "sub", "mul"))
                self.alike.append(self.op(kind, shape, weight, self.random.choice(self.alike)))
            case 2:
                self.results.append(self.op("linear", (rows, shape[0]), "x", weight))
            case 3:
                turned = self.op("transpose", shape[::-1], weight, options="{perm = [1, 0]}")
                self.results.append(self.op("matmul", (rows, shape[0]), "x", turned))
                self.alike += [turned] if shape[0] == shape[1] else []
            case 4:
                made = self.op("linear", (rows, shape[0]), "x", weight)
                self.results.append(self.op("matmul", (rows, shape[1]), made, weight))
            case _:
                self.alike.append(self.op("softmax", shape, weight))


@pytest.mark.parametrize("target", ["avx512", pytest.param("avx2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", range(5, 30, 5))
def test_a_step_computes_the_same(start: int, target: str) -> None:
    kept = 0
    for seed in range(start, start + 5):
        step = Step(seed)
        plain = mdsl.parse(step.text)
        blocks = mdsl.opt(plain, "keep-layouts,pack,fuse,donate", target=target)
        random = np.random.default_rng(seed)
        given = [
            (random.standard_normal(s.shape) / 4).astype(DTYPES[s.dtype]) for s in closed(signature(plain)[0])
        ]
        (function,) = (op for op in blocks.body.ops if isinstance(op, FuncOp))
        layouts = {
            function.args.index(value): Layout(0, tuple(map(tuple, groups)))
            for value, groups in function.layouts().items()
        }
        kept += len(layouts)
        specs = closed(signature(blocks)[0])
        moved = [
            layouts[n].blocked(array, specs[n].shape) if n in layouts else array.copy()
            for n, array in enumerate(given)
        ]
        wanted, found = run(plain, [array.copy() for array in given]), run(blocks, moved)
        places = {step.donated[n]: layout for n, layout in layouts.items()}
        tolerance = 2e-2 if step.element == "f16" else 1e-4
        for number, (a, b) in enumerate(zip(wanted, found, strict=True)):
            b = places[number].plain(b) if number in places else b
            np.testing.assert_allclose(
                b.astype(float), a.astype(float), rtol=tolerance, atol=tolerance, err_msg=f"seed {seed}"
            )
    assert kept
