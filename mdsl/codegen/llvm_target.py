"""LLVM's side of a target: its names for processors and features, and the `TargetMachine` that generates code."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite

from mdsl.target import processor
from mdsl.target.target import HOST, ITSELF, Target

if TYPE_CHECKING:  # what was compiled before runs without LLVM
    import llvmlite.binding as llvm


def cpu_of(target: Target) -> str:
    """LLVM's name of the core."""
    return _host_cpu() if target.cpu == ITSELF else target.cpu


def features_of(target: Target) -> str:
    """What the core can do beyond its name, as LLVM takes it."""
    own = [_host_features()] if target.cpu == ITSELF else []
    return ",".join([*own, *filter(None, [target.features])])


def triple_of(target: Target) -> str:
    """The target's triple; where it is this machine's, as exactly as LLVM has it."""
    import llvmlite.binding as llvm

    return llvm.get_process_triple() if target.triple == processor.triple() else target.triple


def machine_key(target: Target) -> str:
    """Everything that machine code depends on beside its LLVM IR, as text for a cache key. What the passes
    choose by is in the target's repr."""
    host = processor.described() or f"{_host_cpu()} {_host_features()}"
    core = host if target.cpu == ITSELF else target.cpu
    return f"{target.triple} {core} {target.features} {target.tune} {_code_generator()}"


def target_machine(target: Target) -> llvm.TargetMachine:
    """A new LLVM target machine. Position independent and small, so that constants are addressed
    relative to the code; the linker (JITLink) makes stubs for functions that are far away."""
    import llvmlite.binding as llvm

    _initialize(target.architecture == processor.architecture())
    _keep_loads_apart()
    return llvm.Target.from_triple(triple_of(target)).create_target_machine(
        cpu=cpu_of(target), features=features_of(target), opt=3, reloc="pic", codemodel="small"
    )


def tuned(llvm_ir: str, target: Target) -> str:
    """A module as LLVM makes the best of it for a target: functions say for which core's pipeline their instructions are
    ordered. Where a multiply-add takes one lane of a register, elements to be broadcast are frozen: LLVM would load some
    of them into all lanes, for which Neoverse cores need a unit that multiplies and adds, and copy the address."""
    if target.isa.by_element:
        llvm_ir = re.sub(_BROADCAST, _FROZEN, llvm_ir, flags=re.MULTILINE)
    if not target.tune:
        return llvm_ir
    return re.sub(r"^define .*\)", rf'\g<0> "tune-cpu"="{target.tune}"', llvm_ir, flags=re.MULTILINE)


_BROADCAST = r'%"([^"]+)" = insertelement (<[^>]+>) (<[^>]+>), (\w+) (%"[^"]+"), i32 0$'
_FROZEN = r'%"\1.frozen" = freeze \4 \5\n  %"\1" = insertelement \2 \3, \4 %"\1.frozen", i32 0'


def host_name() -> str:
    """What to call this machine in messages."""
    taken = os.environ.get(HOST, "").removeprefix("host")
    return _host_cpu() + (f", taken for {taken} by {HOST}" if taken else "")


@cache
def _host_cpu() -> str:
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name()


@cache
def _host_features() -> str:
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_features().flatten()


@cache
def _keep_loads_apart() -> None:
    """For the whole process: loads of neighbouring addresses are not scheduled side by side. On AArch64 (nowhere else
    does LLVM do so) the elements that a kernel multiplies by would all be loaded before the first is used, and its
    accumulators spilled for them: 57 vectors an iteration where 29 registers are enough."""
    import llvmlite.binding as llvm

    llvm.set_option("mdsl", "-misched-cluster=false")


@cache
def _initialize(native: bool) -> None:
    """Register LLVM's back ends: the host's own, or all of them for a cross target."""
    import llvmlite.binding as llvm

    if native:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


@cache
def _code_generator() -> str:
    """Which LLVM generates code: llvmlite's version and its library, without loading that."""
    libraries = sorted(Path(llvmlite.__path__[0]).glob("binding/*llvmlite.*"))
    sizes = [f"{path.name}={path.stat().st_size}" for path in libraries]
    return f"llvmlite-{llvmlite.__version__} {' '.join(sizes)}"
