"""`mdsl dis`: bytecode as text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdsl.cli.files import check_output, write_text


def dis(
    program: Annotated[Path, typer.Argument(help="An .mbc file.", metavar="FILE")],
    kernels: Annotated[bool, typer.Option(help="Show the micro-kernels' IR.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
) -> None:
    """Print the instructions, constants and micro-kernels of a bytecode file."""
    from mdsl.bytecode.disassemble import disassemble
    from mdsl.runtime.loading import read_bytecode

    check_output(output, str(program))
    write_text(disassemble(read_bytecode(program), kernels), output)
