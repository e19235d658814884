"""`mdsl reduce`: the smallest part of a program that a script still finds interesting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import check_output, is_passed_on, note, read_program, write_program, writing
from mdsl.cli.progress import progress
from mdsl.cli.testing import TIMEOUT, Timeout, testing

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.report.judging import Script


def reduce(
    program: Annotated[
        str, typer.Argument(help="A .mir file on any level, or an .onnx file.", metavar="FILE")
    ],
    test: Annotated[
        str,
        typer.Option(
            help="A command that is given a candidate's file and ends with exit code 0 if it is still interesting: "
            "if it fails as the whole program does.",
            metavar="COMMAND",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write to this file (FILE's name with .reduced.mir or .reduced.onnx, in the current folder).",
        ),
    ] = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Shrink a program or an ONNX model as long as a test finds it interesting.

    The smallest one so far is in the output file at any time: Ctrl-C ends the search.
    """
    from mdsl.cli.load import default_output

    is_model = program.lower().endswith(".onnx")
    place = output or default_output(program, ".reduced.onnx" if is_model else ".reduced.mir")
    check_output(place, program)
    left: list[str] = []
    try:
        with testing(test, timeout) as script, progress(f"testing {program}") as show:
            if is_model and (place.suffix.lower() == ".onnx" or is_passed_on(place)):
                _reduce_model(Path(program), place, script, left, show)
            else:
                _reduce_program(read_program(program), program, place, script, left, show)
    except KeyboardInterrupt:
        if not left or is_passed_on(place):
            raise
        note(f"stopped: {left[-1]} are left: {place}")
        raise typer.Exit(130) from None
    note(f"{left[-1]} are left: {place}")


def _reduce_program(
    module: ModuleOp, program: str, place: Path, script: Script, left: list[str], show: Callable[[str], None]
) -> None:
    """`left` gets what is left of the program, each time that it is less."""
    from mdsl.report.reduce import reduce_program

    written: set[Path] = set()

    def write(candidate: ModuleOp, path: Path) -> list[Path]:
        return write_program(candidate, path, program)

    def accepted(smaller: ModuleOp) -> None:
        if not is_passed_on(place):
            written.update(write(smaller, place))
        left.append(f"{smaller.count_nested()} of {whole} ops")

    whole = module.count_nested()
    with tempfile.TemporaryDirectory(prefix="mdsl-") as folder:
        tester = _tester(script, Path(folder) / "candidate.mir", write, left, show)
        best = reduce_program(module, tester, accepted)
    for stale in written.difference(write(best, place)):  # weights that the program has no more
        stale.unlink(missing_ok=True)
    left.append(f"{best.count_nested()} of {whole} ops")


def _reduce_model(
    source: Path, place: Path, script: Script, left: list[str], show: Callable[[str], None]
) -> None:
    from mdsl.report.reduce_onnx import load_model, reduce_model

    def write(candidate: Any, path: Path) -> None:
        with writing(path) as file:
            file.write(candidate.SerializeToString())

    def accepted(smaller: Any) -> None:
        if not is_passed_on(place):
            write(smaller, place)
        left.append(f"{len(smaller.graph.node)} of {whole} nodes")

    model = load_model(source)
    whole = len(model.graph.node)
    with tempfile.TemporaryDirectory(prefix="mdsl-") as folder:
        tester = _tester(script, Path(folder) / "candidate.onnx", write, left, show)
        best = reduce_model(model, tester, accepted)
    write(best, place)
    left.append(f"{len(best.graph.node)} of {whole} nodes")


def _tester(
    script: Script,
    path: Path,
    write: Callable[[Any, Path], object],
    left: list[str],
    show: Callable[[str], None],
) -> Callable[[Any], bool]:
    """Hands candidates to the script, as files of one name, and says before each what is left."""
    tests = count(1)

    def is_interesting(candidate: Any) -> bool:
        show(f"{left[-1] if left else 'all'} left, test {next(tests)}")
        write(candidate, path)
        return script.run(path) is True

    return is_interesting
