"""What the verifier knows at a point of the code, and of the blocks that are open there."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdsl.bytecode.intervals import Interval
from mdsl.bytecode.structure import Step


@dataclass
class State:
    """What is known of the registers at a point of the code.

    `known` has an interval for each initialised register (of a float one, that says nothing). `uniform` are
    the initialised registers that hold the same value in every worker.
    """

    known: dict[int, Interval] = field(default_factory=dict)
    uniform: set[int] = field(default_factory=set)

    def copy(self) -> State:
        return State(dict(self.known), set(self.uniform))

    def join(self, other: State) -> State:
        """What holds on both ways."""
        known = {
            register: interval.join(other.known[register])
            for register, interval in self.known.items()
            if register in other.known
        }
        return State(known, self.uniform & other.uniform)


@dataclass
class Block:
    """An open block: what was known before it, and whether the workers enter it together."""

    step: Step
    written: frozenset[int]
    before: State
    together: bool
    certain: bool = False
    """Whether the body surely runs."""
    then: State | None = None
    """What is known at the end of the first branch of an `if` that has two."""


def registers_written(steps: list[Step]) -> dict[int, frozenset[int]]:
    """For each instruction that opens a block, the registers that its body writes to."""
    written: dict[int, frozenset[int]] = {}
    bodies: list[tuple[int, set[int]]] = [(-1, set())]
    for index, step in enumerate(steps):
        if step.opcode.role == "close":
            start, registers = bodies.pop()
            written[start] = frozenset(registers)
            bodies[-1][1].update(registers)
        elif step.opcode.role == "":
            bodies[-1][1].update(_writes(step))
        elif step.opcode.role == "open":
            bodies[-1][1].update(_writes(step))
            bodies.append((index, set()))
    return written


def _writes(step: Step) -> list[int]:
    operands = (operand for operand, _ in step.operands.values())
    return [step.number(operand.name) for operand in operands if operand.kind in ("write", "update")]
