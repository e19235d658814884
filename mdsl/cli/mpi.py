"""Processes that train together: the first one speaks, and none is left waiting for one that has ended."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import typer

from mdsl.cli.errors import explain

if TYPE_CHECKING:
    from mdsl.training.processes import Processes


@contextmanager
def together(processes: Processes) -> Generator[None, None, None]:
    """The first process prints. What all of them raise (`Fault`) ends each; what one raises, it says, and ends all."""
    from mdsl.training.processes import Fault

    if processes.comm is None:
        yield
        return
    try:
        with ExitStack() as quiet:
            if processes.rank:
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(redirect_stdout(nowhere))
                quiet.enter_context(redirect_stderr(nowhere))
            yield
    except Fault:
        if processes.rank:
            raise typer.Exit(1) from None
        raise
    except typer.Exit:
        raise
    except BaseException as error:
        message = explain(error) if isinstance(error, Exception) else "interrupted"
        print(message or "".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
        processes.comm.Abort(130 if isinstance(error, KeyboardInterrupt) else 1)


@contextmanager
def agreeing(processes: Processes) -> Generator[None, None, None]:
    """A user's error that one process meets inside, all of them raise at the end. Nothing inside may wait for others."""
    from mdsl.training.processes import Fault

    message: str | None = None
    try:
        yield
    except Exception as error:
        message = None if processes.comm is None else explain(error)
        if message is None:
            raise
    first = next((m for m in processes.gather(message) if m is not None), None)
    if first is not None:
        raise Fault(*first.split("\n"))
