"""The base of the interpreter's and the JIT's machines: kernel calls, the context, the profile, fuel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from mdsl.bytecode.machine import I8, I64, POINTER, Machine
from mdsl.bytecode.module import DTYPES
from mdsl.bytecode.worker_context import WorkerContext
from mdsl.ir.floats import bits_of
from mdsl.target.target import Target
from mdsl.vm.calls import clock_intrinsic
from mdsl.vm.memory import KernelProfile
from mdsl.vm.variant import Variant

ENTRY = ir.FunctionType(ir.VoidType(), [POINTER] * 4)
"""A function as both engines enter it: void(code, registers, buffers, context)."""

_KERNEL = ir.FunctionType(ir.VoidType(), [POINTER])
_SHARE = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [I64] * 3)


class NativeMachine(Machine):
    """Emits into a function whose worker's context is `context_pointer`."""

    context_pointer: ir.Value
    variant: Variant

    def context(self, field: int) -> ir.Value:
        return self.builder.load(self._field(field), typ=I64, align=8)

    def call_share(self, loop: list[ir.Value], lower: ir.Value, trips: ir.Value) -> None:
        """Call `share` of `calls` for a loop: its entry, code, registers and the list of those that its body reads."""
        b = self.builder
        function = b.load(self._field(WorkerContext.SHARE_FUNCTION), typ=_SHARE.as_pointer(), align=8)
        b.call(function, [self.context_pointer, *loop, lower, self.immediate("step"), trips])
        if self.variant.fuelled:
            self._finish_if(b.icmp_unsigned("==", self.context(WorkerContext.FUEL), I64(0)))

    def spend(self, steps: Callable[[], ir.Value]) -> None:
        """The context holds one more than what is left, and 0 once something was too long."""
        if not self.variant.fuelled:
            return
        b, wanted = self.builder, steps()
        left = self.context(WorkerContext.FUEL)
        enough = b.icmp_unsigned("<", wanted, left)
        b.store(b.select(enough, b.sub(left, wanted), I64(0)), self._field(WorkerContext.FUEL), align=8)
        self._finish_if(b.not_(enough))

    def _finish_if(self, condition: ir.Value) -> None:
        """Return from the function."""
        b = self.builder
        stop, go_on = b.append_basic_block("stop"), b.append_basic_block("go_on")
        b.cbranch(condition, stop, go_on)
        b.position_at_end(stop)
        self.finish()
        b.position_at_end(go_on)

    def call_native(
        self, address: ir.Value, profile: ir.Value, slots: ir.Value, arguments: list[ir.Value]
    ) -> None:
        """Store the arguments in `slots`, then where the fuel is, and call the kernel; `profile` is the offset of
        its counters."""
        b = self.builder
        if self.variant.fuelled:
            arguments = [*arguments, b.ptrtoint(self._field(WorkerContext.FUEL), I64)]
        for index, argument in enumerate(arguments):
            b.store(argument, b.gep(slots, [I64(8 * index)], source_etype=I8), align=8)
        kernel = b.inttoptr(address, _KERNEL.as_pointer())
        before = self._ticks() if self.variant.profiled else None
        b.call(kernel, [slots])
        if before is not None:
            self.count(KernelProfile.CALLS, profile, I64(1))
            self.count(KernelProfile.TICKS, profile, b.sub(self._ticks(), before))

    def count(self, counter: int, offset: ir.Value, amount: ir.Value) -> None:
        """Add to a counter of the worker's profile."""
        b = self.builder
        profile = b.load(self._field(WorkerContext.PROFILE), typ=POINTER, align=8)
        pointer = b.gep(profile, [b.add(offset, I64(8 * counter))], source_etype=I8)
        b.store(b.add(b.load(pointer, typ=I64, align=8), amount), pointer, align=8)

    def _field(self, field: int) -> ir.Value:
        return self.builder.gep(self.context_pointer, [I64(8 * field)], source_etype=I8)

    def _ticks(self) -> ir.Value:
        module = self.builder.module
        name = clock_intrinsic(Target.host().architecture)
        clock = module.globals.get(name) or ir.Function(module, ir.FunctionType(I64, []), name)
        return self.builder.call(clock, [])


def slot_bits(value: int | float, element: str) -> int:
    """The 64-bit word whose first bytes are the element; a number too large for its type is an infinity."""
    dtype = DTYPES[element]
    return bits_of(value if isinstance(value, float) else np.array(value).astype(dtype).flat[0], dtype)
