"""Unified diffs of the IR's text: `--diff=unified`, which leaves no line out, and tells which weights differ."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import Resource
from mdsl.report.diff.weights import weights_changed
from mdsl.support.escapes import one_line
from mdsl.syntax import resources
from mdsl.syntax.printer import print_module


@dataclass(frozen=True)
class Written:
    """A program's text, and the weights that it names, whose data it lacks."""

    text: str
    weights: Mapping[str, Resource]

    @staticmethod
    def of(module: ModuleOp) -> Written:
        return Written(print_module(module), resources.used(module))

    def differs(self, other: Written) -> bool:
        return self.text != other.text or any(weights_changed(self.weights, other.weights))


def unified(before: Written, after: Written, old: str, new: str) -> str:
    """The unified diff of two programs called `old` and `new`, behind it a line about each weight of one name and type that
    has other data; empty if they are equal."""
    lines = difflib.unified_diff(before.text.splitlines(), after.text.splitlines(), old, new, lineterm="")
    told = (one_line(text) for text in weights_changed(before.weights, after.weights))
    return "".join(f"{line}\n" for line in (*lines, *(f"Weights differ: {text}" for text in told)))
