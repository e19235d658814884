"""The order of ops in a block that changes."""

import random

from mdsl.analysis import order as module
from mdsl.analysis.order import Order
from mdsl.dialects import arith
from mdsl.ir.core import Block
from mdsl.ir.types import index


def _constant() -> arith.Constant:
    return arith.Constant(results=[index], value=1)


def test_numbers_follow_the_block_through_insertions_and_moves(monkeypatch):
    monkeypatch.setattr(module, "_GAP", 8)  # often full
    chance, block, order = random.Random(0), Block(), Order()
    block.append(_constant())
    for _ in range(200):
        ops = block.ops
        before = chance.choice(ops)
        moved = chance.choice(ops)
        order.insert(_constant() if moved is before else moved, before)
        if moved is not before:
            order.insert(_constant(), before)
        numbers = [order.of(op) for op in block.ops]
        assert numbers == sorted(set(numbers))


def test_what_was_not_moved_keeps_its_number():
    block, order = Block(), Order()
    ops = [block.append(_constant()) for _ in range(3)]
    numbers = [order.of(op) for op in ops]
    for _ in range(40):
        order.insert(_constant(), ops[1])
    assert [order.of(op) for op in ops] == numbers
