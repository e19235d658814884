"""Affine expressions: whatever composes, evaluates, bounds, prints, reads and compiles them agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.ir.affine import AffineExpr, AffineMap, Const, Dim, Sym, binary, lift
from mdsl.ir.attributes import AffineMapAttr
from mdsl.syntax.parser import parse

DIVISIONS = ("floordiv", "ceildiv", "mod")
SIZES = (5, 4)


def combined(draw: st.DrawFn, left: AffineExpr, right: AffineExpr, symbols: bool) -> AffineExpr:
    kind = draw(st.sampled_from(["+", "-", "*", *DIVISIONS]))
    if kind in "+-":
        return left + right if kind == "+" else left - right
    divisors = st.sampled_from([1, 2, 3, 5, 8, -1, -2, -7]).map(lift)
    return binary(kind, left, draw(st.just(Sym(0)) | divisors if symbols else divisors))


@st.composite
def expressions(draw: st.DrawFn, symbols: bool = True) -> AffineExpr:
    """An expression of two dimensions and a symbol."""
    leaves = st.sampled_from([Dim(0), Dim(1)]) | st.integers(-9, 9).map(lift)
    leaves = leaves | st.just(Sym(0)) if symbols else leaves
    expr = draw(leaves)
    for _ in range(draw(st.integers(0, 5))):
        expr = combined(draw, expr, draw(leaves), symbols)
    return expr


def calculated(expr: AffineExpr, dims: list[int], symbol: int) -> int:
    """The value, by another way than `evaluate`."""
    match expr:
        case Dim(position):
            return dims[position]
        case Sym():
            return symbol
        case Const(value):
            return value
    left, right = (calculated(e, dims, symbol) for e in (expr.lhs, expr.rhs))  # type: ignore[attr-defined]
    quotient, rest = divmod(left, right) if expr.kind in DIVISIONS else (0, 0)  # type: ignore[attr-defined]
    results = {"+": left + right, "*": left * right, "floordiv": quotient, "mod": rest}
    return (results | {"ceildiv": quotient + (rest != 0)})[expr.kind]  # type: ignore[attr-defined]


def read(map: AffineMap | str) -> AffineMap:
    (op,) = [o for o in parse(f"%c = arith.constant {{m = affine_map<{map}>}} 0 : index").walk() if o.results]
    found = op.attributes["m"]
    assert isinstance(found, AffineMapAttr)
    return found.map


@settings(deadline=None)
@given(expressions(), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([1, 2, 3, -2]))
def test_evaluating_composing_and_reading_agree(expr: AffineExpr, a: int, b: int, symbol: int) -> None:
    wanted = calculated(expr, [a, b], symbol)
    map = AffineMap(2, 1, (expr,))
    assert map.evaluate((a, b), (symbol,)) == (wanted,)
    np.testing.assert_array_equal(map.evaluate((np.full(3, a), np.full(3, b)), (symbol,))[0], wanted)
    assert read(map) == map and hash(read(map)) == hash(map)
    moved = map.compose([Dim(1) + 2, Dim(0) * 2 - b], 2)
    assert moved.evaluate((b, a - 2), (symbol,)) == (wanted,)


@settings(deadline=None)
@given(expressions(symbols=False))
def test_intervals_hold_and_bounds_are_exact(expr: AffineExpr) -> None:
    values = [calculated(expr, [a, b], 0) for a in range(SIZES[0]) for b in range(SIZES[1])]
    low, high = expr.interval(SIZES)
    assert low <= min(values) and max(values) <= high
    assert expr.bounds(SIZES) == (min(values), max(values))
    linear = expr.coefficients()
    if linear is not None:
        factors = [linear[0].get(d, 0) for d in range(2)]
        assert calculated(expr, [3, 2], 0) == factors[0] * 3 + factors[1] * 2 + linear[1]


NUMBERS = [(0, 0, 1), (7, -3, 2), (-8, 5, 3), (-1, -9, -4), (6, 6, 0)]


def applied(exprs: list[AffineExpr]) -> str:
    lines = [
        f"%r{i} = affine.apply affine_map<(d0, d1)[s0] -> ({e})>(%a, %b)[%s]" for i, e in enumerate(exprs)
    ]
    results = [f"%r{i}" for i in range(len(exprs))]
    types = ", ".join(["index"] * len(exprs))
    body = "\n".join([*lines, f"return {', '.join(results)} : {types}"])
    return f"func.func @main(%a: index, %b: index, %s: index) -> ({types}) {{\n{body}\n}}"


@settings(max_examples=3, deadline=None)
@given(st.lists(expressions(), min_size=5, max_size=5))
def test_every_engine_computes_the_same(exprs: list[AffineExpr]) -> None:
    text = applied(exprs)
    engines = [mdsl.compile(text, engine=name) for name in ("reference", "vm", "jit")]
    for numbers in NUMBERS:
        found = [[int(r) for r in run(*map(np.int64, numbers))] for run in engines]
        assert found[1] == found[0] and found[2] == found[0]
        if numbers[2]:  # a division by 0 is 0 in a program
            assert found[0] == [calculated(e, list(numbers[:2]), numbers[2]) for e in exprs]


def gathered(exprs: list[AffineExpr]) -> tuple[str, np.ndarray]:
    """A program that reads its argument at these places, and the argument."""
    placed = [e - e.bounds(SIZES)[0] for e in exprs]
    shape = [e.bounds(SIZES)[1] + 1 for e in placed]
    shape = [SIZES[e.position] if isinstance(e, Dim) else s for e, s in zip(placed, shape, strict=True)]
    kind, out = f"tensor<{'x'.join(map(str, shape))}xf32>", f"tensor<{'x'.join(map(str, SIZES))}xf32>"
    text = f"""func.func @main(%x: {kind}) -> {out} {{
      %e = tensor.empty() : {out}
      %r = linalg.generic {{indexing_maps = [affine_map<(d0, d1) -> ({", ".join(map(str, placed))})>,
        affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]}}
        ins(%x : {kind}) outs(%e : {out}) {{
      ^bb0(%p: f32, %o: f32):
        linalg.yield %p : f32
      }} -> {out}
      return %r : {out}
    }}"""
    return text, np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@settings(max_examples=3, deadline=None)
@given(st.lists(expressions(symbols=False), min_size=1, max_size=2))
def test_any_map_reads_the_same_places_on_every_engine(exprs: list[AffineExpr]) -> None:
    text, x = gathered(exprs)
    wanted = mdsl.compile(text, engine="reference")(x)
    for options in ({}, {"ukernels": False}, {"engine": "jit"}):
        np.testing.assert_array_equal(mdsl.compile(text, **options)(x), wanted)


@pytest.mark.parametrize(
    "text", ["0", "d0 - d0 mod 2", "d1 ceildiv 3", "(d0 + 3) floordiv -2", "(d0 - 4) mod 3"]
)
def test_maps_that_were_not_closed(text: str) -> None:
    program, x = gathered([read(f"(d0, d1) -> ({text})").results[0]])
    wanted = mdsl.compile(program, engine="reference")(x)
    for options in ({}, {"ukernels": False}):
        np.testing.assert_array_equal(mdsl.compile(program, **options)(x), wanted)


def test_deep_expressions() -> None:
    """A sum of thousands of terms is a tree as deep."""
    sums = [" + ".join(["d0 mod 3"] * 2000), "(" * 1000 + "d0" + " floordiv 3 + 1) * 2" * 1000]
    for text in sums:
        (expr,) = read(f"(d0) -> ({text})").results
        (again,) = read(f"(d0) -> ({expr})").results
        assert expr == again and hash(expr) == hash(again) and expr != again + 1
        assert expr.dims() == {0}
    (expr,) = read(f"(d0) -> ({sums[0]})").results
    assert expr.evaluate([5]) == 4000 and expr.interval([2]) == (0, 2000)


def test_reflected_operators() -> None:
    d, s = Dim(0), Sym(0)
    assert 2 + d == d + 2 and 3 * d == d * 3 and -d == d * -1 and 4 - d == -d + 4
    assert str(7 // s) == "7 floordiv s0" and str(7 % s) == "7 mod s0"


@pytest.mark.parametrize(
    "text", ["5 floordiv d0", "5 mod d0", "s0 ceildiv d0", "d0 * d0", "d0 floordiv 0", "1 mod 0"]
)
def test_what_is_not_affine_is_refused(text: str) -> None:
    with pytest.raises(mdsl.MdslError, match="constant or made of symbols|divides by 0"):
        parse(f"%c = arith.constant {{m = affine_map<(d0)[s0] -> ({text})>}} 0 : index")


@pytest.mark.parametrize("head", ["(d0, d0)", "(d0)[d0]", "(d0)[s, s]"])
def test_names_of_a_map_are_its_own(head: str) -> None:
    with pytest.raises(mdsl.MdslError, match="alike"):
        parse(f"%c = arith.constant {{m = affine_map<{head} -> (d0)>}} 0 : index")


@pytest.mark.parametrize(
    "text", ["d0 + 9223372036854775808", "9223372036854775807 + 1", "d0 * 99999999999999999999"]
)
def test_numbers_of_a_map_have_64_bits(text: str) -> None:
    with pytest.raises(mdsl.MdslError, match="64 bits"):
        parse(f"%c = arith.constant {{m = affine_map<(d0) -> ({text})>}} 0 : index")
