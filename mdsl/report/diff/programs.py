"""`mdsl.diff`: the diff of any two programs."""

from __future__ import annotations

from mdsl.api import Program, parse
from mdsl.report.diff.compare import compare
from mdsl.report.diff.model import Diff, Snapshot
from mdsl.report.diff.text import structural

__all__ = ["diff", "structural"]


def diff(before: Program, after: Program) -> Diff:
    """What differs between two programs; true if anything does, and `str()` shows it. Raises MdslError.

    If one was made of the other by passes (`mdsl.opt`), the history of its ops tells what became of what. Otherwise
    functions are matched by their symbols, and ops by the names of their values and what they compute.
    """
    return compare(Snapshot(parse(before)), Snapshot(parse(after)), "diff")
