"""`--remarks` and `--cost`: what passes tell of their decisions, and what a program costs beside each of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.errors import MdslError

if TYPE_CHECKING:
    from mdsl.compiler.pipeline import Hook
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.report.cost import Measure
    from mdsl.report.remarks import Remarks
    from mdsl.target.target import Target

BARE: Mapping[str, str] = {"--remarks": ".*", "--remarks-missed": ".*"}
"""Options that may stand without a value, and the value that they have then."""


class Form(StrEnum):
    """How remarks are written."""

    text = "text"
    yaml = "yaml"
    json = "json"


Applied = Annotated[
    str | None,
    typer.Option(
        "--remarks", help="Tell what passes did, those whose name RE matches if it is given.", metavar="[=RE]"
    ),
]
Missed = Annotated[
    str | None,
    typer.Option("--remarks-missed", help="Tell what kept passes from doing more.", metavar="[=RE]"),
]
RemarksForm = Annotated[Form, typer.Option("--remarks-format", help="A line a remark, LLVM's YAML, or JSON.")]
RemarksOutput = Annotated[
    Path | None, typer.Option("--remarks-output", help="Write remarks to this file, not on stderr.")
]


@contextmanager
def remarks_written(
    applied: str | None, missed: str | None, form: Form, output: Path | None, program: str
) -> Generator[Remarks, None, None]:
    """A hook for the passes that run in the block; their remarks are written at its end, also if it fails.
    Raises MdslError, OSError for an `output` that cannot be written or would destroy the file `program`."""
    from mdsl.cli.files import check_output, write_text
    from mdsl.report.remarks import Remarks, chosen, written
    from mdsl.support.escapes import escaped

    if applied is None and missed is None and output is not None:
        raise MdslError("error: --remarks-output needs --remarks or --remarks-missed")
    check_output(output, program)
    try:
        chosen([], applied, missed)
    except re.error as error:
        raise MdslError(f"error: --remarks: {error} in '{error.pattern}'") from None
    with Remarks().collecting() as remarks:
        try:
            yield remarks
        finally:
            text = written(chosen(remarks.found, applied, missed), form.value)
            if output is not None:
                write_text(text, output)
            elif applied is not None or missed is not None:
                sys.stderr.write(escaped(text))


def costs(target: Target, measured: bool, show: Callable[[str], None]) -> Hook:
    """The hook that shows a line of costs after each pass."""
    from mdsl.report.cost import Costs

    return Costs(target, lambda step: show(f"// cost of {step}\n"), _measure(target) if measured else None)


def _measure(target: Target) -> Measure:
    from mdsl import api
    from mdsl.benchmarking.measure import measure
    from mdsl.compiler.entry import random_arrays, signature
    from mdsl.compiler.settings import Settings

    def seconds(module: ModuleOp) -> float:
        executable = api.build(module, Settings(target=target))
        return measure(executable, random_arrays(signature(module)[0], 0), 1000).median

    return seconds
