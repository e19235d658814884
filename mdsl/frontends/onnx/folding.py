"""Constant folding at import: an op whose operands are known is evaluated when it is built.

Exporters compute shapes with graphs of Shape, Gather, Concat, Range and their like, and write weights in
pieces. An op all of whose operands are constants is evaluated with the reference's meaning and becomes a
constant itself; small integer tensors of which only some elements are known (a shape with a `?`) are followed
element by element. A constant enters the program when the first op that stays needs it, so that what only
served to compute a shape leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.func import PARAMETER
from mdsl.errors import MdslError
from mdsl.frontends.onnx.partial import evaluate_partial, seeds
from mdsl.frontends.onnx.registry import Unsupported
from mdsl.frontends.onnx.weights import moved_from
from mdsl.ir.attributes import (
    Attribute,
    DenseAttr,
    DenseResourceAttr,
    FloatAttr,
    Resource,
    UnitAttr,
    python_value,
    tensor_attribute,
)
from mdsl.ir.core import Block, Op, OpResult, Value
from mdsl.ir.declare import fields_of
from mdsl.ir.location import Location
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, dtype_of, f32, f64, is_float, type_of_dtype
from mdsl.ir.verifier import verify_operands
from mdsl.reference.registry import meaning

MAX_BYTES = 1 << 34
"""The largest tensor that a model may ask for: a shape beyond it is a mistake or an attack."""

MOVED = 1 << 24
COMPUTED = 1 << 20
HEAVY = 1 << 16
"""Elements that one folded op may have: of ops that move data, that compute element by element, of others."""

MADE = 1 << 30
"""Bytes of a constant that a model has no data for, an identity matrix or one number everywhere: a program holds
all of it."""

BUDGET = 1 << 26
"""Elements that all folding of one import may make; past it only small tensors fold."""

SMALL = 1 << 12

_VIEWS = {"nn.reshape", "nn.transpose", "nn.flatten"}
_MOVES = {*_VIEWS, "nn.broadcast", "nn.concat", "nn.slice", "nn.gather", "nn.pad", "nn.cast"}
_PARTS = {*_VIEWS, "nn.slice", "nn.cast"}
"""What an element of the result is, one of the operand is, and no other: moved weights may be trained as well."""
_HEAVY = {"nn.conv2d", "nn.matmul", "nn.linear", "nn.max_pool2d", "nn.avg_pool2d"}


class Folder:
    """Inserts ops at the end of `block` and knows what is constant."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self._data: dict[Value, np.ndarray] = {}
        self._partial: dict[Value, np.ndarray] = {}
        self._resources: set[str] = set()
        self.weights: set[Value] | None = None
        """Floats that a model has as weights, and what is moved of them, where they are to be told from other constants."""
        self.shared: set[Value] = set()
        """Those of them that several nodes read: what each moved would be another weight."""
        self._spent = 0

    # Knowing ----------------------------------------------------------------------------------------------

    def constant(self, value: Value) -> np.ndarray | None:
        """The data of a constant value."""
        return self._data.get(value)

    def known(self, value: Value) -> list[int | None] | None:
        """The elements of an integer tensor as far as they are known; None if none is."""
        data = self._data.get(value)
        if data is not None:
            return [int(v) for v in data.reshape(-1)] if data.dtype.kind in "iub" else None
        partial = self._partial.get(value)
        if partial is None:
            return None
        return [v if isinstance(v, int) else None for v in partial.reshape(-1)]

    # Building ---------------------------------------------------------------------------------------------

    def constant_value(self, data: np.ndarray, name: str, location: Location | None = None) -> Value:
        """A constant that enters the program when something uses it. Raises KeyError for a dtype without type."""
        type = TensorType(data.shape, type_of_dtype(data.dtype))
        op = Constant(value=DenseAttr(data, type), results=[type], location=location)
        op.result.name = name
        self._data[op.result] = data
        return op.result

    def weight_of_its_own(self, value: Value, name: str) -> Value:
        """Another weight with the same data: PyTorch's exporter writes equal weights of several layers once, and an Identity for each. Any
        other value is itself."""
        if self.weights is None or value not in self.weights:
            return value
        copy = self.constant_value(self._data[value], name)
        self.weights.add(copy)
        return copy

    def moved(self, base: Value, value: Value) -> Value:
        """`value`, or the weight `base` with its dimensions permuted or others, if that is what it is: one weight."""
        order = moved_from(self._data[base], self._data[value])
        if order is None or self.weights is None:
            return value
        self.shared.add(base)
        self.weights.discard(value)
        move = nn.Transpose(base, perm=list(order)) if order else nn.Reshape(base, results=[value.type])
        return self.build(move, [str(value.name)])[0]

    def build(self, op: Op, names: Sequence[str]) -> list[Value]:
        """The op's results: constants if it can be computed now, else it is inserted. Raises VerifyError,
        Unsupported."""
        tidy_attributes(op)
        verify_operands(op)
        op.verify_op()
        for result, name in zip(op.results, names, strict=True):
            result.name = name
            self.check_size(result.type)
        operands = [self._data.get(v) for v in op.operands]
        found = None if self._is_trained_through(op) else self._evaluate(op, operands)
        if found is not None:
            values = [self.constant_value(a, n, op.location) for a, n in zip(found, names, strict=True)]
            if self.weights is not None and not self.weights.isdisjoint(op.operands):
                self.weights.update(values)
            op.operands = []
            return values
        partial = self._follow(op)
        if partial is not None and all(isinstance(v, int) for v in partial.reshape(-1)):
            op.operands = []
            data = np.array(partial.tolist(), dtype_of(tensor_of(op.result).element)).reshape(partial.shape)
            return [self.constant_value(data, names[0], op.location)]
        same = None if partial is None else self._same_as(op, partial)
        if same is not None:
            op.operands = []
            return [same]
        self.insert(op)
        if partial is not None:
            self._partial[op.results[0]] = partial
        return list(op.results)

    def _is_trained_through(self, op: Op) -> bool:
        """True for what is computed of weights, of several, or of one that is read elsewhere too: they are what is trained, not what comes of
        them (the sum of two biases, a token for each sample)."""
        used = [] if self.weights is None else [v for v in op.operands if v in self.weights]
        return len(used) > 1 or (bool(used) and (op.name not in _PARTS or not self.shared.isdisjoint(used)))

    def insert(self, op: Op) -> Op:
        """Inserts `op`, and before it the constants that it is the first to use."""
        for value in op.operands:
            self.materialise(value)
        return self.block.append(op)

    def materialise(self, value: Value) -> None:
        """Sees to it that a constant stands in the program."""
        if (
            not isinstance(value, OpResult)
            or not isinstance(value.op, Constant)
            or value.op.block is not None
        ):
            return
        data = self._data[value]
        if not any(stride for stride, size in zip(data.strides, data.shape, strict=True) if size > 1):
            self.check_made(value.type)
        value.op.attributes["value"] = self._attribute(value)
        if self._is_weight(value):
            value.op.attributes[PARAMETER] = UnitAttr()
        self.block.append(value.op)

    def check_size(self, type: object) -> None:
        """Raises Unsupported for a tensor larger than any machine's."""
        if isinstance(type, TensorType):
            nbytes = prod(d for d in type.shape if d != DYNAMIC) * dtype_of(type.element).itemsize
            if nbytes > MAX_BYTES:
                raise Unsupported(f"a tensor of {type} has {nbytes} bytes: more than {MAX_BYTES >> 30} GiB")

    def check_made(self, type: object) -> None:
        """Raises Unsupported for a tensor larger than a constant that the importer makes."""
        if isinstance(type, TensorType) and type.is_static and type.nbytes > MADE:
            raise Unsupported(f"a constant of {type} has {type.nbytes} bytes: more than {MADE >> 30} GiB")

    # Folding ----------------------------------------------------------------------------------------------

    def _evaluate(self, op: Op, operands: list[np.ndarray | None]) -> list[np.ndarray] | None:
        """The results of an op on constants, None if they are not all known or too large to keep."""
        arrays = [a for a in operands if a is not None]
        if len(arrays) != len(operands) or not self._worthwhile(op, arrays):
            return None
        found = meaning(op.name)
        if found is None or found[1]:
            return None
        try:
            with np.errstate(all="ignore"):
                results = found[0](op, *arrays)
        except (ValueError, IndexError, MdslError):  # an error of the program's own, at run time
            return None
        listed = list(results) if isinstance(results, tuple) else [results]
        return [np.asarray(r) for r in listed]

    def _worthwhile(self, op: Op, arrays: list[np.ndarray]) -> bool:
        sizes = [
            prod(r.type.shape) if isinstance(r.type, TensorType) and r.type.is_static else -1
            for r in op.results
        ]
        if not arrays or -1 in sizes:
            return False
        if op.name in _VIEWS:
            return True
        size = (
            max([*sizes, *(a.size for a in arrays)])
            if op.name not in ("nn.slice", "nn.gather")
            else max(sizes)
        )
        limit = HEAVY if op.name in _HEAVY else MOVED if op.name in _MOVES else COMPUTED
        if size > min(limit, max(BUDGET - self._spent, SMALL)):
            return False
        self._spent += size
        return True

    def _follow(self, op: Op) -> np.ndarray | None:
        """What is known of the elements of an integer result, as an array of ints and Dims."""
        if len(op.results) != 1:
            return None
        if op.name == "nn.shape":
            return seeds(op.operands[0])
        if not op.operands or not any(v in self._partial for v in op.operands):
            return None
        operands: list[np.ndarray] = []
        for value in op.operands:
            data = self._data.get(value)
            found = self._partial.get(value) if data is None else data
            if found is None or found.size > SMALL:
                return None
            operands.append(found)
        return evaluate_partial(op, operands)

    def _same_as(self, op: Op, partial: np.ndarray) -> Value | None:
        """The operand that the result is sure to be equal to: exporters compare shapes with -1 and select."""
        for value in op.operands:
            known = self._partial.get(value)
            if known is not None and value.type == op.results[0].type and known.tolist() == partial.tolist():
                return value
        return None

    # Data -------------------------------------------------------------------------------------------------

    def _is_weight(self, value: Value) -> bool:
        return self.weights is not None and value in self.weights and is_float(value.type)

    def _attribute(self, value: Value) -> Attribute:
        """The data in the text if it is small or a splat, and no weight that is to be told from other constants; else as a resource."""
        base = value.name or "constant"
        name, number = base, 0
        while name in self._resources:
            number += 1
            name = f"{base}_{number}"
        data, type = self._data[value], tensor_of(value)
        if self._is_weight(value):
            found = DenseResourceAttr(name, type, Resource(np.ascontiguousarray(data)))
        else:
            found = tensor_attribute(data, type, name)
        if isinstance(found, DenseResourceAttr):
            self._resources.add(name)
        return found


def tidy_attributes(op: Op) -> None:
    """Drops attributes that say what holds anyway, and says of a float that came as f32 that it is one."""
    for attribute in fields_of(type(op), "attribute"):
        found = op.attributes.get(attribute.name)
        if isinstance(found, FloatAttr) and found.type == f64 and _is_single(found.value):
            found = op.attributes[attribute.name] = FloatAttr(found.value, f32)
        if found is not None and attribute.default is not None and _same(found, attribute.default):
            del op.attributes[attribute.name]


def _is_single(value: float) -> bool:
    """True for a number that f32 holds, and writes with fewer digits than f64."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return float(single) == value and len(str(single)) < len(repr(value))


def _same(found: Attribute, default: Attribute) -> bool:
    if isinstance(found, FloatAttr) and isinstance(default, FloatAttr):
        return np.float32(found.value) == np.float32(default.value)
    return python_value(found) == python_value(default)
