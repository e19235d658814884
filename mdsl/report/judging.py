"""Whether a program is wrong: compared with what it computed before, or by a script of the user's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mdsl.compiler.entry import closed, open_signature, random_arrays
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.reference import run
from mdsl.reference.registry import EvaluationError
from mdsl.report.check import first_difference
from mdsl.report.sampling import Natives, Sampling

Judge = Callable[[ModuleOp], str | None]
"""What is wrong with a program, empty if nothing is; None if it cannot be told."""

CANNOT_TELL = 125
"""The exit code of a script that cannot tell, as `git bisect run` has it."""


class Reference:
    """Compares what a program computes on random inputs with what `original` computes. Raises MdslError."""

    def __init__(self, original: ModuleOp, seed: int = 0) -> None:
        inputs, self.outputs = open_signature(original)
        self.inputs = random_arrays(closed(inputs), seed)
        self.wanted = run(original, self.inputs)
        self.natives: Natives = {}

    def __call__(self, module: ModuleOp) -> str | None:
        try:
            found = run(module, self.inputs, evaluator=Sampling(module, known=self.natives))
        except EvaluationError as error:
            return str(error)
        return self.difference(found)

    def difference(self, found: Sequence[np.ndarray]) -> str:
        return first_difference(self.wanted, found, self.outputs) or ""


class Script:
    """A command of the user's that is given a file: exit code 0 means that what is looked for is there, 125 that it
    cannot tell, nor can one that is at work for longer than `timeout` seconds. Raises MdslError for a command that
    cannot be run."""

    def __init__(self, command: str, timeout: float | None = None) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise MdslError(f"error: --test {command}: {error}") from None
        if not self.words:
            raise MdslError("error: --test: expected a command, such as './script.sh'")
        self.timeout = timeout
        self.ended = 0
        """How many runs took longer than the timeout."""

    def run(self, path: Path) -> bool | None:
        """True if what is looked for is in the file, None if it cannot be told."""
        quiet = subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                [*self.words, str(path)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
        except OSError as error:
            raise MdslError(f"error: --test: cannot run '{self.words[0]}': {error.strerror}") from None
        try:
            code = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            self.ended += 1
            return None
        finally:
            _end(process)
        return None if code == CANNOT_TELL else code == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process with all that it has started: after a timeout or Ctrl-C what a script runs is at work still."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class ScriptJudge:
    """Judges programs by a script, to which `write` hands them as files."""

    def __init__(self, script: Script, write: Callable[[ModuleOp, Path], object]) -> None:
        self.script, self.write = script, write

    def __call__(self, module: ModuleOp) -> str | None:
        with tempfile.TemporaryDirectory(prefix="mdsl-") as folder:
            path = Path(folder) / "candidate.mir"
            self.write(module, path)
            wrong = self.script.run(path)
        return None if wrong is None else "the script says so" if wrong else ""
