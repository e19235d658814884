"""Where the printer puts spaces, told from the tokens of a text alone."""

from __future__ import annotations

import re

from lark import Token

from mdsl.syntax.grammar import MARK
from mdsl.syntax.types import shaped_type

_LIST_APART = frozenset(
    {
        "tensor.collapse_shape",
        "tensor.expand_shape",
        "memref.collapse_shape",
        "memref.expand_shape",
        "vector.insert",
        "vector.shuffle",
    }
)
"""Ops whose list stands apart from the value before it; elsewhere it is an index, `%x[0]`."""

_PIECE = re.compile(r"->|[A-Za-z_][\w$]*|\d+|[-+*(),\[\]<>]", re.ASCII)


def spelling(token: Token) -> str:
    """A token as the printer writes it. Names, and those of a map's dimensions, stay."""
    if token.type == "RESULTS":
        names = [name.strip() for name in token[1:-1].split(",")]
        return f"%{', '.join(names)} ="
    if token.type == "SHAPED_TYPE":
        found = shaped_type(str(token))
        return str(token) if found is None else str(found)
    if token.type == "AFFINE_MAP":
        return _map(str(token))
    return str(token).rstrip() if token.type == "METADATA" else str(token)


def _map(text: str) -> str:
    out = ""
    before: str = ""
    for piece in _PIECE.findall(text):
        tight = (
            not out
            or before in ("(", "[", "<", "affine_map", "unary")
            or piece in (")", "]", ">", ",")
            or (piece == "[" and before == ")")
        )
        out += piece if tight else f" {piece}"
        before = "unary" if piece == "-" and before in ("(", ",", "+", "-", "*", "->") else piece
    return out


class Spacing:
    """Reads tokens one by one, and says of each whether a space stands before it."""

    def __init__(self) -> None:
        self.op = ""
        self.before: Token | None = None
        self.opened: list[str] = []
        """Of each open bracket the kind of the token before it."""
        self.closed = ""
        """The same of the bracket that was closed last."""

    def space(self, token: Token) -> bool:
        """True if a space stands between the token before and this one."""
        before = self.before
        found = before is not None and self._between(before, token)
        self._enter(token)
        return found

    def _enter(self, token: Token) -> None:
        if str(token) in ("(", "[", "<", "{"):
            self.opened.append(self.before.type if self.before is not None else "")
        elif str(token) in (")", "]", ">", "}") and self.opened:
            self.closed = self.opened.pop()
        elif token.type in ("OP_NAME", "RETURN", "MODULE", "GENERIC_NAME") and not self.opened:
            self.op = str(token)
        self.before = token

    def begin(self) -> None:
        """A new line begins: nothing stands before the next token."""
        self.before = None

    def _between(self, a: Token, b: Token) -> bool:
        if str(a) in ("(", "[", "<") or str(b) in (",", ")", "]", ">"):
            return False
        if a == "{" or b == "}" or (a == ":" and self.opened[-1:] == ["LOC"]):
            return False
        match str(b):
            case "(":
                return self._before_parenthesis(a)
            case "[":
                return self._before_bracket(a)
            case "<":
                return a.type not in ("ARRAY", "DENSE", "DENSE_RESOURCE", "WORD", "GENERIC_NAME")
            case ":":
                return self._before_colon(a)
            case _:
                return True

    def _before_parenthesis(self, a: Token) -> bool:
        if a.type == "OP_NAME":
            return a == "scf.forall"
        if a.type == "WORD":
            return str(a) in ("to", "step", "in")
        return a.type not in ("SYMBOL", "LABEL", "AFFINE_MAP", "ATTR_ALIAS", "GENERIC_NAME", "LOC")

    def _before_bracket(self, a: Token) -> bool:
        if a.type == "VALUE":
            return self.op in _LIST_APART
        if a.type == "WORD":
            return str(a) not in ("low", "high")
        return not (a == ")" or (a == "]" and self.op == "memref.view"))

    def _before_colon(self, a: Token) -> bool:
        """Types stand apart from operands, but close to the arguments that they are declared of."""
        if a.type == "LABEL":
            return False
        if a == ")" and self.closed == "LABEL":
            return False
        if a.type == "VALUE":
            return not (self.opened and self.opened[-1] in ("SYMBOL", "LABEL"))
        return not (self.opened and self.opened[-1] in ("ARRAY", "LOC"))


def canonical(token: Token) -> tuple[str, str]:
    """What two texts of one meaning have in common at each token."""
    return token.type, spelling(token).replace(MARK, "%")
