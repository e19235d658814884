"""vectorize: micro-kernels from structured ops to loops over vectors in registers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from mdsl.analysis.alias import ALLOCATIONS, VIEWS, AliasAnalysis, root
from mdsl.analysis.nest import Group, Nest, collapse, merge, nest_of
from mdsl.dialects import linalg, memref
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass
from mdsl.passes.buffers.lower_linalg_to_loops import lower_op
from mdsl.passes.buffers.vectorize.emit import GroupEmitter
from mdsl.passes.buffers.vectorize.plan import Plan, plan
from mdsl.rewriting import remarks
from mdsl.rewriting.kernel_builder import Constants, KernelBuilder
from mdsl.rewriting.overlaps import put_inputs_aside
from mdsl.rewriting.winograd import expand_transform, expand_transforms
from mdsl.target.target import Target


@dataclass(frozen=True)
class Vectorize(Pass):
    """Turn the structured ops of micro-kernels into loops over vectors, accumulators in registers.

    One rule makes every kernel: vectors lie along the innermost dimension of the output, the other parallel
    dimensions are blocked until the accumulators fill the registers, the reductions are loops that carry the
    accumulators, the epilogue works on them in registers, and each is stored once. Weights that come from
    memory are asked for ahead (`memref.prefetch`), those of the next tile by all blocks of a tile, each for its share; of
    pixels that lie in blocks of channels those of the next block. Inputs of a copy or a formula that lie across are transposed in registers (`vector.shuffle`); a body
    of more operands than there are registers loads each where it is used. Before:

        ukernel.func @k(%a: memref<2x512xf32>, %b: memref<512x16xf32>, %out: memref<2x16xf32>) {
          %zero = arith.constant 0.0 : f32
          linalg.fill ins(%zero : f32) outs(%out : memref<2x16xf32>)
          linalg.matmul ins(%a, %b : memref<2x512xf32>, memref<512x16xf32>) outs(%out : memref<2x16xf32>)
          ukernel.return
        }

    After:

        ukernel.func @k(%a: memref<2x512xf32>, %b: memref<512x16xf32>, %out: memref<2x16xf32>) {
          %zero = arith.constant dense<0.0> : vector<2x16xf32>
          ...
          %out_0 = scf.for %k = %c0 to %c512 step %c1 iter_args(%out_0_1 = %zero) -> (vector<2x16xf32>) {
            %a_0 = vector.transfer_read %a[%c0, %k], %pad {permutation_map = affine_map<(d0, d1) -> (d0, 0)>, ...}
            %b_0 = vector.transfer_read %b[%k, %c0], %pad {permutation_map = affine_map<(d0, d1) -> (0, d1)>, ...}
            %add = vector.fma %a_0, %b_0, %out_0_1 : vector<2x16xf32>
            scf.yield %add : vector<2x16xf32>
          }
          vector.transfer_write %out_0, %out[%c0, %c0] {...} : vector<2x16xf32>, memref<2x16xf32>
          ukernel.return
        }

    A block is one vector, of as many dimensions as it has axes, where each of its operands lies along dimensions of memory;
    `unroll-vectors` shows the registers that it becomes, and the hundreds of ops of Winograd's transforms, which stay as they
    are here if what they read is apart from what they write. Otherwise each register is a vector of its own.
    """

    name = "vectorize"
    level = "buffers"
    leads_to: ClassVar[str | None] = "kernels"
    subject = "structured op in a micro-kernel"

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        for func in module.body.ops:
            if isinstance(func, UkernelFunc) and not func.type.results:
                for op in func.walk():
                    if isinstance(op, WinogradTransform) and not _may_wait(op, aliases):
                        expand_transform(op)
                put_inputs_aside(func, aliases)
                vectorize_kernel(func, context.target, aliases)


def _may_wait(op: WinogradTransform, aliases: AliasAnalysis) -> bool:
    """Whether a transform can stay until machine code is made of the kernel, where the callers are not known."""
    if not all(aliases.apart(value, out) for value in op.inputs for out in op.outputs):
        return False
    remarks.applied(op, "stays one op until machine code is made of it")
    return True


def vectorize_transforms(func: UkernelFunc, target: Target) -> UkernelFunc:
    """A copy of a kernel with the arithmetic of Winograd's transforms; the kernel itself if it has none. What a transform
    reads is apart from what it writes."""
    if not any(isinstance(op, WinogradTransform) for op in func.walk()):
        return func
    copy = func.clone()
    expand_transforms(copy)
    vectorize_kernel(copy, target, AliasAnalysis(copy))
    return copy


def vectorize_kernel(func: UkernelFunc, target: Target, aliases: AliasAnalysis) -> None:
    """Rewrites the kernel's structured ops, those in its loops too."""
    blocks = [func.body] + [r.block for op in func.walk() if op.name.startswith("scf.") for r in op.regions]
    if not any(_is_structured(op) for block in blocks for op in block.ops):
        return
    constants = Constants(func.body)
    for block in blocks:
        _BlockVectorizer(block, constants, target, aliases).run()
    drop_unused(func)


def _tell(op: Op, chosen: Plan) -> None:
    """On what the code works that the group which ends in `op` becomes."""
    kernel = next(a for a in op.ancestors() if isinstance(a, UkernelFunc))
    if chosen.vector is None and not chosen.lanes_reduced:
        remarks.missed(kernel, "works on single elements: they lie nowhere side by side")
        return
    points = prod(chosen.block.values())
    message = f"works on vectors of {chosen.lanes} elements, {points} at a time"
    remarks.applied(kernel, message, lanes=chosen.lanes, vectors=points)


def _is_structured(op: Op) -> bool:
    return isinstance(op, linalg.LinalgOp | memref.Copy)


class _BlockVectorizer:
    """Gathers the structured ops of one block into groups and emits each group at its last op.

    A fill waits until its memory is used, so that it can join the group that uses it.
    """

    def __init__(self, block: Block, constants: Constants, target: Target, aliases: AliasAnalysis) -> None:
        self.block = block
        self.aliases = aliases
        self.constants = constants
        self.target = target
        self.group: Group | None = None
        self.fills: dict[Value, Nest] = {}

    def run(self) -> None:
        for op in self.block.ops:
            if isinstance(op, memref.Copy):
                copy = linalg.Copy.make([op.operands[0]], [op.operands[1]])
                Builder.before(op).add(copy)
                op.erase()
                op = copy
            if isinstance(op, linalg.LinalgOp):
                self._structured(op)
            elif not (op.has("pure") or isinstance(op, (*ALLOCATIONS, *VIEWS, memref.GetGlobal))):
                self._flush(op)

    def _structured(self, op: linalg.LinalgOp) -> None:
        if 0 in (op.loop_sizes()[d] for d in op.parallel_dims):
            op.erase()
            return
        nest = nest_of(op)
        if nest is None:
            self._flush(op)
            self._lower_to_loops(op)
        elif isinstance(op, linalg.Fill) and root(op.outputs[0]) is op.outputs[0]:
            self._delay(nest, op)
        else:
            self._join(nest)

    def _delay(self, fill: Nest, op: Op) -> None:
        memory = fill.outputs[0].memory
        older = self.fills.pop(memory, None)
        if not all(self.aliases.apart(other, memory) for other in self.fills):
            self._flush(op)
        if older is not None:
            older.op.erase()
        self.fills[memory] = fill

    def _join(self, nest: Nest) -> None:
        """Adds the nest, and the fills of what it uses, to the current group, or starts another."""
        group = Group([nest])
        for memory in [m for m in self.fills if self._touches(nest, m)]:
            fill = Group([self.fills.pop(memory)])
            merged = merge(fill, group, self.aliases)
            if merged is None:
                self._close()
                fill.nests[0].op.detach()
                self.block.insert(fill.nests[0].op, nest.op)
                self._emit(fill)
            else:
                group = merged
        merged = merge(self.group, group, self.aliases) if self.group else None
        if merged is None:
            self._close()
        self.group = merged or group

    def _touches(self, nest: Nest, memory: Value) -> bool:
        used = [access.memory for access in (*nest.inputs, *nest.outputs) if access.type is not None]
        return not all(self.aliases.apart(memory, other) for other in used)

    def _flush(self, op: Op) -> None:
        """Emits all that waits, in front of an op that may depend on it."""
        self._close()
        for fill in self.fills.values():
            fill.op.detach()
            self.block.insert(fill.op, op)
            self._emit(Group([fill]))
        self.fills.clear()

    def _close(self) -> None:
        if self.group:
            self._emit(self.group)
        self.group = None

    def _emit(self, group: Group) -> None:
        group = collapse(group)
        last = group.nests[-1].op
        builder = KernelBuilder(self.constants, Builder.before(last))
        chosen = plan(group, self.target, self.aliases)
        if remarks.wanted():
            _tell(last, chosen)
        with rewriting(last, "vectorize"):
            GroupEmitter(group, chosen, builder, self.target).emit()
            for nest in group.nests:
                nest.op.erase()

    def _lower_to_loops(self, op: linalg.LinalgOp) -> None:
        remarks.missed(op, "becomes scalar loops: its indices or its types do not fit vectors")
        with rewriting(op, "loops"):
            lower_op(op, Builder.before(op), self.aliases)
            op.erase()
