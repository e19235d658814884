"""Every opcode whose registers are one, and chains of opcodes through one register."""

from dataclasses import replace

import numpy as np
import pytest
from llvmlite import ir

from mdsl.bytecode.isa import OPCODES, Opcode
from mdsl.bytecode.module import (
    TYPES,
    Constant,
    Function,
    Instruction,
    Module,
    TensorSpec,
)
from mdsl.vm.handlers import HANDLER, Form, HandlerMachine
from mdsl.vm.program import Program
from mdsl.vm.variant import PLAIN
from tests.vm.opcode_programs import arithmetic_opcodes, inputs_of, program_over


class OrderedMachine(HandlerMachine):
    """Notes the order in which an instruction reads and writes its registers."""

    def __init__(self, opcode: Opcode, takes_last: bool) -> None:
        module, form = ir.Module(context=ir.Context()), Form(opcode.mnemonic, 1, takes_last)
        super().__init__(ir.Function(module, HANDLER, "handler"), opcode, form, PLAIN)
        self.order: list[str] = []

    def read(self, name: str) -> ir.Value:
        self.order.append("read")
        return super().read(name)

    def write(self, name: str, value: ir.Value) -> None:
        self.order.append("write")
        super().write(name, value)


@pytest.mark.parametrize("takes_last", [False, True])
@pytest.mark.parametrize("opcode", OPCODES.values(), ids=OPCODES)
def test_registers_are_read_before_any_is_written(opcode: Opcode, takes_last: bool) -> None:
    machine = OrderedMachine(opcode, takes_last)
    opcode.emit(machine)
    assert machine.order == sorted(machine.order)
    wanted = sum(operand.is_register for operand in opcode.operands)
    if opcode.block == "parallel":  # the counter is written by who takes the trips
        wanted -= 1
    assert len(machine.order) >= wanted


def test_every_opcode_with_its_registers_equal() -> None:
    """It computes what it computes from copies of the register, on both engines."""
    opcodes = [
        opcode
        for element in TYPES
        for opcode in arithmetic_opcodes(element)
        if {operand.type for operand in opcode.operands} == {element}
    ]
    for element in TYPES:
        chosen = [opcode for opcode in opcodes if opcode.operands[0].type == element]
        module, a = program_over(element, chosen), inputs_of(element)[0]
        aliased = aliasing(module, element)
        for engine in ("vm", "jit"):
            wanted, found = Program(module, engine=engine)(a, a, a), Program(aliased, engine=engine)(a, a, a)
            for opcode, one, other in zip(chosen, wanted, found, strict=True):
                assert one.tobytes() == other.tobytes(), (opcode.mnemonic, engine)


def aliasing(module: Module, element: str) -> Module:
    """The program of `program_over` whose every operation reads and writes one register."""
    (function,) = module.functions
    code = []
    for instruction in function.code:
        operands = OPCODES[instruction.opcode].operands
        if operands and operands[0].name == "result" and not instruction.opcode.startswith(("const", "load")):
            register = instruction.operands[0]
            code.append(Instruction(f"mov.{element}", (register, 3)))
            instruction = Instruction(instruction.opcode, (register,) * len(operands))
        code.append(instruction)
    return Module([replace(function, code=code)])


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_moves_and_addresses_with_their_registers_equal(engine: str) -> None:
    """y = [7 + 7 * 3 + 2, table[1] by an index that is overwritten, base + index * stride, the trips of a loop]."""
    code = [
        Instruction("const.i64", (0, 7)), Instruction("lea", (0, 0, 0, 3, 2)), Instruction("const.i64", (1, 0)),
        Instruction("mov.i64", (0, 0)), Instruction("store.i64", (0, 1, 1)),
        Instruction("const.i64", (2, 1)), Instruction("load.i64", (2, 2, 2)), Instruction("const.i64", (1, 1)),
        Instruction("store.i64", (2, 1, 1)),
        Instruction("const.i64", (2, 1)), Instruction("loadx.i64", (2, 0, 2, 2, 2)), Instruction("const.i64", (1, 2)),
        Instruction("storex.i64", (2, 1, 1, 1, 0)),
        # The counter takes the place of the start.
        Instruction("const.i64", (0, 1)), Instruction("const.i64", (3, 6)), Instruction("const.i64", (4, 0)),
        Instruction("loop_begin", (0, 0, 3, 2)), Instruction("lea", (4, 4, 0, 10, 0)), Instruction("loop_end"),
        Instruction("const.i64", (1, 3)), Instruction("store.i64", (4, 1, 1)), Instruction("ret"),
    ]  # fmt: skip
    x, y = TensorSpec("x", "i64", (4,)), TensorSpec("y", "i64", (4,))
    module = Module([Function("main", (x,), (y,), ("i64",) * 5, 0, code)])
    module.constants.append(Constant("table", np.array([5, 6], np.int64)))
    (found,) = Program(module, engine=engine)(np.array([10, 11, 12, 13]))
    assert found.tolist() == [30, 6, 13, 10 * (1 + 3 + 5)]


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_what_was_just_written_is_read_wherever_one_comes_from(engine: str) -> None:
    """Chains of i64 ops through one register: straight on, from a loop's counter, behind a loop, and behind both arms of an if."""
    code = [
        Instruction("const.i64", (0, 0)), Instruction("const.i64", (1, 6)), Instruction("const.i64", (3, 0)),
        Instruction("const.i64", (5, 1)),
        Instruction("loop_begin", (2, 0, 1, 1)),
        Instruction("addi.i64", (4, 2, 2)),  # the counter, of the first trip and the others
        Instruction("muli.i64", (4, 4, 4)), Instruction("subi.i64", (4, 5, 4)),  # the second operand
        Instruction("andi.i64", (6, 2, 5)), Instruction("trunci.i64.i1", (7, 6)),
        Instruction("if_begin", (7,)), Instruction("addi.i64", (3, 3, 4)),
        Instruction("else"), Instruction("addi.i64", (3, 3, 1)), Instruction("if_end"),
        Instruction("muli.i64", (3, 3, 1)), Instruction("storex.i64", (3, 0, 2, 0, 0)),
        Instruction("loop_end"),
        Instruction("addi.i64", (3, 3, 1)), Instruction("storex.i64", (3, 0, 1, 0, 0)), Instruction("ret"),
    ]  # fmt: skip
    types = ("i64",) * 7 + ("i1",)
    (found,) = Program(
        Module([Function("main", (), (TensorSpec("y", "i64", (7,)),), types, 0, code)]), engine=engine
    )()
    total, wanted = 0, list[int]()
    for counter in range(6):
        total = (total + (1 - (2 * counter) ** 2 if counter % 2 else 6)) * 6
        wanted.append(total)
    assert found.tolist() == [*wanted, 6 + total]
