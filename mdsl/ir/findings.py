"""All that is wrong with a program, where the verifier stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mdsl.ir.core import Block, Op
from mdsl.ir.errors import VerifyError
from mdsl.ir.verifier import verify_fields


class Findings:
    """Every op's first error, without what only follows from another: of an op that reads results of a wrong one, or
    whose regions are not right, nothing more is said. For a program that `verify` refuses; values are in scope."""

    def __init__(self, wrong: Iterable[Op]) -> None:
        """`wrong`: ops of which an error is known."""
        self.errors: list[VerifyError] = []
        self.wrong = set(wrong)
        self.unsound = set(self.wrong)
        """The wrong ops and those that only follow from them: nothing is known of their operands and attributes."""

    def op(self, op: Op) -> bool:
        """False if something in or about the op is wrong."""
        follows = any(v.owner in self.wrong for v in op.operands) or (
            op.has("terminator") and op.parent in self.wrong
        )
        right = not follows and op not in self.wrong and self._passes(verify_fields, op)
        if not right:
            self.unsound.add(op)
        blocks = [self.block(region.block, op) for region in op.regions]
        whole = all(blocks)
        if right and whole and not self._asks_unsound(op):
            right = self._passes(type(op).verify_op, op)
        if not right:
            self.unsound.add(op)
            if not follows:
                self.wrong.add(op)
        return right and whole

    def _asks_unsound(self, op: Op) -> bool:
        """True for an op in the body of an unsound one, about whose loops it may ask."""
        for around in op.ancestors():
            if around.has("isolated"):
                return False
            if around in self.unsound:
                return True
        return False

    def block(self, block: Block, op: Op) -> bool:
        ops = [self.op(inner) for inner in block.ops]
        return all(ops) and self._passes(lambda _: _verify_end(block, op), op)

    def _passes(self, check: Callable[[Op], None], op: Op) -> bool:
        try:
            check(op)
        except VerifyError as error:
            self.errors.append(error)
            return False
        return True


def _verify_end(block: Block, op: Op) -> None:
    """The last op of a block, and no other, is a terminator."""
    for inner in block.ops:
        if inner.has("terminator") and inner.next is not None:
            raise inner.error("must be the last operation of its block")
    if block.last is not None and not block.last.has("terminator") and not op.has("no-terminator"):
        raise block.last.error(f"the last operation in '{op.name}' must be a terminator")
