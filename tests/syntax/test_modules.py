"""Modules in modules, and names that need escapes, survive the way to text and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import Call, FuncOp, Return
from mdsl.errors import MdslError
from mdsl.ir.attributes import (
    Attribute,
    DenseArrayAttr,
    DenseAttr,
    DenseResourceAttr,
    FloatAttr,
    Resource,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
    attribute,
)
from mdsl.ir.core import Block, Builder, Op, Region
from mdsl.ir.floats import of_bits, to_python
from mdsl.ir.location import Location
from mdsl.ir.types import FLOATS, FunctionType, TensorType, Type, dtype_of, f32, i8
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module

WORDS = [
    "return",
    "module",
    "loc",
    "dense",
    "array",
    "tensor",
    "f32",
    "i1",
    "index",
    "unit",
    "true",
    "offset",
    "é",
    "$x",
    "A.",
    "a..b",
    "a.b",
    "f32.x",
]
NAMES = st.sampled_from([*WORDS, "a b", 'a"b', "a\\b", "a\nb", "\x1b[2J", "#-}", "//", "\u2028"]) | st.text(
    max_size=6
)


def number(type: Type, bits: int) -> float:
    dtype = dtype_of(type)
    return to_python(of_bits(bits & (1 << 8 * dtype.itemsize) - 1, dtype))


FLOAT_ATTRIBUTES = st.builds(
    lambda type, bits: FloatAttr(number(type, bits), type), st.sampled_from(FLOATS), st.integers(0, 2**64 - 1)
)
ARRAYS = st.lists(st.integers(0, 2**32 - 1), max_size=3).map(
    lambda bits: DenseArrayAttr(f32, tuple(number(f32, b) for b in bits))
)
DENSE = st.lists(st.integers(-128, 127), max_size=4).map(
    lambda data: DenseAttr(np.array(data, np.int8), TensorType((len(data),), i8))
)
TYPES = st.recursive(
    st.sampled_from([f32, i8, TensorType((2, 3), f32)]),
    lambda inner: st.builds(
        lambda a, b: FunctionType(tuple(a), tuple(b)),
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2),
    ),
    max_leaves=4,
)
ATTRIBUTES: st.SearchStrategy[Attribute] = st.recursive(
    st.just(UnitAttr()) | NAMES.map(StringAttr) | FLOAT_ATTRIBUTES | ARRAYS | DENSE | TYPES.map(attribute),
    lambda inner: (st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)).map(attribute),
    max_leaves=6,
)
DICTIONARIES = st.dictionaries(NAMES, ATTRIBUTES, max_size=2)


@st.composite
def functions(draw: st.DrawFn, name: str) -> FuncOp:
    """With names everywhere: of the function, its argument, its values, an attribute, a resource, a location."""
    type = TensorType((2,), f32)
    func = FuncOp.make(name, [type], [type], [draw(NAMES)])
    builder = Builder(func.body, location=Location(draw(NAMES), draw(st.integers(0, 9)), 1))
    data = DenseResourceAttr(draw(NAMES), type, Resource(np.ones(2, np.float32)))
    builder.value(Constant(value=data, results=[type]), draw(NAMES))
    called = builder.value(Call([func.args[0]], callee=SymbolRefAttr(name), results=[type]), draw(NAMES))
    builder.add(Return([called]))
    func.attributes.update(draw(DICTIONARIES))
    return func


@st.composite
def modules(draw: st.DrawFn, depth: int = 3) -> ModuleOp:
    block = Block()
    for position in range(draw(st.integers(0, 2))):
        name = draw(NAMES) + str(position)
        nested = depth > 0 and draw(st.booleans())
        op: Op = draw(modules(depth - 1)) if nested else draw(functions(name))
        if nested and draw(st.booleans()):
            op.attributes["sym_name"] = StringAttr(name)
        block.append(op)
    module = ModuleOp(regions=[Region(block)])
    module.attributes.update(draw(DICTIONARIES))
    return module


@given(modules())
@settings(deadline=None, max_examples=40)
def test_every_module(module: ModuleOp) -> None:
    whole = print_module(module, generic=True, locations=True, data=True)
    assert print_module(parse(whole), generic=True, locations=True, data=True) == whole
    for generic in (False, True):
        text = print_module(module, generic=generic, data=True)
        again = parse(text)
        assert print_module(again, generic=generic, data=True) == text
        assert content(again) == content(module)


def content(module: ModuleOp) -> list[object]:
    """What there is, without the order of attributes, which a custom form may change."""
    return [(op.name, op.attributes, [v.type for v in (*op.operands, *op.results)]) for op in module.walk()]


INNER = "func.func @f() {\n  func.return\n}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "module {}",
        "module { module {} }",
        "module { module { module {} } }",
        "module {} module {}",
        "module @a {}",
        'module @"a b" attributes {x.y = 1} { module {} }',
        f"module {{ module {{ {INNER} }} }}",
        f"module @a {{ {INNER} }} module @b {{ {INNER} }}",
        f"module {{ module @a {{ {INNER} }} {INNER} }}",
    ],
)
def test_modules_in_modules(text: str) -> None:
    once = parse(text)
    for generic in (False, True):
        printed = print_module(once, generic=generic)
        assert print_module(parse(printed), generic=generic) == printed
        assert content(parse(printed)) == content(once)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"module @a {{ {INNER} }}\nmodule @a {{}}", "@a is already defined"),
        (f"module @f {{}}\n{INNER}", "@f is already defined"),
        (
            f"module @a {{ {INNER} }}\nfunc.func @g() {{\n  func.call @f() : () -> ()\n  return\n}}",
            "@f is not defined",
        ),
        ('func.func @g() {\n  func.call @"\\1B" () : () -> ()\n  return\n}', r'@"\\1B" is not defined'),
        ("\x01a = arith.constant 1 : i8", "unexpected control character"),
    ],
)
def test_symbols_are_those_of_the_nearest_module(text: str, message: str) -> None:
    with pytest.raises(MdslError, match=message):
        parse(text)


def test_a_function_stands_in_a_module() -> None:
    """As upstream has it: a function is a symbol, and a function is no table of symbols."""
    inner = "func.func @g() {\n  return\n}\n"
    with pytest.raises(MdslError, match="'func.func': must stand in a module, not in 'func.func'"):
        parse(f"func.func @f() {{\n{inner}  return\n}}\n")
    parse(f"module {{\n{inner}}}\n")


def test_a_module_equals_what_its_text_reads_as() -> None:
    text = "module {\n  func.func @main(%x: f32) -> f32 {\n    return %x : f32\n  }\n}\n"
    module = parse(text)
    assert parse(str(module)) == module
    assert parse(text.replace("%x", "%y")) != module and module != text
