"""The verifier's state at a point of the code: what is known of each register, and the stack of open blocks.

A block keeps what was known before it of the registers that it writes to, and of no others: entering and leaving
it takes time for what it writes, however many registers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdsl.analysis.intervals import Interval
from mdsl.bytecode.structure import Step, registers_set

MAX_BLOCK_WRITES = 1 << 16
"""The registers that blocks write to, counted in each block, are at most so many and `_DEPTH` an instruction: the
time of the proof does not grow faster than the code."""
_DEPTH = 16


@dataclass
class Block:
    """An open block: what its body writes to, whether it surely runs.

    `before` is what was known of each register that has been written since the block began, None if nothing was;
    `then`, once the block has been divided, what is known of these at the end of its first branch.
    """

    step: Step
    written: frozenset[int]
    certain: bool = False
    before: dict[int, Interval | None] = field(default_factory=dict)
    then: dict[int, Interval | None] = field(default_factory=dict)


class State:
    """What is known of each register at one point of the code, and the blocks that are open there."""

    def __init__(self) -> None:
        self._facts: dict[int, Interval] = {}
        self.blocks: list[Block] = []

    @property
    def facts(self) -> Mapping[int, Interval]:
        """An interval, which says nothing of a float, of each register that has surely been written; they change by
        `set` alone."""
        return self._facts

    def set(self, register: int, fact: Interval | None) -> None:
        """The register holds something else from here on; with None, nothing that may be read."""
        if self.blocks:
            self.blocks[-1].before.setdefault(register, self._facts.get(register))
        self._put(register, fact)

    def open(self, block: Block) -> None:
        self.blocks.append(block)

    def divide(self) -> None:
        """From the end of the innermost block's first branch to the start of its second."""
        block = self.blocks[-1]
        block.then = {register: self._facts.get(register) for register in block.before}
        for register, fact in block.before.items():
            self._put(register, fact)

    def close(self) -> Block:
        """Leave the innermost block: what is known holds on every way through it, or around it."""
        block = self.blocks.pop()
        for register, before in block.before.items():
            if self.blocks:
                self.blocks[-1].before.setdefault(register, before)
            fact = self._facts.get(register)
            if not block.certain:
                other = block.then.get(register, before)
                fact = fact.join(other) if fact and other else None
            self._put(register, fact)
        return block

    def _put(self, register: int, fact: Interval | None) -> None:
        if fact is None:
            self._facts.pop(register, None)
        else:
            self._facts[register] = fact


def registers_written(steps: list[Step]) -> dict[int, frozenset[int]] | None:
    """For each instruction that opens a block, the registers that its body writes to; None if these are too
    many."""
    written: dict[int, frozenset[int]] = {}
    bodies: list[tuple[int, set[int]]] = [(-1, set())]
    left = MAX_BLOCK_WRITES + _DEPTH * len(steps)
    for index, step in enumerate(steps):
        if step.opcode.role == "close":
            start, registers = bodies.pop()
            left -= len(registers)
            if left < 0:
                return None
            written[start] = frozenset(registers)
            bodies[-1][1].update(registers)
        elif step.opcode.role == "":
            bodies[-1][1].update(registers_set(step))
        elif step.opcode.role == "open":
            bodies[-1][1].update(registers_set(step))
            bodies.append((index, set()))
    return written
