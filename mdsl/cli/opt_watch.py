"""The options of `mdsl opt` and `mdsl compile` that show what passes do, and where between levels they begin and end."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.errors import MdslError, nearest

if TYPE_CHECKING:
    from mdsl.compiler.pipeline import Hook
    from mdsl.report.statistics import Statistics
    from mdsl.target.target import Target


@dataclass(frozen=True)
class Watch:
    """What the options ask for; a level is one of `passes.base.LEVELS`."""

    compile_from: str | None
    compile_to: str | None
    dump_ir_dir: Path | None
    print_changed: bool
    statistics: Statistics | None
    crash_reproducer: Path | None

    def hooks(self, program: str, target: Target) -> list[Hook]:
        """What watches the passes that work on the file `program`. Raises OSError, MdslError."""
        found: list[Hook] = []
        if self.statistics is not None:
            found.append(self.statistics)
        if self.print_changed:
            from mdsl.report.diff.watching import TextChanges, headed

            found.append(TextChanges(lambda step, _, new: print(headed(step, new.text), file=sys.stderr)))
        if self.dump_ir_dir is not None:
            from mdsl.cli.dumps import dump_folder

            found.append(dump_folder(self.dump_ir_dir, program))
        if self.crash_reproducer is not None:
            from mdsl.cli.reproducer import reproducer

            found.append(reproducer(self.crash_reproducer, program, target))
        return found

    def finish(self) -> None:
        """Prints what there is to say when all passes have run."""
        if self.statistics is not None:
            sys.stderr.write(str(self.statistics))


def watching(
    compile_from: Annotated[
        str | None,
        typer.Option(
            help="Take the program to be on this level (nn, linalg, tiled, dispatch, buffers, kernels, vm), whatever its ops show.",
            metavar="LEVEL",
        ),
    ] = None,
    compile_to: Annotated[
        str | None,
        typer.Option(
            help="Lower the program to this level by the standard passes, and print it.", metavar="LEVEL"
        ),
    ] = None,
    dump_ir_dir: Annotated[
        Path | None,
        typer.Option(
            help="Write the program after each pass, and what changed, into this folder: 07.unroll-dispatch.mir and .diff.",
            metavar="DIR",
        ),
    ] = None,
    print_changed: Annotated[
        bool,
        typer.Option("--print-changed", help="Print the IR after every pass that changed it, on stderr."),
    ] = False,
    pass_statistics: Annotated[
        bool,
        typer.Option(
            "--pass-statistics",
            help="Print the ops before and after each pass, and what it rewrote, on stderr.",
        ),
    ] = False,
    crash_reproducer: Annotated[
        Path | None,
        typer.Option(
            help="Where a pass fails, write the program before it, with the pass, to this file: 'mdsl opt --run-reproducer' runs it.",
            metavar="FILE",
        ),
    ] = None,
) -> Watch:
    """What the options ask for. Raises MdslError."""
    statistics = None
    if pass_statistics:
        from mdsl.report.statistics import Statistics

        statistics = Statistics()
    for option, level in (("--compile-from", compile_from), ("--compile-to", compile_to)):
        if level is not None:
            _check_level(option, level)
    return Watch(compile_from, compile_to, dump_ir_dir, print_changed, statistics, crash_reproducer)


def _check_level(option: str, level: str) -> None:
    from mdsl.passes.base import LEVELS

    if level not in LEVELS:
        hint = nearest(level, [*LEVELS]) or f"; levels: {', '.join(LEVELS)}"
        raise MdslError(f"error: {option}: no level '{level}'{hint}")
