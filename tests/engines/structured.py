"""Random programs of linalg, tensor and scf ops on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from random import Random

from program_text import FLOATS, MAX_ELEMENTS, Program, Val, tensor_type
from structured_generics import arithmetic, elementwise, generic

Maker = Callable[["Structured"], object]


def structured(random: Random, ops: int = 6) -> str:
    """A program of up to about `ops` ops on the level `linalg`."""
    program = Structured(random, random.choice(["f32"] * 5 + ["f64", "f16", "bf16", "i32", "i64"]))
    program.argument(program.dims(random.choice([1, 2, 2, 3, 4])))
    for _ in range(random.randint(1, ops)):
        random.choice(OPS)(program)
    return program.text()


@dataclass
class Structured(Program):
    """A program whose ops follow the assembly of upstream's dialects."""

    def squash(self, value: Val) -> Val:
        return self.line("tanh", value.shape, value.dtype, f"math.tanh {value.name} : {value.type}", 1.0)

    def scalar(self, number: float, dtype: str) -> str:
        """The name of a scalar constant."""
        name = self.name("s")
        text = str(float(number)) if dtype in FLOATS else str(int(number))
        self.lines.append(f"{name} = arith.constant {text} : {dtype}")
        return name

    def empty(self, shape: Sequence[int], dtype: str) -> str:
        name = self.name("e")
        self.lines.append(f"{name} = tensor.empty() : {tensor_type(shape, dtype)}")
        return name

    def filled(self, shape: Sequence[int], dtype: str, number: float = 0) -> Val:
        type, scalar, empty = tensor_type(shape, dtype), self.scalar(number, dtype), self.empty(shape, dtype)
        code = f"linalg.fill ins({scalar} : {dtype}) outs({empty} : {type}) -> {type}"
        return self.line("fill", shape, dtype, code, abs(number), True)

    def destination(self, shape: Sequence[int], dtype: str) -> Val:
        """Zeros, or any value, which may be used elsewhere too."""
        return self.filled(shape, dtype) if self.chance(60) else self.leaf(shape, dtype)

    def index(self, number: int) -> str:
        name = self.name("i")
        self.lines.append(f"{name} = arith.constant {number} : index")
        return name

    def number(self, *, rank: Sequence[int] = ()) -> Val | None:
        """A tame value of the program's main type."""
        found = self.pick(dtypes=(self.dtype,), rank=rank)
        return found and self.tame(found)


# Named ops ------------------------------------------------------------------------------------------------


def named(p: Structured, op: str, inputs: Sequence[Val], out: Val, bound: float, attributes: str = "") -> Val:
    ins = f"ins({', '.join(v.name for v in inputs)} : {', '.join(v.type for v in inputs)})"
    code = f"linalg.{op} {attributes}{ins} outs({out.name} : {out.type}) -> {out.type}"
    return p.line(op[:6], out.shape, out.dtype, code, bound)


def contraction(p: Structured) -> object:
    x = p.number(rank=(1, 2, 3))
    if x is None:
        return None
    *batch, k = x.shape
    n = p.dims(1, max(1, 4 * MAX_ELEMENTS // x.size))[0]
    if x.rank == 1:
        op, other, out = p.random.choice([("vecmat", (k, n), (n,)), ("dot", (k,), ())])
    elif x.rank == 2:
        op, other, out = p.random.choice([("matmul", (k, n), (x.shape[0], n)), ("matvec", (k,), x.shape[:1])])
    elif x.shape[0] * k * n > 2 * MAX_ELEMENTS:
        return None
    else:
        op, other, out = "batch_matmul", (batch[0], k, n), (*batch, n)
    y, start = p.leaf(other), p.destination(out, p.dtype)
    return named(p, op, [x, y], start, x.bound * y.bound * k**0.5 + start.bound)


def window(p: Structured) -> object:
    x = p.number(rank=(4,)) or p.argument((1, p.dims(1)[0], 7, 9))
    op = p.random.choice(["conv_2d_nchw_fchw", "conv_2d_nhwc_hwcf", "pooling_nchw_max", "pooling_nchw_sum"])
    last = "nhwc" in op
    n, c, h, w = (x.shape[0], x.shape[3], *x.shape[1:3]) if last else x.shape
    kernel, strides, dilations = ([p.random.choice([1, 2, 3]) for _ in range(2)] for _ in range(3))
    rooms = [s - (k - 1) * d - 1 for s, k, d in zip((h, w), kernel, dilations, strict=True)]
    if min(rooms) < 0:
        return None
    extents = [r // s + 1 for r, s in zip(rooms, strides, strict=True)]
    attributes = (
        f"{{strides = dense<{strides}> : tensor<2xi64>, dilations = dense<{dilations}> : tensor<2xi64>}} "
    )
    if "pooling" in op:
        shape = p.name("window")
        p.lines.append(f"{shape} = tensor.empty() : {tensor_type(kernel, p.dtype)}")
        out = p.destination((n, c, *extents), p.dtype)
        return named(
            p,
            op,
            [x, Val(shape, tuple(kernel), p.dtype)],
            out,
            x.bound * prod(kernel) + out.bound,
            attributes,
        )
    f = p.dims(1)[0]
    out = p.destination((n, *extents, f) if last else (n, f, *extents), p.dtype)
    y = p.leaf((*kernel, c, f) if last else (f, c, *kernel))
    return named(p, op, [x, y], out, x.bound * y.bound * (c * prod(kernel)) ** 0.5 + out.bound, attributes)


def rearranged(p: Structured) -> object:
    """transpose and broadcast."""
    x = p.pick(rank=(1, 2, 3))
    if x is None:
        return None
    if p.chance(50):
        order = p.random.sample(range(x.rank), x.rank)
        out, tail = [x.shape[d] for d in order], f"permutation = {order}"
    else:
        place = p.random.randint(0, x.rank)
        out = [*x.shape[:place], p.random.choice([1, 2, 5]), *x.shape[place:]]
        tail = f"dimensions = [{place}]"
    op = "transpose" if "perm" in tail else "broadcast"
    code = f"linalg.{op} ins({x.name} : {x.type}) outs({p.empty(out, x.dtype)} : {tensor_type(out, x.dtype)}) {tail}"
    return p.line(op[:6], out, x.dtype, code, x.bound, x.exact)


def packed(p: Structured) -> object:
    """pack, and unpack again."""
    x = p.number(rank=(1, 2, 3))
    if x is None:
        return None
    dims = p.random.sample(range(x.rank), p.random.randint(1, x.rank))
    tiles = [p.random.choice([1, 2, 3, 4, 8]) for _ in dims]
    order = p.random.sample(range(x.rank), x.rank)
    sizes = dict(zip(dims, tiles, strict=True))
    outer = [-(-s // sizes.get(d, 1)) for d, s in enumerate(x.shape)]
    shape = [*(outer[d] for d in order), *tiles]
    if prod(shape) > 4 * MAX_ELEMENTS:
        return None
    layout = f"outer_dims_perm = {order} inner_dims_pos = {dims} inner_tiles = {tiles} into"
    type, border = tensor_type(shape, x.dtype), p.scalar(0, x.dtype)
    code = f"linalg.pack {x.name} padding_value({border} : {x.dtype}) {layout} {p.empty(shape, x.dtype)} : {x.type} -> {type}"
    there = p.line("pack", shape, x.dtype, code, x.bound, x.exact)
    if p.chance(50):
        there = elementwise(p, there)
    code = f"linalg.unpack {there.name} {layout} {p.empty(x.shape, x.dtype)} : {type} -> {x.type}"
    return p.line("unpack", x.shape, x.dtype, code, there.bound, there.exact)


# Slices and shapes ----------------------------------------------------------------------------------------


def box(p: Structured, shape: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Offsets, sizes and strides of a part of `shape`."""
    offsets, sizes, strides = [], [], []
    for s in shape:
        size, stride = p.random.randint(1, s), p.random.choice([1, 1, 1, 2])
        stride = stride if (size - 1) * stride < s else 1
        offsets.append(p.random.randint(0, s - 1 - (size - 1) * stride))
        sizes.append(size)
        strides.append(stride)
    return offsets, sizes, strides


def sliced(p: Structured) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None:
        return None
    offsets, sizes, strides = box(p, x.shape)
    reduced = [s for s in sizes if s != 1] if p.chance(30) else sizes
    type = tensor_type(reduced, x.dtype)
    code = f"tensor.extract_slice {x.name}{offsets} {sizes} {strides} : {x.type} to {type}"
    return p.line("part", reduced, x.dtype, code, x.bound, x.exact)


def inserted(p: Structured) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None:
        return None
    offsets, sizes, strides = box(p, x.shape)
    part = p.leaf(sizes, x.dtype)
    code = f"tensor.insert_slice {part.name} into {x.name}{offsets} {sizes} {strides} : {part.type} into {x.type}"
    return p.line("whole", x.shape, x.dtype, code, max(x.bound, part.bound), x.exact and part.exact)


def reshaped(p: Structured) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None:
        return None
    if p.chance(50):
        cuts = [0, *sorted(p.random.sample(range(1, x.rank), p.random.randint(0, x.rank - 1))), x.rank]
        groups = [list(range(a, b)) for a, b in pairwise(cuts)]
        shape = [prod(x.shape[d] for d in g) for g in groups]
        code = f"tensor.collapse_shape {x.name} {groups} : {x.type} into {tensor_type(shape, x.dtype)}"
        return p.line("flat", shape, x.dtype, code, x.bound, x.exact)
    groups, shape = [], []
    for s in x.shape:
        factor = p.random.choice([f for f in (1, 2, 3, 4, 8, s) if s % f == 0]) if p.chance(60) else None
        parts = [s] if factor is None else [factor, s // factor]
        groups.append(list(range(len(shape), len(shape) + len(parts))))
        shape += parts
    code = f"tensor.expand_shape {x.name} {groups} output_shape {shape} : {x.type} into {tensor_type(shape, x.dtype)}"
    return p.line("split", shape, x.dtype, code, x.bound, x.exact)


def padded(p: Structured) -> object:
    x = p.pick(rank=(1, 2, 3, 4), dtypes=(p.dtype,))
    if x is None:
        return None
    low, high = ([p.random.choice([0, 0, 1, 2]) for _ in x.shape] for _ in range(2))
    shape = [a + s + b for a, s, b in zip(low, x.shape, high, strict=True)]
    border, name = p.scalar(p.random.choice([0, 1, -2]), x.dtype), p.name("pad")
    arguments = ", ".join(f"{p.name('a')}: index" for _ in shape)
    p.lines.append(f"{name} = tensor.pad {x.name} low{low} high{high} {{")
    p.lines.append(f"^bb0({arguments}):")
    p.lines.append(f"  tensor.yield {border} : {x.dtype}")
    p.lines.append(f"}} : {x.type} to {tensor_type(shape, x.dtype)}")
    return p.add(Val(name, tuple(shape), x.dtype, x.bound, x.exact))


def joined(p: Structured) -> object:
    x = p.pick(rank=(1, 2, 3))
    if x is None or x.size > MAX_ELEMENTS:
        return None
    dim = p.random.randrange(x.rank)
    other = p.leaf([p.random.choice([1, 2, 5]) if d == dim else s for d, s in enumerate(x.shape)], x.dtype)
    parts = p.random.sample([x, other, x], 3)[: p.random.randint(1, 3)]
    shape = [sum(v.shape[d] for v in parts) if d == dim else s for d, s in enumerate(x.shape)]
    types = ", ".join(v.type for v in parts)
    code = f"tensor.concat dim({dim}) {', '.join(v.name for v in parts)} : ({types}) -> {tensor_type(shape, x.dtype)}"
    return p.line("joined", shape, x.dtype, code, max(v.bound for v in parts), x.exact and other.exact)


# Loops over tensors ---------------------------------------------------------------------------------------


def tiles(p: Structured) -> object:
    """An scf.forall that computes a tensor tile by tile, or an scf.for that carries it."""
    x = p.number(rank=(1, 2, 3))
    if x is None:
        return None
    size = x.shape[0]
    step = p.random.choice([s for s in (1, 2, 3, 4, 8, size) if size % s == 0])
    tile = tensor_type((step, *x.shape[1:]), x.dtype)
    rest = [0] * (x.rank - 1)
    sizes, ones = [step, *x.shape[1:]], [1] * x.rank
    name, i, carried, part, more = (p.name(hint) for hint in ("tiled", "i", "whole", "tile", "more"))
    offsets = f"[{', '.join([i, *map(str, rest)])}]"
    out = p.destination(x.shape, x.dtype)
    source = p.random.choice([x.name, carried])
    op = p.random.choice(["arith.addf", "arith.maximumf"] if x.is_float else ["arith.addi", "arith.maxsi"])
    inside = [
        f"  {part} = tensor.extract_slice {source}{offsets} {sizes} {ones} : {x.type} to {tile}",
        f"  {more} = {op} {part}, {part} : {tile}",
    ]
    if p.chance(50):
        p.lines.append(
            f"{name} = scf.forall ({i}) = (0) to ({size}) step ({step}) shared_outs({carried} = {out.name}) -> ({x.type}) {{"
        )
        p.lines += [
            *inside,
            "  scf.forall.in_parallel {",
            f"    tensor.parallel_insert_slice {more} into {carried}{offsets} {sizes} {ones} : {tile} into {x.type}",
            "  }",
            "}",
        ]
    else:
        low, high, by = p.index(0), p.index(size), p.index(step)
        p.lines.append(
            f"{name} = scf.for {i} = {low} to {high} step {by} iter_args({carried} = {out.name}) -> ({x.type}) {{"
        )
        p.lines += [
            *inside,
            f"  {name}_next = tensor.insert_slice {more} into {carried}{offsets} {sizes} {ones} : {tile} into {x.type}",
            f"  scf.yield {name}_next : {x.type}",
            "}",
        ]
    return p.add(Val(name, x.shape, x.dtype, 2 * (x.bound + out.bound), x.exact and out.exact))


OPS: list[Maker] = [
    *(contraction, contraction, contraction, window, window, rearranged, packed, arithmetic, arithmetic),
    *(generic, generic, generic, generic, generic, generic),
    *(sliced, inserted, inserted, reshaped, padded, joined, tiles, tiles),
]
