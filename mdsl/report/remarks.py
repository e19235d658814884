"""`--remarks`: what passes told of their decisions, collected, chosen and written out."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.rewriting.remarks import Remark, listening
from mdsl.support.escapes import one_line
from mdsl.target.cost import Choice

FORMATS = ("text", "yaml", "json")

SHOWN = 4
"""Candidates of a choice that a line of text names, the chosen one among them."""


@dataclass(frozen=True)
class Told:
    """A remark, and the pass that made it."""

    step: str
    remark: Remark


@dataclass
class Remarks(Hook):
    """Collects the remarks of each pass while `collecting`."""

    found: list[Told] = field(default_factory=list)
    step: str = ""
    begin: int = 0
    """How many there were before the last pass."""

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.step, self.begin = step.name, len(self.found)

    @contextmanager
    def collecting(self) -> Generator[Remarks, None, None]:
        """Listens to what passes tell while the block runs them, with this hook among their hooks."""
        with listening(lambda remark: self.found.append(Told(self.step, remark))):
            yield self

    def why_unchanged(self, step: Pass) -> str:
        """What kept `step`, the last pass, from changing anything."""
        missed = [told.remark for told in self.found[self.begin :] if told.remark.kind == "missed"]
        if not missed:
            return f"there is no {step.subject}" if step.subject else "it does not say why"
        more = f"; {len(missed) - 1} more: --remarks-missed={step.name}" if len(missed) > 1 else ""
        return f"{missed[0].op} {missed[0].message}{more}"


def chosen(found: Iterable[Told], applied: str | None, missed: str | None) -> list[Told]:
    """Those of passes whose name the regular expression for their kind matches, anywhere in it; None matches nothing.

    Raises re.error for what is no regular expression."""
    patterns = {
        kind: re.compile(text)
        for kind, text in (("applied", applied), ("missed", missed))
        if text is not None
    }
    return [t for t in found if (p := patterns.get(t.remark.kind)) is not None and p.search(t.step)]


def written(found: Sequence[Told], form: str) -> str:
    """The remarks in one of `FORMATS`: a line each; LLVM's YAML documents; a JSON list."""
    if form == "json":
        return json.dumps([record(told) for told in found], indent=1) + "\n"
    return "".join(map(_document if form == "yaml" else line, found))


def line(told: Told) -> str:
    """`net.mir:7:3: remark: [tile] %c is cut into tiles of 4x64: the cheapest (4x64: 1.2 Mcycles; ...)`."""
    remark = told.remark
    place = remark.location.beginning if remark.location else ""
    kind = "remark" if remark.kind == "applied" else "missed"
    choices = [f" ({described(fact)})" for fact in remark.facts.values() if isinstance(fact, Choice)]
    inside = "" if remark.op[0] in "%@" or not remark.function else f" in @{remark.function}"
    text = f"{place}{kind}: [{told.step}] {remark.op}{inside} {remark.message}{''.join(choices)}"
    return f"{one_line(text)}\n"


_UNITS = ((1e6, "Mcycles"), (1e3, "kcycles"))
"""Used from a tenth of one on."""


def described(choice: Choice[Any], count: int = SHOWN) -> str:
    """`4x64: 1.20 Mcycles; 6x32: 1.31`: the best candidates, the chosen one first."""
    size, unit = next(((n, u) for n, u in _UNITS if 10 * choice.candidates[0].cycles >= n), (1.0, "cycles"))
    shown = [f"{spelled(c.what)}: {c.cycles / size:.3g}" for c in choice.candidates[:count]]
    shown[:1] = [f"{text} {unit}" for text in shown[:1]]
    more = len(choice.candidates) - count
    return "; ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def spelled(what: object) -> str:
    """A candidate: sizes as `4x64`, nothing as `as it is`."""
    if isinstance(what, tuple):
        return "x".join(map(str, cast(tuple[object, ...], what)))
    return "as it is" if what is None else str(what)


def record(told: Told) -> dict[str, Any]:
    """In JSON's types."""
    remark = told.remark
    place = remark.location
    return {
        "kind": remark.kind,
        "pass": told.step,
        "op": remark.op,
        "opcode": remark.opcode,
        "function": remark.function,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "message": remark.message,
        "facts": {name: _plain(fact) for name, fact in remark.facts.items()},
        "fused": remark.fused,
        "others": [{"op": o.op, "place": o.location.place if o.location else None} for o in remark.others],
    }


def _plain(fact: Any) -> Any:
    """The fact in JSON's types."""
    if isinstance(fact, Choice):
        candidates = cast(Choice[Any], fact).candidates
        return [{"candidate": spelled(c.what), "cycles": c.cycles} for c in candidates]
    if isinstance(fact, Mapping):
        return {str(k): _plain(v) for k, v in cast(Mapping[Any, Any], fact).items()}
    return fact if isinstance(fact, int | float | str | None) else str(fact)


_TAGS = {"applied": "Passed", "missed": "Missed"}


def _document(told: Told) -> str:
    """A document as LLVM's `-fsave-optimization-record` writes it; JSON's scalars are YAML's."""
    remark, quoted = told.remark, json.dumps
    place = remark.location
    lines = [f"--- !{_TAGS[remark.kind]}", f"Pass: {quoted(told.step)}", f"Name: {quoted(remark.opcode)}"]
    if place is not None:
        spot = f"File: {quoted(place.file)}, Line: {place.line}, Column: {place.column}"
        lines.append(f"DebugLoc: {{ {spot} }}")
    lines += [f"Function: {quoted(remark.function)}", "Args:"]
    lines += [f"  - Op: {quoted(remark.op)}", f"  - String: {quoted(' ' + remark.message)}"]
    lines += [f"  - Other: {quoted(other.op)}" for other in remark.others]
    lines += [f"  - {name}: {quoted(_plain(fact))}" for name, fact in remark.facts.items()]
    return "\n".join([*lines, "...", ""])
