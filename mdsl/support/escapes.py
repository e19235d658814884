"""Escaping of text from files: control, formatting and invisible characters are shown as escapes."""

from __future__ import annotations

import re

UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
"""For a regular expression's `[...]`: controls except line ends and tabs, what changes the direction of text, what has
no width, halves of characters."""

_UNSEEN, _UNSEEN_OR_END = f"[{UNSEEN}]", f"[\n{UNSEEN}]"
"""Not compiled before something is to be shown: that takes longer than many an import."""


def escaped(text: str) -> str:
    """The text with escapes, as Python writes them; lines stay lines."""
    return re.sub(_UNSEEN, _escape, text)


def one_line(text: str) -> str:
    """The same where a line end would let a name pass for a line of ours."""
    return re.sub(_UNSEEN_OR_END, _escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
