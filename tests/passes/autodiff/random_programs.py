"""Random programs of nn ops that have gradients: small tensors, sizes of one, groups, dilations, strides larger than kernels, any order
of ops, values that several ops read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import prod
from random import Random
from typing import Any

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp, Return
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Op, Region, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, dtype_of, f64, i64

SMOOTH = (nn.Tanh, nn.Sigmoid, nn.Sin, nn.Cos, nn.Erf, nn.Atan, nn.Asinh, nn.Gelu, nn.Neg)
BENT = (nn.Relu, nn.LeakyRelu, nn.Abs)
POSITIVE = (nn.Log, nn.Sqrt, nn.Log1p)
BOUNDED = (nn.Exp, nn.Expm1, nn.Sinh, nn.Cosh, nn.Tan)
INSIDE = (nn.Asin, nn.Acos, nn.Atanh)
LARGEST = 240
"""Elements of a tensor."""


class Programs:
    """Makes one program; its inputs are `inputs`, in the order of the arguments."""

    def __init__(self, seed: int, element: Type = f64, ops: int = 8, bends: bool = True) -> None:
        self.random, self.numbers = Random(seed), np.random.default_rng(seed)
        self.element, self.bends = element, bends
        self.inputs: list[np.ndarray] = []
        self.names = count()
        self.function = FuncOp.make("main", [], [], [])
        self.function.body.append(Return([]))
        self.builder = Builder.before(self.function.body.terminator)
        self.values: list[Value] = [
            self.argument(self.shape(self.random.choice((2, 3, 4, 4)))) for _ in range(2)
        ]
        while ops:
            made = self.op()
            if made is not None and prod(tensor_of(made).shape) <= LARGEST:
                self.values.append(made)
                ops -= 1
        self.function.insert_result(0, self.total())
        self.module = ModuleOp(results=[], regions=[Region()])
        self.module.body.append(self.function)

    def total(self) -> Value:
        """The sum of what nothing reads, each element by a number of its own, so that all ops count."""
        parts = []
        for value in self.values:
            if not value.users:
                whole = self.build(nn.Reduce(value, kind="sum", keepdims=False))
                parts.append(self.build(nn.Tanh(self.build(nn.Mul(whole, self.constant(np.array(0.3)))))))
                parts.append(
                    self.build(
                        nn.Reduce(self.build(nn.Mul(value, self.like(value))), kind="sum", keepdims=False)
                    )
                )
        total, *rest = parts
        for part in rest:
            total = self.build(nn.Add(total, part))
        return total

    # Parts ----------------------------------------------------------------------------------------------------

    def build(self, op: Op) -> Value:
        return self.builder.value(op, op.name.split(".")[1])

    def shape(self, rank: int) -> list[int]:
        return [self.random.choice((1, 2, 3, 5)) for _ in range(rank)] if rank != 4 else [
            self.random.choice((1, 2)), self.random.choice((1, 2, 4)), *(self.random.choice((1, 3, 4, 5)) for _ in "hw")
        ]  # fmt: skip

    def argument(self, shape: Any) -> Value:
        """One more input."""
        type = TensorType(tuple(shape), self.element)
        data = 0.8 * self.numbers.normal(size=type.shape)
        self.inputs.append(np.asarray(data).astype(dtype_of(self.element)))
        return self.function.add_argument(type, f"a{len(self.inputs)}")

    def constant(self, data: np.ndarray, element: Type | None = None) -> Value:
        type = TensorType(data.shape, element or self.element)
        attribute = tensor_attribute(data.astype(dtype_of(type.element)), type, f"c{next(self.names)}")
        return self.builder.value(Constant(value=attribute, results=[type]), "c")

    def like(self, value: Value) -> Value:
        return self.constant(np.asarray(self.numbers.normal(size=tensor_of(value).shape)))

    def some(self, *ranks: int) -> Value | None:
        found = [v for v in self.values if tensor_of(v).rank in ranks] if ranks else self.values
        return self.random.choice(found[-4:] if self.random.random() < 0.6 else found) if found else None

    def small(self, x: Value) -> Value:
        """Numbers between -1 and 1."""
        return self.build(nn.Tanh(x))

    def positive(self, x: Value) -> Value:
        return self.build(nn.Add(self.build(nn.Sigmoid(x)), self.constant(np.array(0.5))))

    # Ops ------------------------------------------------------------------------------------------------------

    def op(self) -> Value | None:
        kinds: list[Callable[[], Value | None]] = [
            self.unary, self.unary, self.binary, self.binary, self.reduce, self.move, self.move, self.product, self.normal,
            self.window, self.window, self.window, self.choose, self.loss,
        ]  # fmt: skip
        return self.random.choice(kinds)()

    def unary(self) -> Value | None:
        x = self.some()
        assert x is not None
        kind = self.random.choice((*SMOOTH, *POSITIVE, *BOUNDED, *INSIDE, *(BENT if self.bends else ())))
        if self.bends and self.random.random() < 0.05:
            return self.build(nn.Clip(x, min=-0.5, max=0.7))
        if kind in POSITIVE:
            x = self.positive(x)
        elif kind in BOUNDED:
            x = self.small(x)
        elif kind in INSIDE:
            x = self.build(nn.Mul(self.small(x), self.constant(np.array(0.8))))
        return self.build(kind(x))

    def binary(self) -> Value | None:
        x = self.some()
        assert x is not None
        shape = tensor_of(x).shape
        kind = self.random.randrange(3)
        y = x if kind == 0 else self.some()
        assert y is not None
        if tensor_of(y).shape != shape:
            drop = self.random.randint(0, len(shape))
            y = self.argument([1 if self.random.random() < 0.4 else n for n in shape[drop:]])
        name = self.random.choice(
            ("add", "sub", "mul", "div", "pow", *(("max", "min") if self.bends else ()))
        )
        if name == "div":
            return self.build(nn.Div(x, self.positive(y)))
        if name == "pow":
            return self.build(nn.Pow(self.positive(x), self.small(y)))
        made = {"add": nn.Add, "sub": nn.Sub, "mul": nn.Mul, "max": nn.Maximum, "min": nn.Minimum}[name]
        return self.build(made(x, y) if self.random.random() < 0.5 else made(y, x))

    def reduce(self) -> Value | None:
        x = self.some()
        assert x is not None
        rank = tensor_of(x).rank
        if not rank:
            return None
        axes = sorted(self.random.sample(range(rank), self.random.randint(1, rank)))
        kinds = ("sum", "mean", *(("max", "min") if self.bends else ()), "prod")
        return self.build(
            nn.Reduce(x, kind=self.random.choice(kinds), axes=axes, keepdims=self.random.random() < 0.5)
        )

    def move(self) -> Value | None:
        x = self.some(1, 2, 3, 4)
        if x is None:
            return None
        shape, r = tensor_of(x).shape, self.random
        axis = r.randrange(len(shape))
        match r.randrange(8):
            case 0:
                return self.build(nn.Transpose(x, perm=r.sample(range(len(shape)), len(shape))))
            case 1:
                merged = (
                    (*shape[:axis], prod(shape[axis:])) if r.random() < 0.5 else (shape[0], 1, *shape[1:])
                )
                return self.build(nn.Reshape(x, results=[TensorType(merged, self.element)]))
            case 2:
                wider = (
                    r.choice((1, 2)),
                    *(r.choice((2, 3)) if n == 1 and r.random() < 0.5 else n for n in shape),
                )
                return self.build(
                    nn.Broadcast(
                        x, results=[TensorType(wider[-4:] if len(wider) > 4 else wider, self.element)]
                    )
                )
            case 3:
                parts = [x, self.some(len(shape)), x][: r.choice((2, 3))]
                fits = [p for p in parts if p is not None and self._fits(tensor_of(p).shape, shape, axis)]
                return self.build(nn.Concat(fits, axis=axis))
            case 4:
                n = shape[axis]
                if r.random() < 0.5:
                    return self.build(
                        nn.Slice(x, starts=[n - 1], ends=[-n - 1], axes=[axis], steps=[-r.choice((1, 2, 3))])
                    )
                start = r.randrange(n)
                return self.build(
                    nn.Slice(x, starts=[start], ends=[n], axes=[axis], steps=[r.choice((1, 2, 4))])
                )
            case 5:
                pads = [r.choice((0, 0, 1, 2)) for _ in range(2 * len(shape))]
                return self.build(nn.Pad(x, pads=pads, value=0.5))
            case 6:
                places = self.numbers.integers(0, shape[axis], r.choice(((3,), (2, 2), (1,))))
                return (
                    self.build(nn.Gather(x, self.constant(places, i64), axis=axis))
                    if len(shape) < 4
                    else None
                )
            case _:
                places = self.numbers.integers(0, shape[axis], (*shape[:axis], 2, *shape[axis + 1 :]))
                updates = self.argument(places.shape)
                kind = r.choice(("set", "add"))
                return self.build(nn.Scatter(x, self.constant(places, i64), updates, axis=axis, kind=kind))

    @staticmethod
    def _fits(one: tuple[int, ...], other: tuple[int, ...], axis: int) -> bool:
        return len(one) == len(other) and all(
            a == b for d, (a, b) in enumerate(zip(one, other, strict=True)) if d != axis
        )

    def product(self) -> Value | None:
        x = self.some(1, 2, 3, 4)
        if x is None:
            return None
        shape, r = tensor_of(x).shape, self.random
        columns = r.choice((1, 2, 3))
        if len(shape) > 1 and r.random() < 0.5:
            weight, bias = self.argument((columns, shape[-1])), self.argument((columns,))
            return self.build(nn.Linear(x, weight, bias if r.random() < 0.7 else None))
        other = r.choice(
            ((shape[-1],), (shape[-1], columns), (*shape[:-2], shape[-1], columns), (2, shape[-1], columns))
        )
        if len(other) == 3 and (len(shape) == 4 or (len(shape) == 3 and shape[0] > 2)):
            other = (1, *other[1:])
        return self.build(nn.Matmul(x, self.argument(other)))

    def normal(self) -> Value | None:
        r = self.random
        x = self.some(2, 3, 4)
        if x is None:
            return None
        shape = tensor_of(x).shape
        axis, vector = r.randrange(len(shape)), lambda: self.argument((shape[1],))
        match r.randrange(5):
            case 0:
                return self.build(nn.Softmax(x, axis=axis))
            case 1:
                return self.build(nn.LogSoftmax(x, axis=axis))
            case 2:
                size = shape[axis:]
                return self.build(
                    nn.LayerNorm(x, self.argument(size), self.argument(size), axis=axis, epsilon=0.1)
                )
            case 3:
                return self.build(
                    nn.BatchNorm(x, vector(), vector(), vector(), self.positive(vector()), epsilon=0.1)
                )
            case _:
                op = nn.BatchNormTrain(x, *(vector() for _ in range(4)), epsilon=0.1)
                return self.builder.add(op, "normal", "mean", "variance").results[0]

    def window(self) -> Value | None:
        x, r = self.some(4), self.random
        if x is None:
            return None
        last = r.random() < 0.3
        rest = tensor_of(x).shape[1:]
        c, size = (rest[2], rest[:2]) if last else (rest[0], rest[1:])
        kernel, strides, dilations = ([r.choice((1, 1, 2, 3)) for _ in "hw"] for _ in range(3))
        pads = [r.choice((0, 0, 1)) for _ in range(4)]
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        if any(size[d] + pads[d] + pads[2 + d] <= reach[d] for d in range(2)):
            return None
        layout = {"layout": "nhwc"} if last else {}
        settings: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations, **layout}
        seen = all(p < k for p, k in zip(pads, [*kernel, *kernel], strict=True))
        if seen:  # else the largest of nothing is -infinity, the mean NaN
            op = nn.AvgPool2d(x, kernel=kernel, count_include_pad=False, **settings)
            seen = bool(op.window_counts().all())
            op.operands = []
        match r.randrange(5):
            case 0 if self.bends and seen:
                return self.build(nn.MaxPool2d(x, kernel=kernel, **settings))
            case 1 if seen:
                return self.build(
                    nn.AvgPool2d(x, kernel=kernel, count_include_pad=r.random() < 0.5, **settings)
                )
            case 2:
                return self.build(nn.GlobalAvgPool(x, **layout))
            case _:
                groups = r.choice([g for g in (1, 2, c) if c % g == 0])
                out = groups * r.choice((1, 2))
                weight = self.argument((out, c // groups, *kernel))
                bias = self.argument((out,)) if r.random() < 0.5 else None
                return self.build(nn.Conv2d(x, weight, bias, groups=groups, **settings))

    def choose(self) -> Value | None:
        x = self.some()
        assert x is not None
        shape = tensor_of(x).shape
        flags = self.constant(self.numbers.integers(0, 2, shape), i64)
        zero = self.constant(np.array(0), i64)
        other = self.build(nn.Sin(x)) if self.random.random() < 0.5 else self.argument(shape)
        return self.build(nn.Select(self.build(nn.Compare(flags, zero, kind="gt")), x, other))

    def loss(self) -> Value | None:
        x, r = self.some(2, 3, 4), self.random
        if x is None:
            return None
        shape, reduction = tensor_of(x).shape, r.choice(("mean", "sum", "none"))
        if r.random() < 0.5:
            axis = r.randrange(len(shape))
            labels = self.constant(
                self.numbers.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]), i64
            )
            ignored = {"ignore_index": 0} if r.random() < 0.3 and shape[axis] > 1 else {}
            op = nn.CrossEntropy(
                x, labels, axis=axis, smoothing=r.choice((0.0, 0.2)), reduction=reduction, **ignored
            )
            return None if ignored and reduction == "mean" else self.build(op)
        kind = r.choice((nn.Mse, nn.Bce))
        return self.build(kind(x, self.argument(shape), reduction=reduction))
