"""How an operation is declared: class attributes that are its operands, results, attributes and regions.

    class Softmax(Op):
        '''Softmax along one axis.'''
        name = "nn.softmax"
        traits = PURE
        x = operand(FLOAT_TENSOR)
        axis = attr(INT, default=-1)
        y = result(FLOAT_TENSOR)

A declaration is the only description of an op: parser, printer, verifier, documentation and the editors'
word lists read it. On an instance, `op.x` is the operand, `op.axis` the attribute as a Python value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from mdsl.ir import types as t
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    Attribute,
    AttributeLike,
    DenseArrayAttr,
    DenseAttr,
    DenseResourceAttr,
    DictAttr,
    FloatAttr,
    IntegerAttr,
    OpaqueAttr,
    StringAttr,
    SymbolRefAttr,
    TypeAttr,
    UnitAttr,
    attribute,
    python_value,
)
from mdsl.ir.core import Op, Value

DeclarationT = TypeVar("DeclarationT", bound=Op)

# Traits ------------------------------------------------------------------------------------------------

PURE = frozenset({"pure"})  # no effect but its results: may be folded, merged and dropped
TERMINATOR = frozenset({"terminator"})  # the last op of a block
ISOLATED = frozenset({"isolated"})  # its regions see no values from outside; they name their own
SYMBOL = frozenset({"symbol"})  # defines `@sym_name`
COMMUTATIVE = frozenset({"commutative"})
SAME_TYPE = frozenset({"same-type"})  # operands and results are of one type
ELEMENTWISE = frozenset({"elementwise"})  # scalars, vectors and tensors alike, element by element
NO_TERMINATOR = frozenset({"no-terminator"})  # its block needs none
READS = frozenset({"reads"})  # reads memory and has no other effect: may be dropped


@dataclass(frozen=True)
class Constraint:
    """What a type or an attribute must be; `description` stands in the error message."""

    description: str
    accepts: Callable[[Any], bool]


def _elements(description: str, elements: tuple[t.Type, ...], *shaped: type[t.Type]) -> Constraint:
    """Elements among `elements`, held in one of the `shaped` types, or bare where that is empty."""
    if not shaped:
        return Constraint(description, lambda x: x in elements)
    return Constraint(description, lambda x: isinstance(x, shaped) and t.element_of(x) in elements)


ANY = Constraint("any type", lambda _: True)
SCALAR_TYPES = (*t.FLOATS, *t.INTEGERS)
SCALAR = _elements("a scalar", SCALAR_TYPES)
TENSOR = Constraint("a tensor", lambda x: isinstance(x, t.TensorType))
STATIC_TENSOR = Constraint(
    "a tensor of a static shape", lambda x: isinstance(x, t.TensorType) and x.is_static
)
DIMENSIONED = Constraint(
    "a tensor of at least one dimension", lambda x: isinstance(x, t.TensorType) and x.rank > 0
)
MEMREF = Constraint("a memref", lambda x: isinstance(x, t.MemRefType))
TENSOR_OR_SCALAR = Constraint(
    "a tensor or a number", lambda x: isinstance(x, t.TensorType) or x in SCALAR_TYPES
)
VECTOR = Constraint("a vector", lambda x: isinstance(x, t.VectorType))
FLOAT_VECTOR = _elements("a vector of floats", t.FLOATS, t.VectorType)
DENSE_MEMREF = Constraint(
    "a dense memref of a static shape", lambda x: isinstance(x, t.MemRefType) and x.is_static and x.is_dense
)
SHAPED_OR_SCALAR = Constraint(
    "a tensor, a memref or a number",
    lambda x: isinstance(x, t.TensorType | t.MemRefType) or x in SCALAR_TYPES,
)
SHAPED = Constraint("a tensor or a memref", lambda x: isinstance(x, t.TensorType | t.MemRefType))
FLOAT_TENSOR = _elements("a tensor of floats", t.FLOATS, t.TensorType)
WORD_TENSOR = _elements(
    "a tensor of integers (not i1)", tuple(x for x in t.INTEGERS if x != t.i1), t.TensorType
)
INT_TENSOR = _elements("a tensor of integers", t.INTEGERS, t.TensorType)
BOOL_TENSOR = _elements("a tensor of i1", (t.i1,), t.TensorType)
INDEX = _elements("index", (t.index,))
BOOL = _elements("i1", (t.i1,))


def _like(number: str, numbers: str, is_one: Callable[[t.Type], bool]) -> Constraint:
    """Such a number, or a vector or tensor of them: never memory, on which only accesses work."""
    return Constraint(
        f"{number}, or a vector or tensor of {numbers}",
        lambda x: is_one(t.element_of(x)) and not isinstance(x, t.MemRefType),
    )


FLOAT_LIKE = _like("a float", "floats", t.is_float)
FIXED_INT_LIKE = _like("an integer of a fixed width", "such integers", lambda x: isinstance(x, t.IntegerType))
BITS_LIKE = _like("a number of a fixed width", "such numbers", lambda x: x in SCALAR_TYPES and x != t.index)
INT_LIKE = _like("an integer", "integers", t.is_integer)
BOOL_LIKE = _like("i1", "i1", lambda x: x == t.i1)

INT = Constraint("an integer", lambda a: isinstance(a, IntegerAttr) and a.type != t.i1)
FLOAT = Constraint("a number", lambda a: isinstance(a, FloatAttr | IntegerAttr))
BOOLEAN = Constraint("true or false", lambda a: isinstance(a, IntegerAttr) and a.type == t.i1)
STRING = Constraint("a string", lambda a: isinstance(a, StringAttr))
SYMBOL_REF = Constraint("a symbol", lambda a: isinstance(a, SymbolRefAttr))
TYPE = Constraint("a type", lambda a: isinstance(a, TypeAttr))
SCALAR_TYPE = Constraint("the type of a number", lambda a: isinstance(a, TypeAttr) and a.type in SCALAR_TYPES)
MAP = Constraint("an affine map", lambda a: isinstance(a, AffineMapAttr))
UNIT = Constraint("a unit attribute", lambda a: isinstance(a, UnitAttr))
ARRAY = Constraint("an array", lambda a: isinstance(a, ArrayAttr))
DICT = Constraint("a dictionary", lambda a: isinstance(a, DictAttr))
ANY_ATTR = Constraint("an attribute", lambda _: True)
CONSTANT = Constraint(
    "a number or dense data", lambda a: isinstance(a, IntegerAttr | FloatAttr | DenseAttr | DenseResourceAttr)
)
INTS = Constraint(
    "a list of integers",
    lambda a: (
        (isinstance(a, DenseArrayAttr) and t.is_integer(a.element))
        or (isinstance(a, ArrayAttr) and all(INT.accepts(v) for v in a.values))
    ),
)


INDICES = Constraint("array<i64: ...>", lambda a: isinstance(a, DenseArrayAttr) and a.element == t.i64)


def array_of(element: Constraint, what: str) -> Constraint:
    """An array whose elements meet a constraint; `what` they are, for messages."""
    return Constraint(
        f"an array of {what}", lambda a: isinstance(a, ArrayAttr) and all(map(element.accepts, a.values))
    )


MAPS = array_of(MAP, "affine maps")
DICTS = array_of(DICT, "dictionaries")


def within(type: t.Type, low: int, high: int) -> Constraint:
    """An integer of that type from `low` to `high`."""
    return Constraint(
        f"an {type} from {low} to {high}",
        lambda a: isinstance(a, IntegerAttr) and a.type == type and low <= a.value <= high,
    )


_I64 = within(t.i64, -(1 << 63), (1 << 63) - 1)
POSITIVE = within(t.i64, 1, (1 << 63) - 1)
GROUPS = array_of(array_of(_I64, ""), "arrays of i64")
ALIGNMENT = Constraint(
    "a power of two, as an i64", lambda a: _I64.accepts(a) and a.value > 0 and a.value & (a.value - 1) == 0
)


def enum(name: str, *words: str) -> Constraint:
    """`#name<word>` with one of the words."""
    spelt = [f"#{name}<{w}>" for w in words]
    return Constraint(f"one of {', '.join(spelt)}", lambda a: isinstance(a, OpaqueAttr) and a.text in spelt)


@dataclass(frozen=True)
class Relation:
    """What the types of some operands and results have in common; `name` says it in the error message."""

    names: tuple[str, ...]
    what: str
    of: Callable[[t.Type], t.Type]

    def holds(self, op: Op) -> bool:
        return len({self.of(v.type) for name in self.names for v in _values(getattr(op, name))}) <= 1

    @property
    def description(self) -> str:
        return f"{' and '.join(self.names)} must be of one {self.what}"


def _values(found: Value | list[Value] | None) -> list[Value]:
    return found if isinstance(found, list) else [] if found is None else [found]


def same_type(*names: str) -> Relation:
    return Relation(names, "type", lambda type: type)


def same_element(*names: str) -> Relation:
    """A scalar is its own element."""
    return Relation(names, "element type", t.element_of)


def one_of(*words: str) -> Constraint:
    """A string among `words`."""
    listed = ", ".join(f'"{w}"' for w in words)
    return Constraint(f"one of {listed}", lambda a: isinstance(a, StringAttr) and a.value in words)


class Field:
    """One operand, result, attribute or region of a declaration (a descriptor)."""

    def __init__(
        self,
        kind: str,
        constraint: Constraint,
        variadic: bool = False,
        optional: bool = False,
        default: AttributeLike = None,
        doc: str = "",
        numbers: str = "",
    ) -> None:
        self.kind = kind
        self.constraint = constraint
        self.variadic = variadic or (optional and kind != "attribute")
        self.optional = optional
        self.default = None if default is None else attribute(default)
        self.doc = doc
        self.numbers = numbers
        self.name = ""

    def __set_name__(self, owner: type[Op], name: str) -> None:
        self.name = name.rstrip("_")
        # Redeclared in a subclass: takes the place of the inherited field.
        kept = tuple(f for f in owner.fields if f.name != self.name)
        owner.fields = (*kept, self)
        if self.numbers:
            numbers = Field("attribute", INDICES)
            setattr(owner, self.numbers, numbers)
            numbers.__set_name__(owner, self.numbers)

    def __get__(self, op: Op | None, owner: type[Op]) -> Any:
        if op is None:
            return self
        match self.kind:
            case "operand":
                return self._pick(op, op.operands, "operandSegmentSizes")
            case "result":
                return self._pick(op, op.results, "resultSegmentSizes")
            case "region":
                return op.regions[fields_of(owner, "region").index(self)].block
        found: Attribute | None = op.attributes.get(self.name, self.default)
        return None if found is None else python_value(found)

    def _pick(self, op: Op, values: Sequence[Value], segments: str) -> Any:
        position, count, variadic = _place(type(op), self)
        if not self.variadic and not variadic:  # each value before it is one of its own
            return values[position]
        if count == 1:  # the only group
            start, end = 0, len(values)
        else:
            start, end = self.span(op, len(values), segments)
        if not self.variadic:
            return values[start]
        picked = values[start:end]
        if self.optional:
            return picked[0] if picked else None
        return picked

    def span(self, op: Op, total: int, segments: str = "operandSegmentSizes") -> tuple[int, int]:
        """Where this field's values lie among the op's `total` operands or results."""
        position, count, variadic = _place(type(op), self)
        sizes = op.attributes.get(segments)
        if isinstance(sizes, DenseArrayAttr):
            start = int(sum(sizes.values[:position])) if position else 0
            return start, start + int(sizes.values[position])
        spare = total - count  # what the one variadic field takes beyond a value of its own
        start = position + spare * variadic
        return start, start + (1 + spare if self.variadic else 1)


@cache
def fields_of(declaration: type[Op], kind: str) -> tuple[Field, ...]:
    """The operands, results, attributes or regions of a declaration, in order."""
    return tuple(f for f in declaration.fields if f.kind == kind)


@cache
def _place(declaration: type[Op], field: Field) -> tuple[int, int, int]:
    """A field's position among those of its kind, how many these are, and how many variadic ones come before it."""
    group = fields_of(declaration, field.kind)
    position = group.index(field)
    return position, len(group), sum(f.variadic for f in group[:position])


def operand(
    constraint: Constraint = ANY, *, variadic: bool = False, optional: bool = False, doc: str = ""
) -> Any:
    return Field("operand", constraint, variadic, optional, doc=doc)


def mixed_indices(numbers: str) -> Any:
    """Values of type index and, as the attribute `numbers`, all entries: `DYNAMIC` where a value stands."""
    return Field("operand", INDEX, variadic=True, numbers=numbers)


def result(constraint: Constraint = ANY, *, variadic: bool = False, doc: str = "") -> Any:
    return Field("result", constraint, variadic, doc=doc)


def attr(
    constraint: Constraint, *, default: AttributeLike = None, optional: bool = False, doc: str = ""
) -> Any:
    return Field("attribute", constraint, optional=optional, default=default, doc=doc)


def region(doc: str = "", *, arguments: bool = False) -> Any:
    """A region; where its block takes arguments, the op's `verify_op` says which."""
    return Field("region", ANY, variadic=arguments, doc=doc)


def define(base: type[DeclarationT], name: str, doc: str, **members: Any) -> type[DeclarationT]:
    """An op that differs from its base by a name, a meaning and perhaps `members`; `traits` are those of the base
    and the given ones."""
    members["traits"] = base.traits | members.get("traits", frozenset())
    return type(name, (base,), {"name": name, "__doc__": doc, "__module__": base.__module__, **members})  # type: ignore[return-value]
