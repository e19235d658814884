"""The standard pipelines, and where in them a program stands.

A standard pipeline is a list of stages. A stage works on one of `LEVELS` and leaves the program on the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from mdsl.compiler.pipeline import parse_pipeline
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.dialects.linalg import LinalgOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.errors import MdslError
from mdsl.ir.core import Op
from mdsl.ir.types import MemRefType, TensorType
from mdsl.passes import PASSES
from mdsl.passes.base import LEVELS, Pass

Stages = dict[str, list[str]]
"""The passes that work on each level, in order, as `--pass-pipeline` writes them."""

_GRAPH = [
    "canonicalize",
    "trim-filters",
    "decompose",
    "fold-batchnorm",
    "fuse-gelu",
    "widen",
    "canonicalize",
    "lower-nn",
]


def ukernel_stages(settings: Settings = DEFAULT) -> Stages:
    """The default: heavy work becomes micro-kernels, dispatched one or `unroll_dispatch` at a time."""
    factor = settings.unroll_dispatch
    unrolled = [] if factor is None else [f"unroll-dispatch{{factor={factor}}}"]
    filtered = ["winograd"] if settings.winograd else []
    measured = ["tune"] if settings.tune else []
    grouped = ["fuse-attention", "fuse-rows", "pack", "fuse", "donate"]
    return {
        "nn": _GRAPH,
        "linalg": ["canonicalize", "fold-shapes", "canonicalize", *grouped, *filtered, *measured, "tile"],
        "tiled": ["prepack", "outline-ukernels"],
        "dispatch": ["bufferize"],
        "buffers": ["plan-memory", "block-sums", "vectorize"],
        "kernels": ["canonicalize", *unrolled, "lower-vm"],
    }


def loop_stages() -> Stages:
    """Without micro-kernels: scalar loops for the interpreter, as a stock virtual machine would run them."""
    return {
        "nn": _GRAPH,
        "linalg": ["canonicalize", "fold-shapes", "canonicalize", "fuse{group=false}", "donate"],
        "dispatch": ["bufferize"],
        "buffers": ["plan-memory", "lower-linalg-to-loops"],
        "kernels": ["canonicalize", "lower-vm"],
    }


def passes_from(stages: Stages, start: str, stop: str = "vm") -> list[Pass]:
    """The passes that bring a program from level `start` to level `stop`; calls are inlined first."""
    wanted = LEVELS[LEVELS.index(start) : LEVELS.index(stop)]
    inlined = ["inline"] if wanted else []
    return _passes([*inlined, *(step for level in wanted for step in stages.get(level, []))])


def passes_before(step: Pass, start: str, settings: Settings = DEFAULT) -> list[Pass]:
    """The standard passes that a program on level `start` lacks before `step` can run; none if it is there."""
    if step.level is None or LEVELS.index(start) >= LEVELS.index(step.level):
        return []
    stages = loop_stages() if step.name == "lower-linalg-to-loops" else ukernel_stages(settings)
    missing = passes_from(stages, start, step.level)
    if step.name not in PASSES:  # the user's own
        return missing
    order = list(PASSES).index
    place = order(step.name)
    return [*missing, *takewhile(lambda p: order(p.name) < place, _passes(stages.get(step.level, [])))]


def _passes(stage: list[str]) -> list[Pass]:
    return parse_pipeline(",".join(stage), "standard pipeline") if stage else []


CHOSEN = ("ukernels", "unroll_dispatch", "winograd", "tune")
"""The settings that the standard passes follow."""


def without_effect(settings: Settings, module: ModuleOp) -> list[str]:
    """Those of `CHOSEN` that differ from their defaults and come too late for `module`: it has micro-kernels, or the
    passes that it still lacks are the same with the default."""
    level = level_of(module)
    found: list[str] = []
    for name in settings.chosen():
        alone = replace(DEFAULT, **{name: getattr(settings, name)})
        if name == "ukernels":
            late = has_micro_kernels(module)
        else:
            late = (
                name in CHOSEN
                and standard_passes(alone, level) == standard_passes(DEFAULT, level)
                and _is_lowered(module)
            )
        if late:
            found.append(name)
    return found


def _is_lowered(module: ModuleOp) -> bool:
    """True if an op shows that passes have run; a program of a few tensors looks the same on several levels."""
    return any(
        op.name.startswith(("ukernel.", "mvm.")) or op.name == "scf.forall" or _has(op, MemRefType)
        for op in module.walk()
        if not isinstance(op, FuncOp)
    )


def has_micro_kernels(module: ModuleOp) -> bool:
    """True if the heavy work of `module` is micro-kernels already; not above the level on which they are made, where
    only hand-written ones are."""
    made = LEVELS.index(level_of(module)) >= LEVELS.index("dispatch")
    return made and any(isinstance(op, UkernelFunc) for op in module.body.ops)


def standard_passes(settings: Settings, level: str, stop: str = "vm") -> list[Pass]:
    """The passes that bring a program from `level` to `stop`, by default to bytecode. Raises MdslError."""
    if LEVELS.index(level) > LEVELS.index(stop):
        raise MdslError(f"error: the program is on the {level} level, which comes after {stop}")
    return passes_from(ukernel_stages(settings) if settings.ukernels else loop_stages(), level, stop)


def level_after(step: Pass, level: str) -> str:
    """The level of a program that was on `level` before `step` ran."""
    return max(step.leads_to or level, level, key=LEVELS.index)


def plan(
    asked: Sequence[Pass], level: str, settings: Settings = DEFAULT
) -> tuple[list[tuple[list[Pass], Pass]], str]:
    """Each pass that was asked for, with the standard passes that must run right before it, for a program
    on `level`; and the level that all of them lead to."""
    found: list[tuple[list[Pass], Pass]] = []
    for step in asked:
        lowering = passes_before(step, level, settings)
        found.append((lowering, step))
        level = level_after(step, (step.level or level) if lowering else level)
    return found, level


def level_of(module: ModuleOp) -> str:
    """The level of `LEVELS` that the module's ops show."""
    outside = [op for op in module.walk() if not _in_kernel(op)]
    if any(op.name.startswith("mvm.") for op in outside):
        return "vm"
    if any(op.name.startswith("nn.") for op in outside):
        return "nn"
    structured = [
        op for op in outside if isinstance(op, LinalgOp | WinogradTransform) and _has(op, TensorType)
    ]
    if any(a.name == "scf.forall" for op in structured for a in op.ancestors()):
        return "tiled"
    if structured:
        return "linalg"
    if any(_has(op, TensorType) for op in outside):
        return "dispatch"
    if any(isinstance(op, LinalgOp | WinogradTransform) for op in module.walk()) or any(
        _is_unplanned(op) for op in outside
    ):
        return "buffers"
    return "kernels"


def _in_kernel(op: Op) -> bool:
    return op.name == "ukernel.func" or any(a.name == "ukernel.func" for a in op.ancestors())


def _has(op: Op, kind: type) -> bool:
    arguments = [a for region in op.regions for a in region.block.args]
    return any(isinstance(v.type, kind) for v in (*op.operands, *op.results, *arguments))


def _is_unplanned(op: Op) -> bool:
    """True for an allocation that `plan-memory` has not put into the arena."""
    type = op.results[0].type if op.name == "memref.alloc" else None
    return isinstance(type, MemRefType) and not (type.rank == 1 and str(type.element) == "i8")
