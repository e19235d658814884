"""Types: immutable values, compared by content, printed in MLIR's syntax by `str()`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import ml_dtypes
import numpy as np

DYNAMIC = -(2**63)
"""A dimension or an offset that the text writes as `?`, or a value in place of a number: upstream's kDynamic."""

MAX_ELEMENTS = 1 << 43
MAX_RANK = 32
"""What a text may write: sizes that 64 bits count in bytes, ranks that NumPy has."""


class Type:
    """Base of all types."""


class Scalar(Type):
    """A type without parts, of which there is one object, among `SCALARS`: it is compared and hashed as such."""

    def __reduce__(self) -> tuple[Callable[[str], Type], tuple[str]]:
        return scalar, (str(self),)


@dataclass(frozen=True, eq=False)
class IntegerType(Scalar):
    """Signless integer, `i1` to `i64`."""

    width: int

    def __str__(self) -> str:
        return f"i{self.width}"


@dataclass(frozen=True, eq=False)
class IndexType(Scalar):
    """Loop counters, sizes and offsets; 64 bits wide in the VM."""

    def __str__(self) -> str:
        return "index"


@dataclass(frozen=True, eq=False)
class FloatType(Scalar):
    """`f16`, `bf16`, `f32` or `f64`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class NoneType(Scalar):
    """The unit type."""

    def __str__(self) -> str:
        return "none"


@dataclass(frozen=True)
class OpaqueType(Type):
    """A dialect type kept as text, `!dialect.name<...>`."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FunctionType(Type):
    """`(inputs) -> (results)`."""

    inputs: tuple[Type, ...]
    results: tuple[Type, ...]

    def __str__(self) -> str:
        single = len(self.results) == 1 and not isinstance(self.results[0], FunctionType)
        results = str(self.results[0]) if single else f"({', '.join(map(str, self.results))})"
        return f"({', '.join(map(str, self.inputs))}) -> {results}"


@dataclass(frozen=True)
class ShapedType(Type):
    """Base of tensor, memref and vector: a shape (`DYNAMIC` for `?`) and an element type."""

    shape: tuple[int, ...]
    element: Type

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        raise AssertionError

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return DYNAMIC not in self.shape

    @cached_property
    def size(self) -> int:
        """Number of elements (the shape must be static)."""
        assert self.is_static, f"{self} has no static size"
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when they lie densely in memory."""
        return self.size * dtype_of(self.element).itemsize

    def _body(self) -> str:
        dims = "".join(f"{'?' if d == DYNAMIC else d}x" for d in self.shape)
        return f"{dims}{self.element}"

    def with_element(self, element: Type) -> ShapedType:
        """The same shape, laid out densely, of other elements."""
        return type(self)(self.shape, element)

    def with_shape(self, shape: tuple[int, ...]) -> ShapedType:
        return type(self)(tuple(shape), self.element)


@dataclass(frozen=True)
class TensorType(ShapedType):
    """An immutable value; `tensor<2x?xf32>`."""

    @cached_property
    def _text(self) -> str:
        return f"tensor<{self._body()}>"


@dataclass(frozen=True)
class VectorType(ShapedType):
    """A value in registers; `vector<16xf32>`."""

    @cached_property
    def _text(self) -> str:
        return f"vector<{self._body()}>"


@dataclass(frozen=True)
class MemRefType(ShapedType):
    """A view of memory. `strides` (in elements) is None for the dense row-major layout.

    `memref<4x16xf32, strided<[512, 1], offset: ?>>`; the offset is in elements.
    """

    strides: tuple[int, ...] | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        # One spelling a layout: the dense one has no strides.
        if self.strides is not None and self.offset == 0 and self.strides == dense_strides(self.shape):
            object.__setattr__(self, "strides", None)

    @staticmethod
    def dense(tensor: Type) -> MemRefType:
        """The memref that holds a tensor without gaps."""
        assert isinstance(tensor, TensorType)
        return MemRefType(tensor.shape, tensor.element)

    @cached_property
    def _text(self) -> str:
        if self.strides is None:
            return f"memref<{self._body()}>"
        strides = ", ".join("?" if s == DYNAMIC else str(s) for s in self.strides)
        offset = "" if self.offset == 0 else f", offset: {'?' if self.offset == DYNAMIC else self.offset}"
        return f"memref<{self._body()}, strided<[{strides}]{offset}>>"

    @cached_property
    def layout(self) -> tuple[int, ...]:
        """Strides in elements, written or implied."""
        return dense_strides(self.shape) if self.strides is None else self.strides

    def is_contiguous_along(self, dim: int) -> bool:
        """True if a vector along that dimension is one access: it is the last, and its neighbours are neighbours in memory."""
        return dim == self.rank - 1 and self.layout[dim] == 1

    @property
    def is_dense(self) -> bool:
        """True if the elements lie row-major without gaps (at whatever offset)."""
        dense = dense_strides(self.shape)
        return all(d == 1 or s == e for d, s, e in zip(self.shape, self.layout, dense, strict=True))

    @cached_property
    def is_injective(self) -> bool:
        """True if it is seen that no two elements lie in one place: each stride steps over all smaller ones."""
        steps = sorted((abs(s), d) for d, s in zip(self.shape, self.layout, strict=True) if d != 1)
        reached = 0
        for step, size in steps:
            if step <= reached:
                return False
            reached += step * (size - 1)
        return DYNAMIC not in (*self.shape, *self.layout)

    @property
    def span(self) -> int:
        """Elements from the first to one past the last that the view can reach."""
        if 0 in self.shape:
            return 0
        return 1 + sum((d - 1) * s for d, s in zip(self.shape, self.layout, strict=True))


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides of `shape`, in elements (`DYNAMIC` left of a dynamic dimension)."""
    strides: list[int] = []
    step = 1
    for dim in reversed(shape):
        strides.append(step)
        step = DYNAMIC if DYNAMIC in (dim, step) else step * dim
    return tuple(reversed(strides))


f16, bf16, f32, f64 = (FloatType(n) for n in ("f16", "bf16", "f32", "f64"))
i1, i8, i16, i32, i64 = (IntegerType(w) for w in (1, 8, 16, 32, 64))
index = IndexType()
none = NoneType()

SCALARS: dict[str, Type] = {str(t): t for t in (f16, bf16, f32, f64, i1, i8, i16, i32, i64, index, none)}


def scalar(name: str) -> Type:
    """The type that is written so. Raises KeyError for one that is none of `SCALARS`."""
    return SCALARS[name]


FLOATS: tuple[Type, ...] = (f16, bf16, f32, f64)
INTEGERS: tuple[Type, ...] = (i1, i8, i16, i32, i64, index)

_DTYPES: dict[Type, np.dtype] = {
    f16: np.dtype(np.float16),
    bf16: np.dtype(ml_dtypes.bfloat16),
    f32: np.dtype(np.float32),
    f64: np.dtype(np.float64),
    i1: np.dtype(np.bool_),
    i8: np.dtype(np.int8),
    i16: np.dtype(np.int16),
    i32: np.dtype(np.int32),
    i64: np.dtype(np.int64),
    index: np.dtype(np.int64),
}
_FROM_DTYPE = {d: t for t, d in _DTYPES.items() if t != index}


def dtype_of(element: Type) -> np.dtype:
    """The NumPy dtype that holds one element. Raises KeyError for a type that has none."""
    return _DTYPES[element]


def type_of_dtype(dtype: np.dtype) -> Type:
    """The element type of a NumPy dtype. Raises KeyError where mdsl has none."""
    return _FROM_DTYPE[np.dtype(dtype)]


def element_of(type: Type) -> Type:
    """The element type of a shaped type, a scalar itself."""
    return type.element if isinstance(type, ShapedType) else type


def wide(element: Type) -> Type:
    """The type to compute in: f32 for the 16-bit floats, so that only the end result is rounded to them."""
    return f32 if element in (f16, bf16) else element


def is_float(type: Type) -> bool:
    return isinstance(element_of(type), FloatType)


def is_integer(type: Type) -> bool:
    """True for integers and index, scalar or shaped."""
    return isinstance(element_of(type), IntegerType | IndexType)


def sizes_agree(a: int, b: int) -> bool:
    return a == b or DYNAMIC in (a, b)


def shapes_agree(a: Sequence[int], b: Sequence[int]) -> bool:
    """True if the shapes are equal, or can be once their `?` are bound."""
    return len(a) == len(b) and all(map(sizes_agree, a, b))
