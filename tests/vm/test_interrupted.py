"""Between any two Python instructions of a call something else may happen: an exception, as Ctrl-C raises it, another
call, as a signal's handler or a finalizer makes it, or a fork. Each is tried at every instruction in turn."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.runtime.executable import OpenExecutable
from mdsl.vm import workers
from mdsl.vm.program import Program
from tests.vm.test_executable import example, program

ENGINES = pytest.mark.parametrize("engine", ["vm", "jit"])
THREADS = pytest.mark.parametrize("threads", [1, 2])
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
UNGUARDED = True
Call = Callable[[Program, np.ndarray], np.ndarray]


class Interrupt(BaseException):
    """As KeyboardInterrupt."""


def at(instruction: int, action: Callable[[], None], call: Callable[[], Any]) -> bool:
    """Makes the call, and does something before that one of its Python instructions. False if it has fewer."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        # No signal is heard between two instructions that leave a `with`, of the locks of threading's own.
        frame.f_trace_opcodes = frame.f_globals.get("__name__") != "threading"
        if event == "opcode":
            count += 1
            if count == instruction:
                action()
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count >= instruction


def plain(run: Program, x: np.ndarray) -> np.ndarray:
    return run(x)[0]


def profiled(run: Program, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    profile = run.profile([x], [y])
    assert profile.kernels[0].calls in (0, len(x) // 4, len(x))
    return y


def raise_interrupt() -> None:
    raise Interrupt


def interrupt_each(run: Program, call: Call, step: int = 1, prepare: Callable[[], object] = list) -> int:
    """Interrupts the call at every `step`-th instruction, and makes it again; how many instructions it has."""
    x, wanted = example()
    instruction = 1
    while True:
        prepare()
        try:
            if not at(instruction, raise_interrupt, lambda: call(run, x)):
                return instruction
        except Interrupt:
            pass
        np.testing.assert_array_equal(call(run, x), wanted)
        instruction += step


@ENGINES
@THREADS
def test_an_exception_at_any_instruction(engine: str, threads: int) -> None:
    run = program(threads, engine)
    assert interrupt_each(run, plain) > 50  # from the first call, which makes the frame
    assert len(run._frames.frames) == 1
    assert interrupt_each(run, profiled, 3) > 50


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_while_a_team_starts() -> None:
    run, before = program(2), threading.active_count()

    def without_team() -> None:
        for team in list(workers._teams.values()):
            team.close()
        workers._teams.clear()

    assert interrupt_each(run, plain, 17, without_team) > 300
    without_team()
    for thread in threading.enumerate():
        if thread.name.startswith("mdsl-worker"):
            thread.join(10)
    assert threading.active_count() <= before


@ENGINES
@THREADS
@pytest.mark.parametrize("call", [plain, profiled])
def test_another_call_at_any_instruction(engine: str, threads: int, call: Call) -> None:
    run = program(threads, engine)
    (x, wanted), (other, other_wanted) = example(1), example(2)
    found: list[np.ndarray] = []
    instruction = 1
    while at(
        instruction,
        lambda: np.testing.assert_array_equal(call(run, other), other_wanted),
        lambda: found.append(call(run, x)),
    ):
        np.testing.assert_array_equal(found.pop(), wanted)
        instruction += 1 if call is plain else 5
    assert instruction > 50


def test_another_call_while_an_open_program_is_called() -> None:
    """Also where that call evicts the program which the first one is about to use."""
    open_program = mdsl.compile("""
      func.func @main(%x: tensor<?xf32> {mdsl.dims = ["n"]}) -> tensor<?xf32> {
        %y = nn.relu %x : (tensor<?xf32>) -> tensor<?xf32>
        return %y : tensor<?xf32>
      }""")
    assert isinstance(open_program, OpenExecutable)
    two, three = np.ones(2, np.float32), np.ones(3, np.float32)
    made = {n: open_program.bound({"n": n}) for n in (2, 3)}
    open_program._compile = lambda sizes: made[sizes["n"]]
    open_program.KEPT = 1
    instruction = 1
    while at(
        instruction,
        lambda: np.testing.assert_array_equal(open_program(three), three),
        lambda: np.testing.assert_array_equal(open_program(two), two),
    ):
        instruction += 11
    assert instruction > 100


@forks
@THREADS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_at_any_instruction(threads: int) -> None:
    """The child goes on with the call that the parent had begun, without the parent's threads."""
    run = program(threads)
    x, wanted = example()
    run(x)
    child = 0
    found: list[np.ndarray] = []

    def fork() -> None:
        nonlocal child
        child = os.fork()

    for instruction in range(1, 400, 9):
        if not at(instruction, fork, lambda: found.append(run(x)[0])):
            break
        good = np.array_equal(found.pop(), wanted)
        if child == 0:
            os._exit(not (good and np.array_equal(run(x)[0], wanted)))
        assert good and os.waitpid(child, 0)[1] == 0, f"forked before instruction {instruction}"
    else:
        raise AssertionError("a call has so many instructions?")


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_other_threads_call() -> None:
    """Their frames and the team's lock are taken, and nobody gives them back in the child."""
    run = program(2)
    x, wanted = example()
    stop = threading.Event()

    def caller() -> None:
        while not stop.is_set():
            run(x)

    callers = [threading.Thread(target=caller) for _ in range(3)]
    for thread in callers:
        thread.start()
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(not np.array_equal(run(x)[0], wanted))
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in callers:
        thread.join()


def test_a_finalizer_that_calls() -> None:
    run = program(2)
    (x, wanted), calls = example(), []

    class Late:
        def __init__(self) -> None:
            self.me = self  # the collector finds it, whenever it looks

        def __del__(self) -> None:
            calls.append(np.array_equal(run(x)[0], wanted))

    thresholds = gc.get_threshold()
    gc.set_threshold(10)
    try:
        for _ in range(200):
            Late()
            np.testing.assert_array_equal(run(x)[0], wanted)
    finally:
        gc.set_threshold(*thresholds)
    assert calls and all(calls)


def ends(code: str) -> str:
    """What a process prints that runs `code` after this module's names are imported."""
    path = os.pathsep.join([*(path for path in sys.path if path), os.getcwd()])
    code = f"from tests.vm.test_interrupted import *\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_calls_while_python_ends(executes: None) -> None:
    """One thread needs no team; for two, none can be started any more."""
    assert ends("""
import atexit
x, wanted = example()
one, two = program(1), program(2)
def late(say=print, same=np.array_equal):
    say(same(one(x)[0], wanted))
    try: two(x)
    except Exception as error: say(error)
class Later:
    def __del__(self): late()
keep = Later()
workers.atexit.unregister(workers._close_teams)
atexit.register(late)
atexit.register(workers._close_teams)
two(x)
""").startswith("True\nerror: no threads can be started: Python is about to end\nTrue\n")  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="POSIX's signals")
def test_signals_while_calling(executes: None) -> None:
    """Ctrl-C caught, and a handler that calls, in the midst of calls on two threads."""
    assert ends("""
import random, signal, time
x, wanted = example()
run, late, good, inside = program(2), [], True, False
def handler(number, _):
    global inside
    if len(late) < 300: late.append(np.array_equal(run(x)[0], wanted))
    if inside and random.random() < .5:
        inside = False
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, .001, .001)
end = time.time() + .7
while time.time() < end:
    try:
        inside = True
        good &= np.array_equal(run(x)[0], wanted)
        inside = False
    except KeyboardInterrupt: pass
signal.setitimer(signal.ITIMER_REAL, 0)
print(good and len(late) > 20 and all(late))
""") == "True\n"  # fmt: skip


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def fails(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(Exception, match="error: 3 threads cannot be started: can't start new thread"):
        workers.Team(3)
    started[0].join(10)
    assert not started[0].is_alive()
