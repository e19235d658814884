"""`--pass-statistics`: what each pass did to the program, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.rewrites import Rewrites, counting
from mdsl.passes.base import Pass

_KINDS = 4
"""Kinds of rewrites that a row names."""


@dataclass(frozen=True)
class Row:
    """One run of a pass: ops in the module before and after it, what it rewrote by kind, seconds."""

    name: str
    before: int
    after: int
    rewrites: Counter[str]
    seconds: float


@dataclass
class Statistics(Hook):
    """Collects a row for each pass, in order."""

    rows: list[Row] = field(default_factory=list)
    _rewrites: Rewrites = field(default_factory=Rewrites)
    _ops: int = 0

    @contextmanager
    def around(self, module: ModuleOp, step: Pass) -> Generator[None, None, None]:
        self._ops, self._rewrites = module.count_nested(), Rewrites()
        with counting(self._rewrites):
            yield

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.rows.append(Row(str(step), self._ops, module.count_nested(), self._rewrites.kinds, seconds))

    def __str__(self) -> str:
        """A table, times in milliseconds; the commonest kinds of rewrites by name."""
        header = ("ms", "ops before", "after", "rewrites", "pass")
        lines = [(f"{1e3 * r.seconds:.1f}", *map(str, _numbers(r)), _named(r)) for r in self.rows]
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        return "".join(
            "  ".join(
                cell.rjust(width) for cell, width in zip(line[:-1], widths[:-1], strict=True)
            ) + f"  {line[-1]}\n"
            for line in (header, *lines)
        )  # fmt: skip


def _numbers(row: Row) -> tuple[int, int, int]:
    return row.before, row.after, row.rewrites.total()


def _named(row: Row) -> str:
    kinds = [f"{count} {kind}" for kind, count in row.rewrites.most_common(_KINDS)]
    rest = row.rewrites.total() - sum(count for _, count in row.rewrites.most_common(_KINDS))
    return f"{row.name}{': ' if kinds else ''}{', '.join([*kinds, *([f'{rest} more'] if rest else [])])}"
