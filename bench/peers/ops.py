"""What the translations of ONNX graphs to array frameworks have in common.

`Ops` needs, of a framework: `xp`, a module with NumPy's function names on its tensors, and its abstract methods.
Tensors are used by Python's operators; constants come as NumPy arrays and are made tensors by `tensor`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bench.peers.onnx_graph import Graph, Node
from mdsl.benchmarking.peers import Refused

Tensor = Any


class Ops(ABC):
    """One method an ONNX op type: the node, then its inputs, None for one that is left out."""

    xp: Any

    def __init__(self, graph: Graph) -> None:
        self.opset = graph.opset

    # Element by element -------------------------------------------------------------------------------------

    def Add(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return self.tensor(a) + self.tensor(b)

    def Sub(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return self.tensor(a) - self.tensor(b)

    def Mul(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return self.tensor(a) * self.tensor(b)

    def Div(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return self.tensor(a) / self.tensor(b)

    def Pow(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        if isinstance(b, np.ndarray) and b.size == 1 and float(b.reshape(-1)[0]) == 2:
            return a * a
        return self.tensor(a) ** self.tensor(b)

    def Sum(self, node: Node, *terms: Tensor) -> Tensor:
        total = self.tensor(terms[0])
        for term in terms[1:]:
            total = total + self.tensor(term)
        return total

    def Neg(self, node: Node, x: Tensor) -> Tensor:
        return -x

    def Reciprocal(self, node: Node, x: Tensor) -> Tensor:
        return 1.0 / x

    def Sqrt(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.sqrt(x)

    def Exp(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.exp(x)

    def Log(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.log(x)

    def Tanh(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.tanh(x)

    def Abs(self, node: Node, x: Tensor) -> Tensor:
        return self.xp.abs(x)

    def Identity(self, node: Node, x: Tensor) -> Tensor:
        return x

    def Dropout(self, node: Node, x: Tensor, *_: Tensor) -> Tensor:
        return x

    def Clip(self, node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
        low = node.get("min") if low is None else float(np.asarray(low))
        high = node.get("max") if high is None else float(np.asarray(high))
        return self.clip(x, low, high)

    def Relu(self, node: Node, x: Tensor) -> Tensor:
        return self.clip(x, 0.0, None)

    def LeakyRelu(self, node: Node, x: Tensor) -> Tensor:
        return self.clip(x, 0.0, None) + node.get("alpha", 0.01) * self.clip(x, None, 0.0)

    def HardSigmoid(self, node: Node, x: Tensor) -> Tensor:
        return self.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)

    def HardSwish(self, node: Node, x: Tensor) -> Tensor:
        return x * self.clip(x / 6.0 + 0.5, 0.0, 1.0)

    def Sigmoid(self, node: Node, x: Tensor) -> Tensor:
        return 1.0 / (1.0 + self.xp.exp(-x))

    def Erf(self, node: Node, x: Tensor) -> Tensor:
        return self.erf(x)

    def Gelu(self, node: Node, x: Tensor) -> Tensor:
        if node.get("approximate", "none") == "tanh":
            return 0.5 * x * (1.0 + self.xp.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))
        return 0.5 * x * (1.0 + self.erf(x * 0.7071067811865476))

    # Shapes -------------------------------------------------------------------------------------------------

    def Reshape(self, node: Node, x: Tensor, shape: Any) -> Tensor:
        wanted = [int(size) for size in _known(node, shape)]
        if not node.get("allowzero", 0):
            wanted = [int(x.shape[i]) if size == 0 else size for i, size in enumerate(wanted)]
        return self.reshape(x, wanted)

    def Flatten(self, node: Node, x: Tensor) -> Tensor:
        axis = node.get("axis", 1)
        rows = int(np.prod([int(size) for size in x.shape[:axis]], dtype=np.int64))
        return self.reshape(x, [rows, -1])

    def Transpose(self, node: Node, x: Tensor) -> Tensor:
        return self.transpose(x, list(node.get("perm", range(len(x.shape))[::-1])))

    def Squeeze(self, node: Node, x: Tensor, axes: Any = None) -> Tensor:
        rank = len(x.shape)
        given = node.get("axes") if axes is None else _known(node, axes)
        drop = (
            [d for d in range(rank) if x.shape[d] == 1] if given is None else [int(a) % rank for a in given]
        )
        return self.reshape(x, [int(size) for d, size in enumerate(x.shape) if d not in drop])

    def Unsqueeze(self, node: Node, x: Tensor, axes: Any = None) -> Tensor:
        given = node.get("axes") if axes is None else _known(node, axes)
        shape = [int(size) for size in x.shape]
        rank = len(shape) + len(given)
        for axis in sorted(int(a) % rank for a in given):
            shape.insert(axis, 1)
        return self.reshape(x, shape)

    def Concat(self, node: Node, *parts: Tensor) -> Tensor:
        return self.concat([self.tensor(part) for part in parts], node.get("axis"))

    def Slice(self, node: Node, x: Tensor, *bounds: Any) -> Tensor:
        rank = len(x.shape)
        if bounds:
            given = [None if b is None else [int(v) for v in _known(node, b)] for b in bounds]
            starts, ends, axes, steps = [*given, None, None][:4]
        else:
            starts, ends, axes, steps = node.get("starts"), node.get("ends"), node.get("axes"), None
        assert starts is not None and ends is not None
        index = [slice(None)] * rank
        axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index[axis % rank] = slice(start, None if abs(end) > 1 << 40 else end, step)
        return x[tuple(index)]

    def Split(self, node: Node, x: Tensor, sizes: Any = None) -> list[Tensor]:
        axis, count = node.get("axis", 0) % len(x.shape), len(node.outputs)
        given = node.get("split") if sizes is None else _known(node, sizes)
        extent = int(x.shape[axis])
        part = -(-extent // count)
        lengths = (
            [min(part, extent - part * i) for i in range(count)] if given is None else [int(s) for s in given]
        )
        starts = np.cumsum([0, *lengths])
        whole = [slice(None)] * axis
        return [x[(*whole, slice(int(s), int(s) + n))] for s, n in zip(starts, lengths, strict=False)]

    def Gather(self, node: Node, x: Tensor, indices: Any) -> Tensor:
        return self.take(self.tensor(x), indices, node.get("axis", 0))

    def Expand(self, node: Node, x: Tensor, shape: Any) -> Tensor:
        return x + self.tensor(np.zeros([int(size) for size in _known(node, shape)], np.float32))

    def Cast(self, node: Node, x: Tensor) -> Tensor:
        import onnx

        return self.cast(x, onnx.helper.tensor_dtype_to_np_dtype(node.get("to")))

    # Products and sums --------------------------------------------------------------------------------------

    def MatMul(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return self.tensor(a) @ self.tensor(b)

    def Gemm(self, node: Node, a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
        left = self.transpose(a, [1, 0]) if node.get("transA", 0) else a
        right = self.transpose(self.tensor(b), [1, 0]) if node.get("transB", 0) else self.tensor(b)
        product = self.tensor(left) @ right
        product = product if node.get("alpha", 1.0) == 1.0 else node.get("alpha") * product
        return product if c is None else product + node.get("beta", 1.0) * self.tensor(c)

    def ReduceMean(self, node: Node, x: Tensor, axes: Any = None) -> Tensor:
        return self.mean(x, *_reduced(node, x, axes))

    def ReduceSum(self, node: Node, x: Tensor, axes: Any = None) -> Tensor:
        return self.sum(x, *_reduced(node, x, axes))

    def GlobalAveragePool(self, node: Node, x: Tensor) -> Tensor:
        return self.mean(x, list(range(2, len(x.shape))), True)

    def Softmax(self, node: Node, x: Tensor) -> Tensor:
        axis = node.get("axis", -1 if self.opset >= 13 else 1)
        if self.opset >= 13 or axis % len(x.shape) == len(x.shape) - 1:
            return self.softmax(x, axis)
        return self.reshape(self.softmax(self.Flatten(node, x), 1), [int(size) for size in x.shape])

    def BatchNormalization(
        self, node: Node, x: Tensor, scale: Any, shift: Any, mean: Any, variance: Any
    ) -> Tensor:
        """What it does in inference, a product and a sum whose factors are computed beforehand."""
        factor = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
        shape = [-1, *[1] * (len(x.shape) - 2)]
        return x * self.tensor(factor.reshape(shape)) + self.tensor((shift - mean * factor).reshape(shape))

    def LayerNormalization(self, node: Node, x: Tensor, scale: Any, shift: Any = None) -> Tensor:
        rank = len(x.shape)
        axes = list(range(node.get("axis", -1) % rank, rank))
        centred = x - self.mean(x, axes, True)
        variance = self.mean(centred * centred, axes, True)
        scaled = centred / self.xp.sqrt(variance + node.get("epsilon", 1e-5)) * self.tensor(scale)
        return scaled if shift is None else scaled + self.tensor(shift)

    # What a framework has its own function for -----------------------------------------------------------------
    # An axis counts from the front; a negative one, where it is not excluded, from the back: -1 is the last.

    @abstractmethod
    def tensor(self, x: Any) -> Tensor:
        """An array, a constant of the graph, as a tensor of its shape and type; a tensor stays as it is."""

    @abstractmethod
    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        """min(max(x, low), high), in the shape of `x`; None does not limit, one of the two is a number."""

    @abstractmethod
    def erf(self, x: Tensor) -> Tensor:
        """The error function of each element."""

    @abstractmethod
    def reshape(self, x: Tensor, shape: list[int]) -> Tensor:
        """The elements of `x` in row-major order in `shape`, one of whose sizes may be -1: what the others leave."""

    @abstractmethod
    def transpose(self, x: Tensor, order: list[int]) -> Tensor:
        """Dimension d of the result is dimension `order[d]` of `x`."""

    @abstractmethod
    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        """The parts, alike in all dimensions but `axis`, one behind the other along it."""

    @abstractmethod
    def take(self, x: Tensor, indices: Any, axis: int) -> Tensor:
        """The slices of `x` at `indices`, an array or a tensor of integers; in the result's shape theirs is in the place
        of `axis`."""

    @abstractmethod
    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor:
        """`x` in the framework's type for NumPy's `dtype`."""

    @abstractmethod
    def mean(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        """The mean over `axes`, none of which is negative; they stay as 1 with `keep`, else they vanish."""

    @abstractmethod
    def sum(self, x: Tensor, axes: list[int], keep: bool) -> Tensor:
        """The sum over `axes`, none of which is negative; they stay as 1 with `keep`, else they vanish."""

    @abstractmethod
    def softmax(self, x: Tensor, axis: int) -> Tensor:
        """exp(x) divided by its sum along `axis`, in the shape of `x`."""


def _known(node: Node, value: Any) -> Any:
    if type(value) is not np.ndarray:
        raise Refused(f"this translation of ONNX graphs needs a constant operand of {node.op_type}")
    return value


def _reduced(node: Node, x: Tensor, axes: Any) -> tuple[list[int], bool]:
    rank = len(x.shape)
    given = node.get("axes") if axes is None else _known(node, axes)
    found = list(range(rank)) if given is None else [int(axis) % rank for axis in given]
    return found, bool(node.get("keepdims", 1))
