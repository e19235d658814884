"""lower-vm: peephole fusion of two loads and a multiply-add into one instruction."""

from __future__ import annotations

from mdsl.dialects import mvm
from mdsl.dialects.math import Fma
from mdsl.ir.core import Builder, Value
from mdsl.passes.kernels.lower_vm.address import Registers


def fuse_dots(func: mvm.Func, registers: Registers) -> None:
    """Replaces `fma(load, load, sum)` by `mvm.dot`: the inner loop of a contraction in the interpreter.

    Before:

        %a = mvm.load %x, %row, %k : ...
        %b = mvm.load %w, %column, %k : ...
        %next = math.fma %a, %b, %sum : f32

    After:

        %next = mvm.dot %sum, %x, %row, %k, %w, %column, %k : ...
    """
    for op in func.walk():
        if not isinstance(op, Fma) or op.block is None:
            continue
        left, right, total = op.operands
        loads = [_only_load(v) for v in (left, right)]
        if len({left, right, total}) < 3 or None in loads:
            continue
        # A load moves down to the multiply-add: nothing may be written on the way.
        if any(load is None or not _reaches(load, op) for load in loads):
            continue
        operands: list[Value] = []
        strides: list[int] = []
        for load in loads:
            assert load is not None
            buffer, base, *index = load.operands
            operands += [buffer, base, index[0] if index else registers.constant(0)]
            strides.append(load.attr("stride"))
        dot = mvm.Dot(total, *operands, left_stride=strides[0], right_stride=strides[1])
        Builder.before(op).add(dot, op.result.name)
        op.replace_by(dot.result)
        for load in loads:
            assert load is not None
            load.erase()


def _only_load(value: Value) -> mvm.Load | None:
    """The load that makes `value`, if nothing else reads it."""
    owner = value.owner
    return owner if isinstance(owner, mvm.Load) and len(value.users) == 1 else None


def _reaches(load: mvm.Load, op: Fma) -> bool:
    """True if only loads and arithmetic lie between `load` and `op`, in one block."""
    at = load.next
    while at is not None and at is not op:
        if at.regions or not (at.has("pure") or at.has("reads")):
            return False
        at = at.next
    return at is op
