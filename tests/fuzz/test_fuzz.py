"""What the fuzzers found stays mended; they find what is wrong on purpose, also a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdsl.arithmetic import ops as arithmetic
from mdsl.bytecode import verify
from mdsl.bytecode.encode import encode
from mdsl.bytecode.isa import OPCODES
from mdsl.bytecode.module import BytecodeError, Constant, Function, Instruction, Module, TensorSpec
from mdsl.codegen import bounds
from mdsl.ir.core import VerifyError
from mdsl.ir.declare import WORD_TENSOR
from tests.fuzz import FINDINGS, FUZZERS, bytecode, fuzzer, kernels, ops
from tests.fuzz import __main__ as runner
from tests.fuzz.checked import Violation, Worker, compute, wrap

FOUND = sorted(FINDINGS.glob("*-*.*"))


def test_the_second_opinion_knows_every_opcode() -> None:
    """All but arithmetic, which `compute` knows by the name of its op. An unknown one would end each case unseen."""
    words = {name.partition(":")[0].rpartition(".")[2] for name in arithmetic.OPS}
    names = {mnemonic.partition(".")[0] for mnemonic in OPCODES} - words - {"ret"}
    assert [name for name in sorted(names) if not hasattr(Worker, f"_{name}")] == []


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_findings_stay_mended(path: Path) -> None:
    fuzzer(path.name.partition("-")[0]).check(path.read_bytes())


@pytest.mark.parametrize("name", [name for name in FUZZERS if name != "properties"])
def test_some_cases_and_always_the_same(name: str) -> None:
    for seed in range(2):
        data = fuzzer(name).make(seed)
        assert fuzzer(name).make(seed) == data
        fuzzer(name).check(data)


def module_of(*code: tuple, registers: tuple[str, ...] = ("i64",) * 4) -> bytes:
    """A module that the bytecode fuzzer may check."""
    instructions = [Instruction(name, tuple(operands)) for name, *operands in (*code, ("ret",))]
    inputs = (TensorSpec("x", "f32", (16,)), TensorSpec("n", "i64", (8,)))
    outputs = (TensorSpec("y", "f32", (16,)), TensorSpec("m", "i64", (8,)))
    constants = [Constant("w", np.arange(8, dtype=np.float32)), Constant("b", np.arange(5, dtype=np.int8))]
    return encode(Module([Function("main", inputs, outputs, registers, 96, instructions)], [], constants))


def silent(*_: Any, **__: Any) -> None:
    """A check that passes."""


def test_an_access_that_the_verifier_misses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(("const.i64", 0, 8), ("store.i64", 0, 3, 0))
    monkeypatch.setattr(verify._Verifier, "_access", silent)
    with pytest.raises(Violation, match="element 8"):
        bytecode.check(data)


def test_a_value_outside_of_what_was_proved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(("const.i64", 0, 8), ("lea", 1, 0, 0, 1, 0), ("mov.i64", 2, 1))
    monkeypatch.setattr(verify, "affine", lambda base, index, stride, offset=0: base)
    with pytest.raises(Violation, match=r"register 1 is 16, not in \[8, 8\]"):
        bytecode.check(data)


def test_what_goes_from_trip_to_trip_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(
        ("const.i64", 0, 0), ("const.i64", 1, 4), ("parallel_begin", 2, 0, 1, 1), ("mov.i64", 3, 4), ("mov.i64", 4, 2),
        ("parallel_end",), registers=("i64",) * 5,
    )  # fmt: skip
    with pytest.raises(BytecodeError, match="register 4 may be read"):
        bytecode.check(data)
    monkeypatch.setattr(bytecode, "facts_of", lambda module, function, _: {i: {} for i in range(9)})
    with pytest.raises(Violation, match="register 4 is read before it is written"):
        bytecode.check(data)


def test_an_engine_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(("const.i64", 0, 3), ("const.i64", 1, 4), ("muli.i64", 2, 0, 1), ("store.i64", 2, 3, 0))
    bytecode.check(data)
    monkeypatch.setitem(sys.modules["tests.fuzz.checked"].INTEGERS, "muli", lambda a, b: a + b)
    monkeypatch.setattr(bytecode, "facts_of", lambda module, function, _: {i: {} for i in range(9)})
    with pytest.raises(AssertionError, match="vm, output 1"):
        bytecode.check(data)


def test_a_kernel_beyond_its_bounds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """ukernel.func @kernel(%a: memref<4xi8>, %i: index {mdsl.range = array<i64: 4, 9>}) {
      %v = memref.load %a[%i] : memref<4xi8>
      ukernel.return
    }"""
    with pytest.raises(VerifyError):
        kernels.check(text.encode())
    monkeypatch.setattr(bounds._Prover, "_within", silent)
    run = kernels.checked_kernel(text)
    with pytest.raises(Exception, match="index 5 is out of bounds"):
        run((np.zeros(4, np.uint8), 0), 5)


def test_what_the_reference_and_the_vm_see_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """func.func @main(%x: tensor<2x2xi1>) -> tensor<2x2xi1> {
      %y = nn.shift_left %x, %x : (tensor<2x2xi1>, tensor<2x2xi1>) -> tensor<2x2xi1>
      return %y : tensor<2x2xi1>
    }"""
    ops.check(text.encode())
    monkeypatch.setitem(WORD_TENSOR.__dict__, "accepts", lambda _: True)  # frozen
    with pytest.raises(AssertionError, match="not equal"):
        ops.check(text.encode())


def test_integers_are_computed_as_they_should_be() -> None:
    lowest = -(1 << 63)
    for name, operands, wanted in (
        ("divsi", [lowest, -1], lowest), ("remsi", [lowest, -1], 0), ("floordivsi", [-7, 2], -4),
        ("divsi", [-7, 2], -3), ("remsi", [-7, 2], -1), ("ceildivsi", [7, 2], 4), ("divui", [-1, 2], (1 << 63) - 1),
        ("muli", [lowest, 2], 0), ("shli", [1, 64], 0), ("shrsi", [-1, 99], -1), ("absi", [lowest], lowest),
    ):  # fmt: skip
        assert wrap(compute(name, "", operands, "i64"), "i64") == wanted, (name, operands)


def test_a_crash_is_attributed_to_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies at its third case; the next one goes on behind it."""
    script = tmp_path / "crash.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(runner.ROOT)!r})\n"
        "from tests.fuzz import __main__ as runner, text\n"
        "def check(data):\n"
        f"    if data == text.make(72) and not os.path.exists({str(tmp_path / 'once')!r}):\n"
        f"        open({str(tmp_path / 'once')!r}, 'w').close()\n"
        "        os.abort()\n"
        "text.check = check\n"
        "sys.exit(runner.main())\n"
    )
    monkeypatch.setattr(runner, "FINDINGS", tmp_path)
    monkeypatch.setattr(runner, "WORKER", [sys.executable, str(script)])
    assert runner.watch(["text"], 70, 1, 4.0)
    assert (tmp_path / "text-72.mir").read_bytes() == fuzzer("text").make(72)


def test_the_command_runs(executes: None) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--minutes",
        "0.02",
        "--jobs",
        "1",
        "--only",
        "text",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runner.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "fuzzing text from seed 1" in done.stdout and "0 findings" in done.stdout
