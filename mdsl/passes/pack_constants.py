"""pack: layout changes that cost nothing: of constants, which happen now, and pairs that cancel."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import linalg
from mdsl.dialects.arith import Constant
from mdsl.ir.core import Builder, Op
from mdsl.ir.types import TensorType, dtype_of
from mdsl.passes.fold import constant_data, fresh_resource, resource_name, tensor_attribute


def cancel_pairs(func: Op) -> None:
    """pack(unpack(x)) -> x where both have one layout."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        unpack = op.operands[0].owner
        names = ("inner_dims_pos", "static_inner_tiles", "outer_dims_perm")
        if not isinstance(unpack, linalg.Unpack) or any(unpack.attr(n) != op.attr(n) for n in names):
            continue
        if unpack.operands[0].type == op.result.type:
            op.replace_by(unpack.operands[0])


def pack_constants(func: Op) -> None:
    """Packs of constants become constants."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        data = constant_data(op.operands[0])
        if data is None:
            continue
        type = op.result.type
        assert isinstance(type, TensorType)
        array = np.ascontiguousarray(pack_array(data, op))
        name = fresh_resource(op, f"{resource_name(op.operands[0])}_packed")
        attr = tensor_attribute(array.astype(dtype_of(type.element), copy=False), type, name)
        op.replace_by(Builder.before(op).value(Constant(value=attr, results=[type]), op.result.name))


def pack_array(data: np.ndarray, op: linalg.Pack) -> np.ndarray:
    """`linalg.pack` of an array; what blocks lack is 0."""
    positions, sizes = op.attr("inner_dims_pos"), op.attr("static_inner_tiles")
    tiles = dict(zip(positions, sizes, strict=True))
    widths = [(0, -s % tiles.get(d, 1)) for d, s in enumerate(data.shape)]
    padded = np.pad(data, widths) if any(w for _, w in widths) else data
    split: list[int] = []
    outer_axes: list[int] = []
    inner_axes: dict[int, int] = {}
    for d, size in enumerate(padded.shape):
        outer_axes.append(len(split))
        if d in tiles:
            inner_axes[d] = len(split) + 1
            split += [size // tiles[d], tiles[d]]
        else:
            split.append(size)
    order = op.attr("outer_dims_perm") or range(data.ndim)
    return padded.reshape(split).transpose(
        [*(outer_axes[d] for d in order), *(inner_axes[p] for p in positions)]
    )
