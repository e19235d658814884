"""The cursor that parses custom forms piece by piece, with errors at the piece that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lark import Token, Tree

from mdsl.errors import SyntaxError_, nearest
from mdsl.ir.attributes import ArrayAttr, Attribute, DictAttr, UnitAttr
from mdsl.ir.core import Region, Value
from mdsl.ir.location import Location
from mdsl.ir.types import DYNAMIC, FunctionType, ShapedType, Type
from mdsl.syntax.grammar import TYPE_WORDS, Node, first_token

if TYPE_CHECKING:
    from mdsl.syntax.operations import Parser

T = TypeVar("T")

TYPE_TOKENS = ("SCALAR_TYPE", "SHAPED_TYPE", "TYPE_ALIAS", "DIALECT_TYPE")


class Cursor:
    """Pieces `pieces[at:]` of the op (or bracketed group) whose first token is `anchor`."""

    def __init__(self, parser: Parser, pieces: Sequence[Node], anchor: Token) -> None:
        self.parser = parser
        self.pieces = list(pieces)
        self.anchor = anchor
        self.at = 0

    # Looking ----------------------------------------------------------------------------------------------

    @property
    def piece(self) -> Node:
        return self.pieces[self.at] if self.at < len(self.pieces) else None

    def sees(self, text: str) -> bool:
        """True if the next piece is the word or the punctuation `text`, or opens the bracket `text`."""
        piece = self.piece
        if isinstance(piece, Tree):
            return {"parens": "(", "brackets": "[", "angles": "<", "braces": "{"}.get(str(piece.data)) == text
        return piece is not None and str(piece) == text

    def sees_token(self, *types: str) -> bool:
        return isinstance(self.piece, Token) and self.piece.type in types

    def fail(self, expected: str, words: list[str] | None = None) -> SyntaxError_:
        """The error at the next piece, which is not what was `expected`: one of `words`, perhaps, misspelt."""
        token = first_token(self.piece)
        if token is None:
            last = [
                t
                for p in self.pieces[: self.at]
                for t in (p.scan_values(lambda _: True) if isinstance(p, Tree) else [p])
            ]
            after = next((t for t in reversed(last) if isinstance(t, Token)), self.anchor)
            place = (after.start_pos or 0) + len(after)
            return SyntaxError_(f"expected {expected} after '{after}'", self.parser.source, place)
        hint = nearest(str(token), words or [])
        return self.parser.error(f"expected {expected}, got '{token}'{hint}", token)

    # Taking -----------------------------------------------------------------------------------------------

    def accept(self, text: str) -> bool:
        if isinstance(self.piece, Token) and str(self.piece) == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(f"'{text}'")

    def end(self, what: str) -> None:
        """Nothing may be left."""
        if self.at < len(self.pieces):
            token = first_token(self.piece) or self.anchor
            raise self.parser.error(f"unexpected '{token}' after {what}", token)

    def token(self, type: str, what: str) -> Token:
        piece = self.piece
        if not isinstance(piece, Token) or piece.type != type:
            raise self.fail(what)
        self.at += 1
        return piece

    def group(self, bracket: str) -> Cursor:
        """A cursor over the inside of the bracketed group that comes next."""
        piece = self.piece
        if not isinstance(piece, Tree) or not self.sees(bracket):
            raise self.fail(f"'{bracket}'")
        self.at += 1
        return Cursor(self.parser, piece.children, first_token(piece) or self.anchor)

    def many(self, read: Callable[[Cursor], T]) -> list[T]:
        """`read` separated by commas, up to the end of this cursor."""
        items: list[T] = []
        while self.at < len(self.pieces):
            items.append(read(self))
            if self.at < len(self.pieces):
                self.expect(",")
        return items

    def value(self) -> Value:
        return self.parser.value(self.token("VALUE", "a value (%name)"))

    def values(self) -> list[Value]:
        """`%a, %b`, possibly none."""
        found: list[Value] = []
        while self.sees_token("VALUE"):
            found.append(self.value())
            if not self.sees(",") or not self._value_follows():
                break
            self.at += 1
        return found

    def _value_follows(self) -> bool:
        after = self.pieces[self.at + 1] if self.at + 1 < len(self.pieces) else None
        return isinstance(after, Token) and after.type == "VALUE"

    def word(self) -> str:
        return str(self.token("WORD", "a word"))

    def symbol(self) -> str:
        token = self.token("SYMBOL", "a symbol (@name)")
        return self.parser.attributes.symbol(token)

    def integer(self) -> int:
        token = self.token("NUMBER", "an integer")
        try:
            number = int(str(token), 0)
        except ValueError:
            raise self.parser.error(f"expected an integer, got '{token}'", token) from None
        if not -(1 << 63) <= number < 1 << 63:
            raise self.parser.error(f"{token} is no 64-bit integer", token)
        return number

    def type(self) -> Type:
        """A type, or a function type written with parentheses."""
        if self.sees("("):
            return self.function_type()
        if not self.sees_token(*TYPE_TOKENS):
            raise self.fail("a type", TYPE_WORDS)
        self.at += 1
        return self.parser.attributes.type(self.pieces[self.at - 1])

    def types(self) -> list[Type]:
        """`type, type`, possibly none."""
        found: list[Type] = []
        while self.sees_token(*TYPE_TOKENS) or (self.sees("(") and not found):
            found.append(self.type())
            if not self.accept(","):
                break
        return found

    def type_group(self) -> list[Type]:
        """`type` or `(type, ...)`."""
        return self.group("(").many(Cursor.type) if self.sees("(") else [self.type()]

    def result_types(self) -> list[tuple[Type, dict[str, Attribute]]]:
        """`type` or `(type {attrs}, ...)`."""
        if not self.sees("("):
            return [(self.type(), {})]
        return self.group("(").many(lambda inner: (inner.type(), inner.dictionary()))

    def function_type(self) -> FunctionType:
        inputs = self.group("(").many(Cursor.type)
        self.expect("->")
        return FunctionType(tuple(inputs), tuple(self.type_group()))

    def typed(self, values: Sequence[Value], types: Sequence[Type], start: int) -> None:
        """Checks the written `types` against the `values`; `start` is where the types begin."""
        token = (first_token(self.pieces[start]) if start < len(self.pieces) else None) or self.anchor
        if len(values) != len(types):
            raise self.parser.error(f"{len(values)} operands, but {len(types)} operand types", token)
        for value, type in zip(values, types, strict=True):
            if value.type != type:
                raise self.parser.error(
                    f"%{value.name} is of type {value.type}, but {type} is written here", token
                )

    def attribute(self, implied: ShapedType | None = None) -> Attribute:
        """Any attribute; a number takes the type that follows it behind a colon.

        `implied` is the type of dense data that is written without one.
        """
        reader = self.parser.attributes
        piece = self.piece
        if self.sees("["):
            return ArrayAttr(tuple(self.group("[").many(Cursor.attribute)))
        if self.sees("{"):
            return DictAttr(tuple(self.dictionary().items()))
        if piece is None or self.sees("(") or self.sees("<"):
            raise self.fail("an attribute")
        self.at += 1
        if isinstance(piece, Token) and piece.type == "NUMBER":
            return reader.number(piece, self.type() if self.accept(":") else None)
        return reader.attribute(piece, implied)

    def dictionary(self) -> dict[str, Attribute]:
        """`{name = value, flag}` if it comes next, else nothing."""
        piece = self.piece
        if not isinstance(piece, Tree) or not self.sees("{"):
            return {}
        inner = piece.children[0]
        assert isinstance(inner, Tree)
        entries = self.parser.attributes.entries(inner) if inner.data == "dict" else _unit_entries(inner)
        if entries is None:
            return {}
        self.at += 1
        return entries

    def attr_dict(self, keyword: bool = False) -> dict[str, Attribute]:
        """The op's attribute dictionary (after the word `attributes` where a region may follow)."""
        if keyword and not self.accept("attributes"):
            return {}
        return self.dictionary()

    def region(self, isolated: bool = False, args: Sequence[tuple[Token, Type]] = ()) -> Region:
        if not self.sees("{"):
            raise self.fail("a region")
        self.at += 1
        return self.parser.region(self.pieces[self.at - 1], isolated, args)

    def arguments(self) -> list[tuple[Token, Type, dict[str, Attribute]]]:
        """`(%a: type {attrs}, ...)`."""

        def one(inner: Cursor) -> tuple[Token, Type, dict[str, Attribute]]:
            token = inner.token("VALUE", "an argument (%name)")
            inner.expect(":")
            return token, inner.type(), inner.dictionary()

        return self.group("(").many(one)

    def index_list(self, brackets: str = "[") -> tuple[list[Value], list[int]]:
        """`[%i, 0]`: the values, and every entry as a number (`DYNAMIC` where a value stands)."""
        dynamic: list[Value] = []
        static: list[int] = []
        inner = self.group(brackets)
        while inner.at < len(inner.pieces):
            if inner.sees_token("VALUE"):
                dynamic.append(inner.value())
                static.append(DYNAMIC)
            else:
                static.append(inner.integer())
            if inner.at < len(inner.pieces):
                inner.expect(",")
        return dynamic, static

    def take_location(self) -> Location | None:
        """Removes a trailing `loc(...)`."""
        if len(self.pieces) >= 2 and isinstance(self.pieces[-1], Tree) and str(self.pieces[-2]) == "loc":
            group = self.pieces[-1]
            if group.data == "parens":
                del self.pieces[-2:]
                return self.parser.attributes.location_of(list(group.children))
        return None


def _unit_entries(tree: Tree[Token]) -> dict[str, Attribute] | None:
    """`{dialect.flag}` was read as a region with one bare op: as the attribute that it means."""
    if tree.data == "region_body" and len(tree.children) == 1:
        op = tree.children[0]
        if (
            isinstance(op, Tree)
            and op.data == "custom_op"
            and op.children[0] is None
            and len(op.children) == 2
        ):
            name = op.children[1]
            assert isinstance(name, Tree)
            return {str(name.children[0]): UnitAttr()}
    return None
