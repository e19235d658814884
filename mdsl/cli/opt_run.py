"""Running the passes that `mdsl opt` was asked for, each after the standard passes that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.cli.files import note

if TYPE_CHECKING:
    from mdsl.compiler.pipeline import Hook
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.passes.base import Pass
    from mdsl.target.target import Target


def run_asked(
    module: ModuleOp,
    asked: list[Pass],
    machine: Target,
    every: Sequence[Hook],
    watch: Sequence[Hook],
    *,
    verify_each: bool,
    start: str | None = None,
    stop: str | None = None,
    limit: int | None = None,
) -> None:
    """Runs the passes that were asked for, each after the standard passes that its level needs, then those down to
    the level `stop`; `watch` watches all but what was needed. The module is on the level `start`, or on the one that its
    ops show. Of the last pass that was asked for, `limit` rewrites. Raises MdslError."""
    from mdsl.compiler.driver import context_of
    from mdsl.compiler.levels import level_of, plan, standard_passes
    from mdsl.compiler.pipeline import run_passes
    from mdsl.compiler.settings import DEFAULT
    from mdsl.report.limit import Limit

    context = context_of(machine)
    planned, level = plan(asked, start or level_of(module))
    further = standard_passes(DEFAULT, level, stop) if stop else []
    for number, (lowering, step) in enumerate(planned, 1):
        if lowering:
            names = ", ".join(map(str, lowering))
            note(
                f"pass '{step.name}' works on the {step.level} level; ran the standard passes down to it first: {names}"
            )
            run_passes(module, lowering, context, hooks=every, verify_each=verify_each)
        hooks = [*every, *watch]
        if limit is not None and number == len(planned):
            hooks.append(Limit(limit))
        run_passes(module, [step], context, hooks=hooks, verify_each=verify_each)
    run_passes(module, further, context, hooks=[*every, *watch], verify_each=verify_each)
