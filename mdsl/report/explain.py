"""`mdsl explain`: what became of one op, and why; or of all of them, a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod

from mdsl.analysis.places import main_ops
from mdsl.analysis.work import Work, kernels_of, traffic, trips, work_of
from mdsl.compiler.driver import context_of, lowering
from mdsl.compiler.entry import entry
from mdsl.compiler.pipeline import run_passes
from mdsl.compiler.settings import Settings
from mdsl.dialects import arith, scf, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError, nearest
from mdsl.ir.core import Op
from mdsl.ir.naming import cleaned
from mdsl.report.arena import Data, Peak, Place, constants_of, memory_of, peak_of
from mdsl.report.remarks import Remarks, Told
from mdsl.rewriting.remarks import name_of
from mdsl.target.cost import roofline_cycles
from mdsl.target.target import Target

_HINTS = 3
"""Names that an error lists, at most."""


@dataclass(frozen=True)
class Use:
    """The dispatches of one kernel that an op became."""

    kernel: str
    work: Work
    """Of all of them together."""


@dataclass
class Explanation:
    """One op of the source, or several at one place of it, and what they became."""

    name: str
    opcode: str
    type: str
    location: str
    is_main: bool = True
    """Whether what became of its place is shown as its own: of several ops at one place one has the dispatches."""
    told: list[Told] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    """Where it has no dispatch of its own: the kernels that compute it with others."""
    memory: list[Place] = field(default_factory=list)
    constants: list[Data] = field(default_factory=list)
    bytes: int = 0
    """That the ops it became must move: of each memref once."""
    seconds: float = 0.0
    """At the roofline of the target: no code is faster."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called by."""
        return self.name, self.name.removeprefix("%"), self.location, self.opcode

    @property
    def work(self) -> Work:
        return sum((use.work for use in self.uses), Work())


class Tracer:
    """What is known of a program that was lowered; it can be asked about any op."""

    def __init__(self, source: ModuleOp, lowered: ModuleOp, told: Sequence[Told], target: Target) -> None:
        """`lowered` is what `source` became before its bytecode was made, with kernels and an arena; `told` the remarks."""
        self.target = target
        self.source = list(_described(source))
        self._told = list(told)
        self._about = _about(told)
        self._found: dict[str, list[_Piece]] = {}
        self._within: dict[str, list[str]] = {}
        self._fused = self._fusions()
        self._take(lowered)
        self.peak: Peak | None = peak_of(list(entry(lowered).body.ops))

    @staticmethod
    def lowering(module: ModuleOp, settings: Settings) -> Tracer:
        """Lowers a copy of `module`, in which no dimension is open. Raises MdslError."""
        copy, machine = module.clone(), settings.machine()
        steps = [step for step in lowering(copy, settings) if step.leads_to != "vm"]
        with Remarks().collecting() as remarks:
            run_passes(copy, steps, context_of(machine), hooks=[remarks], verify_each=False)
        return Tracer(module, copy, remarks.found, machine)

    def _take(self, module: ModuleOp) -> None:
        """Notes every dispatch of the program, and every op outside of kernels that moves memory, by its place in the source."""
        kernels = kernels_of(module)
        for symbol, kernel in kernels.items():
            computing = (op for op in kernel.walk() if not isinstance(op, arith.Constant))
            for place in dict.fromkeys(_place(op) for op in computing):
                self._within.setdefault(place, []).append(symbol)
        for outer in entry(module).body.ops:
            memory, constants, moved = list(memory_of(outer)), list(constants_of(outer)), traffic(outer)
            for op in outer.walk():
                if isinstance(op, ukernel.Dispatch):
                    times = prod(trips(a) for a in op.ancestors() if isinstance(a, scf.For | scf.Forall))
                    piece = _Piece(
                        op.symbol, work_of(op, kernels).times(times), outer, moved, memory, constants
                    )
                    self._found.setdefault(_place(op) or _place(outer), []).append(piece)

    def find(self, query: str) -> list[Explanation]:
        """Of the ops that `query` means: `%conv1` or `conv1`, `12` or `net.mir:12` (a line), the name of an ONNX node, `@kernel`,
        or all that use a tensor in the arena or a constant; else those whose name, node or kind it fits (`nn.conv2d`, `*gate*`),
        where `...` stands for anything as `*` does. Raises MdslError with the nearest name if it means none."""
        name = query.removeprefix("%")
        printed = cleaned(name)  # a name of another format may have characters that the text does not
        found = [
            e
            for e in self.source
            if name == e.location or printed == e.name.removeprefix("%") or _is_line(query, e.location)
        ]
        used = {query, f"%{query}", f"%{printed}"}
        places = {
            place for place, pieces in self._found.items() if any(used.intersection(p.names) for p in pieces)
        }
        found = found or [e for e in self.source if e.location in places]
        pattern = query.replace("...", "*")
        found = found or [e for e in self.source if any(fnmatchcase(n, pattern) for n in e.names)]
        if not found:
            names = [e.name for e in self.source]
            names += dict.fromkeys(n for pieces in self._found.values() for p in pieces for n in p.names)
            hint = nearest(query if query[:1] in "%@" else f"%{query}", names) or self._containing(
                query, names
            )
            raise MdslError(f"error: no op, line or kernel '{query}'{hint}")
        return [self.explained(e) for e in found]

    def _containing(self, query: str, names: Sequence[str]) -> str:
        """A few of the names, those of a model's nodes among them, that have the query in them. (Lines of a file all have its
        path.)"""
        nodes = [e.location for e in self.source if not re.search(r":\d+:\d+$", e.location)]
        known = dict.fromkeys((*nodes, *names))
        found = [name for name in known if query.lower() in name.lower()]
        more = f" and {len(found) - _HINTS} more" if len(found) > _HINTS else ""
        return f"; names with it: {', '.join(found[:_HINTS])}{more}" if found else ""

    def all(self) -> list[Explanation]:
        """Of every op of the source that became dispatches."""
        return [found for e in self.source if (found := self.explained(e)).uses]

    def name_at(self, op: Op) -> str:
        """The name, in the source, of what the lowered `op` comes from; else that of its place."""
        place = _place(op)
        return next(
            (f"{e.name} ({place})" for e in self.source if e.is_main and e.location == place),
            place or op.name,
        )

    def explained(self, source: Explanation) -> Explanation:
        """What became of it."""
        told = [self._told[number] for number in sorted(set(self._about.get(source.location, ())))]
        found = replace(source, told=told)
        pieces = self._found.get(source.location, []) if source.is_main else []
        for kernel in dict.fromkeys(p.kernel for p in pieces):
            found.uses.append(Use(kernel, sum((p.work for p in pieces if p.kernel == kernel), Work())))
        found.within = [] if pieces or not source.is_main else self._holders(source.location)
        found.bytes = sum({p.outer: p.moved for p in pieces}.values())
        found.memory = list(dict.fromkeys(m for p in pieces for m in p.memory))
        found.constants = list(dict.fromkeys(c for p in pieces for c in p.constants))
        cycles = roofline_cycles(found.work.flops, found.bytes, self.target)
        found.seconds = self.target.core.seconds(cycles)
        return found

    def _holders(self, place: str) -> list[str]:
        """The kernels that have ops of the place; of equal ones only one is kept, so else those of what it was fused with."""
        places = [place]
        for known in places:  # it grows
            places += [other for other in self._fused.get(known, ()) if other not in places]
        taken = [piece.kernel for known in places for piece in self._found.get(known, ())]
        return self._within.get(place) or list(dict.fromkeys(taken))

    def _fusions(self) -> dict[str, list[str]]:
        """The places that each was fused with, as remarks tell."""
        found: dict[str, list[str]] = {}
        for remark in (told.remark for told in self._told if told.remark.fused):
            for place in remark.places:
                found.setdefault(place, []).extend(remark.places)
        return found


@dataclass(frozen=True)
class _Piece:
    """A dispatch, with the op of the entry's body that holds it."""

    kernel: str
    work: Work
    outer: Op
    moved: int
    """Bytes that `outer` must move."""
    memory: Sequence[Place]
    constants: Sequence[Data]

    @property
    def names(self) -> Iterable[str]:
        """Of what it works with: the kernel, what lies in the arena, constants."""
        return f"@{self.kernel}", *(m.name for m in self.memory), *(c.name for c in self.constants)


def _described(module: ModuleOp) -> Iterable[Explanation]:
    """The ops of the entry that compute something."""
    ops = [
        op
        for op in entry(module).walk()
        if not isinstance(op, arith.Constant) and (op.results or isinstance(op, ukernel.Dispatch))
    ]
    main = set(main_ops(ops).values())
    for op in ops:
        if op.location is not None:
            name = f"@{op.symbol}" if isinstance(op, ukernel.Dispatch) and not op.results else name_of(op)
            types = ", ".join(str(r.type) for r in op.results) or "()"
            yield Explanation(name, op.name, types, op.location.place, op in main)


def _place(op: Op) -> str:
    return op.location.place if op.location is not None else ""


def _about(told: Sequence[Told]) -> dict[str, list[int]]:
    """The numbers of the remarks about what was written at a place."""
    found: dict[str, list[int]] = {}
    for number, remark in enumerate(t.remark for t in told):
        for place in remark.places:
            found.setdefault(place, []).append(number)
    return found


def _is_line(query: str, place: str) -> bool:
    """True if the query is the number of the place's line, with or without the file, or the place itself."""
    file, _, rest = place.partition(":")
    line = rest.partition(":")[0]
    return bool(line) and query in (line, f"{file}:{line}", place)
