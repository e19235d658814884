"""outline-ukernels: each ukernel.region becomes a ukernel.func and a dispatch of it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.regions import captured, structure
from mdsl.dialects import linalg, scf, tensor, ukernel
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.dialects.ukernel import RANGE
from mdsl.ir.attributes import Attribute, DenseArrayAttr, SymbolRefAttr
from mdsl.ir.core import BlockArgument, Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import DYNAMIC, FloatType, ShapedType, TensorType, i64, index
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting import remarks


@dataclass(frozen=True)
class OutlineUkernels(Pass):
    """Turn every ukernel.region into a micro-kernel and a dispatch; equal kernels become one.

    Before:

        %c_tile = ukernel.region -> tensor<4x16xf32> {
          %c = linalg.matmul ins(%a_tile, %b_tile : ...) outs(%z_tile : ...) -> tensor<4x16xf32>
          ukernel.yield %c : tensor<4x16xf32>
        }

    After:

        %c_tile = ukernel.dispatch @matmul_4x16(%a_tile, %b_tile, %z_tile) : (tensor<4x64xf32>, tensor<64x16xf32>, tensor<4x16xf32>) -> tensor<4x16xf32>
        ...
        ukernel.func @matmul_4x16(%a_tile: tensor<4x64xf32>, %b_tile: tensor<64x16xf32>, %z_tile: tensor<4x16xf32>) -> tensor<4x16xf32> {
          %c = linalg.matmul ins(%a_tile, %b_tile : ...) outs(%z_tile : ...) -> tensor<4x16xf32>
          ukernel.return %c : tensor<4x16xf32>
        }

    Tensors and numbers that the region reads from outside become arguments, its destinations the last
    ones; constants move inside.
    """

    name: ClassVar[str] = "outline-ukernels"
    level: ClassVar[str | None] = "tiled"
    leads_to: ClassVar[str | None] = "dispatch"
    subject = "ukernel.region"

    def run(self, module: ModuleOp, context: Context) -> None:
        known: dict[Hashable, str] = {}
        for func in functions(module):
            for op in func.walk():
                if isinstance(op, ukernel.RegionOp):
                    _outline(op, module, known)
            drop_unused(func)


def _outline(region: ukernel.RegionOp, module: ModuleOp, known: dict[Hashable, str]) -> None:
    _sink_numbers(region)
    _box_numbers(region)
    destinations = [_destination(region, value) for value in region.body.terminator.operands]
    values = captured(region)
    arguments = [*(v for v in values if v not in destinations), *destinations]
    name, ranges = kernel_name(region), [_range_of(v) for v in arguments]
    shape = (name, tuple(tuple(r.items()) for r in ranges), structure(region.body, arguments))
    kernel = known.get(shape)
    if kernel is not None:
        remarks.applied(region, f"is a dispatch of @{kernel}, which others share", kernel=kernel)
    else:
        kernel = known[shape] = module.fresh_symbol(name)
        module.body.append(_kernel(region, kernel, arguments, ranges))
        remarks.applied(region, f"is a dispatch of @{kernel}", kernel=kernel)
    dispatch = ukernel.Dispatch(
        arguments,
        results=[r.type for r in region.results],
        callee=SymbolRefAttr(kernel),
        outs=None if len(destinations) == 1 else len(destinations),
    )
    Builder.before(region).add(dispatch)
    region.replace_by(*dispatch.results)


def _kernel(
    region: ukernel.RegionOp,
    name: str,
    arguments: Sequence[Value],
    ranges: Sequence[dict[str, Attribute]],
) -> ukernel.UkernelFunc:
    """The micro-kernel that does what the region does, of whose arguments `ranges` tell."""
    kernel = ukernel.UkernelFunc.make(
        name, [v.type for v in arguments], [r.type for r in region.results], [v.name for v in arguments]
    )
    kernel.set_arg_attributes(ranges)
    kernel.location = region.location
    mapping: dict[Value, Value] = dict(zip(arguments, kernel.args, strict=True))
    builder = Builder(kernel.body, location=region.location)
    for op in region.body.ops:
        if isinstance(op, ukernel.Yield):
            builder.add(ukernel.Return([mapping.get(v, v) for v in op.operands], results=[]))
        else:
            builder.add(op.clone(mapping), *[r.name for r in op.results])
    return kernel


def _range_of(value: Value) -> dict[str, Attribute]:
    """What the kernel may rely on if `value` is a counter with which it computes places: its first and last value."""
    if not isinstance(value, BlockArgument) or value.type != index:
        return {}
    loop = value.block.parent_op
    if not isinstance(loop, scf.Forall) or value not in loop.ivs:
        return {}
    position = loop.ivs.index(value)
    names = ("staticLowerBound", "staticUpperBound", "staticStep")
    lower, upper, step = (loop.attr(name)[position] for name in names)
    if DYNAMIC in (lower, upper, step):
        return {}
    last = lower + (upper - lower - 1) // step * step
    return {RANGE: DenseArrayAttr(i64, (lower, last))}


def _sink_numbers(region: ukernel.RegionOp) -> None:
    """Scalar constants are cheaper inside than as arguments; and a float can be no argument, for those are memory
    and integers: it is read inside, from the tensor that it came from or from one that is made of it."""
    first = region.body.first
    assert first is not None
    for value in captured(region):
        reading = _reading(value, region)
        if reading is None:
            continue
        copy = Builder(region.body, first).value(reading, value.name)
        for op in region.walk():
            if op is not region:
                op.operands = [copy if v is value else v for v in op.operands]


def _reading(value: Value, region: ukernel.RegionOp) -> Op | None:
    """What makes the number `value` inside the region; None if it is better an argument."""
    owner = value.owner
    if isinstance(owner, Constant) and not isinstance(value.type, TensorType):
        return owner.clone()
    if not isinstance(value.type, FloatType):
        return None
    if isinstance(owner, tensor.Extract):
        return owner.clone()
    box = tensor.FromElements([value], results=[TensorType((), value.type)])
    return tensor.Extract(Builder.before(region).value(box, f"{value.name or 'number'}_box"), [])


def _box_numbers(region: ukernel.RegionOp) -> None:
    """A kernel hands back memory: a number that the region yields is the element of a tensor."""
    end = region.body.terminator
    for position, (value, number) in enumerate(zip(list(end.operands), region.results, strict=True)):
        if isinstance(number.type, TensorType):
            continue
        box = tensor.FromElements([value], results=[TensorType((), value.type)])
        inside = Builder.before(end).value(box, f"{value.name or 'number'}_box")
        end.operands = [inside if i == position else v for i, v in enumerate(end.operands)]
        users = list(number.users)
        number.type = inside.type
        read = Builder.after(region).value(tensor.Extract(number, []), f"{number.name or 'number'}_value")
        for user in users:
            user.operands = [read if v is number else v for v in user.operands]


def _destination(region: ukernel.RegionOp, value: Value) -> Value:
    """The tensor outside that the yielded `value` is written into; a new one if its memory starts inside."""
    while isinstance(value.owner, linalg.LinalgOp | WinogradTransform) and value.owner.block is region.body:
        value = value.owner.outputs[list(value.owner.results).index(value)]  # type: ignore[arg-type]
    owner = value.owner
    if not isinstance(owner, Op) or owner.block is not region.body:
        return value
    assert region.block is not None
    if isinstance(owner, tensor.Empty):
        region.block.insert(owner.detach(), region)
        return value
    return Builder.before(region).value(
        tensor.Empty([], results=[value.type]), f"{value.name}_init" if value.name else None
    )


_WORDS = {
    "conv_2d_nchw_fchw": "conv",
    "conv_2d_nhwc_hwcf": "conv",
    "pooling_nchw_max": "max_pool",
}


def kernel_name(region: ukernel.RegionOp) -> str:
    """What the kernel does and the shape that it makes: `matmul_14x2x16`."""
    words: list[str] = []
    ops = [op for op in region.body.ops if isinstance(op, linalg.LinalgOp | WinogradTransform)]
    for op in ops:
        if isinstance(op, linalg.Fill) and len(ops) > 1:
            continue
        kind = op.name.split(".")[1]
        words.append(_generic_word(op) if isinstance(op, linalg.Generic) else _WORDS.get(kind, kind))
    dims = (
        "x".join(map(str, shaped_of(region.results[0]).shape))
        if isinstance(region.results[0].type, ShapedType)
        else ""
    )
    return "_".join([*(words or ["region"]), *([dims] if dims else [])])


def _generic_word(op: linalg.LinalgOp) -> str:
    if isinstance(op, linalg.Fill):
        return "fill"
    if op.is_contraction and op.maps[0].is_projected_permutation:
        return "matmul"
    if op.is_contraction:
        window = any(len(e.dims()) > 1 for e in op.maps[0].results)
        return "conv" if window and writes_product(op) else "pool"
    computing = [o for o in op.body.ops if not o.has("terminator") and not isinstance(o, Constant)]
    last = computing[-1].name.split(".")[1].rstrip("fi") if computing else "copy"
    if not op.reduction_dims:
        return last
    window = any(len(e.dims()) > 1 for m in op.maps for e in m.results)
    return _REDUCTIONS.get(last, last) + ("_pool" if window else "")


_REDUCTIONS = {
    "add": "sum",
    "maximum": "max",
    "minimum": "min",
    "mul": "product",
    "maxs": "max",
    "mins": "min",
}


def writes_product(op: Op) -> bool:
    """True if the body multiplies."""
    return any(o.name in ("arith.mulf", "arith.muli") for o in op.body.ops)
