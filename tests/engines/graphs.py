"""Random graphs of nn ops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random

from graph_moves import MOVES, Maker
from program_text import FLOATS, INTS, MAX_ELEMENTS, Program, Val


def graph(random: Random, ops: int = 6) -> str:
    """A program of up to about `ops` nn ops."""
    dtype = random.choice(["f32"] * 7 + ["f64", "f16", "bf16", "i32", "i64"])
    program = Program(random, dtype)
    program.argument(program.dims(random.choice([1, 2, 2, 3, 4, 4])))
    for _ in range(random.randint(1, ops)):
        random.choice(FLOAT_OPS if dtype in FLOATS else INT_OPS)(program)
    return program.text()


def exceptional(random: Random, ops: int = 4) -> str:
    """A program of ops whose result for NaN, infinities and the ends of the integers is laid down."""
    dtype = random.choice(["f32", "f32", "f64", "f16", "bf16", "i8", "i32", "i64"])
    program = Program(random, dtype)
    program.argument(program.dims(random.choice([1, 2, 3, 4]), 500))
    for _ in range(random.randint(1, ops)):
        random.choice([*EXCEPTIONAL, unary, softmax] if dtype in FLOATS else [*EXCEPTIONAL, integer_unary])(
            program
        )
    return program.text()


# Elementwise ----------------------------------------------------------------------------------------------

BOUNDED = {"nn.tanh": 1.0, "nn.sigmoid": 1.0, "nn.erf": 1.0}


def unary(p: Program) -> object:
    x = p.pick(dtypes=FLOATS)
    op = p.random.choice(
        ["nn.relu", "nn.leaky_relu", "nn.sigmoid", "nn.tanh", "nn.gelu", "nn.erf", "nn.neg", "nn.abs"]
    )
    if x is None:
        return None
    attributes = {
        "nn.leaky_relu": "alpha = 0.25",
        "nn.gelu": p.random.choice(["", 'approximate = "tanh"']),
    }.get(op, "")
    exact = op in ("nn.relu", "nn.neg", "nn.abs")
    return p.emit(op, [x], x.shape, attributes, bound=BOUNDED.get(op, x.bound), exact=exact)


def integer_unary(p: Program) -> object:
    x = p.pick(dtypes=INTS)
    return x and p.emit(p.random.choice(["nn.relu", "nn.neg", "nn.abs"]), [x], x.shape)


def clip(p: Program) -> object:
    x = p.pick(dtypes=(*FLOATS, *INTS))
    bounds = p.random.choice(["min = -1.0, max = 2.0", "min = 0.0, max = 6.0", "max = 1.0", "min = -1.0"])
    return x and p.emit("nn.clip", [x], x.shape, bounds, exact=True)


def steep(p: Program) -> object:
    """exp, log, sqrt and pow where they are well-conditioned."""
    x = p.pick(dtypes=FLOATS)
    if x is None:
        return None
    near_one = p.emit("nn.sigmoid", [x], x.shape, bound=1.0)
    base = p.emit("nn.add", [near_one, p.constant((), x.dtype, 0.5, 1.0)], x.shape, bound=2.0)
    op = p.random.choice(["nn.exp", "nn.log", "nn.sqrt", "nn.pow", "nn.div"])
    if op in ("nn.exp", "nn.log", "nn.sqrt"):
        return p.emit(op, [base], x.shape, bound=8.0)
    other = p.tame(p.leaf(broadcastable(p, x.shape), x.dtype))
    if op == "nn.div":
        return p.emit(op, [other, base], join(other.shape, x.shape), bound=2 * other.bound)
    power = p.emit("nn.tanh", [other], other.shape, bound=1.0)
    return p.emit(op, [base, power], join(base.shape, power.shape), bound=2.0)


def broadcastable(p: Program, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts with `shape`: ones in places, leading dimensions absent or extra."""
    found = [1 if p.chance(25) else s for s in shape]
    if p.chance(25):
        return tuple(found[p.random.randint(0, len(found)) :])
    if p.chance(10) and prod(shape) * 2 <= MAX_ELEMENTS and len(shape) < 5:
        return (2, *found)
    return tuple(found)


def join(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """The shape that two shapes broadcast to."""
    rank = max(len(a), len(b))
    left, right = ([1] * (rank - len(s)) + list(s) for s in (a, b))
    return tuple(max(s, t) if 0 not in (s, t) else 0 for s, t in zip(left, right, strict=True))


def binary(p: Program) -> object:
    x = p.pick(dtypes=(*FLOATS, *INTS))
    if x is None:
        return None
    a, b = p.tame(x), p.tame(p.leaf(broadcastable(p, x.shape), x.dtype))
    if p.chance(30):
        a, b = b, a
    ops = ["nn.add", "nn.sub", "nn.mul", "nn.maximum", "nn.minimum"]
    op = p.random.choice(ops if x.is_float else [*ops, "nn.div"])
    bound = a.bound * b.bound if op == "nn.mul" else a.bound + b.bound
    return p.emit(op, [a, b], join(a.shape, b.shape), bound=bound, exact=op in ("nn.maximum", "nn.minimum"))


def select(p: Program) -> object:
    x = p.pick(exact=True)
    if x is None:
        return None
    other = p.leaf(broadcastable(p, x.shape), x.dtype)
    if not other.exact:
        return None
    kinds = ["eq", "ne"] if x.dtype == "i1" else ["eq", "ne", "lt", "le", "gt", "ge"]
    shape = join(x.shape, other.shape)
    mask = p.emit("nn.compare", [x, other], shape, f'kind = "{p.random.choice(kinds)}"', dtype="i1", bound=1)
    a, b = p.leaf(broadcastable(p, shape)), p.leaf(shape)
    return p.emit(
        "nn.select",
        [mask, a, b],
        join(a.shape, shape),
        dtype=a.dtype,
        bound=max(a.bound, b.bound),
        exact=True,
    )


def cast(p: Program) -> object:
    x = p.pick()
    if x is None:
        return None
    target = p.random.choice([*FLOATS, *INTS, "i1"] if x.exact else [*FLOATS])
    bound = 1.0 if target == "i1" else x.bound
    return p.emit("nn.cast", [x], x.shape, dtype=target, bound=bound, exact=True)


# Contractions ---------------------------------------------------------------------------------------------


def matmul(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(1, 2, 3, 4))
    if x is None:
        return None
    x = p.tame(x)
    k = x.shape[-1]
    columns = p.dims(1, max(1, MAX_ELEMENTS * 4 // max(1, x.size)))[0]
    if p.chance(20) and x.size // k <= 200:  # the second operand has a batch, which broadcasts
        batch = broadcastable(p, x.shape[:-2]) or (1 if x.rank > 2 else p.random.choice([1, 2, 3]),)
        other = p.leaf((*batch, k, columns))
    else:
        other = p.leaf((k,) if p.chance(10) else (k, columns))
    batch = join(x.shape[:-2], other.shape[:-2])
    shape = (*batch, *x.shape[-2:-1], *(other.shape[-1:] if other.rank > 1 else ()))
    return p.emit("nn.matmul", [x, other], shape, bound=x.bound * other.bound * k**0.5)


def linear(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(1, 2, 3))
    if x is None:
        return None
    x = p.tame(x)
    out = p.dims(1)[0]
    operands = [x, p.leaf((out, x.shape[-1]))]
    if p.chance(60):
        operands.append(p.leaf((out,)))
    return p.emit("nn.linear", operands, (*x.shape[:-1], out), bound=x.bound * 4 * x.shape[-1] ** 0.5)


def conv2d(p: Program) -> object:
    x = p.tame(image(p))
    nhwc = p.chance(30)
    n, c, h, w = (x.shape[0], x.shape[3], *x.shape[1:3]) if nhwc else x.shape
    groups = p.random.choice([g for g in (1, 1, 2, 3, c) if c % g == 0])
    per_group = p.random.choice([1, 2, 3, 5, 8, 16, 17]) if groups < 4 else p.random.choice([1, 1, 2])
    o = groups * per_group
    window = windows(p, (h, w))
    if window is None or n * o * prod(window.extents) > MAX_ELEMENTS * 2:
        return None
    operands = [x, p.leaf((o, c // groups, *window.kernel))]
    if p.chance(50):
        operands.append(p.leaf((o,)))
    attributes = f"{window.attributes}, groups = {groups}{', layout = ' + QUOTED_NHWC if nhwc else ''}"
    shape = (n, *window.extents, o) if nhwc else (n, o, *window.extents)
    return p.emit(
        "nn.conv2d",
        operands,
        shape,
        attributes,
        bound=x.bound * 4 * (c // groups * prod(window.kernel)) ** 0.5,
    )


QUOTED_NHWC = '"nhwc"'


def image(p: Program) -> Val:
    """A value of four dimensions."""
    found = p.pick(dtypes=(p.dtype,), rank=(4,))
    if found is not None:
        return found
    return p.argument(
        (p.random.choice([1, 1, 2]), *p.dims(1), *(p.random.choice([1, 3, 6, 7, 9, 12]) for _ in range(2)))
    )


class windows_of:
    """Kernel, strides, pads, dilations and the extents that follow."""

    def __init__(
        self, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int], extents: list[int]
    ) -> None:
        self.kernel, self.extents = kernel, extents
        self.attributes = f"strides = {strides}, pads = {pads}, dilations = {dilations}"


def windows(p: Program, size: Sequence[int], pool: bool = False) -> windows_of | None:
    kernel = [p.random.choice([1, 2, 3, 3, 5]) for _ in range(2)]
    strides = [p.random.choice([1, 1, 2, 3]) for _ in range(2)]
    dilations = [p.random.choice([1, 1, 1, 2]) for _ in range(2)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [p.random.choice([0, 0, 1, 2]) for _ in range(4)]
    if pool:
        pads = [min(pad, spans[d % 2] - 1) for d, pad in enumerate(pads)]
    room = [size[d] + pads[d] + pads[d + 2] - spans[d] for d in range(2)]
    if min(room) < 0:
        return None
    return windows_of(
        kernel, strides, pads, dilations, [r // s + 1 for r, s in zip(room, strides, strict=True)]
    )


# Normalisation, pooling, reductions -----------------------------------------------------------------------


def pool(p: Program) -> object:
    x = image(p)
    nhwc = p.chance(30)
    n, c, h, w = (x.shape[0], x.shape[3], *x.shape[1:3]) if nhwc else x.shape
    window = windows(p, (h, w), pool=True)
    if window is None:
        return None
    average = x.is_float and p.chance(50)
    attributes = f"kernel = {window.kernel}, {window.attributes}{', layout = ' + QUOTED_NHWC if nhwc else ''}"
    if average and p.chance(50):
        attributes += ", count_include_pad = true"
    shape = (n, *window.extents, c) if nhwc else (n, c, *window.extents)
    return p.emit("nn.avg_pool2d" if average else "nn.max_pool2d", [x], shape, attributes, exact=not average)


def global_avg_pool(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(3, 4))
    nhwc = p.chance(30)
    if x is None:
        return None
    kept = (0, x.rank - 1) if nhwc else (0, 1)
    shape = tuple(s if d in kept else 1 for d, s in enumerate(x.shape))
    return p.emit("nn.global_avg_pool", [x], shape, 'layout = "nhwc"' if nhwc else "")


def batch_norm(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(2, 3, 4))
    nhwc = p.chance(30)
    if x is None:
        return None
    x = p.tame(x)
    channels = (x.shape[-1] if nhwc else x.shape[1],)
    variance = p.constant(channels, x.dtype, 0.5, 2.0)
    operands = [x, p.leaf(channels), p.leaf(channels), p.leaf(channels), variance]
    layout = ', layout = "nhwc"' if nhwc else ""
    return p.emit("nn.batch_norm", operands, x.shape, f"epsilon = 0.001{layout}", bound=8 * (x.bound + 4))


def layer_norm(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(1, 2, 3))
    if x is None:
        return None
    x = p.tame(x)
    axis = p.random.randrange(x.rank)
    operands = [x, p.leaf(x.shape[axis:])]
    if p.chance(60):
        operands.append(p.leaf(x.shape[axis:]))
    return p.emit("nn.layer_norm", operands, x.shape, f"axis = {axis - x.rank}, epsilon = 0.1", bound=4.0 * 6)


def softmax(p: Program) -> object:
    x = p.pick(dtypes=(p.dtype,), rank=(1, 2, 3, 4))
    if x is None:
        return None
    x = p.tame(x)
    op = p.random.choice(["nn.softmax", "nn.log_softmax"])
    axis = p.random.randrange(-x.rank, x.rank)
    return p.emit(op, [x], x.shape, f"axis = {axis}", bound=1.0 if op == "nn.softmax" else 2 * x.bound + 8)


def reduce(p: Program) -> object:
    x = p.pick(dtypes=(*FLOATS, *INTS))
    if x is None:
        return None
    x = p.tame(x)
    kind = p.random.choice(["sum", "max", "min", "mean"] if x.is_float else ["sum", "max", "min"])
    axes = sorted(p.random.sample(range(x.rank), p.random.randint(0, x.rank)))
    keepdims = p.chance(50)
    everything = not axes
    if everything:
        axes = list(range(x.rank))
    shape = tuple(1 if d in axes else s for d, s in enumerate(x.shape) if keepdims or d not in axes)
    attributes = (
        f'kind = "{kind}", keepdims = {str(keepdims).lower()}{"" if everything else f", axes = {axes}"}'
    )
    count = prod(x.shape[d] for d in axes)
    bound = x.bound * count**0.5 * 2 if kind == "sum" else x.bound
    return p.emit("nn.reduce", [x], shape, attributes, bound=bound, exact=kind in ("max", "min"))


def argmax(p: Program) -> object:
    x = p.pick(dtypes=(*FLOATS, *INTS), rank=(1, 2, 3, 4), exact=True)
    if x is None:
        return None
    axis, keepdims = p.random.randrange(x.rank), p.chance(50)
    shape = tuple(1 if d == axis else s for d, s in enumerate(x.shape) if keepdims or d != axis)
    attributes = f"axis = {axis}, keepdims = {str(keepdims).lower()}"
    return p.emit("nn.argmax", [x], shape, attributes, dtype="i64", bound=float(x.shape[axis]))


COMMON: list[Maker] = [
    binary,
    binary,
    binary,
    clip,
    select,
    cast,
    matmul,
    linear,
    conv2d,
    pool,
    reduce,
    argmax,
    *MOVES,
]
EXCEPTIONAL: list[Maker] = [binary, binary, clip, select, cast, pool, reduce, argmax, *MOVES]
INT_OPS: list[Maker] = [integer_unary, *COMMON]
FLOAT_OPS: list[Maker] = [
    *(unary, unary, unary, steep, matmul, linear, conv2d, conv2d, conv2d, pool),
    *(global_avg_pool, batch_norm, batch_norm, layer_norm, softmax, *COMMON),
]
