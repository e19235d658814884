"""Code that the verifier would refuse, run all the same: guard pages end the process at the first access outside."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal

import numpy as np
import pytest

from mdsl.bytecode import verify
from mdsl.bytecode.module import Constant, Function, Instruction, Module, TensorSpec
from mdsl.support.pages import protect
from mdsl.vm import program
from mdsl.vm.memory import guarded

X, Y, CONSTANT, ARENA = range(4)
SIZES = {X: 10, Y: 10, CONSTANT: 8, ARENA: 80}
"""Elements of the buffers, none of which fills its page."""


def accessing(buffer: int, index: int, engine: str) -> program.Program:
    """A program that reads an element of a buffer, or writes it where a program may."""
    x, y = (TensorSpec(name, "i64", (SIZES[X],)) for name in "xy")
    written = buffer in (Y, ARENA)
    access = Instruction("store.i64", (1, buffer, 0)) if written else Instruction("load.i64", (1, buffer, 0))
    keep = [] if written else [Instruction("const.i64", (0, 0)), Instruction("store.i64", (1, Y, 0))]
    numbers = Instruction("const.i64", (0, index)), Instruction("const.i64", (1, 7))
    code = [*numbers, access, *keep, Instruction("ret")]
    function = Function("main", (x,), (y,), ("i64", "i64"), 8 * SIZES[ARENA], code)
    constant = Constant("c", np.zeros(SIZES[CONSTANT], np.int64))
    return program.Program(Module([function], [], [constant]), engine=engine)


def ends(run: program.Program) -> int:
    """How a process ends that calls the program: 0, or by which signal."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        run(np.zeros(SIZES[X], np.int64))
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and mprotect")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("buffer", SIZES)
def test_an_access_outside_ends_the_process(
    buffer: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "verify", lambda *_: {"main": [8 * SIZES[Y]]})
    assert ends(accessing(buffer, SIZES[buffer] - 1, engine)) == 0
    for index in (SIZES[buffer], -mmap.PAGESIZE // 8):
        assert ends(accessing(buffer, index, engine)) in (signal.SIGSEGV, signal.SIGBUS)


@pytest.mark.parametrize("nbytes", [0, 1, 64, 4095, 4096, 4097, 1 << 20, 5 << 20])
@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_guarded_memory(nbytes: int, alignment: int) -> None:
    memory = guarded(nbytes, alignment)
    assert memory.nbytes == nbytes and memory.ctypes.data % alignment == 0
    assert memory.flags.writeable and not memory.any()
    assert protect is None or nbytes < 1 << 20 or memory.ctypes.data % (2 << 20) == 0
    memory[...] = 1
    assert np.count_nonzero(memory) == nbytes


def test_guarded_memory_that_there_is_not() -> None:
    with pytest.raises(MemoryError):
        guarded(1 << 60)
