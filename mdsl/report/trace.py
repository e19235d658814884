"""A trace: what each pass of a pipeline made of a program, kept to be looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mdsl import api
from mdsl.api import Program
from mdsl.compiler.driver import context_of, lowering
from mdsl.compiler.history import links
from mdsl.compiler.levels import level_of, plan
from mdsl.compiler.pipeline import Hook, parse_pipeline, run_passes
from mdsl.compiler.settings import Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.report.cost import Cost, cost_of
from mdsl.report.diff.compare import compare
from mdsl.report.diff.model import Diff, Snapshot
from mdsl.report.diff.text import structural
from mdsl.report.remarks import Remarks
from mdsl.report.units import count_text, flops_text, seconds_text
from mdsl.rewriting.remarks import Remark
from mdsl.support.notebooks import highlighted, table
from mdsl.target.target import Target


@dataclass(frozen=True)
class Step:
    """One pass, with the program before and after it."""

    name: str
    """As a pipeline writes it."""
    seconds: float
    """That the pass ran."""
    before: Snapshot
    after: Snapshot
    remarks: tuple[Remark, ...]
    obstacle: str
    """What kept the pass from changing more."""
    target: Target = field(repr=False)

    @property
    def changed(self) -> bool:
        """False if the program is what it was before the pass."""
        return self.before is not self.after

    @property
    def module(self) -> ModuleOp:
        """The program after the pass."""
        return self.after.module

    @cached_property
    def level(self) -> str:
        """The level of the program after the pass."""
        return level_of(self.module)

    @cached_property
    def diff(self) -> Diff:
        """What the pass changed."""
        if not self.changed:
            return Diff.none(self.name, self.before)
        return compare(self.before, self.after, self.name)

    @property
    def changes(self) -> str:
        """How many changes the pass made, or why none."""
        return count_text(len(self.diff.rewrites)) if self.diff else f"none: {self.obstacle}"

    @cached_property
    def cost(self) -> Cost:
        """What the program costs after the pass."""
        return cost_of(self.module, self.target)

    def __str__(self) -> str:
        lines = [str(line) for line in structural(self.diff)]
        return "\n".join(lines or [f"=== {self.name} changed nothing: {self.obstacle}"]) + "\n"

    def _repr_html_(self) -> str:
        return highlighted(str(self), "diff")


@dataclass(frozen=True)
class Trace:
    """The steps of a pipeline, in order; `source` is the program that it began with."""

    source: ModuleOp
    target: Target
    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int | str) -> Step:
        """A step by its number, or the first of the pass of that name. Raises IndexError, KeyError."""
        if isinstance(step, int):
            return self.steps[step]
        found = next((s for s in self.steps if s.name.split("{")[0] == step), None)
        if found is None:
            raise KeyError(step)
        return found

    def __str__(self) -> str:
        return "".join(f"{step}\n" for step in self.steps)

    def _repr_html_(self) -> str:
        rows = [
            (
                s.name,
                s.level,
                count_text(s.cost.ops),
                flops_text(s.cost.work.flops),
                seconds_text(s.cost.seconds),
                s.changes,
            )
            for s in self.steps
        ]
        return table(
            f"for {self.target.name}", ("pass", "level", "ops", "work", "at the roofline", "changes"), rows
        )

    @staticmethod
    def of(module: ModuleOp, steps: Sequence[Pass], target: Target, *, verify_each: bool = True) -> Trace:
        """Runs `steps` on `module`, in place, and keeps a copy of the program between them. Raises MdslError."""
        module.name_maps()
        recorder = _Recorder(target, module)
        with recorder.remarks.collecting() as remarks:
            run_passes(module, steps, context_of(target), hooks=[remarks, recorder], verify_each=verify_each)
        return Trace(recorder.source, target, tuple(recorder.steps))


def trace(program: Program, pipeline: str | None = None, *, target: str | Target | None = None) -> Trace:
    """Runs the passes of `pipeline` ("fuse,tile{sizes=[8,32]}"), each with the standard passes that its level needs before it; without
    a pipeline the standard passes down to bytecode. `program` is what `mdsl.compile` takes, its dimensions bound; it is not
    altered. Raises MdslError.

        for step in mdsl.trace("net.mir", "fuse,tile"):
            print(step.name, step.cost.work.flops, step.diff)
    """
    settings = Settings(target=target)
    module = api.parse(program)
    if pipeline is None:
        steps = lowering(module, settings)
    else:
        planned, _ = plan(parse_pipeline(pipeline, "pipeline"), level_of(module))
        steps = [p for before, step in planned for p in (*before, step)]
    return Trace.of(module, steps, settings.machine())


class _Recorder(Hook):
    def __init__(self, target: Target, module: ModuleOp) -> None:
        self.target = target
        self.last = Snapshot.take(module)
        self.source = self.last.module
        self.links = links(module)
        self.remarks = Remarks()
        self.steps: list[Step] = []

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        old, self.links = self.links, links(module)
        now = self.last if self.links == old else Snapshot.take(module)
        told = tuple(t.remark for t in self.remarks.found[self.remarks.begin :])
        why = self.remarks.why_unchanged(step)
        self.steps.append(Step(str(step), seconds, self.last, now, told, why, self.target))
        self.last = now
