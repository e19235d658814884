"""Highlighting for Pygments: `pygmentize -l mir net.mir`. The words come from the op declarations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pygments.lexer import RegexLexer, words
from pygments.token import (
    Comment,
    Keyword,
    Literal,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
)

_LANGUAGE = json.loads(Path(__file__).with_name("words.json").read_text())
OPERATIONS, WORDS, TYPES, TOKENS = (_LANGUAGE[name] for name in ("operations", "words", "types", "tokens"))

_TYPE = rf"({'|'.join(TYPES)})(?![\w$])"
_OPERATION = words(OPERATIONS, prefix=r"(?<![\w$.])", suffix=r"(?![\w$.])")


class MirLexer(RegexLexer):
    """Programs in mdsl's textual IR."""

    name = "MIR"
    aliases = ("mir", "mdsl")
    filenames = ("*.mir",)
    tokens: Any = {
        "root": [
            (r"\s+", Whitespace),
            (TOKENS["COMMENT"], Comment.Single),
            (r"\{-#", Literal.Other, "resources"),
            (words(OPERATIONS, prefix='"', suffix=r'"(?=\s*\()'), Name.Function),
            (TOKENS["STRING"], String.Double),
            (_OPERATION, Name.Function),
            (TOKENS["VALUE"], Name.Variable),
            (TOKENS["SYMBOL"], Name.Label),
            (TOKENS["LABEL"], Name.Label),
            (rf"{TOKENS['DIALECT_ATTR']}|{TOKENS['DIALECT_TYPE']}", Name.Constant),
            (rf"{TOKENS['ATTR_ALIAS']}|{TOKENS['TYPE_ALIAS']}", Name.Constant),
            (r"((\d+|\?)x)+(?=[a-z])", Number.Integer),
            (_TYPE, Keyword.Type),
            (words(("true", "false", "unit"), suffix=r"\b"), Keyword.Constant),
            (r"[A-Za-z_][\w$.]*(?=\s*=[^=])", Name.Attribute),
            (words(WORDS, suffix=r"(?![\w$.])"), Keyword),
            (TOKENS["NUMBER"], Number),
            (r"[A-Za-z_][\w$]*(\.[\w$]+)*", Name),
            (r"->|[=*+?-]", Operator),
            (r"[()\[\]{}<>,:]", Punctuation),
        ],
        "resources": [(r"#-\}", Literal.Other, "#pop"), (r"[^#]+|#", Literal.Other)],
    }
