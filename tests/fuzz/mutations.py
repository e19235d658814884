"""Changes of an op that its verifier is to judge: attributes' values, operands, types, maps, and what a region takes and
yields. What they make is a program more often than not, and else one that is wrong in a single place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import numpy as np

from mdsl.ir import types as t
from mdsl.ir.affine import AffineExpr, AffineMap, Const, Dim, Sym
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DenseAttr,
    DictAttr,
    FloatAttr,
    IntegerAttr,
    OpaqueAttr,
    StringAttr,
    SymbolRefAttr,
    TypeAttr,
    UnitAttr,
)  # fmt: skip
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import Field, fields_of

NUMBERS = (-1, 0, 1, 2, 3, 4, 7, 8, 16, 99, -2, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, 0.1, float("nan"), float("inf"), float("-inf"))
ELEMENTS: tuple[t.Type, ...] = (*t.FLOATS, *t.INTEGERS)
WORDS = ("", "x", "sum", "mean", "prod", "max", "min", "set", "add", "mul", "lt", "eq", "nchw", "nhwc", "tanh", "none",
         "parallel", "reduction", "window")  # fmt: skip
STRANGE: tuple[Attribute, ...] = (
    UnitAttr(), StringAttr("x"), SymbolRefAttr("nowhere"), TypeAttr(t.f32), DictAttr(()), ArrayAttr(()),
    IntegerAttr(1, t.i32), IntegerAttr(1, t.i1), FloatAttr(1.5, t.f32), DenseArrayAttr(t.i64, (1, 1)),
    DenseArrayAttr(t.i32, (1, 1)), OpaqueAttr("#arith.fastmath<fast>"), AffineMapAttr(AffineMap(1, 0, (Dim(0),))),
    DenseAttr.splat(2, t.TensorType((2,), t.i64)), DenseAttr.splat(-1, t.TensorType((2,), t.i64)),
    DenseAttr.splat(2, t.TensorType((3,), t.i64)),
)  # fmt: skip


def mutate(op: Op, values: list[Value], random: Random) -> None:
    """Changes one thing of the op or of one in it; `values` are what else it may read."""
    inner = random.choice(list(op.walk()))
    kinds: list[Callable[[Op, list[Value], Random], None]] = [_attribute, _attribute, _operands, _types]
    random.choice(kinds)(inner, values, random)


def infer(op: Op) -> None:
    """Gives the op the result types that it infers from what it now reads, if it can say."""
    with suppress(Exception):  # of operands that were never verified
        for result, type in zip(op.results, op.infer(), strict=True):
            result.type = type


# -- attributes -----------------------------------------------------------------------------------------


def _attribute(op: Op, _: list[Value], random: Random) -> None:
    declared: list[Field] = list(fields_of(type(op), "attribute"))
    names = sorted({*op.attributes, *(f.name for f in declared)})
    if not names:
        return
    name = random.choice(names)
    default = next((f.default for f in declared if f.name == name), None)
    old = op.attributes.get(name, default)
    if random.random() < 0.1:
        op.attributes.pop(name, None)
    elif old is None or random.random() < 0.05:
        op.attributes[name] = random.choice([*STRANGE, *_plain(random)])
    else:
        op.attributes[name] = changed(old, random)


def _plain(random: Random) -> list[Attribute]:
    """Values of the usual kinds, for an attribute of which none is known."""
    count = random.randrange(4)
    ints = tuple(random.choice(NUMBERS[:6]) for _ in range(count))
    return [
        DenseArrayAttr(t.i64, ints), ArrayAttr(tuple(map(IntegerAttr, ints))), IntegerAttr(random.choice(NUMBERS)),
        StringAttr(random.choice(WORDS)), FloatAttr(random.choice(FLOATS)), IntegerAttr(random.randrange(2), t.i1),
    ]  # fmt: skip


def changed(attr: Attribute, random: Random) -> Attribute:
    """An attribute of the same kind."""
    if isinstance(attr, IntegerAttr):
        return IntegerAttr(random.randrange(2) if attr.type == t.i1 else random.choice(NUMBERS), attr.type)
    if isinstance(attr, FloatAttr):
        return FloatAttr(random.choice(FLOATS), attr.type)
    if isinstance(attr, StringAttr):
        return StringAttr(random.choice(WORDS))
    if isinstance(attr, DenseArrayAttr):
        return DenseArrayAttr(attr.element, _list(attr.values, lambda _: random.choice(NUMBERS), 1, random))
    if isinstance(attr, ArrayAttr):
        return ArrayAttr(_list(attr.values, lambda a: changed(a, random), IntegerAttr(1), random))
    if isinstance(attr, AffineMapAttr):
        return AffineMapAttr(changed_map(attr.map, random))
    if isinstance(attr, TypeAttr):
        return TypeAttr(changed_type(attr.type, random))
    if isinstance(attr, DenseAttr):
        return DenseAttr.splat(random.choice(NUMBERS), attr.type)
    return random.choice(STRANGE)


def _list(values, change, new, random: Random):  # type: ignore[no-untyped-def]
    """The tuple with an element changed, dropped, doubled or moved."""
    kind, place = random.randrange(6), random.randrange(len(values)) if values else 0
    if not values or kind == 0:
        return (*values, values[place] if values else new)
    if kind == 1:
        return (*values[:place], *values[place + 1 :])
    if kind == 2:
        return values[::-1]
    return (*values[:place], change(values[place]), *values[place + 1 :])


def changed_map(map: AffineMap, random: Random) -> AffineMap:
    results = list(map.results)
    place = random.randrange(len(results)) if results else 0
    kind = random.randrange(8)
    if kind == 0:
        return AffineMap(map.num_dims + random.choice([-1, 1]), map.num_symbols, map.results)
    if kind == 1:
        return AffineMap(map.num_dims, map.num_symbols + 1, map.results)
    if not results or kind == 2:
        return AffineMap(map.num_dims, map.num_symbols, (*results, _expression(map, random)))
    if kind == 3:
        del results[place]
    elif kind == 4:
        results.reverse()
    elif kind == 5:
        results[place] = _expression(map, random)
    else:
        old, number = results[place], random.choice([1, 2, -1, 1 << 62])
        results[place] = random.choice(
            [lambda: old + number, lambda: old * number, lambda: old % 2, lambda: old // 2]
        )()
    return AffineMap(map.num_dims, map.num_symbols, tuple(results))


def _expression(map: AffineMap, random: Random) -> AffineExpr:
    choices: list[AffineExpr] = [Const(random.choice([0, 1, -1])), Sym(0)]
    return random.choice(
        [*choices, *(Dim(i) for i in range(map.num_dims)), *(Dim(i) for i in range(map.num_dims))]
    )


# -- operands -------------------------------------------------------------------------------------------


def _operands(op: Op, values: list[Value], random: Random) -> None:
    operands = list(op.operands)
    kind = random.randrange(6)
    if not operands:
        return
    place = random.randrange(len(operands))
    if kind == 0:
        del operands[place]
    elif kind == 1:
        operands.insert(place, operands[place])
    elif kind == 2:
        operands.reverse()
    elif kind == 3:
        operands[place] = random.choice(operands)
    else:
        alike = [v for v in values if v.type == operands[place].type]
        operands[place] = random.choice(alike if alike and random.random() < 0.5 else values or operands)
    op.operands = operands


# -- types ----------------------------------------------------------------------------------------------


def _types(op: Op, values: list[Value], random: Random) -> None:
    """Another type for a result, an argument of a region, or everything of one type in the program."""
    mine = [*op.results, *(a for region in op.regions for a in region.block.args)]
    if mine and random.random() < 0.4:
        value = random.choice(mine)
        value.type = changed_type(value.type, random)
        return
    seen = [v.type for v in (*op.operands, *op.results)] or [v.type for v in values]
    if seen:
        old = random.choice(seen)
        everywhere(_root(op), old, changed_type(old, random))


def _root(op: Op) -> Op:
    return next((a for a in op.ancestors() if a.parent is None), op)


def everywhere(root: Op, old: t.Type, new: t.Type) -> None:
    """Lets `new` stand wherever `old` stands as the type of a value."""
    for op in root.walk():
        for value in (*op.results, *(a for region in op.regions for a in region.block.args)):
            if value.type == old:
                value.type = new
        for name, attr in op.attributes.items():
            if isinstance(attr, TypeAttr) and attr.type == old:
                op.attributes[name] = TypeAttr(new)
            elif isinstance(attr, TypeAttr) and isinstance(attr.type, t.FunctionType):
                ends = (attr.type.inputs, attr.type.results)
                op.attributes[name] = TypeAttr(
                    t.FunctionType(*(tuple(new if type == old else type for type in end) for end in ends))
                )
            if isinstance(attr, IntegerAttr | FloatAttr) and attr.type == old and op.name == "arith.constant":
                op.attributes[name] = (
                    FloatAttr(float(attr.value), new)
                    if new in t.FLOATS
                    else IntegerAttr(int(attr.value) if np.isfinite(attr.value) else 0, new)
                )


def elements_everywhere(root: Op, old: t.Type, new: t.Type) -> None:
    """Lets `new` be the element type wherever `old` is one."""
    found = {
        v.type for op in root.walk() for v in (*op.results, *(a for r in op.regions for a in r.block.args))
    }
    for type in sorted(found, key=str):
        if t.element_of(type) == old:
            everywhere(root, type, type.with_element(new) if isinstance(type, t.ShapedType) else new)


def changed_type(type: t.Type, random: Random) -> t.Type:
    if not isinstance(type, t.ShapedType):
        return random.choice([*ELEMENTS, t.TensorType((4,), t.f32), t.VectorType((4,), t.f32)])
    kind, shape = random.randrange(6), list(type.shape)
    place = random.randrange(len(shape)) if shape else 0
    if kind == 0:
        return type.with_element(random.choice(ELEMENTS))
    if kind == 1 and isinstance(type, t.MemRefType):
        strides = tuple(random.choice([s, 0, 1, -1, 2 * s, 1 << 62, t.DYNAMIC]) for s in type.layout)
        return t.MemRefType(
            type.shape, type.element, strides, random.choice([0, 0, 1, -1, 1 << 62, t.DYNAMIC])
        )
    if not shape or kind == 2:
        shape.insert(place, random.choice([1, 1, 2, 0]))
    elif kind == 3:
        del shape[place]
    else:
        shape[place] = random.choice([0, 1, 2, 3, 5, 16, t.DYNAMIC])
    if isinstance(type, t.VectorType) and t.DYNAMIC in shape:
        return type
    return type.with_shape(tuple(shape))
