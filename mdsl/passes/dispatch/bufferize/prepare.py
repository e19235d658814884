"""bufferize: rewrites on tensors that come first, so that few kinds of op remain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mdsl.dialects import arith, linalg, scf, tensor, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.dialects.indices import Index, join_indices
from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import Attribute, DenseAttr
from mdsl.ir.core import Builder, Op, Region, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType
from mdsl.rewriting.lower_pack import lower_relayout
from mdsl.rewriting.structured import empty_like


def prepare(module: ModuleOp) -> None:
    """Inlines regions; pad, concat, splat, pack, unpack and arithmetic on tensors become slices and linalg ops."""
    for op in list(module.walk()):
        match op:
            case ukernel.RegionOp():
                _inline(op)
            case linalg.Pack() | linalg.Unpack() if isinstance(op.operands[0].type, TensorType):
                op.replace_by(lower_relayout(op, Builder.before(op)), rename=True)
            case _:
                pass
    for op in list(module.walk()):
        match op:
            case tensor.Pad():
                _lower_pad(op)
            case tensor.Concat():
                _lower_concat(op)
            case tensor.Splat():
                _lower_splat(op)
            case _ if op.has("elementwise") and op.results and isinstance(op.result.type, TensorType):
                _lower_elementwise(op)
            case _:
                pass
    _lift_kernel_constants(module)


def _inline(region: ukernel.RegionOp) -> None:
    builder = Builder.before(region)
    end = region.body.terminator
    for result, value in zip(region.results, end.operands, strict=True):
        if isinstance(value.owner, Op) and value.owner.block is region.body:
            value.name, value.serial = result.name, result.serial
    for op in region.body.ops:
        if op is not end:
            builder.block.insert(op.detach(), region)
    region.replace_by(*end.operands)


def _filled(value: Value, type: TensorType, builder: Builder, name: str | None) -> Value:
    """A tensor with `value` everywhere."""
    empty = empty_like(type, builder, f"{name}_init" if name else "init")
    return builder.value(linalg.Fill.make([value], [empty]), name)


def _lower_pad(op: tensor.Pad) -> None:
    builder = Builder.before(op)
    source, type = op.operands[0], tensor_of(op.result)
    inside = tensor_of(source).shape
    end = op.body.terminator
    for inner in op.body.ops:
        if inner is not end:
            if any(v in op.body.args for v in inner.operands):
                raise op.error("a border that varies from place to place cannot be bufferized")
            builder.block.insert(inner.detach(), op)
    border = op.padding_value
    if border in op.body.args:
        raise op.error("a border that varies from place to place cannot be bufferized")
    low = join_indices(op.low, op.attr("static_low"))
    if all(isinstance(n, int) for n in low) and type.rank:
        whole = _bordered(border, type, op.attr("static_low"), inside, builder, op.result.name)
    else:
        whole = _filled(border, type, builder, op.result.name)
    op.replace_by(builder.value(tensor.InsertSlice.of(source, whole, low, inside)), rename=True)


def _bordered(
    value: Value,
    type: TensorType,
    low: Sequence[int],
    inside: Sequence[int],
    builder: Builder,
    name: str | None,
) -> Value:
    """A tensor with `value` around an inside, not yet written, of the shape `inside` from `low` on. The workers share the
    images that it has, where there are several."""
    whole = empty_like(type, builder, f"{name}_init" if name else "init")

    def filled(builder: Builder, whole: Value, offsets: Sequence[Index], sizes: Sequence[int]) -> Value:
        edge = builder.value(tensor.ExtractSlice.of(whole, offsets, sizes), f"{name}_edge")
        return builder.value(linalg.Fill.make([value], [edge]), f"{name}_edge")

    bordered = next((d for d, size in enumerate(inside) if size != type.shape[d]), type.rank)
    counted = [d for d, size in enumerate(inside[:bordered]) if size > 1]
    if not counted:
        for offsets, sizes in _edges(type.shape, low, inside):
            edge = filled(builder, whole, offsets, sizes)
            whole = builder.value(tensor.InsertSlice.of(edge, whole, offsets, sizes), name)
        return whole
    ends = [0] * len(counted), [inside[d] for d in counted], [1] * len(counted)
    loop = builder.add(scf.Forall.make(*ends, outputs=[whole]), name)
    place = dict(zip(counted, loop.ivs, strict=True))
    body, end = Builder(loop.body, location=builder.location), scf.InParallel(results=[], regions=[Region()])
    shape, image = ([1] * bordered + [*sizes[bordered:]] for sizes in (type.shape, inside))
    for offsets, sizes in _edges(shape, low, image):
        there = [place.get(d, offset) for d, offset in enumerate(offsets)]
        edge = filled(body, loop.shared[0], there, sizes)
        end.body.append(tensor.ParallelInsertSlice.of(edge, loop.shared[0], there, sizes))
    loop.body.append(end)
    return loop.results[0]


def _edges(
    shape: Sequence[int], low: Sequence[int], inside: Sequence[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Offsets and sizes of what lies around an inside of the shape `inside` from `low` on.

    The edges of a dimension lie between those of the dimensions in front of it, so that none overlap.
    """
    for dim, size in enumerate(shape):
        for start, end in ((0, low[dim]), (low[dim] + inside[dim], size)):
            if start < end:
                offsets = [*low[:dim], start, *[0] * (len(shape) - dim - 1)]
                yield offsets, [*inside[:dim], end - start, *shape[dim + 1 :]]


def _lower_concat(op: tensor.Concat) -> None:
    builder = Builder.before(op)
    dim, type = op.attr("dim"), op.result.type
    whole = empty_like(type, builder, op.result.name)
    start = 0
    for part in op.operands:
        shape = tensor_of(part).shape
        offsets = [start if d == dim else 0 for d in range(len(shape))]
        whole = builder.value(tensor.InsertSlice.of(part, whole, offsets, shape), op.result.name)
        start += shape[dim]
    op.replace_by(whole, rename=True)


def _lower_splat(op: tensor.Splat) -> None:
    op.replace_by(_filled(op.operands[0], tensor_of(op.result), Builder.before(op), None), rename=True)


def _lower_elementwise(op: Op) -> None:
    """Arithmetic on tensors as a loop nest of the same arithmetic on elements."""
    builder = Builder.before(op)
    shape = tensor_of(op.result)
    name = op.result.name
    empty = empty_like(shape, builder, f"{name}_init" if name else "init")
    identity = AffineMap.identity(shape.rank)
    maps = [identity if isinstance(v.type, TensorType) else AffineMap(shape.rank, 0, ()) for v in op.operands]
    nest = linalg.Generic.make(op.operands, [empty], [*maps, identity], [linalg.PARALLEL] * shape.rank)
    scalar = type(op).from_parts(nest.body.args[:-1], [shape.element], op.attributes)
    element = nest.body.append(scalar).result
    nest.body.append(linalg.Yield([element], results=[]))
    op.replace_by(builder.value(nest), rename=True)


# Constants of kernels -----------------------------------------------------------------------------------------


def _lift_kernel_constants(module: ModuleOp) -> None:
    """A kernel has no data of its own: its constant tensors become filled locals or arguments."""
    for kernel in module.body.ops:
        if not isinstance(kernel, ukernel.UkernelFunc):
            continue
        for op in list(kernel.walk()):
            if isinstance(op, arith.Constant) and isinstance(op.result.type, TensorType):
                data = op.attributes["value"]
                if isinstance(data, DenseAttr) and data.is_splat:
                    _lower_splat_constant(op, data)
                else:
                    _lift_constant(module, kernel, op, data)


def _lower_splat_constant(op: arith.Constant, data: DenseAttr) -> None:
    builder = Builder.before(op)
    type = tensor_of(op.result)
    scalar = builder.value(arith.Constant.of(data.array.flat[0], type.element), "value")
    op.replace_by(_filled(scalar, type, builder, None), rename=True)


def _lift_constant(
    module: ModuleOp, kernel: ukernel.UkernelFunc, op: arith.Constant, data: Attribute
) -> None:
    """Passes the constant from every caller, before the destinations."""
    name = op.result.name or "constant"
    body = kernel.body
    argument = body.add_arg(op.result.type, name)
    position = len(body.args) - 1 - len(kernel.type.results)
    attrs = kernel.arg_attributes()[:-1]
    body.args.insert(position, body.args.pop())
    for i, arg in enumerate(body.args):
        arg.index = i
    kernel.set_arg_attributes([*attrs[:position], {}, *attrs[position:]])
    op.replace_by(argument)
    kernel.update_type()
    for dispatch in list(module.walk()):
        if isinstance(dispatch, ukernel.Dispatch) and dispatch.symbol == kernel.symbol:
            calls = [
                [*call[:position], _constant_in(dispatch, data, name), *call[position:]]
                for call in dispatch.calls()
            ]
            dispatch.operands = [v for call in calls for v in call]


def _constant_in(dispatch: Op, data: Attribute, name: str) -> Value:
    """The constant at the head of the function that holds `dispatch`."""
    function = next(a for a in dispatch.ancestors() if isinstance(a, FunctionLike))
    first = function.body.first
    while isinstance(first, arith.Constant):
        if first.attributes["value"] == data:
            return first.result
        first = first.next
    return Builder(function.body, function.body.first).value(arith.Constant(value=data), name)
