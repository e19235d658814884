"""Scopes of names: which value a name of the model refers to in a graph, a loop's body, a branch or a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mdsl.errors import MdslError
from mdsl.ir.core import Value

MAX_DEPTH = 40
"""How deep functions and subgraphs may lie in each other."""


@dataclass(frozen=True)
class Missing:
    """A value that the node `source` should have made."""

    source: str


ABSENT = Missing("")
"""An input that the node which calls a function leaves out: the nodes of the body lack it, too."""


class Scope:
    """Names of values. The body of a loop or a branch also sees those of the graph around it."""

    def __init__(
        self, parent: Scope | None = None, opsets: dict[str, int] | None = None, depth: int = 0
    ) -> None:
        self.parent = parent
        self.values: dict[str, Value | Missing] = {}
        self.attributes: dict[str, Any] = {}
        """What a function body's `ref_attr_name` refers to."""
        self.opsets: dict[str, int] = opsets if opsets is not None else parent.opsets if parent else {}
        self.depth: int = depth or (parent.depth + 1 if parent else 0)
        self.prefix: str = parent.prefix if parent else ""
        """What makes the names of an inlined body's values different from those outside."""
        self.active: tuple[tuple[str, str], ...] = parent.active if parent else ()
        """The functions that are being inlined."""

    def find(self, name: str) -> Value | Missing | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    def define(self, name: str, value: Value | Missing, where: str) -> None:
        if name in self.values:
            raise MdslError(f"error: {where} defines '{name}', which is defined already")
        self.values[name] = value
