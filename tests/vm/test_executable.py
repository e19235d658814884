"""Calls: kernels, workers, callers in several threads and processes, wrong arrays."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from functools import cache

import numpy as np
import pytest

from mdsl.analysis.footprints import MAX_BYTES, KernelArgument
from mdsl.bytecode.module import (
    BufferArgument,
    BytecodeError,
    Function,
    Instruction,
    Kernel,
    Module,
    RegisterArgument,
    TensorSpec,
)
from mdsl.codegen import native
from mdsl.codegen.kernels import Kernels
from mdsl.errors import MdslError
from mdsl.runtime.executable import VmExecutable
from mdsl.support.processors import processors
from mdsl.vm import workers
from mdsl.vm.memory import address
from mdsl.vm.program import CallError, Program

ROWS, COLUMNS = 64, 32

SCALE = f"""
define void @scale(ptr %slots) {{
  %x = load ptr, ptr %slots
  %y.p = getelementptr i64, ptr %slots, i64 1
  %y = load ptr, ptr %y.p
  %row.p = getelementptr i64, ptr %slots, i64 2
  %row = load i64, ptr %row.p
  %scale = sitofp i64 %row to float
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  %from = getelementptr float, ptr %x, i64 %i
  %to = getelementptr float, ptr %y, i64 %i
  %value = load float, ptr %from
  %scaled = fmul float %value, %scale
  store float %scaled, ptr %to
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {COLUMNS}
  br i1 %more, label %loop, label %end
end:
  ret void
}}
"""
"""y = x * row, a row at a time."""

SIGNATURE = (
    KernelArgument("read", 4 * COLUMNS),
    KernelArgument("write", 4 * COLUMNS),
    KernelArgument("index", interval=(0, ROWS)),
)


@cache
def scale() -> Kernels:
    code = native.compile_module(SCALE, ["scale"])
    return Kernels({"scale": code.address("scale")}, {"scale": SIGNATURE}, {"scale": code})


def module_with(parallel: bool, batch: int = 1) -> Module:
    """arena = x * row, row by row; then y = the arena's rows in reverse order."""
    loop = "parallel" if parallel else "loop"
    row = 4 * COLUMNS
    arena = 2
    counters = [2, 5, 6, 7][:batch]
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("const.i64", (1, ROWS)),
        Instruction("const.i64", (3, COLUMNS * (ROWS - 1))),
        Instruction(f"{loop}_begin", (2, 0, 1, batch)),
        *(Instruction("lea", (counters[k], 2, 2, 0, k)) for k in range(1, batch)),
        Instruction(
            "dispatch",
            (
                0,
                tuple(
                    (
                        BufferArgument(0, 2, row, k * row),
                        BufferArgument(arena, counters[k], row),
                        RegisterArgument(counters[k]),
                    )
                    for k in range(batch)
                ),
            ),
        ),
        Instruction(f"{loop}_end"),
        Instruction(f"{loop}_begin", (2, 0, 1, 1)),
        Instruction("lea", (4, 3, 2, -COLUMNS, 0)),
        Instruction("lea", (5, 0, 2, COLUMNS, 0)),
        Instruction("copy.f32", (1, 5, arena, 4, COLUMNS)),
        Instruction(f"{loop}_end"),
        Instruction("ret"),
    ]
    x, y = TensorSpec("x", "f32", (ROWS, COLUMNS)), TensorSpec("y", "f32", (ROWS, COLUMNS))
    function = Function("main", (x,), (y,), ("i64",) * 8, 4 * ROWS * COLUMNS, code)
    return Module([function], [Kernel("scale", "")])


def program(threads: int = 1, engine: str = "vm", batch: int = 1) -> Program:
    module = module_with(threads > 1, batch)
    return Program(module, scale(), engine, threads)


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).uniform(-1, 1, (ROWS, COLUMNS)).astype(np.float32)
    return x, (x * np.arange(ROWS, dtype=np.float32)[:, None])[::-1]


@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_dispatch(engine: str, threads: int, batch: int) -> None:
    x, wanted = example()
    run = program(threads, engine, batch)
    for _ in range(20):
        np.testing.assert_array_equal(run(x)[0], wanted)


@pytest.mark.parametrize("arguments", [1, 3, 8, 9, 20, 64])
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_number_of_arguments(arguments: int, engine: str) -> None:
    """The kernel stores the sum of its i64 arguments through the last."""
    adds = "".join(
        f"  %p{k} = getelementptr i64, ptr %slots, i64 {k}\n  %v{k} = load i64, ptr %p{k}\n"
        f"  %s{k + 1} = add i64 %s{k}, %v{k}\n"
        for k in range(arguments - 1)
    )
    last = f"  %y.p = getelementptr i64, ptr %slots, i64 {arguments - 1}\n  %y = load ptr, ptr %y.p\n"
    store = f"  store i64 %s{arguments - 1}, ptr %y\n  ret void\n"
    text = f"define void @sum(ptr %slots) {{\n  %s0 = add i64 0, 0\n{adds}{last}{store}}}\n"
    kernel = native.compile_module(text, ["sum"])
    code = [
        *(Instruction("const.i64", (k, 3 * k + 1)) for k in range(arguments)),
        Instruction("dispatch", (0, ((*map(RegisterArgument, range(arguments - 1)), BufferArgument(0)),))),
        Instruction("ret"),
    ]
    function = Function("main", (), (TensorSpec("y", "i64", (1,)),), ("i64",) * arguments, 0, code)
    signature = (*[KernelArgument("index")] * (arguments - 1), KernelArgument("write", 8))
    kernels = Kernels({"sum": kernel.address("sum")}, {"sum": signature}, {"sum": kernel})
    run = Program(Module([function], [Kernel("sum", "")]), kernels, engine)
    assert run()[0][0] == sum(3 * k + 1 for k in range(arguments - 1))


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_in_many_threads(threads: int) -> None:
    run = program(threads)
    failures: list[int] = []

    def caller(seed: int) -> None:
        x, wanted = example(seed)
        for _ in range(50):
            if not np.array_equal(run(x)[0], wanted):
                failures.append(seed)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not failures
    assert len(run._frames.frames) <= (processors() if threads == 1 else 1)


def test_workers_sleep_and_wake() -> None:
    x, wanted = example()
    run = program(2)
    for _ in range(5):
        run(x)
        time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.02)
        assert time.process_time() - before < 0.01
        np.testing.assert_array_equal(run(x)[0], wanted)


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_who_does_not_come_is_not_waited_for(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_teams", {})
    monkeypatch.setattr(workers.Team, "_serve", lambda *_: None)
    x, wanted = example()
    run = program(3, engine)
    for _ in range(3):
        np.testing.assert_array_equal(run(x)[0], wanted)
    workers._teams[3].close()


def test_a_team_can_be_closed() -> None:
    team = workers.Team(3)
    team.close()
    assert not any(thread.is_alive() for thread in team._threads)


def _in_child(run: Program) -> None:
    x, wanted = example()
    os._exit(0 if np.array_equal(run(x)[0], wanted) else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_starts_its_own_workers() -> None:
    run = program(2)
    run(example()[0])
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(run,))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_the_process_ends_with_workers_running(executes: None) -> None:
    code = "from tests.vm.test_executable import *; print(program(2)(example()[0])[0].shape)"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path) + os.pathsep + os.getcwd()
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"({ROWS}, {COLUMNS})\n", "")


def test_profile() -> None:
    x, wanted = example()
    for threads in (1, 2):
        y = np.empty_like(x)
        profile = program(threads, batch=4).profile([x], [y])
        np.testing.assert_array_equal(y, wanted)
        (scale,) = profile.kernels
        assert (scale.name, scale.calls) == ("scale", ROWS)
        assert 0 < scale.seconds < threads * profile.seconds
        trips = ROWS // 4 * 5 + ROWS * 4
        assert 0 <= profile.instructions - trips <= 8 * threads


def test_wrong_arrays() -> None:
    run = program()
    x, _ = example()
    y = np.empty_like(x)
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    for inputs, outputs, message in (
        ([], [y], "'main' takes 1 inputs and 1 outputs, not 0 and 1"),
        ([x], [], "not 1 and 0"),
        ([x.tolist()], [y], "'x' must be a NumPy array, not list"),
        ([x[:3]], [y], r"'x' must be f32 of shape \[64, 32\], not float32 of shape \[3, 32\]"),
        ([x.astype(np.float64)], [y], "not float64"),
        ([x], [np.asfortranarray(y)], "'y' must be C-contiguous and aligned"),
        ([x], [read_only], "'y' must be writeable"),
    ):
        with pytest.raises(CallError, match=message):
            run.run(inputs, outputs)


def test_wrong_settings() -> None:
    module = Module([Function("main", (), (), (), 0, [Instruction("ret")])])
    with pytest.raises(ValueError, match="unknown engine 'gpu'; engines of the VM: vm, jit"):
        Program(module, engine="gpu")
    with pytest.raises(ValueError, match="threads must be from 1 to 64"):
        Program(module, threads=0)
    with pytest.raises(BytecodeError, match="no function 'other'"):
        Program(module, function="other")


def test_memory_that_there_is_not() -> None:
    arena = Function("main", (), (), (), MAX_BYTES, [Instruction("ret")])
    output = Function("main", (), (TensorSpec("y", "f64", (MAX_BYTES // 8,)),), (), 0, [Instruction("ret")])
    for function in (arena, output):
        with pytest.raises(MdslError, match=f"no memory for the {MAX_BYTES} bytes of the arena"):
            VmExecutable(Module([function]))()


def test_unverified_code_never_runs() -> None:
    code = [Instruction("const.i64", (0, 4)), Instruction("load.f32", (1, 0, 0)), Instruction("ret")]
    function = Function("main", (TensorSpec("x", "f32", (4,)),), (), ("i64", "f32"), 0, code)
    with pytest.raises(BytecodeError, match="may use elements"):
        Program(Module([function]))


def test_address() -> None:
    array = np.zeros((4, 6), np.float32)
    for view in (array, array[1:], array[:, 2:], np.zeros(0)):
        assert address(view) == view.ctypes.data
