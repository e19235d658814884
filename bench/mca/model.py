"""LLVM's model of a core, `llvm-mca`: how many cycles a loop takes there, and what sets them.

Ports, latencies and widths are modelled, caches are not: every load finds its line in the first level. So a figure is
what the code could reach, and what is missing is the code's fault.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.mca.loops import Loop
from mdsl.target.target import Target

_TRIPS = 200

_ROUND = 1.1
"""By how much a loop may exceed what its busiest resource takes before chains of instructions are what it waits for."""


@dataclass(frozen=True)
class Modelled:
    """A loop on a core."""

    loop: Loop
    cycles: float
    """Of one iteration, on average."""
    limit: str
    """What sets them: a resource of the core, its width, or chains of instructions that wait for each other."""


@dataclass(frozen=True)
class Rates:
    """What a core does at its best, by its model."""

    fmas: float
    """Multiply-adds of whole vectors started in a cycle."""
    latency: float
    loads: float
    """Of whole vectors in a cycle."""


def tool() -> str:
    """The newest `llvm-mca` on the path. Raises FileNotFoundError."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    names = [name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    versions = [int(match[1]) for name in names if (match := re.fullmatch(r"llvm-mca-(\d+)", name))]
    found = shutil.which(f"llvm-mca-{max(versions, default=0)}") or shutil.which("llvm-mca")
    if found is None:
        raise FileNotFoundError("there is no llvm-mca on the path (Debian: llvm-19)")
    return found


def model(loops: Sequence[Loop], target: Target) -> list[Modelled]:
    """What the target's core makes of loops; where it has none, what LLVM takes for it."""
    parts = _run([_corrected(loop.text(n), target) for n, loop in enumerate(loops)], target)
    return [Modelled(loop, *_read(part)) for loop, part in zip(loops, parts, strict=True)]


def rates(target: Target) -> Rates:
    """What the core does with multiply-adds that do not wait for each other, with some that do, and with loads."""
    chains, loads = 12 if target.isa.registers == 16 else 24, 12
    texts = [_fmas(range(chains), target), _fmas([0], target), _loads(loads, target)]
    if target.isa.by_element:
        texts.append(texts[0].replace("v31.4s", "v31.s[0]"))
    fmas, latency, loading, *others = (_read(part)[0] for part in _run(texts, target))
    best = (chains if target.isa.fma else chains / 2) / min([fmas, *others])
    return Rates(best, latency, loads / loading)


def _run(texts: Iterable[str], target: Target) -> list[str]:
    """What `llvm-mca` prints of each of these pieces of assembly."""
    text = "".join(f"# LLVM-MCA-BEGIN\n{piece}# LLVM-MCA-END\n" for piece in texts)
    core = target.core.name
    if core.startswith("generic"):
        core = target.tune or target.cpu
    command = [tool(), f"-mtriple={target.triple}", f"-mcpu={core}"]
    options = [f"-iterations={_TRIPS}", "-instruction-info=0"]
    result = subprocess.run([*command, *options], input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout.split("Code Region")[1:]


def _read(text: str) -> tuple[float, str]:
    """The cycles of an iteration, and what sets them."""
    cycles, uops, width, block = (
        float(_found(rf"^{name}: +([\d.]+)", text))
        for name in ("Total Cycles", "Total uOps", "Dispatch Width", "Block RThroughput")
    )
    cycles, entering = cycles / _TRIPS, uops / _TRIPS / width
    busy, resource = _busiest(text)
    if cycles > _ROUND * max(busy, entering, block):
        return cycles, "latency"
    return cycles, resource if busy >= entering else "width"


def _busiest(text: str) -> tuple[float, str]:
    """The resource that an iteration occupies longest, and the cycles that it does."""
    names = dict(re.findall(r"^\[([\d.]+)\] +- (\S+)$", text, re.MULTILINE))
    table = re.search(r"^Resource pressure per iteration:\n(.*)\n(.*)$", text, re.MULTILINE)
    assert table is not None
    numbers, used = re.findall(r"\[([\d.]+)\]", table[1]), table[2].split()
    return max((0.0 if u == "-" else float(u), names.get(n, n)) for n, u in zip(numbers, used, strict=True))


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, pattern
    return match[1]


# Where the model is wrong ---------------------------------------------------------------------------------------


def _corrected(text: str, target: Target) -> str:
    """A loop without what LLVM's model of the core is known to get wrong. A broadcast from memory is a load on AMD's
    cores; the models charge it to a unit that multiplies and adds, by which nothing could run as it does: 14 x 2
    accumulators reach 93 % of the peak of a Zen 5, and 6 x 2 nine tenths of that of a Zen 3."""
    if not target.core.name.startswith("znver"):
        return text
    return re.sub(r"vbroadcasts[sd](\t[^,]*\()", r"vmovups\1", text)


# Probes ---------------------------------------------------------------------------------------------------------


def _fmas(accumulators: Sequence[int], target: Target) -> str:
    """A multiply-add into each of these registers, whose factors are others; where it is two instructions, half of the
    registers take products and half sums, and a single one takes both."""
    if target.architecture == "aarch64":
        return "".join(f"\tfmla v{n}.4s, v30.4s, v31.4s\n" for n in accumulators)
    if target.isa.fma:
        r = {16: "xmm", 32: "ymm", 64: "zmm"}[target.vector_bytes]
        return "".join(f"\tvfmadd231ps %{r}14, %{r}15, %{r}{n + n // 14 * 2}\n" for n in accumulators)
    pairs = list(zip(accumulators[::2], accumulators[1::2] or accumulators, strict=True))
    return "".join(f"\tmulps %xmm15, %xmm{a}\n\taddps %xmm14, %xmm{b}\n" for a, b in pairs)


def _loads(count: int, target: Target) -> str:
    if target.architecture == "aarch64":
        return "".join(f"\tldr q{n}, [x0, #{16 * n}]\n" for n in range(count))
    r = {16: "xmm", 32: "ymm", 64: "zmm"}[target.vector_bytes]
    opcode = "vmovups" if target.isa.fma else "movups"
    return "".join(f"\t{opcode} {target.vector_bytes * n}(%rax), %{r}{n}\n" for n in range(count))
