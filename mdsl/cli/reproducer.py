"""`--crash-reproducer=FILE` writes what `mdsl opt --run-reproducer FILE` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.passes.base import Pass
    from mdsl.report.reproducer import Reproducer
    from mdsl.target.target import Target


def reproducer(path: Path, program: str, target: Target) -> Reproducer:
    """The hook that writes to `path` if a pass on the file `program` fails. Raises MdslError, OSError for what cannot
    be written."""
    from mdsl.cli.files import check_output, note, write_program
    from mdsl.report.reproducer import Reproducer, metadata

    def write(module: ModuleOp, step: Pass) -> None:
        try:
            write_program(module, path, program, metadata=metadata(step, target))
        except OSError as error:  # the pass's own failure is what there is to tell
            note(f"no reproducer: {path}: {error.strerror}")
            return
        note(f"the program before pass '{step.name}' is in {path}: mdsl opt --run-reproducer {path}")

    check_output(path, program)
    return Reproducer(write)


def reproduced(program: str) -> tuple[list[Pass], str | None]:
    """The passes that the reproducer `program` is to be run through, and the target. Raises MdslError, OSError."""
    from mdsl.errors import MdslError
    from mdsl.report.reproducer import read_metadata

    if program == "-":
        raise MdslError("error: --run-reproducer reads a file, not stdin")
    return read_metadata(Path(program).read_text(encoding="utf-8", errors="replace"), program)
