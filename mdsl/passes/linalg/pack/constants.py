"""pack: layout changes that vanish: those of constants are evaluated, inverse pairs cancel."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import arith, linalg
from mdsl.dialects.arith import Constant
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.passes.linalg.pack.rest import clear_rest
from mdsl.reference.linalg import packed
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.rewriting.pack_layout import pads_with_zeros


def cancel_pairs(func: Op) -> None:
    """pack(unpack(x)) -> x where both have one layout, with zeros in the lanes that `pack` fills up if they matter."""
    cleared: set[Value] = set()
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        unpack = op.operands[0].owner
        if not isinstance(unpack, linalg.Unpack) or unpack.layout != op.layout or not pads_with_zeros(op):
            continue
        if unpack.operands[0].type == op.result.type:
            clear_rest(op, unpack, cleared)
            message = f"is {remarks.name_of(unpack)} before it was unpacked: the blocks stay"
            remarks.applied(op, message, unpack)
            op.replace_by(unpack.operands[0])


def pack_constants(func: Op) -> None:
    """Packs of constants, whose padding is constant too, become constants."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        data = constant_data(op.operands[0])
        padding = [] if op.padding_value is None else [arith.constant_of(op.padding_value)]
        if data is None or None in padding:
            continue
        remarks.applied(op, f"is made now, of the constant {remarks.value_name(op.operands[0])}")
        type = tensor_of(op.result)
        array = np.ascontiguousarray(packed(op, data, *padding))
        name = fresh_resource(op, f"{resource_name(op.operands[0])}_packed")
        attr = tensor_attribute(array, type, name)
        op.replace_by(Builder.before(op).value(Constant(value=attr, results=[type]), op.result.name))
