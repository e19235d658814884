"""Which of two ops of a block comes first, asked again and again while ops are inserted and moved."""

from __future__ import annotations

from mdsl.ir.core import Block, Op

_GAP = 1 << 60


class Order:
    """Numbers that grow along each block, with gaps: an op that is inserted halves one, and only where a gap is full is
    its block numbered anew."""

    def __init__(self) -> None:
        self.numbers: dict[Op, int] = {}

    def of(self, op: Op) -> int:
        """The op's number; those of one block may be compared until an op is inserted."""
        if op not in self.numbers:
            self._number(op.block)
        return self.numbers[op]

    def insert(self, op: Op, before: Op) -> None:
        """Links `op`, or moves it, to in front of `before`."""
        if op.block is not None:
            op.detach()
        assert before.block is not None
        before.block.insert(op, before)
        upper = self.of(before)
        lower = upper - 2 * _GAP if op.prev is None else self.of(op.prev)
        self.numbers[op] = (lower + upper) // 2
        if upper - lower < 2:
            self._number(op.block)

    def _number(self, block: Block | None) -> None:
        assert block is not None
        self.numbers.update((op, i * _GAP) for i, op in enumerate(block.ops))
