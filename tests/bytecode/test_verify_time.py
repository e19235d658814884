"""The time of the proof grows with the code, and with nothing else."""

import time

import numpy as np
import pytest

from mdsl.bytecode.module import BytecodeError, Constant, Function, Instruction, Module
from mdsl.bytecode.verify import verify


def nest(depth: int, registers: int) -> Module:
    """So many registers, written before a nest of loops and in its innermost body."""
    zero = registers + depth
    writes = [Instruction("const.i64", (register, 0)) for register in range(registers)]
    code = [Instruction("const.i64", (zero, 0)), *writes]
    code += [Instruction("loop_begin", (registers + level, zero, zero, 1)) for level in range(depth)]
    code += [*writes, *[Instruction("loop_end")] * depth, Instruction("ret")]
    return Module([Function("main", (), (), ("i64",) * (zero + 1), 0, code)])


def test_registers_times_blocks_have_a_budget() -> None:
    verify(nest(8, 2000))
    with pytest.raises(BytecodeError, match="its blocks write to too many registers"):
        verify(nest(64, 4000))


def test_time_grows_with_the_code_not_with_registers_times_blocks() -> None:
    """A branch takes time for what it writes: 10,000 of them beside 10,000 registers took half a minute."""
    count = 10_000
    code = [Instruction("const.i64", (register, 0)) for register in range(count)]
    code += [Instruction("const.i1", (count, 0))]
    code += [Instruction("if_begin", (count,)), Instruction("if_end")] * count
    function = Function("main", (), (), ("i64",) * count + ("i1",), 0, [*code, Instruction("ret")])
    start = time.process_time()
    verify(Module([function]))
    assert time.process_time() - start < 5


def test_time_does_not_grow_with_functions_times_constants_or_names() -> None:
    count = 5_000
    functions = [Function(str(number), (), (), (), 0, [Instruction("ret")]) for number in range(count)]
    constants = [Constant(str(number), np.zeros(0, np.float32)) for number in range(count)]
    start = time.process_time()
    verify(Module(functions, constants=constants))
    with pytest.raises(BytecodeError, match=f"two functions are called '{count - 1}'"):
        verify(Module([*functions, functions[-1]]))
    assert time.process_time() - start < 2
