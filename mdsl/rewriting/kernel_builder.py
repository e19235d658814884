"""Emission of kernel code: constants at the kernel's top, loop-invariant index arithmetic outside the loops."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from mdsl.analysis.nest import Access, Axis, Linear
from mdsl.dialects import arith, memref, scf, vector
from mdsl.dialects.func import FunctionLike
from mdsl.ir.affine import AffineExpr, AffineMap, Const, Dim
from mdsl.ir.attributes import FloatAttr, IntegerAttr
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.types import Type, VectorType, index

Key = tuple[Hashable, ...]

Dims = tuple[tuple[Axis, int], ...]
"""What the dimensions of a vector lie along, and how many elements it takes there; none: a single element."""


def shape_of(dims: Dims) -> tuple[int, ...]:
    """The vector's shape."""
    return tuple(size for _, size in dims)


class Constants:
    """The constants at the top of a function, each made once."""

    def __init__(self, body: Block) -> None:
        self.body = body
        self.known: dict[tuple[str, Type], Value] = {}
        self.numbers: dict[tuple[str, Type], Value] = {}
        self.last: Op | None = None
        for op in body.ops:
            if not isinstance(op, arith.Constant):
                break
            self.last = op
            self.known.setdefault(_identity(op), op.result)

    @staticmethod
    def around(block: Block) -> Constants:
        """Those of the function that `block` is in."""
        while block.parent_op is not None and not isinstance(block.parent_op, FunctionLike):
            parent = block.parent_op.block
            assert parent is not None
            block = parent
        return Constants(block)

    def get(self, value: float, type: Type, name: str | None = None) -> Value:
        key = (repr(value), type)
        if key not in self.numbers:
            self.numbers[key] = self.intern(arith.Constant.of(value, type), name)
        return self.numbers[key]

    def index(self, number: int) -> Value:
        return self.get(number, index)

    def intern(self, op: arith.Constant, name: str | None = None) -> Value:
        """The constant's value at the top; `op`, or a copy if it stands elsewhere, is inserted if it is new."""
        key = _identity(op)
        if key not in self.known:
            new = op if op.block is None else op.clone()
            self._append(new)
            new.result.name = name or _constant_name(new)
            self.known[key] = new.result
        return self.known[key]

    def _append(self, op: Op) -> None:
        self.body.insert(op, self.last.next if self.last else self.body.first)
        self.last = op


def _identity(op: Op) -> tuple[str, Type]:
    return str(op.attributes["value"]), op.result.type


def _constant_name(op: Op) -> str:
    value = op.attributes["value"]
    if isinstance(value, IntegerAttr) and op.result.type == index:
        return f"c{value.value}" if value.value >= 0 else f"cm{-value.value}"
    number = value.value if isinstance(value, IntegerAttr | FloatAttr) else None
    return "zero" if number == 0 else "one" if number == 1 else "cst"


@dataclass
class Scope:
    """Where ops are inserted at one loop depth, and what has been computed there."""

    builder: Builder
    memo: dict[Key, Value] = field(default_factory=dict)


class KernelBuilder:
    """Builds loops from the outside in. What depends on outer counters only is inserted at their depth,
    in front of the loop that is open there; equal requests yield one value."""

    def __init__(self, constants: Constants, builder: Builder) -> None:
        self.constants = constants
        self.scopes = [Scope(builder)]
        self.depth: dict[Value, int] = {}
        self.leaf = 0
        self.counts: dict[Value, int] = {}

    # Scopes -----------------------------------------------------------------------------------------

    def enter_leaf(self) -> None:
        """Starts a block of straight-line code: what it loads is known until it ends."""
        self.scopes.append(Scope(self.scopes[-1].builder))
        self.leaf = len(self.scopes) - 1
        self.counts.clear()

    def leave_leaf(self) -> None:
        self.scopes.pop()

    def open_loop(
        self,
        span: range,
        iv: str,
        inits: Sequence[Value] = (),
        names: Sequence[str | None] = (),
    ) -> scf.For:
        """A loop over `span` at the current point, entered until `close_loop`."""
        builder = self.scopes[-1].builder
        loop = builder.add(scf.For.counted(span, self.constants.index, inits, iv, names), *names)
        builder.point = loop
        self.scopes.append(Scope(Builder(loop.body, None, builder.location)))
        self.depth.update(dict.fromkeys(loop.body.args, len(self.scopes) - 1))
        return loop

    def close_loop(self, yielded: Sequence[Value] = ()) -> list[Value]:
        """Ends the innermost loop; its results."""
        body = self.scopes.pop().builder
        body.add(scf.Yield(list(yielded)))
        loop = body.block.parent_op
        assert loop is not None
        self.scopes[-1].builder.point = loop.next
        self.depth.update(dict.fromkeys(loop.results, len(self.scopes) - 1))
        return list(loop.results)

    # Values -----------------------------------------------------------------------------------------

    def add(self, op: Op, *names: str | None, depth: int | None = None) -> None:
        """Inserts an op at `depth` (default: the innermost)."""
        depth = len(self.scopes) - 1 if depth is None else depth
        self.scopes[depth].builder.add(op, *names)
        self.depth.update(dict.fromkeys(op.results, depth))

    def emit(self, op: Op, name: str | None = None, depth: int | None = None) -> Value:
        """Inserts an op with one result; gives that."""
        self.add(op, name, depth=depth)
        return op.result

    def known(self, key: Key) -> Value | None:
        """A value that is available here under this key."""
        return next((scope.memo[key] for scope in reversed(self.scopes) if key in scope.memo), None)

    def remember(self, key: Key, value: Value, depth: int) -> Value:
        self.scopes[depth].memo[key] = value
        return value

    def pure(self, op: Op, name: str | None = None, depth: int | None = None) -> Value:
        """`op`, or the value of an equal one that is available; as far outside as its operands allow."""
        key = (op.name, tuple(op.operands), tuple(op.attributes.items()), op.result.type)
        found = self.known(key)
        if found is not None:
            op.erase()
            return found
        depth = max(self.leaf, self.depth_of(op.operands)) if depth is None else depth
        return self.remember(key, self.emit(op, name, depth), depth)

    def depth_of(self, values: Sequence[Value]) -> int:
        return max((self.depth.get(v, 0) for v in values), default=0)

    # Indices ----------------------------------------------------------------------------------------

    def index(self, linear: Linear) -> Value:
        """The value of an index: products and sums at the depth of the counters, the constant added last."""
        counters = [(key, factor) for key, factor in linear.terms if isinstance(key, Value)]
        if not counters:
            return self.constants.index(linear.constant)
        counters.sort(key=lambda term: self.depth.get(term[0], 0))
        *outer, (counter, factor) = counters
        key = ("index", linear)
        found = self.known(key)
        if found is not None:
            return found
        depth = self.depth.get(counter, 0)
        name = counter.name
        total: Value = counter
        if factor != 1:
            total = self.pure(arith.MulI(counter, self.constants.index(factor)), name, depth)
        if outer:
            total = self.pure(arith.AddI(self.index(Linear.of(dict(outer))), total), name, depth)
        if linear.constant:
            total = self.pure(arith.AddI(total, self.constants.index(linear.constant)), name, depth)
        return self.remember(key, total, depth)

    # Memory -----------------------------------------------------------------------------------------

    def key(self, access: Access, env: dict[Axis, Linear], dims: Dims) -> Key:
        """What identifies a vector (or, without dimensions, an element) of memory."""
        indices = tuple(i.substitute(env) for i in access.indices)
        return ("memory", access.memory, indices, *((access.steps(axis), size) for axis, size in dims))

    def read(self, access: Access, env: dict[Axis, Linear], dims: Dims) -> Value:
        """The element at `env`, or the vector from there on; a scalar where all its elements are the same one. One of several
        dimensions must be `is_regular`."""
        if access.type is None:
            return access.memory
        dims = dims if any(access.along(axis) != "uniform" for axis, _ in dims) else ()
        key = self.key(access, env, dims)
        found = self.known(key)
        if found is not None:
            return found
        indices = [i.substitute(env) for i in access.indices]
        counters = [t[0] for i in indices for t in i.terms if isinstance(t[0], Value)]
        depth = max(self.leaf, self.depth_of(counters))
        return self.remember(key, self._read(access, indices, dims, depth), depth)

    def _read(self, access: Access, indices: Sequence[Linear], dims: Dims, depth: int) -> Value:
        assert access.type is not None
        name = self._numbered(access.memory)
        if len(dims) == 1 and access.along(dims[0][0]) == "strided":
            return self._gather(access, indices, *dims[0], name, depth)
        if len(dims) > 1:
            memory, values, map = self._window(access, indices, dims, depth)
            pad = self.constants.get(0, access.type.element)
            type = VectorType(shape_of(dims), access.type.element)
            return self.emit(vector.TransferRead.of(memory, values, pad, map, type), name, depth)
        memory, values = self._address(access, indices, squeeze=bool(dims))
        type = VectorType(shape_of(dims), access.type.element)
        load = vector.Load(memory, values, results=[type]) if dims else memref.Load(memory, values)
        return self.emit(load, name, depth)

    def write(self, access: Access, env: dict[Axis, Linear], dims: Dims, value: Value) -> None:
        """Stores an element, or a vector."""
        indices = [i.substitute(env) for i in access.indices]
        if len(dims) > 1:
            memory, values, map = self._window(access, indices, dims, len(self.scopes) - 1)
            self.add(vector.TransferWrite.of(value, memory, values, map))
            return
        place = access.along(dims[0][0]) if dims else "uniform"
        if place != "strided":
            memory, values = self._address(access, indices, squeeze=place == "contiguous")
            self.add(vector.Store(value, memory, values) if dims else memref.Store(value, memory, values))
            return
        for along, lanes in dims:
            for lane in range(lanes):
                element = self.emit(vector.Extract.of(value, lane), f"{value.name}_{lane}")
                memory, values = self._address(access, self._lane(access, indices, along, lane))
                self.add(memref.Store(element, memory, values))

    def _window(
        self, access: Access, indices: Sequence[Linear], dims: Dims, depth: int
    ) -> tuple[Value, list[Value], AffineMap]:
        """Memory, indices and map of a transfer. Where elements are skipped, the memory is a view without them."""
        memory, at = self._address(access, indices, squeeze=access.along(dims[-1][0]) == "contiguous")
        sizes, strides = [1] * len(at), [1] * len(at)
        results: list[AffineExpr] = []
        for axis, size in dims:
            place = next((d for d, step in enumerate(access.steps(axis)) if step), None)
            results.append(Const(0) if place is None else Dim(place))
            if place is not None:
                sizes[place], strides[place] = size, access.steps(axis)[place]
        if any(stride != 1 for stride in strides):
            memory = self.emit(memref.SubView.of(memory, at, sizes, strides), memory.name, depth)
            at = [self.constants.index(0)] * len(at)
        return memory, at, AffineMap(len(at), 0, tuple(results))

    def prefetch(self, access: Access, env: dict[Axis, Linear], along: Axis | None, locality: int) -> None:
        """Asks for the cache line of the vector at `env`, which may lie outside of the memory."""
        indices = [i.substitute(env) for i in access.indices]
        memory, values = self._address(access, indices, squeeze=access.along(along) == "contiguous")
        self.add(memref.Prefetch.of(memory, values, locality))

    def _gather(
        self, access: Access, indices: Sequence[Linear], along: Axis, lanes: int, name: str, depth: int
    ) -> Value:
        assert access.type is not None
        value = self.constants.get(0, VectorType((lanes,), access.type.element))
        for lane in range(lanes):
            memory, at = self._address(access, self._lane(access, indices, along, lane))
            element = self.emit(memref.Load(memory, at), f"{name}_lane", depth)
            value = self.emit(vector.Insert.of(element, value, lane), name, depth)
        return value

    def _lane(self, access: Access, indices: Sequence[Linear], along: Axis, lane: int) -> list[Linear]:
        return [i.plus(step * lane) for i, step in zip(indices, access.steps(along), strict=True)]

    def _address(
        self, access: Access, indices: Sequence[Linear], squeeze: bool = False
    ) -> tuple[Value, list[Value]]:
        """The memory as the access sees it, and its indices. `squeeze` drops trailing dimensions of 1, so that
        the vector's dimension is the last."""
        memory = access.memory
        shape = access.shape
        if len(access.groups) != memory.type.rank:  # type: ignore[attr-defined]
            memory = self.pure(memref.CollapseShape.of(memory, access.groups, shape), memory.name, 0)
        kept = len(shape)
        while squeeze and kept > 1 and shape[kept - 1] == 1:
            kept -= 1
        if kept < len(shape):
            view = memref.SubView.of(memory, [0] * len(shape), shape, shape=shape[:kept])
            memory = self.pure(view, memory.name, 0)
        return memory, [self.index(i) for i in indices[:kept]]

    def _numbered(self, memory: Value) -> str:
        number = self.counts.get(memory, 0)
        self.counts[memory] = number + 1
        return f"{memory.name or 'x'}_{number}"

    # Vectors ----------------------------------------------------------------------------------------

    def spread(self, value: Value, shape: tuple[int, ...]) -> Value:
        """A scalar in every element of a vector; a vector (or, without dimensions, the scalar) as it is."""
        if not shape or isinstance(value.type, VectorType):
            return value
        type = VectorType(shape, value.type)
        owner = value.owner
        if isinstance(owner, arith.Constant):
            number = arith.constant_of(value)
            assert number is not None
            return self.constants.get(number, type, value.name)
        key = ("spread", value, shape)
        found = self.known(key)
        if found is not None:
            return found
        depth = max(self.leaf, self.depth.get(value, 0))
        name = f"{value.name}_v" if value.name else None
        return self.remember(key, self.emit(vector.Broadcast(value, results=[type]), name, depth), depth)


def is_regular(access: Access, dims: Dims) -> bool:
    """Whether such vectors can be read and written at once: each dimension lies along one of the memory, or along none;
    the last, where it moves, without steps."""
    if access.type is None:
        return True
    places: list[int] = []
    for axis, _ in dims:
        moving = [d for d, step in enumerate(access.steps(axis)) if step]
        if len(moving) > 1 or any(access.steps(axis)[d] < 0 for d in moving):
            return False
        places += moving
    return access.along(dims[-1][0]) != "strided" and len(set(places)) == len(places)
