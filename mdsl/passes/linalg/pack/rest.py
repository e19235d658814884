"""pack: padding lanes. Lanes of a last block that stand for no element are 0 wherever a sum runs over them.

What computes on blocks computes on the rest as well. A contraction leaves there an infinity's or a NaN's product with
the zeros that fill up its weights, an elementwise op may make an infinity of its own; times zero, both would be NaN in
every sum of the next contraction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from mdsl.dialects import arith, linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, i1
from mdsl.rewriting.constants import fresh_resource
from mdsl.rewriting.structured import empty_like


@dataclass(frozen=True)
class _Rest:
    """What lies behind the `count` elements along the dimensions over blocks and over their lanes."""

    block: int
    lane: int
    count: int

    def is_outside_of(self, op: tensor.ExtractSlice) -> bool:
        """True if the slice ends before it."""
        offsets, sizes = op.mixed("offsets"), shaped_of(op.result).shape
        whole = shaped_of(op.operands[0]).shape
        block, lane = offsets[self.block], offsets[self.lane]
        if not isinstance(block, int) or not isinstance(lane, int) or len(sizes) != len(whole):
            return False
        last = block + sizes[self.block] - 1
        return last * whole[self.lane] + lane + sizes[self.lane] <= self.count


def clear_rest(pack: linalg.Pack, unpack: linalg.Unpack, cleared: set[Value]) -> None:
    """Puts zeros into the rest of what `unpack` unpacks, if `pack`, which does so too, is not to be missed. `cleared`
    are values that have them."""
    plain, (positions, tiles, order) = shaped_of(unpack.result).shape, unpack.layout
    outer = [*(order or range(len(plain)))]
    for lane, (dim, tile) in enumerate(zip(positions, tiles, strict=True), len(plain)):
        rest = _Rest(outer.index(dim), lane, plain[dim])
        if plain[dim] % tile and _matters(pack.result, rest):
            _clear(unpack.operands[0], rest, cleared)


def _matters(value: Value, rest: _Rest) -> bool:
    """True if an op does more with the rest than compute another rest that is dropped."""
    return any(_user_matters(user, value, rest) for user in value.users)


def _user_matters(user: Op, value: Value, rest: _Rest) -> bool:
    if isinstance(user, linalg.Unpack):
        return False
    if isinstance(user, tensor.Pad):
        return _matters(user.result, rest)
    if isinstance(user, tensor.ExtractSlice):
        return not rest.is_outside_of(user)
    if not isinstance(user, linalg.LinalgOp) or len(user.results) != 1:
        return True
    reads = [m.results for v, m in zip(user.operands, user.maps, strict=True) if v is value]
    made = user.maps[-1].results
    places = [(exprs[rest.block], exprs[rest.lane]) for exprs in reads]
    if any(block not in made or lane not in made for block, lane in places):
        return True
    return any(_matters(user.result, _Rest(made.index(b), made.index(e), rest.count)) for b, e in places)


def _clear(value: Value, rest: _Rest, cleared: set[Value]) -> None:
    """Puts zeros next to the op that computes the rest, which takes them up into its kernel."""
    owner, blocks = value.owner, shaped_of(value).shape[rest.block]
    if value in cleared or isinstance(owner, Block | linalg.Pack | tensor.InsertSlice):
        return  # zeros were filled in as it was made
    if isinstance(owner, tensor.Pad) and isinstance(owner.padding_value.owner, Constant):
        _clear(owner.operands[0], rest, cleared)
    elif isinstance(owner, tensor.Concat) and owner.attr("dim") == rest.block:
        before = blocks - shaped_of(owner.operands[-1]).shape[rest.block]
        last = replace(rest, count=rest.count - before * shaped_of(value).shape[rest.lane])
        _clear(owner.operands[-1], last, cleared)
    elif isinstance(owner, tensor.Concat):
        for part in owner.operands:
            _clear(part, rest, cleared)
    else:
        cleared.add(_select(value, owner, rest))


def _select(value: Value, owner: Op, rest: _Rest) -> Value:
    """What all users of `value` read instead of it."""
    type, builder, users = shaped_of(value), Builder.after(owner), list(value.users)
    shape = (type.shape[rest.block], type.shape[rest.lane])
    is_element = (np.arange(prod(shape)) < rest.count).reshape(shape)
    mask = tensor_attribute(is_element, TensorType(shape, i1), fresh_resource(owner, "is_element"))
    kept = builder.value(Constant(value=mask, results=[TensorType(shape, i1)]), "is_element")
    zero = builder.value(Constant.of(0, type.element), "rest")
    start = empty_like(TensorType(type.shape, type.element), builder, f"{value.name}_cleared_init")
    identity = AffineMap.identity(type.rank)
    maps = [identity, AffineMap.select(type.rank, (rest.block, rest.lane)), identity]
    new = linalg.Generic.make([value, kept], [start], maps, [linalg.PARALLEL] * type.rank)
    body, (element, is_one, _) = Builder(new.body), new.body.args
    body.add(linalg.Yield([body.value(arith.Select(is_one, element, zero))], results=[]))
    result = builder.value(new, f"{value.name}_cleared")
    for user in users:
        user.operands = [result if v is value else v for v in user.operands]
    return result
