"""Guard pages around everything that native code is given in the tests: an access outside ends the process there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mdsl.vm import memory, program
from mdsl.vm.memory import guarded
from mdsl.vm.program import Program

_run = Program.run


def guarded_copy(array: np.ndarray) -> np.ndarray:
    """A copy of the array, row-major, whose last byte is next to a page that may not be touched."""
    copy = guarded(array.nbytes, array.itemsize).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes programs run on guarded copies of their arrays; constants and the arena end at a guard page, too."""
    monkeypatch.setattr(Program, "run", _run_guarded)
    monkeypatch.setattr(memory, "ARENA_ALIGNMENT", memory.ALIGNMENT)
    monkeypatch.setattr(program, "aligned_array", _guarded_constant)


def _run_guarded(self: Program, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    arrays, wanted = [*inputs, *outputs], self._wanted
    if len(arrays) != len(wanted) or any(map(_is_wrong, arrays, wanted)) or _overlap(arrays):
        _run(self, inputs, outputs)  # which complains, or must see that they are one memory
        return
    copies = list(map(guarded_copy, arrays))
    _run(self, copies[: len(inputs)], copies[len(inputs) :])
    for output, copy in zip(outputs, copies[len(inputs) :], strict=True):
        output[...] = copy


def _is_wrong(array: object, wanted: tuple[tuple[int, ...], np.dtype, int]) -> bool:
    shape, dtype, flags = wanted
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        return True
    return array.flags.num & flags != flags


def _overlap(arrays: Sequence[np.ndarray]) -> bool:
    return any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def _guarded_constant(array: np.ndarray) -> np.ndarray:
    copy = guarded(array.nbytes, memory.ALIGNMENT).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
