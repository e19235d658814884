"""Programs of many opcodes on arrays."""

import numpy as np

from mdsl.bytecode.isa import OPCODES, Opcode
from mdsl.bytecode.module import (
    DTYPES,
    FLOAT_TYPES,
    Function,
    Instruction,
    Module,
    TensorSpec,
)

COUNT = 64


def inputs_of(element: str) -> list[np.ndarray]:
    """Three arrays with ordinary values and, for integers, every pair of the awkward ones."""
    random = np.random.default_rng(7)
    dtype = DTYPES[element]
    if element in FLOAT_TYPES:
        arrays = [random.uniform(-4, 4, COUNT).astype(dtype) for _ in range(3)]
        arrays[0][:4] = [0.0, -0.0, 1.5, -2.5]
        return arrays
    if element == "i1":
        return [random.integers(0, 2, COUNT).astype(bool) for _ in range(3)]
    limits = np.iinfo(dtype)
    awkward = [0, 1, -1, 2, limits.min, limits.max]
    pairs = [(a, b) for a in awkward for b in awkward]
    arrays = [random.integers(-50, 50, COUNT).astype(dtype) for _ in range(3)]
    arrays[0][: len(pairs)], arrays[1][: len(pairs)] = zip(*pairs, strict=True)
    return arrays


def arithmetic_opcodes(element: str) -> list[Opcode]:
    """The opcodes that compute something from registers of the type."""
    return [
        opcode
        for opcode in OPCODES.values()
        if [operand.name for operand in opcode.operands][:2] == ["result", "a"]
        and opcode.operands[1].type == element
    ]


def program_over(element: str, opcodes: list[Opcode]) -> Module:
    """y_k[i] = op_k(a[i], b[i], c[i]) for every i and opcode."""
    types = ["i64", "i64", "i64", element, element, element]
    code = [Instruction("const.i64", (0, 0)), Instruction("const.i64", (1, COUNT))]
    code += [Instruction("loop_begin", (2, 0, 1, 1))]
    code += [Instruction(f"load.{element}", (3 + k, k, 2)) for k in range(3)]
    outputs = []
    for number, opcode in enumerate(opcodes):
        result = opcode.operands[0].type
        types.append(result)
        register = len(types) - 1
        code.append(Instruction(opcode.mnemonic, (register, *range(3, 2 + len(opcode.operands)))))
        code.append(Instruction(f"store.{result}", (register, 3 + number, 2)))
        outputs.append(TensorSpec(opcode.mnemonic, result, (COUNT,)))
    code += [Instruction("loop_end"), Instruction("ret")]
    inputs = tuple(TensorSpec(name, element, (COUNT,)) for name in "abc")
    return Module([Function("main", inputs, tuple(outputs), tuple(types), 0, code)])
