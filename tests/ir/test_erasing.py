"""What is erased is freed at once: nothing in it refers to itself."""

import gc
import weakref

from mdsl.dialects import arith, scf
from mdsl.ir.core import Block, Builder
from mdsl.ir.types import index


def test_an_erased_loop_is_freed_without_the_collector():
    block = Block()
    builder = Builder(block)
    lower, upper, step = (builder.value(arith.Constant(results=[index], value=n)) for n in (0, 8, 1))
    loop = builder.add(scf.For.make(lower, upper, step))
    inner = Builder(loop.body)
    inner.value(arith.AddI(loop.body.args[0], step))
    refs: list[weakref.ref[object]] = [weakref.ref(o) for o in (loop, loop.body, *loop.body.ops)]
    gc.disable()
    try:
        loop.erase()
        del loop, inner
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
    assert not step.users
