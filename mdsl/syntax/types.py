"""Types: from syntax trees, and shaped ones from their spelling, to `ir.types`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from lark import Token, Tree

from mdsl.errors import Source, SyntaxError_, nearest
from mdsl.ir.types import (
    DYNAMIC,
    MAX_ELEMENTS,
    MAX_RANK,
    SCALARS,
    FunctionType,
    MemRefType,
    OpaqueType,
    ShapedType,
    TensorType,
    Type,
    VectorType,
)
from mdsl.support.escapes import escaped
from mdsl.syntax.grammar import TYPE_WORDS, Node, first_token, parse_tree
from mdsl.syntax.strings import unquote


class TypeReader:
    """Reads types, names and literals of one text; knows its type aliases."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.types: dict[str, Type] = {}

    def error(self, message: str, node: Node) -> SyntaxError_:
        token = first_token(node)
        offset, length = (
            (token.start_pos or 0, len(token)) if token is not None else (len(self.source.text.rstrip()), 1)
        )
        return SyntaxError_(message, self.source, offset, length)

    def text(self, token: Token) -> str:
        """The text of a string literal."""
        try:
            return unquote(str(token))
        except ValueError as error:
            raise self.error(str(error), token) from None

    def seen(self, token: Token) -> str:
        """The text of what is kept as it is written, and so must not hide anything where it is shown."""
        if escaped(token) != token:
            raise self.error(f"unexpected control character in '{token}'", token)
        return str(token)

    def symbol(self, token: Token) -> str:
        """The name in `@name` or `@"name"`."""
        name = str(token)[1:]
        return self.text(Token("STRING", name, token.start_pos)) if name[0] == '"' else name

    def natural(self, token: Token) -> int:
        """A number without sign, point or prefix."""
        if not str(token).isdecimal():
            raise self.error(f"expected a natural number, got '{token}'", token)
        return int(token)

    def type(self, node: Node) -> Type:
        if isinstance(node, Tree):
            return self._function_type(node)
        assert isinstance(node, Token)
        match node.type:
            case "SCALAR_TYPE":
                if str(node) not in SCALARS:
                    raise self.error(f"no type '{node}': integers are i1, i8, i16, i32 and i64", node)
                return SCALARS[str(node)]
            case "SHAPED_TYPE":
                type = shaped_type(str(node)) or self._bad_shape(node)
                if reach(type) > MAX_ELEMENTS or type.rank > MAX_RANK:
                    raise self.error(f"{type} has too many elements or dimensions", node)
                if isinstance(type, VectorType) and min(type.shape, default=1) < 1:
                    raise self.error(f"{type} has a dimension that is no positive number", node)
                return type
            case "TYPE_ALIAS" if str(node) in self.types:
                return self.types[str(node)]
            case "DIALECT_TYPE":
                return OpaqueType(self.seen(node))
        known = list(self.types) if node.type == "TYPE_ALIAS" else TYPE_WORDS
        raise self.error(f"expected a type, got '{node}'{nearest(str(node), known)}", node)

    def _function_type(self, tree: Tree[Token]) -> FunctionType:
        if tree.data != "function_type":
            raise self.error("expected a type", tree)
        inputs, results = tree.children
        return FunctionType(self.types_of(inputs), self.types_of(results))

    def types_of(self, node: Node) -> tuple[Type, ...]:
        """`type` or `(type, ...)`."""
        if isinstance(node, Tree) and node.data == "type_list":
            return tuple(self.type(c) for c in node.children if c is not None)
        return (self.type(node),)

    def _bad_shape(self, token: Token) -> ShapedType:
        tree = parse_tree(self.source, "shaped_type", str(token), token.start_pos or 0)
        element = tree.children[2] if tree.children[-1] is None else token
        raise self.error(f"no type '{element}'{nearest(str(element), list(SCALARS))}", token)


@lru_cache(maxsize=4096)
def shaped_type(text: str) -> ShapedType | None:
    """The type a spelling stands for; None if it is not one (who asked knows the place of the error)."""
    try:
        tree = parse_tree(Source("<type>", text), "shaped_type")
    except SyntaxError_:
        return None
    kind, dims, element, layout = tree.children
    if str(element) not in SCALARS:
        return None
    shape = tuple(DYNAMIC if d == "?" else int(d) for d in str(dims or "").split("x") if d)
    scalar = SCALARS[str(element)]
    if not isinstance(layout, Tree):
        return {"tensor": TensorType, "vector": VectorType, "memref": MemRefType}[str(kind)](shape, scalar)
    if kind != "memref":
        return None
    return _strided(shape, scalar, [c for c in layout.children if c is not None])


def reach(type: ShapedType) -> int:
    """How many elements the type has, or how far apart they lie."""
    size = prod(n for n in type.shape if n > 0)
    if not isinstance(type, MemRefType):
        return size
    strides = zip(type.shape, type.layout, strict=True)
    return max(size, type.offset + sum(d * s for d, s in strides if DYNAMIC not in (d, s)), *type.layout, 0)


def _strided(shape: tuple[int, ...], element: Type, extents: Sequence[Node]) -> MemRefType | None:
    """The memref with a written layout: a stride a dimension, natural numbers or `?`, then perhaps an offset."""
    written = [c.children[0] if isinstance(c, Tree) else c for c in extents]
    texts = [str(c) for c in written]
    strides = [t for t, c in zip(texts, extents, strict=True) if not isinstance(c, Tree)]
    if any(t != "?" and not t.isdecimal() for t in texts) or len(strides) != len(shape):
        return None
    numbers = [DYNAMIC if t == "?" else int(t) for t in texts]
    return MemRefType(
        shape, element, tuple(numbers[: len(shape)]), numbers[-1] if len(texts) > len(shape) else 0
    )
