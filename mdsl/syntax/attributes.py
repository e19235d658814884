"""Attributes and locations: from syntax trees to `ir.attributes`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from lark import Token, Tree

from mdsl.errors import Source, nearest
from mdsl.ir import affine
from mdsl.ir.attributes import (
    AffineMapAttr,
    ArrayAttr,
    Attribute,
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
)
from mdsl.ir.floats import of_bits, to_numpy, to_python
from mdsl.ir.location import Location
from mdsl.ir.types import (
    FloatType,
    IndexType,
    IntegerType,
    ShapedType,
    Type,
    dtype_of,
    f64,
    i1,
    i64,
    index,
)
from mdsl.syntax.grammar import MAX_NESTING, Node, parse_tree, too_deep
from mdsl.syntax.map_expressions import map_expression
from mdsl.syntax.resources import Resources
from mdsl.syntax.types import TypeReader

_BOOLS = {"true": 1, "false": 0}

_EXPANDED = 1 << 24
"""Characters that all aliases of a text may stand for, beside 16 times its own."""


def _text_length(node: Node) -> int:
    """Characters of the text that a tree was read from, without what lies between its tokens."""
    if isinstance(node, Tree):
        return sum(_text_length(child) for child in node.children)
    return 0 if node is None else len(node)


class AttributeReader(TypeReader):
    """Reads attributes and locations as well; knows the text's aliases and resources."""

    def __init__(self, source: Source, resources: Resources) -> None:
        super().__init__(source)
        self.resources = resources
        self.aliases: dict[str, Attribute] = {}
        self.lengths: dict[str, int] = {}
        self.expanded = 0
        self.depth = 0

    def define(self, tree: Tree[Token]) -> None:
        """Takes in an alias definition or a resource section."""
        if tree.data == "metadata":
            token = tree.children[0]
            assert isinstance(token, Token)
            self.resources.read_section(str(token), token.start_pos or 0)
            return
        name, value = tree.children
        assert isinstance(name, Token)
        if name.type == "TYPE_ALIAS":
            self.types[str(name)] = self.type(value)
            return
        is_location = isinstance(value, Tree) and value.data == "loc"
        before = self.expanded
        found = self.location(value) if is_location else self.attribute(value)
        if found is not None:
            self.aliases[str(name)] = found
            self.lengths[str(name)] = _text_length(value) + self.expanded - before

    def _alias(self, token: Token) -> Attribute:
        """What an alias stands for. Of aliases made of aliases, a few lines could stand for any length."""
        name = str(token)
        if name not in self.aliases:
            raise self.error(f"{name} is not defined{nearest(name, list(self.aliases))}", token)
        self.expanded += self.lengths[name]
        if self.expanded > _EXPANDED + 16 * len(self.source.text):
            raise self.error(f"with {name}, the aliases stand for too long a text", token)
        return self.aliases[name]

    # Attributes -------------------------------------------------------------------------------------------

    def entries(self, tree: Tree[Token]) -> dict[str, Attribute]:
        """The entries of a `dict`."""
        found: dict[str, Attribute] = {}
        for entry in tree.children:
            if not isinstance(entry, Tree):
                continue
            key, value = entry.children
            assert isinstance(key, Tree)
            token = key.children[0]
            assert isinstance(token, Token)
            name = self.text(token) if token.type == "STRING" else str(token)
            if name in found:
                raise self.error(f"attribute '{name}' is given twice", token)
            found[name] = UnitAttr() if value is None else self.attribute(value)
        return found

    def attribute(self, node: Node, implied: ShapedType | None = None) -> Attribute:
        """Any attribute; `implied` is the type of dense data that is written without one."""
        if isinstance(node, Token):
            return self._token(node)
        assert isinstance(node, Tree)
        if self.depth == MAX_NESTING:
            raise too_deep(self.source, f"attributes are nested more than {MAX_NESTING} deep")
        self.depth += 1
        found = self._composed(node, implied)
        self.depth -= 1
        return found

    def _composed(self, node: Tree[Token], implied: ShapedType | None) -> Attribute:
        match node.data:
            case "typed_number":
                number, type = node.children
                assert isinstance(number, Token)
                return self.number(number, None if type is None else self.type(type))
            case "list":
                return ArrayAttr(tuple(self.attribute(c) for c in node.children if c is not None))
            case "dict":
                return DictAttr(tuple(self.entries(node).items()))
            case "dense":
                return self._dense(node, implied)
            case "resource":
                return self._resource(node, implied)
            case "array":
                return self._array(node)
            case "function_type":
                return TypeAttr(self._function_type(node))
        raise self.error("expected an attribute", node)

    def _token(self, token: Token) -> Attribute:
        text = str(token)
        match token.type:
            case "STRING":
                return StringAttr(self.text(token))
            case "SYMBOL":
                return SymbolRefAttr(self.symbol(token))
            case "AFFINE_MAP":
                return AffineMapAttr(self._map(token))
            case "ATTR_ALIAS":
                return self._alias(token)
            case "DIALECT_ATTR":
                return OpaqueAttr(self.seen(token))
            case "WORD" if text in _BOOLS:
                return IntegerAttr(_BOOLS[text], i1)
            case "WORD" if text == "unit":
                return UnitAttr()
            case "NUMBER":
                return self.number(token, None)
            case "SCALAR_TYPE" | "SHAPED_TYPE" | "TYPE_ALIAS" | "DIALECT_TYPE":
                return TypeAttr(self.type(token))
        raise self.error(f"expected an attribute, got '{text}'", token)

    def number(self, token: Token, type: Type | None) -> Attribute:
        """`1`, `1.5`, `0x7F800000 : f32`; without a type an integer is i64 and a decimal f64."""
        text = str(token)
        if type is None:
            type = f64 if "." in text else i64
        if isinstance(type, FloatType):
            return FloatAttr(to_python(self._float(token, type)), type)
        return IntegerAttr(self._integer(token, type), type)

    def _integer(self, token: Token, type: Type) -> int:
        """The number whose bits are written: `255 : i8` names those of `-1 : i8`."""
        text = str(token)
        if not isinstance(type, IntegerType | IndexType):
            raise self.error(f"{text} cannot be of type {type}", token)
        if "." in text:
            raise self.error(f"{text} is not an integer", token)
        value = int(text, 16 if "x" in text else 10)
        bits = type.width if isinstance(type, IntegerType) else 64
        end = 1 << bits - 1 if type == index else 1 << bits
        if not -(1 << bits - 1) <= value < end:
            raise self.error(f"{text} does not fit in {type}", token)
        if type == i1:
            return abs(value)
        return value - (1 << bits) if value >> bits - 1 > 0 else value

    def _float(self, token: Token, type: FloatType) -> np.generic:
        """The decimal number, or the one of the hexadecimal bits."""
        text = str(token)
        dtype = dtype_of(type)
        if "x" not in text:
            if "." not in text:
                raise self.error(f"{text} is an integer: as a number of {type} it is written {text}.0", token)
            return to_numpy(float(text), dtype)
        if text[0] == "-":
            raise self.error(f"{text} has a sign: in hexadecimal a float is written as its bits", token)
        bits = int(text, 16)
        if bits >> 8 * dtype.itemsize:
            raise self.error(f"{text} does not fit in {type}", token)
        return of_bits(bits, dtype)

    def _dense(self, tree: Tree[Token], implied: ShapedType | None) -> Attribute:
        body, type_node = tree.children
        type = self._shaped(type_node, implied, tree)
        if isinstance(body, Token) and body.type == "STRING":
            return self._dense_bytes(body, type)
        dtype = dtype_of(type.element)
        if body is None:
            return self._of_shape(np.zeros(0, dtype), type, tree)
        values = self._nested(body, type.element)
        if not isinstance(values, list):
            return DenseAttr.splat(values, type)
        try:
            array = np.array(values, dtype)
        except (ValueError, OverflowError) as error:
            raise self.error(f"dense data does not fit {type}: {error}", tree) from None
        return self._of_shape(array, type, tree)

    def _of_shape(self, array: np.ndarray, type: ShapedType, tree: Tree[Token]) -> Attribute:
        if array.shape != type.shape and not (array.size == 0 == type.size):
            raise self.error(f"dense data of shape {list(array.shape)} for {type}", tree)
        return DenseAttr(array.reshape(type.shape), type)

    def _dense_bytes(self, token: Token, type: ShapedType) -> Attribute:
        """`dense<"0x0000803F...">`: the elements' bytes, little-endian, in row-major order, or those of a splat."""
        text = self.text(token)
        if not re.fullmatch(r"0x([0-9A-Fa-f]{2})*", text):
            raise self.error('dense data in a string is written in hexadecimal, "0x..."', token)
        data = np.frombuffer(bytes.fromhex(text[2:]), np.uint8)
        dtype = dtype_of(type.element)
        array = (
            (data if dtype != np.bool_ else data != 0).view(dtype)
            if data.size % dtype.itemsize == 0
            else None
        )
        if array is not None and array.size == 1:
            return DenseAttr.splat(array[0], type)
        if array is None or array.size != type.size:
            raise self.error(f"{data.size} bytes of data for {type}, which has {type.nbytes}", token)
        return DenseAttr(array.reshape(type.shape), type)

    def _nested(self, node: Node, element: Type) -> Any:
        """A number as NumPy has it, or lists of them."""
        if isinstance(node, Tree):
            return [self._nested(c, element) for c in node.children if c is not None]
        assert isinstance(node, Token)
        if element == i1 and str(node) in _BOOLS:
            return _BOOLS[str(node)]
        if node.type != "NUMBER":
            raise self.error(f"expected a number of {element}, got '{node}'", node)
        if isinstance(element, FloatType):
            return self._float(node, element)
        return self._integer(node, element)

    def _shaped(self, node: Node, implied: ShapedType | None, data: Tree[Token]) -> ShapedType:
        """The type written behind dense `data`, or the implied one."""
        if node is None and implied is None:
            raise self.error("dense data needs a type behind it", data)
        type = implied if node is None else self.type(node)
        if not isinstance(type, ShapedType) or not type.is_static:
            raise self.error(f"dense data needs a static shape, not {type}", node)
        return type

    def _resource(self, tree: Tree[Token], implied: ShapedType | None) -> Attribute:
        name_token, type_node = tree.children
        assert isinstance(name_token, Token)
        name = self.text(name_token) if name_token.type == "STRING" else str(name_token)
        type = self._shaped(type_node, implied, tree)
        try:
            return DenseResourceAttr(name, type, self.resources.find(name, type))
        except ValueError as error:
            raise self.error(str(error), name_token) from None

    def _array(self, tree: Tree[Token]) -> Attribute:
        element, *values = tree.children
        type = self.type(element)
        if not isinstance(type, IntegerType | FloatType):
            raise self.error(f"expected an integer or float type, got {type}", element)
        for token in values:
            if type == i1 and token is not None and str(token) not in _BOOLS:
                raise self.error(f"expected true or false, got '{token}'", token)
        numbers = [self._nested(v, type) for v in values if v is not None]
        if isinstance(type, FloatType):
            numbers = [to_python(n) for n in numbers]
        return DenseArrayAttr(type, tuple(numbers))

    def location(self, node: Node) -> Location | None:
        """`loc("file":1:2)`, `loc("name")`; None for `loc(unknown)`."""
        assert isinstance(node, Tree)
        return self.location_of(list(node.children))

    def location_of(self, parts: Sequence[Node]) -> Location | None:
        tokens = [p for p in parts if isinstance(p, Token) and p.type != "COLON"]
        if len(tokens) == 3:
            return Location(self.text(tokens[0]), self.natural(tokens[1]), self.natural(tokens[2]))
        if len(tokens) == 1 and tokens[0].type == "STRING":
            return Location(self.text(tokens[0]))
        if len(tokens) == 1 and tokens[0].type == "ATTR_ALIAS":
            found = self.aliases.get(str(tokens[0]))
            return found if isinstance(found, Location) else None
        return None

    # Maps -------------------------------------------------------------------------------------------------

    def _map(self, token: Token) -> affine.AffineMap:
        tree = parse_tree(self.source, "affine_map", str(token), token.start_pos or 0)
        words = [str(c) for c in tree.children if isinstance(c, Token) and c.type == "WORD"]
        between = str(token).split("->")[0].partition("[")[2].partition("]")[0]  # the symbols, as written
        num_symbols = between.count(",") + 1 if between.strip() else 0
        dims, symbols = words[: len(words) - num_symbols], words[len(words) - num_symbols :]
        names: dict[str, affine.AffineExpr] = {n: affine.Dim(i) for i, n in enumerate(dims)}
        names.update({n: affine.Sym(i) for i, n in enumerate(symbols)})
        if len(names) < len(words):
            raise self.error("a map names two dimensions or symbols alike", token)
        results = [c for c in tree.children if isinstance(c, Tree)]
        try:
            return affine.AffineMap(len(dims), num_symbols, tuple(map_expression(r, names) for r in results))
        except ValueError as error:
            raise self.error(str(error), token) from None
