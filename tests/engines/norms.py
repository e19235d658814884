"""Random programs around normalisations: what a row leads to, reduced over any axes, and whatever reads that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from program_text import Program, Val

SIZES = (1, 2, 3, 5, 8, 15, 16, 33)
KINDS = ("mean", "sum", "max", "min", "prod")


def norms(random: Random) -> str:
    """A normalisation, a reduction over some axes, and some ops behind it; now and then several of them."""
    p = Program(random)
    x = p.argument([random.choice(SIZES) for _ in range(random.choice([1, 2, 2, 3, 3, 4]))])
    for _ in range(random.choice([1, 1, 2])):
        normal = random.choice(NORMS)(p, x, some_axes(random, x.rank))
        axes, kind = some_axes(random, x.rank), random.choice(KINDS)
        places = normal.exact and p.chance(30)
        reduced = argmax(p, normal, axes[0]) if places else reduce(p, normal, axes, kind)
        x = random.choice(FOLLOWERS)(p, p.tame(reduced), normal)
        if not x.rank:
            break
    return p.text()


def some_axes(random: Random, rank: int) -> list[int]:
    """A set of axes, at least one of them; the last or all of them more often."""
    if random.random() < 0.4:
        return [rank - 1] if random.random() < 0.5 else list(range(rank))
    return sorted(random.sample(range(rank), random.randint(1, rank)))


def reduce(p: Program, x: Val, axes: Sequence[int], kind: str, keepdims: bool | None = None) -> Val:
    kept = p.chance(50) if keepdims is None else keepdims
    x = p.squash(x) if kind == "prod" else x
    shape = [1 if d in axes else s for d, s in enumerate(x.shape) if kept or d not in axes]
    attributes = f'kind = "{kind}", axes = {list(axes)}, keepdims = {str(kept).lower()}'
    bound = x.size * x.bound if kind == "sum" else x.bound
    return p.emit("nn.reduce", [x], shape, attributes, bound=bound, exact=kind in ("max", "min"))


def argmax(p: Program, x: Val, axis: int) -> Val:
    keep = p.chance(50)
    shape = [1 if d == axis else s for d, s in enumerate(x.shape) if keep or d != axis]
    place = p.emit("nn.argmax", [x], shape, f"axis = {axis}, keepdims = {str(keep).lower()}", dtype="i64")
    return p.emit("nn.cast", [place], shape, dtype="f32", bound=x.shape[axis])


# Normalisations -------------------------------------------------------------------------------------------


def softmax(p: Program, x: Val, axes: Sequence[int]) -> Val:
    op = p.random.choice(["nn.softmax", "nn.log_softmax"])
    return p.emit(op, [x], x.shape, f"axis = {axes[0]}", bound=x.bound * 2 + 4)


def layer_norm(p: Program, x: Val, axes: Sequence[int]) -> Val:
    parts = [p.leaf(x.shape[axes[0] :]) for _ in range(2)]
    return p.emit("nn.layer_norm", [x, *parts], x.shape, f"axis = {axes[0]}", bound=16.0)


def over_norm(p: Program, x: Val, axes: Sequence[int]) -> Val:
    """RMS norm, L2 norm and the like, of any set of axes."""
    squares = p.emit("nn.mul", [x, x], x.shape, bound=x.bound**2)
    total = reduce(p, squares, axes, p.random.choice(["mean", "sum"]), True)
    safe = p.emit("nn.add", [total, p.constant((1,), low=1.0, high=1.0)], total.shape)
    return p.emit("nn.div", [x, p.emit("nn.sqrt", [safe], safe.shape)], x.shape, bound=x.bound)


def standardised(p: Program, x: Val, axes: Sequence[int]) -> Val:
    """Instance and group norm: centred, and over the deviation."""
    return over_norm(p, centred(p, x, axes), axes)


def centred(p: Program, x: Val, axes: Sequence[int]) -> Val:
    middle = reduce(p, x, axes, p.random.choice(["mean", "max"]), True)
    return p.emit("nn.sub", [x, middle], x.shape, bound=2 * x.bound, exact=True)


def shares(p: Program, x: Val, axes: Sequence[int]) -> Val:
    """x / sum(|x|)."""
    sizes = p.emit("nn.abs", [x], x.shape)
    total = reduce(p, sizes, axes, "sum", True)
    safe = p.emit("nn.add", [total, p.constant((1,), low=1.0, high=1.0)], total.shape)
    return p.emit("nn.div", [x, safe], x.shape, bound=1.0)


def attention(p: Program, x: Val, axes: Sequence[int]) -> Val:
    """softmax(x x^T) x."""
    if x.rank < 2:
        return softmax(p, x, axes)
    swapped = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    transposed = p.emit("nn.transpose", [x], [x.shape[d] for d in swapped], f"perm = {swapped}")
    shape = (*x.shape[:-1], x.shape[-2])
    scores = p.squash(p.emit("nn.matmul", [x, transposed], shape, bound=1000.0))
    weights = p.emit("nn.softmax", [scores], shape, "axis = -1", bound=1.0)
    return p.emit("nn.matmul", [weights, x], x.shape, bound=x.bound)


NORMS: list[Callable[[Program, Val, Sequence[int]], Val]] = [
    softmax,
    layer_norm,
    over_norm,
    standardised,
    centred,
    shares,
    attention,
]


# What follows: of the reduced value and of the normalised one that it was made of ------------------------------


def nothing(p: Program, y: Val, normal: Val) -> Val:
    return y


def elementwise(p: Program, y: Val, normal: Val) -> Val:
    return p.emit("nn.sigmoid", [y], y.shape, bound=1.0)


def added_back(p: Program, y: Val, normal: Val) -> Val:
    """Stretched to the shape that it was reduced from, where it has kept its dimensions, else to one of its own."""
    if y.rank != normal.rank:
        return elementwise(p, y, normal)
    return p.emit("nn.add", [normal, y], normal.shape, bound=y.bound + normal.bound)


def product(p: Program, y: Val, normal: Val) -> Val:
    if not y.rank:
        return y
    other = p.leaf((y.shape[-1], p.random.choice(SIZES)))
    return p.emit("nn.matmul", [y, other], (*y.shape[:-1], other.shape[1]), bound=y.shape[-1] * y.bound)


def normalised(p: Program, y: Val, normal: Val) -> Val:
    return p.random.choice(NORMS)(p, y, some_axes(p.random, y.rank)) if y.rank else y


def transposed(p: Program, y: Val, normal: Val) -> Val:
    if y.rank < 2:
        return elementwise(p, y, normal)
    order = p.random.sample(range(y.rank), y.rank)
    return p.emit("nn.transpose", [y], [y.shape[d] for d in order], f"perm = {order}")


def two_users(p: Program, y: Val, normal: Val) -> Val:
    sides = [p.emit(op, [y], y.shape, bound=y.bound + 1.0) for op in ("nn.tanh", "nn.relu")]
    return p.emit("nn.mul", sides, y.shape)


FOLLOWERS: list[Callable[[Program, Val, Val], Val]] = [
    nothing,
    elementwise,
    added_back,
    product,
    normalised,
    transposed,
    two_users,
]
