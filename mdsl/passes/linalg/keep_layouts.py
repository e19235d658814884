"""keep-layouts: donated arguments keep, from call to call, the blocks in which the program reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import LAYOUT, FuncOp
from mdsl.dialects.reassociation import reassociation
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.pack.blocks import blocked_loops, inherited_tiles, moves_data, only_moves
from mdsl.passes.linalg.pack.constants import cancel_pairs
from mdsl.rewriting import remarks
from mdsl.rewriting.pack_layout import Tiles, pack_op, pack_value
from mdsl.rewriting.structured import empty_like
from mdsl.target.target import Target


@dataclass(frozen=True)
class KeepLayouts(Pass):
    """Let donated arguments, and the results in their places, lie in the blocks that contractions read.

    Before:

        func.func @main(%x: tensor<8x64xf32>, %w: tensor<32x64xf32> {tf.aliasing_output = 1 : i32}, %g: ...) -> (..., tensor<32x64xf32>) {
          %y = linalg.generic (products) ins(%x, %w : ...) ... -> tensor<8x32xf32>
          %w_new = linalg.generic (difference) ins(%w, %g : ...) ... -> tensor<32x64xf32>
          return %y, %w_new : ...

    After (with blocks of 16):

        func.func @main(%x: tensor<8x64xf32>, %w: tensor<2x64x16xf32> {tf.aliasing_output = 1 : i32, mdsl.layout = [[0, 2], [1]]}, ...) {
          %w_2 = linalg.unpack %w inner_dims_pos = [0] inner_tiles = [16] ... : tensor<2x64x16xf32> -> tensor<32x64xf32>
          %y = linalg.generic (products) ins(%x, %w_2 : ...) ... -> tensor<8x32xf32>
          %g_packed = linalg.pack %g inner_dims_pos = [0] inner_tiles = [16] ... : tensor<32x64xf32> -> tensor<2x64x16xf32>
          %w_new = linalg.generic (difference) ins(%w, %g_packed : ...) ... -> tensor<2x64x16xf32>
          return %y, %w_new : ...

    What a training step is given and hands on to the next, parameters and what an optimiser remembers of them, nobody else looks at
    in between: whoever calls the program brings it into the layout once, and back when somebody asks. `mdsl.layout` says how:
    dimension 0 of the plain tensor is dimensions 0 and 2 of the argument, outermost first. `pack` then finds the argument in the
    blocks that it would make of it each time, and sums the gradient in the blocks in which it is asked for, so that
    the update is the end of that kernel. A layout is that of the first contraction that reads the argument, what is computed with it
    element by element follows, and elements only change their places: where blocks would not divide a dimension, the argument stays as it is.
    Only who asks for this pass gets it, as `mdsl.Trainer` does: the program has another signature.
    """

    name: ClassVar[str] = "keep-layouts"
    level: ClassVar[str | None] = "linalg"
    renews = True
    subject = "donated argument"

    block: int = option(0, "elements a block; 0: the target's vector length for the element type", least=0)

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            kept = _chosen(function, self.block, context.target)
            if kept:
                with rewriting(function, "keep layouts"):
                    _keep(function, kept)


def _chosen(function: FuncOp, block: int, target: Target) -> dict[int, Tiles]:
    """The blocks of arguments by their numbers: dimensions of the plain tensor, and how many elements of it a block has."""
    found: dict[int, Tiles] = {}
    donations = function.donations()
    values = {function.body.args[number]: number for number in donations}
    ends = function.body.terminator.operands
    for argument in values:
        tiles = next(_read(function, argument, block, target), None)
        if tiles is None:
            continue
        alike = _alike(argument)
        for other, at in values.items():
            if other in alike and ends[donations[at]] in alike:
                found.setdefault(at, tiles)
    for argument, number in values.items():
        if number not in found:
            remarks.missed(
                function, f"{remarks.value_name(argument)}: no contraction reads it in whole blocks"
            )
    return found


def _read(function: FuncOp, argument: Value, block: int, target: Target) -> Iterator[Tiles]:
    """The blocks that contractions read of an argument, or of what is made of it element by element, where these are a layout
    of its own; those of the first reader first."""
    shape = shaped_of(argument).shape
    seen, left = {argument}, _users(function, argument)
    while left:
        user, value = left.pop()
        if not isinstance(user, linalg.LinalgOp) or not user.results:
            continue
        if user.is_contraction and user.operands[1] is value:
            lanes = block or target.lanes(str(shaped_of(user.result).element))
            places = user.maps[1].results
            loops = blocked_loops(user, lanes).items()
            tiles = {places.index(Dim(d)): size for d, size in loops if Dim(d) in places}
            if moves_data(shape, tiles) and not any(shape[d] % size for d, size in tiles.items()):
                yield tiles
        elif user.is_elementwise and user.result in _beside(user, value) and user.result not in seen:
            seen.add(user.result)
            left += _users(function, user.result)


def _users(function: FuncOp, value: Value) -> list[tuple[Op, Value]]:
    """What reads a value, and that, the first reader last; nothing where a loop would read it as it was."""
    if any(user.block is not function.body for user in value.users):
        return []
    return [(user, value) for user in reversed(list(value.users))]


def _alike(argument: Value) -> set[Value]:
    """The tensors that are computed with an argument, element by element."""
    found: set[Value] = set()
    left = [argument]
    while left:
        value = left.pop()
        if value not in found:
            found.add(value)
            near = [*value.users, *([value.owner] if isinstance(value.owner, Op) else [])]
            left += [other for op in near for other in _beside(op, value)]
    return found


def _beside(op: Op, value: Value) -> list[Value]:
    """What an elementwise op reads or makes in the places of `value`, that itself included."""
    if not isinstance(op, linalg.LinalgOp) or not op.is_elementwise or not op.results:
        return []
    identity, shape = AffineMap.identity(op.num_loops), shaped_of(value).shape
    same: list[Value] = [
        v
        for v, map in zip((*op.inputs, *op.results), op.maps, strict=True)
        if map == identity and shaped_of(v).shape == shape
    ]
    return same if value in same else []


def _keep(function: FuncOp, kept: dict[int, Tiles]) -> None:
    """Gives the arguments, and the results in their places, these layouts."""
    donations, end = function.donations(), function.body.terminator
    attributes, names = function.arg_attributes(), function.result_names()
    for number, tiles in kept.items():
        argument = function.body.args[number]
        message = f"{remarks.value_name(argument)} stays in blocks: dimension "
        remarks.applied(function, message + ", ".join(f"{d} by {size}" for d, size in sorted(tiles.items())))
        plain, name = shaped_of(argument), argument.name
        positions, sizes = [*tiles], [*tiles.values()]
        shape = linalg.packed_shape(plain.shape, positions, sizes, ())
        users = list(argument.users)
        argument.type = TensorType(shape, plain.element)
        builder = Builder(function.body, function.body.first)
        whole = empty_like(TensorType(plain.shape, plain.element), builder, f"{name}_plain")
        unpacked = builder.value(linalg.Unpack.make(argument, whole, positions, sizes), name)
        for user in users:
            user.operands = [unpacked if v is argument else v for v in user.operands]
        new = end.operands[donations[number]]
        packed = pack_value(new, positions, sizes, (), Builder.before(end))
        end.operands = [packed if k == donations[number] else v for k, v in enumerate(end.operands)]
        lanes = {d: [plain.rank + k] for k, d in enumerate(positions)}
        attributes[number][LAYOUT] = reassociation([[d, *lanes.get(d, [])] for d in range(plain.rank)])
    function.update_type()
    function.set_arg_attributes(attributes)
    for op in function.body.ops:
        if isinstance(op, linalg.LinalgOp) and op.is_elementwise and op.results and not only_moves(op):
            tiles = inherited_tiles(op)
            if tiles:
                pack_op(op, tiles)
    cancel_pairs(function)
    drop_unused(function)
    function.keep_result_names(names)
