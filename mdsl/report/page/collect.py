"""What the page of a report shows, as plain data: `script.js` reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mdsl.analysis.work import kernels_of
from mdsl.bytecode.assemble import assemble
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.module import Module
from mdsl.codegen.kernel import to_llvm_ir
from mdsl.codegen.native import to_assembly
from mdsl.compiler.driver import boxing, lowering
from mdsl.compiler.entry import entry
from mdsl.compiler.levels import level_of
from mdsl.compiler.settings import Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.report.arena import Buffer, buffers
from mdsl.report.cost import StepCost, cost_of
from mdsl.report.diff.text import Style, structural
from mdsl.report.explain import Explanation, Tracer
from mdsl.report.remarks import Told, described
from mdsl.report.trace import Step, Trace
from mdsl.rewriting.remarks import Remark, value_name
from mdsl.syntax.printer import Printer
from mdsl.target.cost import Choice
from mdsl.target.target import Target

WIDTH = 1 << 20
"""Columns of a diff: the page breaks lines itself."""

Lines = list[list[int | None]]
"""The numbers of each line's text and of its op's place, None where it has none."""

Times = dict[str, tuple[float, float]]
"""Seconds of a layer as measured, and what the measured roofline allows, by the place of its op."""


def collected(
    module: ModuleOp,
    settings: Settings,
    measured: Callable[[Module], Times] | None,
    saved: Mapping[str, float],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The page's data about `module`, in which no dimension is open, and the assembly of its kernels. `measured` runs its bytecode; `saved`:
    seconds of a call that a pass saves, by its name. Raises MdslError."""
    machine = settings.machine()
    lowered = module.clone()
    # Whatever a pass left wrong, the bytecode's verifier finds.
    trace = Trace.of(lowered, [*boxing(lowered), *lowering(lowered, settings)], machine, verify_each=False)
    ready = next(
        (step.before.module for step in trace if step.level == "vm"), lowered
    )  # or it was there from the start
    told = [Told(step.name, remark) for step in trace for remark in step.remarks]
    tracer = Tracer(module, ready, told, machine)
    bytecode = assemble(lowered, {})
    times = {} if measured is None else measured(bytecode)
    data = Collector().data(trace, tracer, bytecode, times, saved)
    return data, {
        k.symbol: to_assembly(to_llvm_ir(k, k.symbol, target=machine), machine)
        for k in kernels_of(lowered).values()
    }


class Collector:
    """Gathers the page's data. Texts and places occur once each; lines have their numbers."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.places: dict[str, int] = {}

    def data(
        self, trace: Trace, tracer: Tracer, bytecode: Module, times: Times, saved: Mapping[str, float]
    ) -> dict[str, Any]:
        """All of it."""
        # What the reader wrote comes first, so that it names the places.
        for op in trace.source.walk():
            self._place(op)
        steps = [self._source(trace)]
        before = cost_of(trace.source, trace.target)
        for number, step in enumerate(trace):
            cost = step.cost if step.changed else before
            told = str(StepCost("", before, cost)).removeprefix(": ")
            lines = self._lines(step.module) if step.changed else steps[-1]["lines"]
            steps.append(self._step(step, number + 1, lines, told, saved))
            before = cost
        steps.append(self.bytecode(bytecode, len(steps)))
        remarks = [self._remark(r, n + 1) for n, step in enumerate(trace) for r in step.remarks]
        explained = [tracer.explained(e) for e in tracer.source]
        return {
            "steps": steps,
            "texts": list(self.texts),
            "places": self._named(trace.source),
            "remarks": remarks,
            "layers": [self._layer(e, times) for e in explained if e.uses],
            "uses": [[self.places[e.location], use.kernel] for e in explained for use in e.uses],
            "parts": [[self.places[e.location], kernel] for e in explained for kernel in e.within],
            "roofline": roofline(trace.target),
            "arena": self._arena(trace),
        }

    # Steps ------------------------------------------------------------------------------------------------

    def _source(self, trace: Trace) -> dict[str, Any]:
        return _step("source", 0, level_of(trace.source), 0.0, self._lines(trace.source), changed=False)

    def _step(
        self, step: Step, number: int, lines: Lines, cost: str, saved: Mapping[str, float]
    ) -> dict[str, Any]:
        diff = [
            [line.sign, str(line)[0 if line.sign in "@=" else 1 :].lstrip("\n")]
            for line in structural(step.diff, Style(width=WIDTH))
        ]
        found = _step(step.name, number, step.level, step.seconds, lines, changed=bool(step.diff))
        return {
            **found,
            "diff": diff,
            "cost": cost,
            "why": step.obstacle,
            "saved": saved.get(step.name.split("{")[0]),
        }

    def bytecode(self, module: Module, number: int, kernels: bool = False) -> dict[str, Any]:
        """The last step, with the text of its kernels if asked for; `places` has those of its instructions."""
        lines: Lines = []
        for line in disassemble(module, kernels=kernels).splitlines():
            place = line.rpartition("  ; ")[2] if "  ; " in line else ""
            lines.append([self._text(line), self.places.get(place)])
        return _step("bytecode", number, "bytecode", 0.0, lines, changed=False)

    def _lines(self, module: ModuleOp) -> Lines:
        return [[self._text(text), place] for text, place in _Placed(self._place).print(module)]

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def _place(self, op: Op) -> int | None:
        """The number of the place at which `op` was written."""
        if op.location is None:
            return None
        return self.places.setdefault(op.location.place, len(self.places))

    def _named(self, source: ModuleOp) -> list[str]:
        """The places with what is defined there."""
        names: dict[str, list[str]] = {}
        for op in source.walk():
            if op.location is not None:
                names.setdefault(op.location.place, []).extend(value_name(r) for r in op.results if r.name)
        return [" ".join([*names.get(place, [])[:3], place]) for place in self.places]

    # The rest ---------------------------------------------------------------------------------------------

    def _remark(self, remark: Remark, number: int) -> dict[str, Any]:
        choice = next((described(f) for f in remark.facts.values() if isinstance(f, Choice)), None)
        places = dict.fromkeys(self.places[p] for p in remark.places if p in self.places)
        return {
            "step": number, "kind": remark.kind, "op": remark.op, "message": remark.message, "choice": choice,
            "places": list(places),
        }  # fmt: skip

    def _layer(self, e: Explanation, times: Times) -> dict[str, Any]:
        seconds, limit = times.get(e.location, (None, e.seconds))
        more = f" +{len(e.uses) - 1}" if len(e.uses) > 1 else ""
        return {
            "name": e.name, "opcode": e.opcode, "kernel": e.uses[0].kernel + more, "calls": e.work.calls,
            "flops": e.work.flops, "bytes": e.bytes, "limit": limit, "seconds": seconds,
            "place": self.places.setdefault(e.location, len(self.places)),
        }  # fmt: skip

    def _arena(self, trace: Trace) -> dict[str, Any]:
        """The buffers of the last program that has memrefs, and when each is in use."""
        modules = [step.module for step in trace if step.level in ("buffers", "kernels")]
        ops = list(entry(modules[-1]).body.ops) if modules else []
        found = buffers(ops)
        size = max((b.place.offset + b.place.nbytes for b in found), default=0)
        return {"size": size, "length": len(ops), "buffers": [self._buffer(buffer) for buffer in found]}

    def _buffer(self, buffer: Buffer) -> dict[str, Any]:
        users = dict.fromkeys(where for op in buffer.users if (where := self._place(op)) is not None)
        place = buffer.place
        return {
            "name": place.name, "type": place.type, "offset": place.offset, "bytes": place.nbytes,
            "first": buffer.first, "last": buffer.last, "places": list(users),
        }  # fmt: skip


def roofline(target: Target) -> dict[str, Any]:
    """Operations and bytes a second that the target does at most."""
    core = target.core
    return {
        "peak": 2 * target.lanes("f32") * target.fma_rate * core.ghz * 1e9,
        "memory": core.memory_rate * core.ghz * 1e9,
        "caches": [["second-level cache", core.l2_rate * core.ghz * 1e9]],
    }


def _step(
    name: str,
    number: int,
    level: str,
    seconds: float,
    lines: Lines,
    *,
    changed: bool,
) -> dict[str, Any]:
    return {
        "name": name, "number": number, "level": level, "seconds": seconds, "lines": lines, "changed": changed,
        "diff": [], "cost": "", "why": "", "saved": None,
    }  # fmt: skip


class _Placed(Printer):
    """Prints a module and notes the place of the op that each line is of."""

    def __init__(self, place: Callable[[Op], int | None]) -> None:
        super().__init__(generic=False, locations=False)
        self.place = place
        self.owners: list[int | None] = []
        self.current: int | None = None

    def print(self, module: ModuleOp) -> Iterable[tuple[str, int | None]]:
        module.name_maps()
        self.map_names = module.map_names
        self.name_values(module)
        for op in module.body.ops:
            self.op(op)
        definitions = self.map_definitions()
        return [*((text, None) for text in definitions), *zip(self.lines, self.owners, strict=True)]

    def op(self, op: Op) -> None:
        # Lines between the ops that this one holds are its own, as are those around them.
        outer, self.current = self.current, self.place(op)
        super().op(op)
        self._claim()
        self.current = outer

    def _flush(self) -> None:
        super()._flush()
        self._claim()

    def _claim(self) -> None:
        self.owners += [self.current] * (len(self.lines) - len(self.owners))
