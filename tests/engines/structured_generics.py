"""Random linalg.generic ops, for programs on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from program_text import FLOATS, MAX_ELEMENTS, Val

if TYPE_CHECKING:
    from structured import Structured

UNARY = ("arith.negf", "math.absf", "math.tanh", "math.erf", "math.floor")
BINARY = ("arith.addf", "arith.subf", "arith.mulf", "arith.maximumf", "arith.minimumf")
INT_BINARY = (
    "arith.addi",
    "arith.subi",
    "arith.muli",
    "arith.maxsi",
    "arith.minsi",
    "arith.andi",
    "arith.xori",
)


def elementwise(p: Structured, x: Val) -> Val:
    """Arithmetic on whole tensors."""
    y = p.leaf(x.shape, x.dtype)
    op = p.random.choice(["arith.addf", "arith.maximumf"] if x.is_float else ["arith.addi", "arith.maxsi"])
    return p.line(op[6:], x.shape, x.dtype, f"{op} {x.name}, {y.name} : {x.type}", x.bound + y.bound)


def arithmetic(p: Structured) -> object:
    x = p.number()
    return x and elementwise(p, x)


@dataclass
class Body:
    """Scalar code under construction; every value lies within about `bound`."""

    p: Structured
    dtype: str
    values: list[str]
    lines: list[str]
    bound: float

    def step(self) -> None:
        p, name = self.p, self.p.name("v")
        a, b = (p.random.choice(self.values) for _ in range(2))
        floats = self.dtype in FLOATS
        if floats and p.chance(40):
            op = p.random.choice(UNARY[:4])
            self.lines.append(f"{name} = {op} {a} : {self.dtype}")
        else:
            op = p.random.choice(BINARY if floats else INT_BINARY)
            self.bound = self.bound**2 if "mul" in op else 2 * self.bound
            self.lines.append(f"{name} = {op} {a}, {b} : {self.dtype}")
        self.values.append(name)


def generic(p: Structured) -> object:
    """A loop nest with random maps: permutations, broadcasts, windows and offsets; one or two outputs."""
    x = p.number(rank=(1, 2, 3, 4))
    if x is None or x.bound > 10:
        return None
    dims = p.random.sample(range(x.rank), x.rank)  # x is read through a permutation of the loops
    extents = [x.shape[dims.index(d)] for d in range(x.rank)]
    if p.chance(40) and prod(extents) <= MAX_ELEMENTS:
        extents.append(p.random.choice([1, 2, 3, 8]))
    loops = range(len(extents))
    reductions = {d for d in loops if p.chance(35)}
    parallel = [d for d in loops if d not in reductions]
    maps, inputs = [[f"d{d}" for d in dims]], [x]
    for _ in range(p.random.randint(0, 2)):
        chosen = p.random.sample(list(loops), p.random.randint(0, len(loops)))
        exprs, shape = [], []
        for d in chosen:
            stride, offset = p.random.choice([(1, 0)] * 5 + [(1, 1), (2, 0)])
            exprs.append({(1, 0): f"d{d}", (1, 1): f"d{d} + 1", (2, 0): f"d{d} * 2"}[stride, offset])
            shape.append((extents[d] - 1) * stride + 1 + offset)
        maps.append(exprs)
        inputs.append(p.leaf(shape))
    missing = [d for d in loops if d >= x.rank]
    if reductions & set(missing):  # the extent must follow from an input
        maps.append([f"d{d}" for d in missing])
        inputs.append(p.leaf([extents[d] for d in missing]))
    outs = []
    for _ in range(p.random.choice([1, 1, 1, 2])):
        order = p.random.sample(parallel, len(parallel))
        maps.append([f"d{d}" for d in order])
        outs.append(p.destination([extents[d] for d in order], p.dtype))
    terms = prod(extents[d] for d in reductions)
    if max(v.bound for v in (*inputs, *outs)) > 10 or (p.dtype in ("f16", "bf16") and terms > 64):
        return None  # 16-bit sums lose their last terms
    return nest(
        p, inputs, outs, maps, ["reduction" if d in reductions else "parallel" for d in loops], extents
    )


def nest(
    p: Structured,
    inputs: Sequence[Val],
    outs: Sequence[Val],
    maps: list[list[str]],
    kinds: list[str],
    extents: list[int],
) -> object:
    floats = p.dtype in FLOATS
    ins = [p.name("in") for _ in inputs]
    olds = [p.name("out") for _ in outs]
    reduces = "reduction" in kinds
    body = Body(p, p.dtype, [*ins] if reduces else [*ins, *olds], [], max(v.bound for v in (*inputs, *outs)))
    if p.chance(20):
        counter, number = p.name("n"), p.name("v")
        body.lines.append(f"{counter} = linalg.index {p.random.randrange(len(kinds))} : index")
        if p.dtype in ("i32", "i64"):
            body.lines.append(f"{number} = arith.index_cast {counter} : index to {p.dtype}")
        else:
            whole = p.name("w")
            body.lines.append(f"{whole} = arith.index_cast {counter} : index to i32")
            body.lines.append(f"{number} = arith.sitofp {whole} : i32 to {p.dtype}")
            body.bound = max(body.bound, *extents)
        body.values.append(number)
    for _ in range(p.random.randint(0, 3)):
        if body.bound <= 40:
            body.step()
    yielded = []
    for old in olds:
        value = p.random.choice(body.values)
        if reduces:
            combine = p.random.choice(
                ["addf", "maximumf", "minimumf"] if floats else ["addi", "maxsi", "minsi"]
            )
            name = p.name("acc")
            body.lines.append(f"{name} = arith.{combine} {old}, {value} : {p.dtype}")
            value = name
        yielded.append(value)
    bound = body.bound * (
        prod(e for e, k in zip(extents, kinds, strict=True) if k == "reduction") if reduces else 1
    )
    names = [p.name("g") for _ in outs]
    signature = ", ".join(
        f"affine_map<({', '.join(f'd{d}' for d in range(len(kinds)))}) -> ({', '.join(m)})>" for m in maps
    )
    types = [v.type for v in outs]
    p.lines.append(
        f"{', '.join(names)} = linalg.generic {{indexing_maps = [{signature}], "
        f"iterator_types = [{', '.join(f'{chr(34)}{k}{chr(34)}' for k in kinds)}]}} "
        f"ins({', '.join(v.name for v in inputs)} : {', '.join(v.type for v in inputs)}) "
        f"outs({', '.join(v.name for v in outs)} : {', '.join(types)}) {{"
    )
    p.lines.append(f"^bb0({', '.join(f'{a}: {p.dtype}' for a in (*ins, *olds))}):")
    p.lines += [f"  {line}" for line in body.lines]
    p.lines.append(f"  linalg.yield {', '.join(yielded)} : {', '.join([p.dtype] * len(yielded))}")
    p.lines.append(f"}} -> ({', '.join(types)})" if len(types) > 1 else f"}} -> {types[0]}")
    for name, out in zip(names, outs, strict=True):
        p.add(Val(name, out.shape, out.dtype, bound + out.bound, not floats))
    return names
