"""bench/MCA.md: the kernels' loops on each core as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.mca.kernels import CONTRACTIONS
from bench.mca.model import Modelled, Rates
from mdsl.target.target import Target

SHARE = 90
"""Per cent of the core's multiply-adds that the main loop of a contraction must start."""


@dataclass(frozen=True)
class Row:
    """What there is to know of a target, and of those that only have other names."""

    names: list[str]
    target: Target
    rates: Rates
    programs: dict[str, list[Modelled]]

    @property
    def name(self) -> str:
        """The names."""
        return ", ".join(self.names)

    @property
    def loops(self) -> list[Modelled]:
        """Those of all programs."""
        return [m for some in self.programs.values() for m in some]

    def main(self, program: str) -> Modelled:
        """The loop that most of a contraction's time passes in: the largest that only multiplies and adds."""
        products = [m for m in self.programs[program] if m.loop.fmas and not m.loop.mix["store"]]
        return max(products, key=lambda m: m.loop.fmas)

    def share(self, program: str) -> float:
        """Per cent of the multiply-adds that the core could have started meanwhile."""
        main = self.main(program)
        return 100 * main.loop.fmas / main.cycles / self.rates.fmas

    def detail(self, program: str) -> str:
        """The main loop in words."""
        main = self.main(program)
        return f"{main.loop.function}: {main.cycles:.1f} cycles, {main.limit}; {main.loop}"


_SVE = """
## SVE

There is no target with SVE. LLVM makes instructions of 32 bytes of vectors of a fixed size for a Neoverse V1, but loads an
element and broadcasts it in an instruction of its own, which takes a unit that multiplies and adds: 80 % of the core's
multiply-adds in the matmul's loop and 67 % in the 3x3 convolution's, where NEON, whose instructions take a lane of a
register, has 100. Only the depthwise convolution gains (96 % against 72); elementary functions take as long. A Neoverse
N2 or V2 has SVE registers of 16 bytes, like NEON's.
"""


def page(rows: Sequence[Row]) -> str:
    """The page."""
    return "\n".join([_HEAD, *_shares(rows), _FAULTS, *_faults(rows), _CORES, *_cores(rows), _SVE])


_HEAD = f"""# The kernels on other cores

Written by `python -m bench mca`: the micro-kernels of [kernels.mir](mca/kernels.mir), compiled for each named target, and
their innermost loops on its core as `llvm-mca` models it. Every load finds its line in the first-level cache there.

## Multiply-adds

The main loop of each contraction: per cent of the multiply-adds that the core could start meanwhile (at least {SHARE}), how
many there are in how many cycles, and what sets these: a unit of the core, its width, or instructions that wait for
each other.
"""

_FAULTS = """
## Spills and moves

All innermost loops that copy registers or keep vectors on the stack; there should be none. Those that remain:

- A multiplication of SSE overwrites a factor, which is copied before unless it is used for the last time. On a Sandy Bridge these copies
  wait for one unit with the shuffles that broadcast elements, which is what the shares of 86 % lose.
- A single copy in a loop is one of an address, beside the vectors.
- Winograd's transforms have 36 values of a window at once, more than there are registers; a multiply-add overwrites one of its three
  operands, which is copied where it is used again. For AArch64 LLVM loads a window first and computes then.
- Softmax copies the coefficients of the exponential's polynomial likewise; with 16 registers some of its constants wait on the stack.
"""

_CORES = """
## The cores

What the models do at their best, and in brackets what `mdsl/target/core.py` says where that differs. LLVM takes Zen 4's model
for Zen 5 and that of Cyclone, an older and narrower core, for Apple's M1; a target that names no core has the model of a
Sandy Bridge, a Haswell, a Skylake server or a Neoverse N2. Else core.py keeps to the vendors' guides: Zen 2 loads two vectors a
cycle and Zen 4 one of 64 bytes, a Cortex-A55 needs both of its units for 16 bytes (so the shares above are half of what
they should be there), and a Neoverse takes the accumulator in two cycles late.
"""


def _shares(rows: Iterable[Row]) -> list[str]:
    return [*_header("target", *CONTRACTIONS), *(_share_line(row) for row in rows)]


def _share_line(row: Row) -> str:
    return _line(row.name, *(_share(row, program) for program in CONTRACTIONS))


def _share(row: Row, program: str) -> str:
    share, main = row.share(program), row.main(program)
    shown = f"{share:.0f}" if share >= SHARE else f"**{share:.0f}**"
    return f"{shown} ({main.loop.fmas} in {main.cycles:.1f}, {main.limit})"


def _faults(rows: Iterable[Row]) -> list[str]:
    lines = _header("target", "loop", "spills", "moves", "instructions", "cycles", "limit")
    for row in rows:
        for m in row.loops:
            spills, moves = m.loop.mix["spill"], m.loop.mix["move"]
            if spills or moves:
                cells = [spills, moves, len(m.loop.body), f"{m.cycles:.1f}", m.limit]
                lines.append(_line(row.name, m.loop.name, *cells))
    return lines


def _cores(rows: Iterable[Row]) -> list[str]:
    lines = _header("target", "multiply-adds a cycle", "their latency", "loads a cycle")
    for row in rows:
        rate = row.target.fma_rate / (1 if row.target.isa.fma else 2)
        own = Rates(rate, row.target.core.fma_latency, row.target.load_rate)
        pairs = [(row.rates.fmas, own.fmas), (row.rates.latency, own.latency), (row.rates.loads, own.loads)]
        lines.append(_line(row.name, *(_compared(*pair) for pair in pairs)))
    return lines


def _compared(model: float, own: float) -> str:
    return f"{model:.1f}" if abs(model - own) < 0.1 * own else f"{model:.1f} ({own:.1f})"


def _header(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
