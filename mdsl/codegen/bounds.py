"""The proof that a micro-kernel stays within its arguments, by interval arithmetic on its indices.

A kernel of a `.mbc` file may come from anywhere, and one written by hand may be wrong; both are proved
before they are compiled. Every access and every view is checked dimension by dimension against the static
shape of the memref that it is made on; so an access lies in its view, the view in its source, and at last
in the argument. Loop counters lie between their bounds, index arguments in the range that the kernel
declares (`%i: index {mdsl.range = array<i64: 0, 31>}`, bounds included). An index computed from data has
the range of its type until it is clamped by `arith.maxsi` and `arith.minsi`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.analysis.code_size import MAX_CODE, code_size
from mdsl.analysis.footprints import MAX_BYTES, KernelArgument
from mdsl.analysis.intervals import Interval, clip, constant, transfer_of, whole
from mdsl.codegen.kernel import HANDLERS
from mdsl.dialects.memref import SubView
from mdsl.dialects.ukernel import RANGE
from mdsl.dialects.vector import Transfer, TransferRead, TransferWrite
from mdsl.ir.affine import Arithmetic, Binary
from mdsl.ir.attributes import DenseArrayAttr, DenseResourceAttr, IntegerAttr
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.operations import interval_of
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, IndexType, IntegerType, MemRefType, Type, VectorType, element_of
from mdsl.target.target import ELEMENT_BYTES, MAX_FRAME_BYTES

if TYPE_CHECKING:
    from mdsl.dialects.ukernel import UkernelFunc

MAX_LANES = 4096
_MAX_COUNT = 1 << 62
"""Loop bounds and steps below this cannot overflow when they are added."""


def prove(func: UkernelFunc) -> tuple[KernelArgument, ...]:
    """What the kernel does with each argument: how many bytes from its pointer on it reads or writes, or
    the range in which an index must lie. The kernel must have passed the IR's verifier.

    Raises VerifyError, which names the op, where an access is not provably within its memref.
    """
    return _Prover(func).run()


class _Prover:
    def __init__(self, func: UkernelFunc) -> None:
        self.func = func
        self.ranges: dict[Value, Interval] = {}
        self.roots: dict[Value, Value] = {}
        self.written: set[Value] = set()
        self.frame_bytes = 0
        self.code = 0

    def run(self) -> tuple[KernelArgument, ...]:
        if self.func.type.results:
            raise self.func.error("a micro-kernel on memrefs returns nothing")
        arguments = [
            self._argument(argument, attributes.get(RANGE))
            for argument, attributes in zip(self.func.args, self.func.arg_attributes(), strict=True)
        ]
        # Also what never runs is compiled.
        for op in self.func.walk():
            if op is not self.func and not op.has("terminator"):
                self._check(op)
        self._block(self.func.body)
        return tuple(
            argument._replace(kind="write") if value in self.written else argument
            for value, argument in zip(self.func.args, arguments, strict=True)
        )

    def _argument(self, value: Value, declared: object) -> KernelArgument:
        self._check_type(self.func, value.type)
        if isinstance(value.type, MemRefType):
            self.roots[value] = value
            size = ELEMENT_BYTES[str(value.type.element)]
            return KernelArgument("read", span=value.type.span * size, alignment=size)
        if not isinstance(value.type, IndexType | IntegerType):
            raise self.func.error(f"argument %{value.name} must be a memref, an index or an integer")
        self.ranges[value] = self._declared(value, declared)
        return KernelArgument("index", interval=self.ranges[value])

    def _declared(self, value: Value, attribute: object) -> Interval:
        """Where an integer argument lies."""
        everything = whole(_element(value))
        match attribute:
            case None:
                return everything
            case DenseArrayAttr(values=(int(lo), int(hi))) if everything.lo <= lo <= hi <= everything.hi:
                return Interval(lo, hi)
        raise self.func.error(
            f"%{value.name}: '{RANGE}' must be the least and the greatest {value.type} of it"
        )

    # -- ops ------------------------------------------------------------------------------------------

    def _block(self, block: Block) -> list[Value]:
        """Check a block's ops; returns its terminator's operands."""
        for op in block.ops:
            if op.has("terminator"):
                return op.operands
            self._operation(op)
        return []

    def _check(self, op: Op) -> None:
        """What can be said of an op without knowing when it runs."""
        if op.name not in HANDLERS and not isinstance(op, Transfer):
            raise op.error("cannot stand in a compiled micro-kernel")
        for result in op.results:
            self._check_type(op, result.type)
        if op.name in _ALLOCATIONS:
            self._allocation(op)
        self.code += code_size(op)
        if self.code > MAX_CODE:
            raise op.error(
                "the kernel is too large to be compiled: its ops and the lanes of its vectors are too many"
            )

    def _operation(self, op: Op) -> None:
        for result in op.results:
            self._define(op, result)
        match op.name:
            case "scf.for":
                self._loop(op)
            case "scf.if":
                self._branch(op)
            case "memref.load" | "vector.load":
                self._access(op, op.operands[0], op.operands[1:], op.result)
            case "memref.store" | "vector.store":
                self._access(op, op.operands[1], op.operands[2:], op.operands[0])
                self.written.add(self.roots[op.operands[1]])
            case "vector.transfer_read" | "vector.transfer_write":
                assert isinstance(op, TransferRead | TransferWrite)
                written = isinstance(op, TransferWrite)
                self._access(op, op.memory, op.indices, op.operands[0] if written else op.result)
                if written:
                    self.written.add(self.roots[op.memory])
            case "memref.prefetch":
                pass  # reads nothing, wherever it points
            case name if name in _ALLOCATIONS:
                self.roots[op.result] = op.result
            case name if name in _VIEWS:
                self._view(op)
            case _:
                self._compute(op)

    def _define(self, op: Op, value: Value) -> None:
        """A new value, of which only the type is known."""
        if isinstance(value.type, IndexType | IntegerType):
            self.ranges[value] = whole(_element(value))
        elif isinstance(value.type, MemRefType) and op.name not in (*_VIEWS, *_ALLOCATIONS):
            raise op.error(
                f"%{value.name or '?'}: a memref must come from an argument, an allocation or a view"
            )

    def _check_type(self, op: Op, type: Type) -> None:
        """Only types that have machine code, of a size that it can hold."""
        if str(element_of(type)) not in ELEMENT_BYTES:
            raise op.error(f"has no machine code for type {type}")
        if isinstance(type, VectorType):
            if DYNAMIC in type.shape or not 1 <= type.size <= MAX_LANES:
                raise op.error(f"{type} is no vector of 1 to {MAX_LANES} elements")
        elif isinstance(type, MemRefType):
            if any(number < 0 for number in (*type.shape, *type.layout)):
                raise op.error(f"{type} must have a static shape and strides that are not negative")
            if max((type.span, *type.shape, *type.layout)) > MAX_BYTES:
                raise op.error(f"{type} is too large")
        elif type is not element_of(type):
            raise op.error(f"has no machine code for type {type}")

    def _loop(self, op: Op) -> None:
        lower, upper, step = (self._range(value) for value in op.operands[:3])
        if step.lo < 1:
            raise op.error(f"the step must be positive; it lies in {step}")
        if max(abs(bound) for bound in (*lower, *upper, *step)) > _MAX_COUNT:
            raise op.error(f"bounds {lower}, {upper} and step {step} may overflow")
        counter, *carried = op.body.args
        for value in carried:
            self._define(op, value)
        last = upper.hi - 1
        if lower.lo > last:
            return  # the body never runs
        if lower.lo == lower.hi and step.lo == step.hi:
            last = lower.lo + (last - lower.lo) // step.lo * step.lo
        self.ranges[counter] = Interval(lower.lo, last)
        self._block(op.body)

    def _branch(self, op: Op) -> None:
        arms = [self._block(region.block) for region in op.regions]
        for number, result in enumerate(op.results):
            if result in self.ranges:
                then, otherwise = (self._range(arm[number]) for arm in arms)
                self.ranges[result] = then.join(otherwise)

    def _access(self, op: Op, memory: Value, indices: Sequence[Value], value: Value) -> None:
        """Each index within its dimension; a vector lies along the last one."""
        shape = memref_of(memory).shape
        lengths = [1] * len(shape)
        if isinstance(op, Transfer):
            lengths = op.window
        elif isinstance(value.type, VectorType):
            lengths[-1] = value.type.size
        for dim, (index, size, length) in enumerate(zip(indices, shape, lengths, strict=True)):
            self._within(op, f"index {dim} (%{index.name})", self._range(index), length, size)

    def _within(self, op: Op, what: str, start: Interval, length: int, size: int) -> None:
        if start.lo < 0 or start.hi + length > size:
            reach = Interval(start.lo, start.hi + length - 1)
            raise op.error(f"{what} is not provably within its dimension of {size}: it reaches {reach}")

    def _allocation(self, op: Op) -> None:
        memory = memref_of(op.result)
        if op.operands or not memory.is_dense:
            raise op.error(f"must allocate dense memory of a static shape, not {memory}")
        self.frame_bytes += memory.nbytes
        if self.frame_bytes > MAX_FRAME_BYTES:
            raise op.error(f"the kernel's local memory exceeds {MAX_FRAME_BYTES} bytes")

    def _view(self, op: Op) -> None:
        source = op.operands[0]
        if op.name == "memref.subview":
            self._subview(op, memref_of(source))
        elif op.name == "memref.view":
            self._typed_view(op, memref_of(source))
        elif memref_of(source).size != memref_of(op.result).size:
            raise op.error(f"{op.result.type} is not of the size of {source.type}")
        self.roots[op.result] = self.roots[source]

    def _subview(self, op: Op, source: MemRefType) -> None:
        assert isinstance(op, SubView)
        parts = zip(
            op.mixed("offsets"), op.attr("static_sizes"), op.attr("static_strides"), source.shape, strict=True
        )
        for dim, (offset, size, stride, limit) in enumerate(parts):
            if stride < 1 or size < 1:
                raise op.error(f"sizes and strides must be positive, got {size} and {stride}")
            start = self._range(offset) if isinstance(offset, Value) else constant(offset)
            self._within(op, f"offset {dim}", start, (size - 1) * stride + 1, limit)

    def _typed_view(self, op: Op, source: MemRefType) -> None:
        view, shift = memref_of(op.result), self._range(op.operands[1])
        if not view.is_dense or view.offset != 0 or not source.is_dense:
            raise op.error("views dense memory as dense memory")
        alignment = ELEMENT_BYTES[str(view.element)]
        if alignment > 1 and (shift.lo != shift.hi or shift.lo % alignment):
            raise op.error(f"the byte shift must be a constant multiple of {alignment}")
        self._within(op, "the byte shift", shift, view.nbytes, source.size)

    # -- integers -------------------------------------------------------------------------------------

    def _range(self, value: Value) -> Interval:
        return self.ranges[value]

    def _compute(self, op: Op) -> None:
        if isinstance(op.attributes.get("value"), DenseResourceAttr):
            raise op.error("a micro-kernel holds no resources")
        for result in op.results:
            if result in self.ranges:
                self.ranges[result] = clip(self._result(op), _element(result))

    def _result(self, op: Op) -> Interval | None:
        """The range of an integer result before it wraps; None where nothing is known."""
        operands = [self.ranges.get(value) for value in op.operands]
        match op.name:
            case "arith.constant":
                value = op.attributes["value"]
                return constant(value.value) if isinstance(value, IntegerAttr) else None
            case "affine.apply":
                return op.attr("map").apply([self._range(value) for value in op.operands], _RANGES)[0]
            case "arith.select":
                return operands[1].join(operands[2]) if operands[1] and operands[2] else None
            case "arith.index_cast" if _element(op.operands[0]) != "i1":  # true is -1 to it
                return operands[0]
        known = [interval for interval in operands if interval is not None]
        transfer = transfer_of(op.name, *(str(value.type) for value in (*op.operands, op.result)))
        return transfer(*known) if transfer and len(known) == len(operands) else None


_ALLOCATIONS = ("memref.alloca", "memref.alloc")
_VIEWS = (
    "memref.subview",
    "memref.cast",
    "memref.collapse_shape",
    "memref.expand_shape",
    "memref.view",
)


def _combined(part: Binary, left: Interval, right: Interval) -> Interval:
    """The range of an affine operation on 64-bit integers."""
    found = interval_of(part.kind, left, right)
    return clip(found and Interval(*found), "i64")


_RANGES = Arithmetic(lambda value: clip(constant(value), "i64"), _combined)


def _element(value: Value) -> str:
    """The name of an integer's type in the registers: an index is an i64."""
    name = str(value.type)
    return "i64" if name == "index" else name
