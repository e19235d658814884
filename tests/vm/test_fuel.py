"""A limit of steps: exact, on any number of threads, whoever does what."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.analysis.footprints import MAX_ARGUMENTS
from mdsl.bytecode import encode
from mdsl.bytecode.module import BufferArgument, Function, Instruction, Kernel, Module, TensorSpec
from mdsl.codegen.kernels import load_kernels
from mdsl.vm.program import Program
from tests.vm.test_executable import COLUMNS, ROWS, example, module_with, scale

ENGINES = pytest.mark.parametrize("engine", ["vm", "jit"])
THREADS = pytest.mark.parametrize("threads", [1, 2])
HUGE = 1 << 60
Y = TensorSpec("y", "i64", (4,))

STEPS = ROWS + ROWS + ROWS + ROWS * COLUMNS
"""Of `module_with`: two loops, a kernel's call a row, and a copy of a row."""


def scaled(fuel: int, engine: str, threads: int) -> Program:
    module = module_with(threads > 1)
    return Program(module, scale(), engine, threads, fuel=fuel)


@ENGINES
@THREADS
def test_enough_is_enough_and_one_less_is_not(engine: str, threads: int) -> None:
    x, wanted = example()
    y = np.empty_like(x)
    enough, short = (scaled(STEPS - less, engine, threads) for less in (0, 1))
    for _ in range(3):
        np.testing.assert_array_equal(enough(x)[0], wanted)
        with pytest.raises(mdsl.MdslError, match=f"takes more than {STEPS - 1} steps"):
            short(x)
    assert enough.profile([x], [y]).kernels[0].calls == ROWS
    np.testing.assert_array_equal(y, wanted)
    with pytest.raises(mdsl.MdslError, match="takes more than"):
        short.profile([x], [y])


@pytest.mark.parametrize("fuel", [0, 1, 2, 5, 63, 64, 65, 129, 500, 2000, STEPS - 1, STEPS])
@THREADS
def test_both_engines_stop_alike(fuel: int, threads: int) -> None:
    x, wanted = example()
    for engine in ("vm", "jit"):
        with (
            pytest.raises(mdsl.MdslError, match=f"more than {fuel} steps") if fuel < STEPS else nullcontext()
        ):
            np.testing.assert_array_equal(scaled(fuel, engine, threads)(x)[0], wanted)


def function(*code: Instruction, registers: int = 8) -> Module:
    return Module([Function("main", (), (Y,), ("i64",) * registers, 64, [*code, Instruction("ret")])])


def constants(*values: int) -> list[Instruction]:
    return [Instruction("const.i64", (register, value)) for register, value in enumerate(values)]


@ENGINES
@THREADS
@pytest.mark.parametrize("kind", ["loop", "parallel"])
def test_a_loop_that_would_take_for_ever(kind: str, engine: str, threads: int) -> None:
    module = function(
        *constants(0, HUGE),
        *(
            Instruction("loop_begin", (3, 0, 1, 1)),
            Instruction("store.i64", (3, 0, 0)),
            Instruction("loop_end"),
        ),
    )
    if kind == "parallel":
        module.functions[0].code[2:5] = [
            Instruction("parallel_begin", (3, 0, 1, 1)), Instruction("store.i64", (3, 1, 0)),
            Instruction("parallel_end"),
        ]  # fmt: skip
    with pytest.raises(mdsl.MdslError, match="takes more than 1000000 steps"):
        Program(module, engine=engine, threads=threads, fuel=10**6)()


@ENGINES
def test_nested_loops_and_steps_add_up(engine: str) -> None:
    """5 trips of 4 of step 3 (to 10), and what never runs."""
    module = function(
        *constants(0, 5, 10),
        Instruction("loop_begin", (3, 0, 1, 1)),
        Instruction("loop_begin", (4, 0, 2, 3)),
        Instruction("loop_end"),
        Instruction("loop_begin", (5, 2, 1, 1)),
        Instruction("loop_end"),
        Instruction("loop_end"),
        Instruction("fill.i64", (0, 0, 0, 4)),
    )
    steps = 5 + 5 * 4 + 4
    Program(module, engine=engine, fuel=steps)()
    with pytest.raises(mdsl.MdslError):
        Program(module, engine=engine, fuel=steps - 1)()


@ENGINES
def test_workers_spend_from_one_fuel(engine: str) -> None:
    """The later a trip, the more steps it takes. Once stopped, a frame is as good as new."""
    module = function(
        *constants(0, 2, 100_000),
        Instruction("parallel_begin", (3, 0, 1, 1)),
        Instruction("muli.i64", (4, 3, 2)),
        Instruction("loop_begin", (5, 0, 4, 1)),
        Instruction("loop_end"),
        Instruction("parallel_end"),
        Instruction("store.i64", (2, 0, 0)),
    )
    steps = 2 + 100_000
    short, enough = (Program(module, engine=engine, threads=2, fuel=fuel) for fuel in (steps - 1, steps))
    for _ in range(20):
        with pytest.raises(mdsl.MdslError, match=f"more than {steps - 1} steps"):
            short()
        assert enough()[0][0] == 100_000


KERNEL = """ukernel.func @k(%y: memref<4xi64>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %end = arith.constant TRIPS : index
  %start = arith.constant 0 : i64
  scf.for %i = %c0 to %end step %c1 {
    scf.for %j = %c0 to %c1 step %c1 {
      %old = memref.load %y[%c0] : memref<4xi64>
      %one = arith.constant 1 : i64
      %new = arith.xori %old, %one : i64
      memref.store %new, %y[%c0] : memref<4xi64>
    }
  }
  ukernel.return
}
"""


def with_kernel(trips: int) -> Module:
    module = function(Instruction("dispatch", (0, ((BufferArgument(0),),))))
    module.kernels = [Kernel("k", KERNEL.replace("TRIPS", str(trips)))]
    return module


@ENGINES
def test_loops_in_kernels(engine: str, tmp_path: Path) -> None:
    encode.save(with_kernel(7), tmp_path / "k.mbc")
    encode.save(with_kernel(HUGE), tmp_path / "huge.mbc")
    steps = 7 + 7 + 1
    mdsl.load(tmp_path / "k.mbc", engine=engine, fuel=steps)()
    for path, fuel in (("k.mbc", steps - 1), ("k.mbc", 0), ("k.mbc", 6), ("huge.mbc", 10**6)):
        with pytest.raises(mdsl.MdslError, match=f"takes more than {fuel} steps"):
            mdsl.load(tmp_path / path, engine=engine, fuel=fuel)()


def test_kernels_without_a_limit_count_nothing() -> None:
    plain, fuelled = (load_kernels({"k": with_kernel(7).kernels[0].ir}, fuelled=f) for f in (False, True))
    assert plain.addresses != fuelled.addresses and plain.signatures == fuelled.signatures


def test_sixty_four_arguments_and_the_fuel() -> None:
    """The kernel's slots are followed by registers."""
    arguments = ", ".join(f"%y{i}: memref<4xi64>" for i in range(MAX_ARGUMENTS))
    body = KERNEL.replace("TRIPS", "3").replace("%y: memref<4xi64>", arguments).replace("%y[", "%y63[")
    module = function(
        *constants(41, 1, 0),
        Instruction("dispatch", (0, ((BufferArgument(0),) * MAX_ARGUMENTS,))),
        Instruction("store.i64", (0, 0, 2)),
    )
    module.kernels = [Kernel("k", body)]
    kernels = load_kernels({"k": body}, fuelled=True)
    for engine in ("vm", "jit"):
        run = Program(module, kernels, engine, fuel=7)
        assert run()[0][0] == 41


def test_what_is_no_fuel(tmp_path: Path) -> None:
    encode.save(with_kernel(7), tmp_path / "k.mbc")
    for fuel in (-1, 1 << 62, 1.5, "7"):
        with pytest.raises(mdsl.MdslError, match="fuel must be a number of steps"):
            mdsl.load(tmp_path / "k.mbc", fuel=fuel)  # type: ignore[arg-type]
    with pytest.raises(mdsl.MdslError, match="the reference counts no steps"):
        mdsl.load(tmp_path / "k.mbc", engine="reference", fuel=7)
    mdsl.load(tmp_path / "k.mbc", fuel=(1 << 62) - 1)()


def test_fuel_is_pickled(tmp_path: Path) -> None:
    encode.save(with_kernel(7), tmp_path / "k.mbc")
    again = pickle.loads(pickle.dumps(mdsl.load(tmp_path / "k.mbc", fuel=3)))
    with pytest.raises(mdsl.MdslError, match="more than 3 steps"):
        again()


def test_run_with_fuel(executes: None) -> None:
    command = [sys.executable, "-m", "mdsl", "run", "examples/mnist/cnn.mir", "--threads=2", "--fuel=10"]
    short = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert short.returncode == 1 and "error: the program takes more than 10 steps" in short.stderr
    assert "Traceback" not in short.stderr
