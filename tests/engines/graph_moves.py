"""Random ops of graphs that move data."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from program_text import FLOATS, INTS, MAX_ELEMENTS, Program

Maker = Callable[[Program], object]
"""Adds an op to a program, or nothing where no value fits."""


def reshape(p: Program) -> object:
    x = p.pick()
    if x is None:
        return None
    rest, shape = x.size, []
    for prime in (2, 3, 5, 7, 11, 17):
        factor = 1
        while rest % prime == 0:
            rest //= prime
            factor *= prime
            if p.chance(40):
                shape.append(factor)
                factor = 1
        shape.append(factor)
    shape = [s for s in (*shape, rest) if s != 1 or p.chance(15)]
    p.random.shuffle(shape)
    while len(shape) > 4:
        shape[:2] = [shape[0] * shape[1]]
    return p.emit("nn.reshape", [x], shape, exact=True)


def flatten(p: Program) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None:
        return None
    axis = p.random.randint(0, x.rank)
    return p.emit(
        "nn.flatten", [x], (prod(x.shape[:axis]), prod(x.shape[axis:])), f"axis = {axis}", exact=True
    )


def transpose(p: Program) -> object:
    x = p.pick(rank=(2, 3, 4))
    if x is None:
        return None
    perm = list(range(x.rank))
    p.random.shuffle(perm)
    return p.emit("nn.transpose", [x], [x.shape[d] for d in perm], f"perm = {perm}", exact=True)


def concat(p: Program) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None or x.size > MAX_ELEMENTS:
        return None
    axis = p.random.randrange(x.rank)
    parts = [x]
    for _ in range(p.random.randint(0, 2)):
        size = p.random.choice([1, 2, 5, x.shape[axis]])
        parts.append(p.leaf((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype))
    p.random.shuffle(parts)
    shape = (*x.shape[:axis], sum(v.shape[axis] for v in parts), *x.shape[axis + 1 :])
    return p.emit("nn.concat", parts, shape, f"axis = {axis}", exact=True)


def slice_(p: Program) -> object:
    x = p.pick(rank=(1, 2, 3, 4))
    if x is None:
        return None
    axes = sorted(p.random.sample(range(x.rank), p.random.randint(1, x.rank)))
    starts, ends, steps, shape = [], [], [], list(x.shape)
    for d in axes:
        start, end = sorted((p.random.randrange(shape[d]), p.random.randint(1, shape[d])))
        step = p.random.choice([1, 1, 2, 3, -1, -2])
        if end == start:
            end += 1
        if step < 0:
            start, end = end - 1, start - 1 if start else -shape[d] - 1
        starts.append(start)
        ends.append(end)
        steps.append(step)
        shape[d] = len(range(*slice(start, end, step).indices(shape[d])))
    return p.emit(
        "nn.slice",
        [x],
        shape,
        f"starts = {starts}, ends = {ends}, axes = {axes}, steps = {steps}",
        exact=True,
    )


def pad(p: Program) -> object:
    x = p.pick(dtypes=(*FLOATS, *INTS))
    if x is None:
        return None
    pads = [p.random.choice([0, 0, 1, 2]) for _ in range(2 * x.rank)]
    shape = [pads[d] + s + pads[d + x.rank] for d, s in enumerate(x.shape)]
    if prod(shape) > 2 * MAX_ELEMENTS:
        return None
    return p.emit(
        "nn.pad", [x], shape, f"pads = {pads}, value = {p.random.choice(['0.0', '1.0', '-2.0'])}", exact=True
    )


def gather(p: Program) -> object:
    x = p.pick(rank=(1, 2, 3))
    if x is None:
        return None
    axis = p.random.randrange(x.rank)
    indices = p.pick(dtypes=("i32", "i64"), rank=(0, 1, 2)) if p.chance(50) else None
    if indices is None:
        shape = p.dims(p.random.choice([0, 1, 2]), 12)
        dtype = p.random.choice(["i32", "i64"])
        indices = p.constant(shape, dtype, -9, 9) if p.chance(50) else p.argument(shape, dtype)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if prod(shape) > 2 * MAX_ELEMENTS:
        return None
    return p.emit("nn.gather", [x, indices], shape, f"axis = {axis}", bound=x.bound, exact=True)


def broadcast(p: Program) -> object:
    x = p.pick(rank=(0, 1, 2, 3))
    if x is None:
        return None
    shape = [p.random.choice([1, 2, 3, 17]) if s == 1 else s for s in x.shape]
    if p.chance(40):
        shape.insert(0, p.random.choice([1, 2, 5]))
    if prod(shape) > 2 * MAX_ELEMENTS:
        return None
    return p.emit("nn.broadcast", [x], shape, exact=True)


MOVES: list[Maker] = [reshape, flatten, transpose, concat, slice_, pad, gather, broadcast]
