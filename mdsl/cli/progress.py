"""Progress as a line on the terminal; nothing where stderr is not one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mdsl.cli.terminal import styled
from mdsl.support.escapes import one_line
from mdsl.support.progress import listening


@contextmanager
def progress(start: str) -> Generator[Callable[[str], None], None, None]:
    """Shows a line that moves while the block runs; the function that it yields changes the text, and so does what the
    block tells (`mdsl.support.progress`)."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(file=styled(sys.stderr)).status(start) as status:

        def update(text: str) -> None:
            status.update(Text(one_line(text)))

        with listening(update):
            yield update


@contextmanager
def stoppable() -> Generator[None, None, None]:
    """Ctrl-C ends the process at once while the block runs a program: Python hears of it only when native
    code returns, and a program may take as long as its loops say."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGINT, lambda number, frame: None)  # one speaks, the thread
    threading.Thread(target=_await_interrupt, args=(heard,), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(before)
        os.close(tell)


def _await_interrupt(heard: int) -> None:
    """The system writes a signal's number into the pipe; its end closes with the block."""
    while number := os.read(heard, 1):
        if number[0] == signal.SIGINT:
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which `progress` hides
            styled(sys.stderr).write(f"{cursor}interrupted\n")
            sys.stderr.flush()
            os._exit(130)
    os.close(heard)
