"""The innermost loops of machine code: where they are in an assembly listing, and what their instructions do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

KINDS = (
    "fma", "fma of memory", "fma of a broadcast", "fma of a lane", "arithmetic", "shuffle", "broadcast",
    "load", "store", "spill", "move", "prefetch", "scalar",
)  # fmt: skip
"""What an instruction can be, in the order in which a mix is told. Spills are stores to the stack's slots and loads from
them; a move copies a register; scalar is what counts, computes addresses and branches."""

PRODUCTS = frozenset(KINDS[:4])
"""The multiply-adds, however their operands come."""


@dataclass(frozen=True)
class Loop:
    """An innermost loop of a function."""

    function: str
    number: int
    """Among the function's loops, from 0."""
    architecture: str
    lines: tuple[str, ...]
    """From the label to the branch back to it."""

    def text(self, unique: int) -> str:
        """The loop as an assembler takes it, with labels that no loop of another number has."""
        return "".join(re.sub(r"\bL(?=BB)", f"L{unique}_", line) + "\n" for line in self.lines)

    @property
    def name(self) -> str:
        """The function's, with the loop's number."""
        return f"{self.function}, {self.number + 1}" if self.number else self.function

    @cached_property
    def body(self) -> list[str]:
        """The instructions."""
        return [line.strip() for line in self.lines if not _LABEL.match(line)]

    @cached_property
    def mix(self) -> Counter[str]:
        """How many instructions of each kind there are."""
        kind = _x86 if self.architecture == "x86_64" else _aarch64
        return Counter(kind(*_parts(line)) for line in self.body)

    @property
    def fmas(self) -> int:
        """The multiply-adds, however their operands come; where a multiplication and an addition are two instructions,
        the multiplications that an addition follows."""
        return sum(self.mix[kind] for kind in PRODUCTS) or min(self._count("mulp"), self._count("addp"))

    def _count(self, opcode: str) -> int:
        return sum(_parts(line)[0].startswith(opcode) for line in self.body)

    def __str__(self) -> str:
        return ", ".join(f"{self.mix[kind]} {kind}" for kind in KINDS if self.mix[kind])


def innermost(assembly: str, architecture: str) -> list[Loop]:
    """The innermost loops of the functions of a listing that LLVM wrote, in order."""
    return [
        Loop(name, number, architecture, loop)
        for name, lines in _functions(assembly)
        for number, loop in enumerate(_loops(lines))
    ]


_FUNCTION = re.compile(r"^_?([A-Za-z]\w*):")
_LABEL = re.compile(r"^(\.?L\w+):")
_JUMP = re.compile(r"^\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?(\.?LBB\w+)$")


def _functions(assembly: str) -> Iterator[tuple[str, list[str]]]:
    """Each function's name and lines: labels and instructions, without directives. (There are no comments.)"""
    name, lines = "", list[str]()
    for line in assembly.splitlines():
        if _LABEL.match(line) or (line.startswith("\t") and not line.startswith("\t.")):
            lines.append(line)
        elif found := _FUNCTION.match(line):
            if name:
                yield name, lines
            name, lines = found[1], []
    if name:
        yield name, lines


def _loops(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """What lies between a label and a branch back to it, if no other such stretch lies within."""
    labels = {found[1]: at for at, line in enumerate(lines) if (found := _LABEL.match(line))}
    jumps = [(labels[found[1]], at) for at, line in enumerate(lines) if (found := _JUMP.match(line))]
    back = {start: end for start, end in jumps if start < end}
    for start, end in sorted(back.items()):
        if not any(start < other < end or (start == other and last < end) for other, last in back.items()):
            yield tuple(lines[start : end + 1])


def _parts(line: str) -> tuple[str, list[str]]:
    """An instruction's opcode and operands."""
    opcode, _, rest = line.partition("\t")
    return opcode, [operand.strip() for operand in re.split(r",(?![^(\[{]*[)\]}])", rest) if operand]


Kind = Callable[[str, list[str]], str]

_X86_SHUFFLES = re.compile(
    r"v?(insert|extract|perm|shuf|unpck|p?blend|mov[hl]|movs[hl]dup|p?align|pack|punpck|pshuf|pins|pext)"
)


def _x86(opcode: str, operands: list[str]) -> str:
    """The kind of an instruction of x86, in AT&T's syntax: sources first."""
    memory = [operand for operand in operands if "(" in operand]
    if opcode.startswith("prefetch"):
        return "prefetch"
    if any(re.fullmatch(r"-?\d*\(%rsp\)", operand) for operand in memory):
        return "spill"
    if re.match(r"vfn?m(add|sub)", opcode):
        if memory:
            return "fma of a broadcast" if "{1to" in memory[0] else "fma of memory"
        return "fma"
    if "broadcast" in opcode or opcode == "movddup":
        return "broadcast"
    if not any(re.search(r"%[xyz]mm|%k\d", operand) for operand in operands):
        return "move" if opcode in ("movq", "movl") and _registers(operands) else "scalar"
    if re.match(r"v?mov", opcode) and memory:
        return "store" if "(" in operands[-1] else "load"
    if re.match(r"v?mov([au]p[sd]|dq[au]|q$|d$)", opcode):
        return "shuffle" if "{%k" in operands[-1] else "move"  # under a mask it selects, as blends do
    return "shuffle" if _X86_SHUFFLES.match(opcode) else "arithmetic"


def _registers(operands: list[str]) -> bool:
    return all(operand.startswith("%") for operand in operands)


_ARM_VECTOR = re.compile(r"\{? ?[vqdsz]\d+")
_ARM_SHUFFLES = re.compile(r"(zip|uzp|trn|ext|tbl|ins|rev|dup)")


def _aarch64(opcode: str, operands: list[str]) -> str:
    """The kind of an instruction of AArch64: destinations first."""
    base = opcode.split(".")[0]
    first = operands[0] if operands else ""
    if base == "prfm":
        return "prefetch"
    if re.match(r"(ldr|ldp|ldur|str|stp|stur)$", base) and any(
        re.match(r"\[sp\b", operand) for operand in operands
    ):
        return "spill"
    if not _ARM_VECTOR.match(first):
        return "move" if base == "mov" and re.match(r"[xw]\d+|[xw]zr", operands[1]) else "scalar"
    if base in ("fmla", "fmls", "fmad", "fmadd"):
        return "fma of a lane" if operands[-1].endswith("]") else "fma"
    if base in ("ld1r", "ld1rw"):
        return "broadcast"
    if base == "dup":
        return "broadcast"
    if base.startswith(("ld", "st")):
        return "store" if base.startswith("st") else "load"
    if base in ("mov", "fmov"):
        return "shuffle" if "]" in "".join(operands) else "move"
    return "shuffle" if _ARM_SHUFFLES.match(base) else "arithmetic"
