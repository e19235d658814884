"""The LALR parser that Lark makes of `grammar.lark`, and its messages for syntax errors."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Tree
from lark import __version__ as lark_version
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.grammar import Rule
from lark.lexer import TerminalDef

from mdsl.errors import Source, SyntaxError_, nearest
from mdsl.ir.types import SCALARS
from mdsl.support import cache as disk

MAX_NESTING = 100
"""Regions in regions, or attributes in attributes: every pass walks them on Python's stack."""

Node = Tree[Token] | Token | None

_READABLE = {
    "VALUE": "a value (%name)",
    "RESULTS": "an operation",
    "OP_NAME": "an operation",
    "GENERIC_NAME": "an operation",
    "SYMBOL": "a symbol (@name)",
    "SCALAR_TYPE": "a type",
    "SHAPED_TYPE": "a type",
    "NUMBER": "a number",
    "STRING": "a string",
    "WORD": "a word",
    "RBRACE": "'}'",
    "RPAR": "')'",
    "RSQB": "']'",
    "MORETHAN": "'>'",
    "EQUAL": "'='",
    "COLON": "':'",
    "COMMA": "','",
    "$END": "the end of the text",
}


TYPE_WORDS = ["tensor", "memref", "vector", *SCALARS]
"""The words that types begin with."""


@cache
def lark() -> Lark:
    """The LALR(1) parser with the start rules `file`, `shaped_type` and `affine_map`.

    Its tables take longer to make than most programs to parse, so that they are kept on disk, as JSON.
    """
    text = files("mdsl").joinpath("grammar.lark").read_text(encoding="utf-8")
    key = disk.key("grammar", text, lark_version, sys.version)
    parser = disk.get_json(key, _loaded)
    if parser is None:
        tables = _tables(text)
        disk.put_json(key, tables)
        parser = _loaded(tables)
    return parser


def _loaded(tables: Any) -> Lark:
    return Lark.load(_numbered(tables))


def _tables(text: str) -> Any:
    parser = Lark(
        text,
        parser="lalr",
        lexer="contextual",
        start=["file", "shaped_type", "affine_map"],
        maybe_placeholders=True,
        g_regex_flags=int(re.ASCII),
    )
    data, memo = parser.memo_serialize([TerminalDef, Rule])
    return {"data": data, "memo": memo}


MARK = "\x01"
TEXT = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|//[^\n]*'  # strings and comments
_VALUE = r"%[\w$.-]+(?::\d{1,9})?"
_VALUES = re.compile(
    rf"{TEXT}|{MARK}|(?P<results>{_VALUE}(?:\s*,\s*{_VALUE})*)"
    r'(?:\s*=(?=(?:\s|//[^\n]*\n)*(?:"[\w$.]+"\s*\(|[A-Za-z_][\w$]*\.[A-Za-z_]))(?P<end>))?',
    re.ASCII,
)


def marked(source: Source) -> str:
    """The text with a mark in place of the `%` of every list of values that are an operation's results."""
    parts: list[str] = []
    last = 0
    for found in _VALUES.finditer(source.text):
        if found[0] == MARK:
            raise SyntaxError_("unexpected control character", source, found.start())
        if found["end"] is not None:
            parts += [source.text[last : found.start()], MARK]
            last = found.start() + 1
    return "".join([*parts, source.text[last:]])


def _unmarked(token: Token) -> Token:
    return token.update(value=f"%{token[1:]}") if token.type == "RESULTS" else token


_BRACKETS = re.compile(rf"{TEXT}|->|[(\[{{<]|[)\]}}>]")


class TooDeepError(SyntaxError_):
    """Nothing more can be found out about a text that is nested so deeply."""


def too_deep(source: Source, message: str = "the text is nested too deeply") -> TooDeepError:
    """The error at the innermost bracket of a text whose nesting Python's stack does not bear."""
    depth, deepest, place = 0, 0, 0
    for found in _BRACKETS.finditer(source.text):
        depth += (found[0] in "([{<") - (found[0] in ")]}>")
        if depth > deepest:
            deepest, place = depth, found.start()
    return TooDeepError(message, source, place)


def _numbered(tables: Any) -> Any:
    """Lark's tables with the numbers as keys that JSON made strings of."""
    numbers = lambda found: {int(key): value for key, value in found.items()}  # noqa: E731
    table = tables["data"]["parser"]["parser"]
    table["tokens"] = numbers(table["tokens"])
    table["states"] = {int(state): numbers(actions) for state, actions in table["states"].items()}
    return {**tables, "memo": numbers(tables["memo"])}


def first_token(node: Node) -> Token | None:
    """Where a piece of the tree begins; None for an empty one."""
    found = next(iter(node.scan_values(lambda _: True)), None) if isinstance(node, Tree) else node
    return None if found is None else _unmarked(found)


def start_of(tree: Tree[Token]) -> int | None:
    """Where an op, with its results if it names any, or an alias begins; None for an empty tree."""
    found = next(tree.scan_values(lambda t: t is not None), None)
    return None if found is None else found.start_pos


def parse_tree(source: Source, start: str = "file", text: str | None = None, offset: int = 0) -> Tree[Token]:
    """The syntax tree of `text` (default: the whole source), which lies at `offset` in the source."""
    try:
        return lark().parse(marked(source) if text is None else text, start=start)
    except UnexpectedInput as error:
        raise readable(error, source, offset) from None


def readable(error: UnexpectedInput, source: Source, offset: int) -> SyntaxError_:
    """An error of Lark's in a text that lies at `offset` of the source, in words of this language."""
    place = offset + max(error.pos_in_stream or 0, 0)
    bare = bare_operation(source, place)
    if bare is not None:
        return bare
    expected: Any = (
        getattr(error, "accepts", None)
        or getattr(error, "expected", None)
        or getattr(error, "allowed", None)
        or ()
    )
    names = sorted({_READABLE[name] for name in expected if name in _READABLE})
    wanted = f"expected {' or '.join(names)}" if 0 < len(names) <= 4 else "unexpected text"
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return SyntaxError_(f"{wanted}, got the end of the text", source, len(source.text.rstrip()))
    got, length = _found(error, source, place)
    hint = nearest(got.strip("'"), TYPE_WORDS) if "SCALAR_TYPE" in expected else ""
    return SyntaxError_(f"{wanted}, got {got}{hint}", source, place, length)


_BARE = re.compile(r"\s*(?:%[\w$.:, %-]*=)?\s*([A-Za-z_]\w*)\s+[%@]")


def bare_operation(source: Source, place: int) -> SyntaxError_ | None:
    """The error for `%y = relu %x`, an operation without its dialect, in the line of `place`."""
    start = source.text.rfind("\n", 0, place) + 1
    match = _BARE.match(source.text, start)
    if match is None or match[1] in ("return", "module") or match.end() < place:
        return None
    from mdsl.ir.registry import operations

    word = match[1]
    full = next((name for name in operations() if name.endswith(f".{word}")), None)
    hint = f"; did you mean '{full}'?" if full else ""
    message = f"an operation is written dialect.name, got '{word}'{hint}"
    return SyntaxError_(message, source, match.start(1), len(word))


def _found(error: UnexpectedInput, source: Source, place: int) -> tuple[str, int]:
    if isinstance(error, UnexpectedToken):
        text = str(_unmarked(error.token))
        return f"'{text.splitlines()[0]}'", len(text)
    assert isinstance(error, UnexpectedCharacters)
    return f"'{source.text[place : place + 1]}'", 1
