"""String literals: MLIR's escapes, `\\n \\t \\\\ \\"` and two hexadecimal digits for a byte of UTF-8."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"\\(n|t|\\|\"|[0-9A-Fa-f]{2}|.?)", re.DOTALL)
_NAMED = {b"n": b"\n", b"t": b"\t", b"\\": b"\\", b'"': b'"'}


def unquote(literal: str) -> str:
    """The text of a literal with its quotes. Raises ValueError for an escape that there is none of."""

    def value(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code in _NAMED:
            return _NAMED[code]
        if len(code) == 2:
            return bytes.fromhex(code.decode())
        raise ValueError(f"no escape '\\{code.decode(errors='replace')}' in a string")

    try:
        return _ESCAPE.sub(value, literal[1:-1].encode()).decode()
    except UnicodeDecodeError:
        raise ValueError("the bytes of this string are not UTF-8") from None
