"""What the innermost loops of the main kernels consist of, on every named target: for each program of bench/mca/kernels.mir
a file in loops/ with the instructions of each kind. `make golden` writes them anew; read what changed. `make test` looks at
the first target of each instruction set.

Nothing here depends on the host: LLVM generates code for any machine.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.mca.kernels import loops, programs
from bench.mca.loops import innermost
from mdsl.target.target import TARGETS, Target
from tests.targets import FIRST

FOLDER = Path(__file__).with_name("loops")


@pytest.mark.slow
@pytest.mark.parametrize("program", programs())
def test_loops_of_all_targets(program: str, golden: bool) -> None:
    alike: dict[str, list[str]] = {}
    for target in _targets(program):
        alike.setdefault(_listing(program, target), []).append(target.name)
    text = "\n".join(f"{', '.join(names)}\n{listing}" for listing, names in alike.items())
    file = FOLDER / f"{program}.txt"
    if golden:
        file.write_text(text)
    assert text == file.read_text(), f"{file} differs; 'make golden' writes it anew"


@pytest.mark.parametrize("program", programs())
def test_loops(program: str, golden: bool) -> None:
    if golden:
        return  # the file is just being written
    text = (FOLDER / f"{program}.txt").read_text()
    expected = {
        name: listing
        for names, listing in re.findall(r"^(\S.*)\n((?: .*\n)*)", text, re.MULTILINE)
        for name in names.split(", ")
    }
    targets = [target for target in _targets(program) if target.name in FIRST]
    assert len(targets) > 1
    for target in targets:
        assert _listing(program, target) == expected[target.name], "'make golden' writes the file anew"


def _targets(program: str) -> list[Target]:
    """All; of Winograd's method, whose many kernels take long, one of each instruction set."""
    names = ("avx512", "avx2", "x86-64-v2", "neon") if program.startswith("winograd") else TARGETS
    return [TARGETS[name] for name in names]


def _listing(program: str, target: Target) -> str:
    return "".join(f"    {loop.name}: {loop}\n" for loop in loops(program, target))


X86 = """
first:
\txorl\t%eax, %eax
.LBB0_1:
\tmovq\t%rax, %rcx
.LBB0_2:
\tvmovups\t(%rdi,%rcx,4), %ymm1
\tvbroadcastss\t(%rsi), %ymm2
\tvfmadd231ps\t%ymm1, %ymm2, %ymm0
\tvfmadd231ps\t32(%rdi,%rcx,4), %ymm2, %ymm3
\tvfmadd231ps\t(%rsi){1to8}, %ymm2, %ymm4
\tvmovaps\t%ymm3, 64(%rsp)
\tvaddps\t96(%rsp), %ymm3, %ymm3
\tvmovaps\t%ymm3, %ymm4
\tvmovaps\t%ymm3, %ymm4 {%k1}
\tvaddps\t%ymm1, %ymm2, %ymm5
\tvinsertps\t$16, (%rdx), %xmm5, %xmm5
\tvmovups\t%ymm5, (%rdx)
\tprefetcht0\t512(%rsi)
\tincq\t%rcx
\tjb\t.LBB0_2
\taddq\t$1, %rax
\tjne\t.LBB0_1
\tretq
"""

AARCH64 = """
second:
.LBB0_1:
\tldp\tq1, q2, [x0], #32
\tld1r\t{ v3.4s }, [x1]
\tldr\ts4, [x2]
\tfmla\tv0.4s, v1.4s, v3.4s
\tfmla\tv5.4s, v2.4s, v4.s[0]
\tstr\tq5, [sp, #16]
\tmov\tv6.16b, v5.16b
\tmov\tx9, x10
\tmov\tv6.s[1], v5.s[0]
\tfadd\tv6.4s, v6.4s, v0.4s
\tstp\tq6, q6, [x3]
\tprfm\tpldl1keep, [x1, #512]
\tsubs\tx4, x4, #1
\tb.ne\t.LBB0_1
\tret
"""

APPLE = """
_third:
LBB0_1:
\tfmla.4s\tv0, v1, v2[3]
\tmov.16b\tv3, v0
\tcbnz\tx0, LBB0_1
\tret
"""


@pytest.mark.parametrize(
    ("listing", "architecture", "expected"),
    [
        (
            X86,
            "x86_64",
            "first: 1 fma, 1 fma of memory, 1 fma of a broadcast, 1 arithmetic, 2 shuffle, 1 broadcast, 1 load, "
            "1 store, 2 spill, 1 move, 1 prefetch, 2 scalar",
        ),
        (
            AARCH64,
            "aarch64",
            "second: 1 fma, 1 fma of a lane, 1 arithmetic, 1 shuffle, 1 broadcast, 2 load, 1 store, 1 spill, "
            "2 move, 1 prefetch, 2 scalar",
        ),
        (APPLE, "aarch64", "third: 1 fma of a lane, 1 move, 1 scalar"),
    ],
)
def test_kinds(listing: str, architecture: str, expected: str) -> None:
    """Only the innermost loop is one, and each kind of instruction is known by its text."""
    assert [f"{loop.name}: {loop}" for loop in innermost(listing, architecture)] == [expected]


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.isa.by_element])
def test_neon_is_clean(name: str) -> None:
    """LLVM does not gather loads, for which it would spill accumulators, and takes all elements from lanes."""
    for loop in loops("matmul", TARGETS[name]):
        others = ("spill", "move", "broadcast", "fma")
        assert not any(loop.mix[kind] for kind in others), f"{loop.name}: {loop}"
