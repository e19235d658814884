"""canonicalize: fold constants and identities, merge equal ops, drop what nothing uses."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg import LinalgOp, shape_of
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.passes.base import Context, Pass
from mdsl.rewriting.constants import fold_constants


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Fold constants and identities, merge equal pure ops (CSE), drop unused ones (DCE).

    Before:

        %zero = arith.constant 0.0 : f32
        %one = arith.constant 1.0 : f32
        %a = arith.mulf %x, %one : f32
        %b = arith.subf %a, %zero : f32
        %c = arith.subf %a, %zero : f32
        %d = arith.addf %b, %c : f32

    After:

        %d = arith.addf %x, %x : f32
    """

    name: ClassVar[str] = "canonicalize"
    subject = "op that is unused, repeated, constant or simpler in another form"

    def run(self, module: ModuleOp, context: Context) -> None:
        changed = True
        while changed:
            changed = fold_all(module)
            changed |= merge_equal(module.body, {})
            changed |= drop_unused(module)


def fold_all(root: Op) -> bool:
    """Folds every op under `root` once; True if one folded."""
    changed = False
    for op in root.walk():
        if isinstance(op, LinalgOp) and _is_idle(op):
            op.replace_by(*(op.outputs if op.results else ()))
            changed = True
        if op.block is None or not op.has("pure") or isinstance(op, Constant) or op is root:
            continue
        folded = op.fold() or fold_constants(op)
        if folded is None:
            continue
        if len(folded) == 1 and folded[0] is op.results[0]:
            continue
        op.replace_by(*[_materialise(f, op, r) for f, r in zip(folded, op.results, strict=True)])
        changed = True
    return changed


def _is_idle(op: LinalgOp) -> bool:
    """True if one of its loops has no iteration: it leaves its destinations as they are."""
    return any(0 in shape_of(v) for v in op.operands) and 0 in op.loop_sizes()


def _materialise(folded: Value | Attribute, op: Op, result: Value) -> Value:
    if isinstance(folded, Value):
        # The surviving value was there before and keeps its own name.
        folded.name = folded.name or result.name
        return folded
    return Builder.before(op).value(Constant(value=folded, results=[result.type]))


def merge_equal(block: Block, known: dict[Hashable, Op]) -> bool:
    """Replaces pure ops by an equal one that dominates them: one of the block or among `known`, which is left as it was."""
    changed = False
    own: list[Hashable] = []
    for op in block.ops:
        # Two destinations are two buffers, even if they look alike or one takes the other's place later.
        if op.has("pure") and not op.regions and op.name not in ("tensor.empty", "memref.view"):
            key = (
                op.name,
                tuple(op.operands),
                frozenset(op.attributes.items()),
                tuple([r.type for r in op.results]),
            )
            first = known.setdefault(key, op)
            if first is not op:
                op.replace_by(*first.results)
                changed = True
                continue
            own.append(key)
        for region in op.regions:
            changed |= merge_equal(region.block, {} if op.has("isolated") else known)
    for key in own:
        del known[key]
    return changed


def drop_unused(root: Op) -> bool:
    """Erases pure ops (and loads) whose results nothing uses, users before producers."""
    changed = False
    for region in reversed(root.regions):
        op = region.block.last
        while op is not None:
            before = op.prev
            if op.regions:
                changed |= drop_unused(op)
            results = op.results
            unused = (
                results and not results[0].users and (len(results) == 1 or not any(r.users for r in results))
            )
            if unused and is_droppable(op):
                with rewriting(op, "drop"):
                    op.erase()
                changed = True
            op = before
    return changed


def is_droppable(op: Op) -> bool:
    """True for an op without effect but its results, nested ops included."""
    if op.name in ("memref.alloc", "memref.alloca"):
        return True
    if op.name in _VALUE_STRUCTURES or op.name.startswith("linalg."):
        return all(
            is_droppable(inner) or inner.has("terminator") for r in op.regions for inner in r.block.ops
        )
    return op.has("pure") or op.has("reads")


_VALUE_STRUCTURES = ("scf.for", "scf.if", "scf.forall", "ukernel.region")
