"""Late loads, early stores: a body of more operands than there are registers, such as a transform of 6 x 6 elements.

In the body's order each operand is loaded where it is used, again if something was stored since, and each result is
stored as soon as it is known. So no more is live than that order needs. LLVM, which would load everything first and put
it on the stack, cannot tell that the memories are apart, and keeps the loads between the stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from mdsl.analysis.alias import AliasAnalysis
from mdsl.analysis.nest import Access, Nest
from mdsl.ir.core import Op, Value
from mdsl.target.target import Target

if TYPE_CHECKING:
    from mdsl.passes.buffers.vectorize.emit import GroupEmitter
    from mdsl.passes.buffers.vectorize.plan import Point


def late_arguments(nests: Sequence[Nest], target: Target, aliases: AliasAnalysis) -> frozenset[Value]:
    """The arguments of the body that are loaded late: if it has too many, those that no store changes."""
    nest, inputs = nests[0], nests[0].inputs
    outputs = [access.memory for access in nest.outputs]
    reads_old = any(arg.users for arg in nest.body.args[len(inputs) :])
    if len(nests) > 1 or len(inputs) < target.isa.free or nest.reduction or reads_old:
        return frozenset()
    if not all(aliases.apart(a, b) for a, b in combinations(outputs, 2)):
        return frozenset()
    memories = {access.memory for access in inputs if access.type is not None}
    apart = {memory for memory in memories if all(aliases.apart(memory, out) for out in outputs)}
    return frozenset(a for a, i in zip(nest.body.args, inputs, strict=False) if i.memory in apart)


def evaluate_late(emitter: GroupEmitter, nest: Nest, point: Point) -> None:
    """The body at a point, its results stored."""
    out, late, body = emitter.out, emitter.plan.late, nest.body
    accesses: dict[Value, Access] = dict(zip(body.args, nest.inputs, strict=False))
    early = [arg for arg in accesses if arg.users and arg not in late]
    values = {arg: emitter.read(accesses[arg], point) for arg in early}
    stores: dict[Op, list[tuple[Value, Access]]] = {}
    for value, access in zip(body.terminator.operands, nest.outputs, strict=True):
        last = value.owner if isinstance(value.owner, Op) and value.owner.block is body else body.terminator
        stores.setdefault(last, []).append((value, access))
    for op in body.ops:
        values |= {v: emitter.read(accesses[v], point) for v in op.operands if v in late}
        emitter.operation(op, point, values, nest)
        for value, access in stores.get(op, ()):
            result = out.spread(values.get(value, value), point.shape)
            out.write(access, point.env, point.dims, result)
            out.leave_leaf()  # what was loaded is known no more
            out.enter_leaf()
