"""The verifier's state at a point of the code: what is known of each register, and the stack of open blocks.

A block keeps what was known before it of the registers that it writes to, and of no others: entering and leaving
it takes time for what it writes, however many registers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from mdsl.analysis.intervals import Interval
from mdsl.bytecode.structure import Step, registers_set

MAX_BLOCK_WRITES = 1 << 16
"""The registers that blocks write to, counted in each block, are at most so many and `_DEPTH` an instruction: the
time of the proof does not grow faster than the code."""
_DEPTH = 16


@dataclass
class Block:
    """An open block: what its body writes to, and whether it surely runs.

    `before` is what was known of each register that has been written since the block began, None if nothing was;
    `then`, once the block has been divided, what is known of these at the end of its first branch.
    """

    step: Step
    writes: Writes
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


class Effect(Enum):
    """What code does to a register that it writes to, whatever was known of that before."""

    SET = auto()
    """It surely has a value afterwards."""
    KEPT = auto()
    """It has one if it had one."""
    LOST = auto()
    """It has none."""


@dataclass
class Body:
    """The effects of a block's instructions, in order: of those read so far, or since the block was divided; `then`
    has those of its first branch."""

    effects: dict[int, Effect] = field(default_factory=dict)
    then: dict[int, Effect] = field(default_factory=dict)

    def add(self, register: int, effect: Effect) -> None:
        if effect is Effect.KEPT:
            self.effects.setdefault(register, effect)
        else:
            self.effects[register] = effect

    def divide(self) -> None:
        self.then, self.effects = self.effects, {}

    def ended(self, step: Step) -> dict[int, Effect]:
        """The effects of the whole block, on every way through it, or around it."""
        registers = self.effects.keys() | self.then.keys()
        if step.opcode.block == "parallel":
            return dict.fromkeys(registers, Effect.LOST)
        return {
            register: _either(self.effects.get(register, Effect.KEPT), self.then.get(register, Effect.KEPT))
            for register in registers
        }


def _either(one: Effect, other: Effect) -> Effect:
    if one is other:
        return one
    return Effect.LOST if Effect.LOST in (one, other) else Effect.KEPT


@dataclass(frozen=True)
class Writes:
    """The registers that a block's body writes to, and those of them that have no value at its end: none of these is
    carried to the next trip of a loop."""

    registers: frozenset[int]
    lost: frozenset[int]


def writes_of_blocks(steps: list[Step]) -> dict[int, Writes] | None:
    """For each instruction that opens a block, what its body writes to; None if these registers are too many."""
    writes: dict[int, Writes] = {}
    bodies: list[tuple[int, Body]] = [(-1, Body())]
    left = MAX_BLOCK_WRITES + _DEPTH * len(steps)
    for index, step in enumerate(steps):
        start, body = bodies[-1]
        if step.opcode.role == "divide":
            body.divide()
        elif step.opcode.role != "close":
            for register in registers_set(step):
                body.add(register, Effect.SET)
        if step.opcode.role == "open":
            bodies.append((index, Body()))
        elif step.opcode.role == "close":
            bodies.pop()
            writes[start] = _writes(body)
            left -= len(writes[start].registers)
            if left < 0:
                return None
            _leave(bodies[-1][1], body, step)
    return writes


def _writes(body: Body) -> Writes:
    lost = (register for register, effect in body.effects.items() if effect is Effect.LOST)
    return Writes(frozenset(body.effects.keys() | body.then.keys()), frozenset(lost))


def _leave(outer: Body, body: Body, step: Step) -> None:
    """A block's effects are some of the block around it; a loop's counter has no value after it."""
    for register, effect in body.ended(step).items():
        outer.add(register, effect)
    for counter in registers_set(step):
        outer.add(counter, Effect.LOST)
