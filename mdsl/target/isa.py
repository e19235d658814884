"""Instruction sets: what a vector register holds, how many there are, and what an instruction may do with memory."""

from __future__ import annotations

from dataclasses import dataclass

V2 = frozenset(["cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"])
V3 = V2 | frozenset(["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"])
V4 = V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])
"""What the levels of x86-64 consist of beyond what every such processor has, by LLVM's names."""


@dataclass(frozen=True)
class Isa:
    """An instruction set as the passes see it."""

    name: str
    vector_bytes: int
    registers: int
    """Vector registers."""
    shuffle_bytes: int = 16
    """The pieces of a register within which one instruction interleaves the elements of two registers."""
    fma: bool = True
    """A multiplication and an addition are one instruction; elsewhere the product stands in a register of its own."""
    memory_operands: bool = False
    """Arithmetic may read one vector from memory, which needs no register then."""
    folds_broadcasts: bool = False
    """Arithmetic may read one element from memory for all lanes; elsewhere a broadcast is an instruction and a register."""
    by_element: bool = False
    """A multiply-add may take one lane of a register for all lanes of another."""
    gathers: bool = False
    """Lanes may be loaded from addresses of their own."""
    half_conversions: bool = False
    """A vector of f16 becomes one of f32, and back, in one instruction."""

    @property
    def free(self) -> int:
        """Registers that accumulators and operands may take."""
        return self.registers if self.fma else self.registers - 1


SSE2 = Isa("sse2", 16, 16, fma=False, memory_operands=True)
SSE4 = Isa("sse4.2", 16, 16, fma=False, memory_operands=True)
AVX2 = Isa("avx2", 32, 16, memory_operands=True, gathers=True, half_conversions=True)
AVX512 = Isa(
    "avx512", 64, 32, memory_operands=True, folds_broadcasts=True, gathers=True, half_conversions=True
)
NEON = Isa("neon", 16, 32, by_element=True, half_conversions=True)
