"""Attributes: immutable compile-time data of an op, printed in MLIR's syntax by `str()`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mdsl.ir.affine import AffineMap
from mdsl.ir.floats import bits_of, to_numpy, to_python
from mdsl.ir.types import FloatType, IntegerType, ShapedType, TensorType, Type, dtype_of, f64, i1, i64
from mdsl.support.escapes import UNSEEN

ELIDE_ABOVE = 16
"""`dense<>` with more different elements than this becomes a resource when a pass makes it."""


def quote(text: str) -> str:
    """A string literal: quotes, backslashes and what is not seen are escaped as MLIR does, byte by byte."""
    return f'"{_QUOTED.sub(_escape, text)}"'


_QUOTED = re.compile(f'["\\\\\t\n{UNSEEN}]')


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


class Attribute:
    """Base of all attributes."""


@dataclass(frozen=True)
class UnitAttr(Attribute):
    """Present or absent: an attribute whose name alone is its value."""

    def __str__(self) -> str:
        return "unit"


@dataclass(frozen=True)
class IntegerAttr(Attribute):
    """`4 : i64`; `true` and `false` are the two values of i1."""

    value: int
    type: Type = i64

    def __str__(self) -> str:
        if self.type == i1:
            return "true" if self.value else "false"
        return f"{self.value} : {self.type}"


@dataclass(frozen=True, eq=False)
class FloatAttr(Attribute):
    """`1.5 : f32`; infinities and NaN print as their bits in hexadecimal."""

    value: float
    type: Type = f64

    def __str__(self) -> str:
        return f"{format_float(self.value, self.type)} : {self.type}"

    @property
    def _key(self) -> tuple[Type, int]:
        """Compared by its bits: NaN equals itself, 0.0 differs from -0.0."""
        return self.type, bits_of(self.value, dtype_of(self.type))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FloatAttr) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class StringAttr(Attribute):
    """`"text"`."""

    value: str

    def __str__(self) -> str:
        return quote(self.value)


@dataclass(frozen=True)
class SymbolRefAttr(Attribute):
    """`@name`."""

    name: str

    def __str__(self) -> str:
        bare = re.fullmatch(r"[A-Za-z_][\w$.]*", self.name, re.ASCII)
        return f"@{self.name}" if bare else f"@{quote(self.name)}"


@dataclass(frozen=True)
class TypeAttr(Attribute):
    """A type as data."""

    type: Type

    def __str__(self) -> str:
        return str(self.type)


@dataclass(frozen=True)
class AffineMapAttr(Attribute):
    """`affine_map<(d0) -> (d0)>`."""

    map: AffineMap

    def __str__(self) -> str:
        return f"affine_map<{self.map}>"


@dataclass(frozen=True)
class ArrayAttr(Attribute):
    """`[a, b]`."""

    values: tuple[Attribute, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.values))}]"

    @cached_property
    def maps(self) -> tuple[AffineMap, ...]:
        """The affine maps among its elements."""
        return tuple(v.map for v in self.values if isinstance(v, AffineMapAttr))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Its elements as text; of strings what they say."""
        return tuple(v.value if isinstance(v, StringAttr) else str(v) for v in self.values)

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class DenseArrayAttr(Attribute):
    """`array<i64: 1, 2>`: plain numbers of one type."""

    element: Type
    values: tuple[int | float, ...]

    @property
    def _key(self) -> tuple[Type, tuple[int | float, ...]]:
        """Compared by its bits, as `FloatAttr`."""
        if not isinstance(self.element, FloatType):
            return self.element, self.values
        dtype = dtype_of(self.element)
        return self.element, tuple(bits_of(v, dtype) for v in self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DenseArrayAttr) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        body = ", ".join(format_number(v, self.element) for v in self.values)
        return f"array<{self.element}: {body}>" if body else f"array<{self.element}>"


@dataclass(frozen=True)
class DictAttr(Attribute):
    """`{a = 1 : i64, b}`."""

    entries: tuple[tuple[str, Attribute], ...]

    def __str__(self) -> str:
        return format_dict(dict(self.entries))

    def get(self, name: str) -> Attribute | None:
        return dict(self.entries).get(name)


@dataclass(frozen=True)
class OpaqueAttr(Attribute):
    """A dialect attribute kept as text, `#linalg.iterator_type<parallel>`."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class DenseAttr(Attribute):
    """`dense<...> : tensor<..>`; `array` has the type's shape and dtype (a splat is a broadcast view)."""

    array: np.ndarray
    type: ShapedType

    @staticmethod
    def splat(value: float | np.generic, type: ShapedType) -> DenseAttr:
        number = to_numpy(value, dtype_of(type.element))
        return DenseAttr(np.broadcast_to(np.asarray(number), type.shape), type)

    @cached_property
    def is_splat(self) -> bool:
        return is_splat(self.array)

    def __str__(self) -> str:
        element = self.type.element
        if self.is_splat:
            body = format_number(self.array.flat[0], element)
        elif self.array.size == 0:
            body = ""
        else:
            body = _nested(self.array, element)
        return f"dense<{body}> : {self.type}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DenseAttr) or self.type != other.type or self.is_splat != other.is_splat:
            return False
        if self.array is other.array or not self.is_splat:
            return self.array is other.array or np.array_equal(_bits(self.array), _bits(other.array))
        return self._bytes == other._bytes

    @cached_property
    def _hash(self) -> int:
        return hash((self.type, self._bytes))

    def __hash__(self) -> int:
        return self._hash

    @property
    def _bytes(self) -> bytes:
        """The bits of the elements; of a splat, which may be larger than memory, those of one."""
        return (self.array.flat[0] if self.is_splat else self.array).tobytes()


@dataclass(frozen=True)
class DenseResourceAttr(Attribute):
    """`dense_resource<name> : tensor<..>`; the data lies in `ModuleOp.resources`, not in the text."""

    name: str
    type: ShapedType
    data: Resource | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"dense_resource<{name_of_key(self.name)}> : {self.type}"

    @property
    def array(self) -> np.ndarray:
        """The data, with the type's shape and dtype."""
        assert self.data is not None, f"resource {self.name} has no data"
        return self.data.array


@dataclass(frozen=True, eq=False)
class Resource:
    """Data of a `dense_resource`. `external` tells that it lies in a file beside the text."""

    array: np.ndarray
    external: bool = False


def is_splat(data: np.ndarray) -> bool:
    """True if there are elements and all have the same bits: a NaN is like itself, 0.0 and -0.0 differ."""
    if not data.size:
        return False
    if all(s == 0 or n == 1 for s, n in zip(data.strides, data.shape, strict=True)):
        return True
    bits = _bits(data)
    # A few first: weights lie in files that need not be read.
    first = bits.flat[0]
    return bool(first == bits.flat[bits.size // 2] == bits.flat[-1] and (bits == first).all())


def _bits(data: np.ndarray) -> np.ndarray:
    return data.view(f"u{data.itemsize}")


def tensor_attribute(array: np.ndarray, type: ShapedType, name: str) -> DenseAttr | DenseResourceAttr:
    """Constant data for `type`: written out when it is small or a splat, else a resource called `name`."""
    if is_splat(array):
        return DenseAttr.splat(array.flat[0], type)
    if array.size <= ELIDE_ABOVE:
        return DenseAttr(array, type)
    return DenseResourceAttr(name, type, Resource(array))


def format_float(value: float | np.generic, type: Type) -> str:
    """Shortest decimal that reads back as the same `type`; hexadecimal bits for inf and NaN."""
    dtype = dtype_of(type)
    number = to_numpy(value, dtype)
    if not math.isfinite(to_python(number)):
        return f"0x{bits_of(number, dtype):0{2 * dtype.itemsize}X}"
    text = repr(float(value)) if dtype == np.float64 else str(number)
    mantissa, exponent, power = text.partition("e")
    return (mantissa if "." in mantissa else f"{mantissa}.0") + (f"{exponent}{power}" if power else "")


def format_number(value: float | np.generic, element: Type) -> str:
    """A number as it stands in `dense<>` and `array<>`."""
    if element == i1:
        return "true" if value else "false"
    return format_float(value, element) if isinstance(element, FloatType) else str(int(value))


def _nested(array: np.ndarray, element: Type) -> str:
    if array.ndim == 1:
        return f"[{', '.join(format_number(n, element) for n in array)}]"
    return f"[{', '.join(_nested(a, element) for a in array)}]"


def format_dict(entries: Mapping[str, Attribute]) -> str:
    """`{name = value, flag}`; integers of type i64 and floats of type f64 keep their type."""
    parts = [
        name_of_key(k) if isinstance(v, UnitAttr) else f"{name_of_key(k)} = {v}" for k, v in entries.items()
    ]
    return f"{{{', '.join(parts)}}}"


def name_of_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_][\w$]*(\.[\w$]+)*", key, re.ASCII) else quote(key)


AttributeLike = Attribute | Type | AffineMap | str | bool | int | float | list | tuple | dict | None


def attribute(value: AttributeLike) -> Attribute:
    """A Python value as the attribute that a person would write for it.

    bool -> i1, int -> i64, float -> f64, str -> string, Type -> type, AffineMap -> map,
    list or tuple -> array, dict -> dictionary. Raises TypeError for anything else.
    """
    match value:
        case Attribute():
            return value
        case Type():
            return TypeAttr(value)
        case AffineMap():
            return AffineMapAttr(value)
        case bool():
            return IntegerAttr(int(value), i1)
        case int() | np.integer():
            return IntegerAttr(int(value))
        case float():
            return FloatAttr(value)
        case str():
            return StringAttr(value)
        case list() | tuple():
            return ArrayAttr(tuple(attribute(v) for v in value))
        case dict():
            return DictAttr(tuple((k, attribute(v)) for k, v in value.items()))
    raise TypeError(f"no attribute for {value!r}")


def python_value(attr: Attribute) -> object:
    """The inverse of `attribute`: numbers, strings, lists; other attributes as they are."""
    match attr:
        case DenseArrayAttr():
            return list(attr.values)
        case IntegerAttr():
            return bool(attr.value) if attr.type == i1 else attr.value
        case FloatAttr() | StringAttr():
            return attr.value
        case SymbolRefAttr():
            return attr.name
        case ArrayAttr():
            return [python_value(v) for v in attr.values]
        case TypeAttr():
            return attr.type
        case AffineMapAttr():
            return attr.map
        case UnitAttr():
            return True
        case DenseAttr() if isinstance(attr.type, TensorType) and isinstance(attr.type.element, IntegerType):
            return attr.array.tolist()
    return attr
