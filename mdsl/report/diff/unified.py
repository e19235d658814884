"""Unified diffs of the IR's text: `--diff=unified`, which leaves nothing out."""

from __future__ import annotations

import difflib


def unified(before: str, after: str, title: str) -> str:
    """The unified diff of two texts; empty if they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"before {title}", f"after {title}", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def coloured(diff: str) -> str:
    """The diff with terminal colours."""
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers.diff import DiffLexer

    return highlight(diff, DiffLexer(stripnl=False), TerminalFormatter())
