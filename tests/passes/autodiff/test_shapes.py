"""autodiff: any shapes and attributes of normalisations, softmax, losses, products, gathers, scatters, reductions and their kin,
against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from differences import check
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.reference import run

SIZE = st.integers(1, 4)
SHAPE = st.lists(SIZE, min_size=1, max_size=4)
SEED = st.integers(0, 1000)
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def typed(shape: list[int], element: str = "f64") -> str:
    return f"tensor<{''.join(f'{n}x' for n in shape)}{element}>"


def function(
    op: str, operands: list[tuple[list[int], str]], attributes: str, results: list[list[int]]
) -> str:
    """A function of one op, the first of whose results it returns."""
    types = [typed(*operand) for operand in operands]
    names = [f"%a{i}" for i in range(len(types))]
    made = [typed(r) for r in results]
    left = ", ".join(["%y", *(f"%other{i}" for i in range(len(made) - 1))])
    right = made[0] if len(made) == 1 else f"({', '.join(made)})"
    arguments = ", ".join(f"{n}: {t}" for n, t in zip(names, types, strict=True))
    return (
        f"func.func @main({arguments}) -> {made[0]} {{\n"
        f"  {left} = {op} {', '.join(names)} {attributes} : ({', '.join(types)}) -> {right}\n  return %y : {made[0]}\n}}"
    )


def normal(seed: int, *shapes: list[int]) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def apart(seed: int, shape: list[int]) -> np.ndarray:
    """Numbers none of which is near another: which is the largest does not change with a small step."""
    count = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(count) - count / 2 + 0.25).reshape(shape) / 2


# Normalisation --------------------------------------------------------------------------------------------


@FEW
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_layer_norm(shape: list[int], data: st.DataObject) -> None:
    axis, epsilon = (
        data.draw(st.integers(-len(shape), len(shape) - 1)),
        data.draw(st.sampled_from([1e-2, 1.0])),
    )
    rest = shape[axis:]
    shift = [(rest, "f64")] * data.draw(st.integers(0, 1))
    text = function(
        "nn.layer_norm",
        [(shape, "f64"), (rest, "f64"), *shift],
        f"{{axis = {axis}, epsilon = {epsilon}}}",
        [shape],
    )
    check(text, normal(data.draw(SEED), shape, rest, *(s for s, _ in shift)))


@FEW
@given(SHAPE.filter(lambda s: len(s) > 1), st.booleans(), st.sampled_from(["", "_train"]), SEED)
def test_batch_norm(shape: list[int], last: bool, training: str, seed: int) -> None:
    layout = "nhwc" if last else "nchw"
    channels = [shape[-1 if last else 1]]
    results = [shape, channels, channels] if training else [shape]
    attributes = f'{{epsilon = 0.5, layout = "{layout}"}}'
    text = function(
        f"nn.batch_norm{training}", [(shape, "f64"), *[(channels, "f64")] * 4], attributes, results
    )
    arrays = normal(seed, shape, *[channels] * 4)
    # Decomposed before, for the formula rounds otherwise than what the op means.
    check(str(mdsl.opt(text, "decompose")), [*arrays[:4], np.abs(arrays[4])])


@pytest.mark.parametrize(("shape", "last"), [([5, 3], False), ([2, 3, 2, 4], False), ([2, 3, 2, 1], True)])
def test_batch_norm_is_differentiated_as_a_whole(shape: list[int], last: bool) -> None:
    """To the same numbers as its formula, op by op, but with a sum over the image less; second derivatives too."""
    layout = "nhwc" if last else "nchw"
    x, c = typed(shape), typed(channels := [shape[-1 if last else 1]])
    text = f"""func.func @main(%x: {x}, %a: {c}, %b: {c}, %m: {c}, %v: {c}, %weights: {x}) -> tensor<f64> {{
  %y, %mean, %variance = nn.batch_norm_train %x, %a, %b, %m, %v {{epsilon = 0.5, layout = "{layout}"}} :
    ({x}, {c}, {c}, {c}, {c}) -> ({x}, {c}, {c})
  %weighted = nn.mul %y, %weights : ({x}, {x}) -> {x}
  %first = nn.reduce %weighted {{kind = "sum", keepdims = false}} : ({x}) -> tensor<f64>
  %seen = nn.mul %mean, %variance : ({c}, {c}) -> {c}
  %second = nn.reduce %seen {{kind = "sum", keepdims = false}} : ({c}) -> tensor<f64>
  %loss = nn.add %first, %second : (tensor<f64>, tensor<f64>) -> tensor<f64>
  return %loss : tensor<f64>
}}"""
    arrays = normal(0, shape, *[channels] * 4, shape)
    whole, formula = (mdsl.grad(t, ["x", "a", "b"]) for t in (text, mdsl.opt(text, "decompose")))
    alone = text.replace("return %loss", "return %first")
    sums = [
        str(mdsl.grad(t, ["x", "a", "b"])).count("nn.reduce") for t in (alone, mdsl.opt(alone, "decompose"))
    ]
    assert sums[0] == sums[1] - 1
    twice = [mdsl.grad(m, ["x", "a"], loss=1, seed="argument") for m in (whole, formula)]
    for pair in ([whole, formula], twice):
        more = normal(1, shape) if pair is twice else []
        for found, wanted in zip(*(run(m, [*arrays, *more]) for m in pair), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@FEW
@given(SHAPE, st.sampled_from(["softmax", "log_softmax"]), st.data())
def test_softmax(shape: list[int], kind: str, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    text = function(f"nn.{kind}", [(shape, "f64")], f"{{axis = {axis}}}", [shape])
    check(text, normal(data.draw(SEED), shape))


# Losses ---------------------------------------------------------------------------------------------------

REDUCTION = st.sampled_from(["mean", "sum", "none"])


@FEW
@given(SHAPE, REDUCTION, st.data())
def test_cross_entropy(shape: list[int], reduction: str, data: st.DataObject) -> None:
    """Labels that are ignored, and such that are no class, among them."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    rest = shape[:axis] + shape[axis + 1 :]
    seed, smoothing = data.draw(SEED), data.draw(st.sampled_from([0.0, 0.3]))
    labels = np.random.default_rng(seed).integers(-1, shape[axis] + 1, rest)
    ignored = data.draw(st.sampled_from(["", ", ignore_index = -1"]))
    if ignored and not (labels != -1).any():
        labels = np.zeros(rest, np.int64)
    weights = [1 + k / 2 for k in range(shape[axis])]
    weighed = data.draw(st.sampled_from(["", f", weights = {weights}"]))
    if weighed and not ((labels >= 0) & (labels < shape[axis])).any():
        labels = np.zeros(rest, np.int64)
    attributes = f'{{axis = {axis}, smoothing = {smoothing}, reduction = "{reduction}"{ignored}{weighed}}}'
    result = rest if reduction == "none" else []
    text = function("nn.cross_entropy", [(shape, "f64"), (rest, "i64")], attributes, [result])
    check(str(mdsl.opt(text, "decompose")), [*normal(seed, shape), labels])


@FEW
@given(SHAPE, st.sampled_from(["mse", "bce"]), REDUCTION, SEED)
def test_losses_of_pairs(shape: list[int], kind: str, reduction: str, seed: int) -> None:
    result = shape if reduction == "none" else []
    text = function(f"nn.{kind}", [(shape, "f64")] * 2, f'{{reduction = "{reduction}"}}', [result])
    check(str(mdsl.opt(text, "decompose")), normal(seed, shape, shape))


# Products -------------------------------------------------------------------------------------------------


@FEW
@given(st.lists(st.tuples(SIZE, st.booleans(), st.booleans()), max_size=2), SIZE, SIZE, SIZE, SEED)
def test_matmul(batch: list[tuple[int, bool, bool]], m: int, k: int, n: int, seed: int) -> None:
    """Batches of which one or the other is stretched."""
    left, right = ([1 if stretched[1 + which] else stretched[0] for stretched in batch] for which in (0, 1))
    whole = [max(a, b) for a, b in zip(left, right, strict=True)]
    shapes = [[*left, m, k], [*right, k, n]]
    text = function("nn.matmul", [(s, "f64") for s in shapes], "", [[*whole, m, n]])
    check(text, normal(seed, *shapes))


@FEW
@given(SIZE, SIZE, SIZE, SIZE, SIZE, SEED)
def test_attention(batch: int, heads: int, queries: int, keys: int, depth: int, seed: int) -> None:
    q, k, s = ([batch, heads, *rest] for rest in ([queries, depth], [keys, depth], [queries, keys]))
    t = [batch, heads, depth, keys]
    text = f"""func.func @main(%q: {typed(q)}, %k: {typed(k)}, %v: {typed(k)}, %mask: {typed([queries, keys])}) -> {typed(q)} {{
  %t = nn.transpose %k {{perm = [0, 1, 3, 2]}} : ({typed(k)}) -> {typed(t)}
  %s = nn.matmul %q, %t : ({typed(q)}, {typed(t)}) -> {typed(s)}
  %m = nn.add %s, %mask : ({typed(s)}, {typed([queries, keys])}) -> {typed(s)}
  %p = nn.softmax %m : ({typed(s)}) -> {typed(s)}
  %y = nn.matmul %p, %v : ({typed(s)}, {typed(k)}) -> {typed(q)}
  return %y : {typed(q)}
}}"""
    check(text, normal(seed, q, k, k, [queries, keys]))


# Data -----------------------------------------------------------------------------------------------------


@FEW
@given(SHAPE, st.sampled_from(["sum", "mean", "max", "min", "prod"]), st.booleans(), st.data())
def test_reduce(shape: list[int], kind: str, keepdims: bool, data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    result = [1 if d in axes else n for d, n in enumerate(shape) if keepdims or d not in axes]
    attributes = f'{{kind = "{kind}", axes = {sorted(axes)}, keepdims = {str(keepdims).lower()}}}'
    x = apart(data.draw(SEED), shape) if kind in ("max", "min") else normal(data.draw(SEED), shape)[0]
    if kind == "prod" and data.draw(st.booleans()):
        x.flat[0] = 0
    check(function("nn.reduce", [(shape, "f64")], attributes, [result]), [x])


@FEW
@given(SHAPE, st.lists(SIZE, max_size=2), st.data())
def test_gather(shape: list[int], places: list[int], data: st.DataObject) -> None:
    axis, seed = data.draw(st.integers(0, len(shape) - 1)), data.draw(SEED)
    size = shape[axis]
    at = np.random.default_rng(seed).integers(-size - 1, size + 1, places)
    result = [*shape[:axis], *places, *shape[axis + 1 :]]
    text = function("nn.gather", [(shape, "f64"), (places, "i64")], f"{{axis = {axis}}}", [result])
    check(text, [*normal(seed, shape), at])


@FEW
@given(
    SHAPE,
    st.sampled_from(["set", "add", "mul", "max", "min"]),
    st.booleans(),
    st.sampled_from([0, 70]),
    st.data(),
)
def test_scatter(shape: list[int], kind: str, narrow: bool, more: int, data: st.DataObject) -> None:
    """Places that several updates are for, and such that are outside; few, and so many that they are written one by one."""
    axis, seed, count = data.draw(st.integers(0, len(shape) - 1)), data.draw(SEED), data.draw(SIZE)
    target = [n + more if d == axis else n for d, n in enumerate(shape)]
    updates = [count if d == axis else n for d, n in enumerate(shape)]
    indices = [n if d == axis or not narrow else 1 for d, n in enumerate(updates)]
    at = np.random.default_rng(seed).integers(-target[axis] - 1, min(target[axis], 3) + 1, indices)
    text = function(
        "nn.scatter",
        [(target, "f64"), (indices, "i64"), (updates, "f64")],
        f'{{axis = {axis}, kind = "{kind}"}}',
        [target],
    )
    total = int(np.prod(target))
    numbers = apart(seed, [total + int(np.prod(updates))])
    check(text, [numbers[:total].reshape(target), at, numbers[total:].reshape(updates)])


# What imports make ----------------------------------------------------------------------------------------


def check_imported(
    kind: str, inputs: dict[str, tuple[int, ...]], attributes: dict[str, Any], fixed: dict[str, Any]
) -> None:
    pytest.importorskip("onnx")
    from test_imported import F64, imported

    module = imported((kind, inputs, attributes, fixed), F64)
    check(str(module), normal(0, *map(list, inputs.values())))


@settings(FEW, max_examples=6)
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]),
    st.integers(1, 3),
    SIZE,
    SIZE,
    SIZE,
    st.sampled_from(["forward", "reverse", "bidirectional"]),
)
def test_recurrent(kind: str, steps: int, batch: int, features: int, hidden: int, direction: str) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden, 1 + (direction == "bidirectional")
    inputs = {"x": (steps, batch, features), "w": (ways, gates, features), "r": (ways, gates, hidden)}
    check_imported(kind, inputs, {"hidden_size": hidden, "direction": direction}, {})


@settings(FEW, max_examples=8)
@given(
    st.sampled_from(["nearest", "linear", "cubic"]), st.tuples(SIZE, SIZE), st.tuples(SIZE, SIZE),
    st.sampled_from(["half_pixel", "align_corners", "asymmetric"]),
)  # fmt: skip
def test_resize(mode: str, old: tuple[int, int], new: tuple[int, int], transform: str) -> None:
    sizes = np.array([2, 1, *new])
    check_imported(
        "Resize",
        {"x": (2, 1, *old)},
        {"mode": mode, "coordinate_transformation_mode": transform},
        {"roi": np.zeros(0), "scales": np.zeros(0, np.float32), "sizes": sizes},
    )


@FEW
@given(
    cuts=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=4),
    axis=st.integers(0, 1),
    seed=SEED,
)
def test_slices(cuts: list[tuple[int, int]], axis: int, seed: int) -> None:
    """Side by side, apart or overlapping, along one dimension, and a value that is read as a whole as well."""
    shape = [3, 3]
    shape[axis] = 9
    lines = [f"  %s0 = nn.mul %x, %x : ({typed(shape)}, {typed(shape)}) -> {typed(shape)}"]
    lines.append(
        f'  %t0 = nn.reduce %s0 {{kind = "sum", keepdims = false}} : ({typed(shape)}) -> tensor<f64>'
    )
    for i, (start, size) in enumerate(cuts, 1):
        part = list(shape)
        part[axis] = size
        kind = "sin" if i % 2 else "exp"
        lines += [
            f"  %p{i} = nn.slice %x {{starts = [{start}], ends = [{start + size}], axes = [{axis}]}} : ({typed(shape)}) -> {typed(part)}",
            f"  %s{i} = nn.{kind} %p{i} : ({typed(part)}) -> {typed(part)}",
            f'  %r{i} = nn.reduce %s{i} {{kind = "sum", keepdims = false}} : ({typed(part)}) -> tensor<f64>',
            f"  %t{i} = nn.add %t{i - 1}, %r{i} : (tensor<f64>, tensor<f64>) -> tensor<f64>",
        ]
    body = "\n".join(lines)
    text = f"func.func @main(%x: {typed(shape)}) -> tensor<f64> {{\n{body}\n  return %t{len(cuts)} : tensor<f64>\n}}"
    check(text, normal(seed, shape))


def test_slices_side_by_side_are_joined() -> None:
    """Neither padded nor added: each gradient is copied once."""
    text = """
func.func @main(%x: tensor<2x6xf64>, %t: tensor<2x2xf64>) -> tensor<f64> {
  %a = nn.slice %x {starts = [4], ends = [6], axes = [1]} : (tensor<2x6xf64>) -> tensor<2x2xf64>
  %b = nn.slice %x {starts = [0], ends = [2], axes = [1]} : (tensor<2x6xf64>) -> tensor<2x2xf64>
  %c = nn.slice %x {starts = [2], ends = [4], axes = [1]} : (tensor<2x6xf64>) -> tensor<2x2xf64>
  %ab = nn.mul %a, %b : (tensor<2x2xf64>, tensor<2x2xf64>) -> tensor<2x2xf64>
  %y = nn.mul %ab, %c : (tensor<2x2xf64>, tensor<2x2xf64>) -> tensor<2x2xf64>
  %loss = nn.mse %y, %t : (tensor<2x2xf64>, tensor<2x2xf64>) -> tensor<f64>
  return %loss : tensor<f64>
}"""
    names = [op.name for op in mdsl.opt(text, "autodiff{wrt=[x]}").walk()]
    assert names.count("nn.concat") == 1 and "nn.pad" not in names
    check(text, normal(0, [2, 6], [2, 2]))
