"""Unified diffs of the IR's text: `--diff=unified`, which leaves nothing out."""

from __future__ import annotations

import difflib


def unified(before: str, after: str, old: str, new: str) -> str:
    """The unified diff of two texts called `old` and `new`; empty if they are equal."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), old, new, lineterm="")
    return "".join(f"{line}\n" for line in lines)
