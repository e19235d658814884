"""`mdsl bisect`: which pass makes the result wrong, then which rewrite of that pass.

The passes run once, and each program between them is kept; of these the first wrong one is found by bisection. Then
the pass that made it runs again and again, each time with another number of its rewrites (`mdsl.ir.rewrites`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mdsl.compiler.pipeline import PassFailure, run_pass, run_passes
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.location import Location
from mdsl.ir.rewrites import Rewrites, counting
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context, Pass
from mdsl.report.judging import Judge
from mdsl.support.progress import tell

Range = tuple[int, int]


@dataclass(frozen=True)
class Rewriting:
    """The rewrites `first` to `last`, of `count`, that make the result wrong: one, unless it cannot be told in between.

    `kind` and `place` are those of the last; `before` and `after` are the programs around them.
    """

    first: int
    last: int
    count: int
    kind: str
    place: Location | None
    before: ModuleOp
    after: ModuleOp


@dataclass(frozen=True)
class Culprit:
    """Passes `first` to `last` of the pipeline, counted from 1, make the result wrong: one, unless it cannot be told in
    between. `wrong` says how; `rewriting` is None where no rewrite that is counted does it."""

    steps: Sequence[Pass]
    first: int
    last: int
    wrong: str
    rewriting: Rewriting | None

    @property
    def step(self) -> Pass:
        return self.steps[self.last - 1]


def bisect(module: ModuleOp, steps: Sequence[Pass], context: Context, judge: Judge) -> Culprit | None:
    """The pass of `steps`, which are to run on `module`, that makes a right program wrong; None if none does.

    Raises MdslError if the program is wrong at the beginning, or if the end cannot be judged.
    """
    states, failure = _states(module, steps, context)
    if judge(states[0]):
        raise MdslError("error: the program is wrong before any pass has run")
    tell("judging the program after all passes")
    wrong = str(failure) if failure else judge(states[-1])
    if wrong is None:
        raise MdslError("error: it cannot be told whether the program is wrong after all passes")
    if not wrong:
        return None
    asked = _Asked(lambda n: judge(states[n]), "passes", len(states) - 1)
    if failure and not asked(len(states) - 1):
        first, last = len(states) - 1, len(states)
    else:
        first, last = first_wrong(0, len(states) - 1, asked)
        wrong = asked(last) or ""
        failure = None
    found = _rewriting(states[first], steps[last - 1], context, judge, failure) if last == first + 1 else None
    return Culprit(steps, first + 1, last, wrong, found)


def first_wrong(right: int, wrong: int, judge: Callable[[int], str | None]) -> Range:
    """Narrows down where numbers turn from `right` to `wrong`: two neighbours, unless those between cannot be judged."""
    skipped: set[int] = set()
    while True:
        middle = (right + wrong) // 2
        between = [n for n in range(right + 1, wrong) if n not in skipped]
        if not between:
            return right, wrong
        at = min(between, key=lambda n: abs(n - middle))
        verdict = judge(at)
        if verdict is None:
            skipped.add(at)
        elif verdict:
            wrong = at
        else:
            right = at


class _Asked:
    """Remembers the verdicts, and tells how far it is."""

    def __init__(self, judge: Callable[[int], str | None], what: str, count: int) -> None:
        self.judge, self.what, self.count = judge, what, count
        self.known: dict[int, str | None] = {}

    def __call__(self, number: int) -> str | None:
        if number not in self.known:
            tell(f"judging the program after {number} of {self.count} {self.what}")
            self.known[number] = self.judge(number)
        return self.known[number]


def _states(
    module: ModuleOp, steps: Sequence[Pass], context: Context
) -> tuple[list[ModuleOp], Exception | None]:
    """The program before the passes and after each of them, up to the one that fails, and its failure."""
    states = [module.clone()]
    for step in steps:
        tell(f"pass {step}")
        try:
            run_passes(module, [step], context)
        except (PassFailure, AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
            return states, error
        states.append(module.clone())
    return states, None


def _rewriting(
    before: ModuleOp, step: Pass, context: Context, judge: Judge, failure: Exception | None
) -> Rewriting | None:
    """Which rewrites of `step` make `before` wrong, or, where it fails, lead to that."""
    kept: dict[int, tuple[ModuleOp, Rewrites]] = {}

    def attempt(limit: int | None) -> tuple[str | None, ModuleOp, Rewrites]:
        module, rewrites = before.clone(), Rewrites(limit)
        try:
            with counting(rewrites):
                run_pass(step, module, context)
            verify(module)
        except Exception as error:
            return (str(error) or repr(error) if failure else None), module, rewrites
        return ("" if failure else judge(module)), module, rewrites

    def wrong(limit: int) -> str | None:
        verdict, module, rewrites = attempt(limit)
        kept[limit] = module, rewrites
        return verdict

    count = attempt(None)[2].count
    asked = _Asked(wrong, "rewrites", count)
    if not count or asked(0) != "" or not asked(count):
        return None  # no rewrite, but what the pass does besides
    right, last = first_wrong(0, count, asked)
    after, rewrites = kept[last]
    return Rewriting(right + 1, last, count, rewrites.last, rewrites.place, kept[right][0], after)
