"""Static counts: a micro-kernel's arithmetic, and the bytes that a dispatch may touch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mdsl.analysis.footprints import KernelSignatures
from mdsl.analysis.intervals import Interval
from mdsl.analysis.work import kernels_of, work_of
from mdsl.bytecode.module import Buffer, Function, Module
from mdsl.bytecode.verify import verify
from mdsl.syntax.parser import parse


def kernel_flops(source: str) -> int:
    """The floating-point operations of one call of a kernel, given as IR text (see `analysis/work.py`)."""
    return sum(work_of(kernel, {}).flops for kernel in kernels_of(parse(source)).values())


@dataclass(frozen=True)
class Reaches:
    """The bytes that the arguments of dispatches span, over all trips of the loops around them: bytes between the
    first and the last that an argument may touch count, also those that a strided access skips."""

    buffers: Sequence[Buffer]
    spans: Mapping[int, Mapping[int, Sequence[Interval]]]
    """By the index of the dispatch's instruction, then by the buffer's number."""

    def constants(self, dispatches: Iterable[int]) -> int:
        """Bytes of constants that these dispatches touch together."""
        return self._together(dispatches, constant=True)

    def activations(self, dispatches: Iterable[int]) -> int:
        """Bytes of all else that these dispatches touch together."""
        return self._together(dispatches, constant=False)

    def _together(self, dispatches: Iterable[int], constant: bool) -> int:
        touched: dict[int, list[Interval]] = {}
        for index in dispatches:
            for buffer, spans in self.spans[index].items():
                if (self.buffers[buffer].kind == "constant") is constant:
                    touched.setdefault(buffer, []).extend(spans)
        return sum(map(_union, touched.values()))


def reaches(module: Module, signatures: KernelSignatures) -> Reaches:
    """What each dispatch of the module's main function may touch."""
    function = module.function()
    touched: dict[int, dict[int, list[Interval]]] = {
        index: {} for index, instruction in enumerate(function.code) if instruction.opcode == "dispatch"
    }

    def observe(where: Function, index: int, buffer: int, span: Interval) -> None:
        if where is function:
            touched[index].setdefault(buffer, []).append(span)

    verify(module, signatures, observe)
    return Reaches(module.buffers(function), touched)


def _union(intervals: list[Interval]) -> int:
    """How many numbers the intervals hold together."""
    total, end = 0, -1
    for low, high in sorted(intervals):
        total += max(high - max(low - 1, end), 0)
        end = max(end, high)
    return total
