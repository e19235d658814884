"""linalg: loop nests of every shape against NumPy written out."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest
from evaluating import body, evaluate

import mdsl.reference.linalg as linalg
from mdsl.errors import MdslError
from mdsl.reference import run
from mdsl.syntax.parser import parse

rng = np.random.default_rng(7)


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def type_of(array: np.ndarray) -> str:
    names = {
        "float32": "f32",
        "float64": "f64",
        "int32": "i32",
        "int8": "i8",
        "bfloat16": "bf16",
        "bool": "i1",
    }
    return f"tensor<{''.join(f'{d}x' for d in array.shape)}{names[str(array.dtype)]}>"


def named(
    op: str, inputs: list[np.ndarray], out: np.ndarray, attributes: str = "", tail: str = ""
) -> np.ndarray:
    """A named op on tensors, checked to do the same to memrefs."""
    arrays = [*inputs, out]
    types = [type_of(a) for a in arrays]
    names = [f"%{n}" for n in "abcd"[: len(arrays)]]
    ins = f"{', '.join(names[:-1])} : {', '.join(types[:-1])}"
    line = f"linalg.{op} {attributes} ins({ins}) outs({names[-1]} : {types[-1]}) {tail}"
    found = body(f"%r = {line}{'' if tail else f' -> {types[-1]}'}", arrays, types, types[-1])
    arguments = ", ".join(f"{n}: {t}" for n, t in zip(names, types, strict=True)).replace("tensor", "memref")
    kernel = parse(
        f"ukernel.func @k({arguments}) {{\n{line.replace('tensor', 'memref')}\nukernel.return\n}}".replace(
            "memref<2xi64>", "tensor<2xi64>"
        )
    )
    np.testing.assert_array_equal(run(kernel, arrays, "k")[-1], found)
    return found


def exact(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


def test_matmul_accumulates() -> None:
    a, b, c = f32(5, 7), f32(7, 3), f32(5, 3)
    x, y, z = exact(a, b, c)
    np.testing.assert_array_equal(named("matmul", [a, b], c), (z + x @ y).astype(np.float32))


@pytest.mark.parametrize(
    ("op", "shapes", "subscripts"),
    [
        ("batch_matmul", [(2, 5, 7), (2, 7, 3), (2, 5, 3)], "bmk,bkn->bmn"),
        ("matvec", [(5, 7), (7,), (5,)], "mn,n->m"),
        ("vecmat", [(5,), (5, 7), (7,)], "m,mn->n"),
        ("dot", [(9,), (9,), ()], "i,i->"),
    ],
)
def test_contractions(op: str, shapes: list[tuple[int, ...]], subscripts: str) -> None:
    a, b, c = (f32(*s) for s in shapes)
    x, y, z = exact(a, b, c)
    np.testing.assert_allclose(named(op, [a, b], c), z + np.einsum(subscripts, x, y), rtol=1e-6)


def convolution(
    image: np.ndarray, kernel: np.ndarray, stride: tuple[int, int], dilation: tuple[int, int]
) -> np.ndarray:
    """NCHW, FCHW, one output at a time."""
    (n, _, height, width), (f, _, kh, kw) = image.shape, kernel.shape
    rows = (height - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (width - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.zeros((n, f, rows, columns))
    for y, x in product(range(rows), range(columns)):
        top, left = y * stride[0], x * stride[1]
        window = image[
            :,
            :,
            top : top + (kh - 1) * dilation[0] + 1 : dilation[0],
            left : left + (kw - 1) * dilation[1] + 1 : dilation[1],
        ]
        out[:, :, y, x] = np.einsum("nchw,fchw->nf", window, kernel)
    return out


@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 2)), ((3, 2), (2, 1))])
def test_convolutions(stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    image, kernel = f32(2, 3, 11, 10), f32(4, 3, 3, 2)
    wanted = convolution(*exact(image, kernel), stride, dilation)
    attributes = f"{{strides = dense<[{stride[0]}, {stride[1]}]> : tensor<2xi64>, dilations = dense<[{dilation[0]}, {dilation[1]}]> : tensor<2xi64>}}"
    zero = np.zeros(wanted.shape, np.float32)
    np.testing.assert_allclose(
        named("conv_2d_nchw_fchw", [image, kernel], zero, attributes), wanted, rtol=1e-5, atol=1e-6
    )
    nhwc = [
        np.ascontiguousarray(image.transpose(0, 2, 3, 1)),
        np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
    ]
    zero = np.ascontiguousarray(zero.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(
        named("conv_2d_nhwc_hwcf", nhwc, zero, attributes), wanted.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6
    )


def test_poolings() -> None:
    image, window = f32(2, 3, 8, 8), np.zeros((2, 2), np.float32)
    parts = image.reshape(2, 3, 4, 2, 4, 2)
    attributes = "{strides = dense<2> : tensor<2xi64>}"
    low = np.full((2, 3, 4, 4), -np.inf, np.float32)
    np.testing.assert_array_equal(
        named("pooling_nchw_max", [image, window], low, attributes), parts.max((3, 5))
    )
    zero = np.zeros_like(low)
    np.testing.assert_allclose(
        named("pooling_nchw_sum", [image, window], zero, attributes), parts.sum((3, 5)), rtol=1e-5
    )


def test_moving_data() -> None:
    x = f32(2, 3, 4)
    found = named("transpose", [x], np.zeros((4, 2, 3), np.float32), tail="permutation = [2, 0, 1]")
    np.testing.assert_array_equal(found, x.transpose(2, 0, 1))
    found = named("broadcast", [x[0]], np.zeros((3, 5, 4), np.float32), tail="dimensions = [1]")
    np.testing.assert_array_equal(found, np.broadcast_to(x[0][:, None], (3, 5, 4)))
    np.testing.assert_array_equal(named("copy", [x], np.zeros_like(x)), x)
    filled = body(
        "%r = linalg.fill ins(%a : f32) outs(%b : tensor<2x2xf32>) -> tensor<2x2xf32>",
        [np.float32(3), f32(2, 2)],
        ["f32", "tensor<2x2xf32>"],
        "tensor<2x2xf32>",
    )
    assert (filled == 3).all()


def generic(maps: str, iterators: str, inputs: list[np.ndarray], out: np.ndarray, lines: str) -> np.ndarray:
    arrays = [*inputs, out]
    types = [type_of(a) for a in arrays]
    names = [f"%{n}" for n in "abcd"[: len(arrays)]]
    listed = ", ".join(f"affine_map<{m.strip()}>" for m in maps.split(";"))
    kinds = ", ".join('"parallel"' if c == "p" else '"reduction"' for c in iterators)
    elements = [t.removesuffix(">").removeprefix("tensor<").split("x")[-1] for t in types]
    block = ", ".join(f"%{n}: {e}" for n, e in zip("xyzw", elements, strict=False))
    ins = f"ins({', '.join(names[:-1])} : {', '.join(types[:-1])})" if inputs else ""
    text = f"""%r = linalg.generic {{indexing_maps = [{listed}], iterator_types = [{kinds}]}} {ins} outs({names[-1]} : {types[-1]}) {{
      ^bb0({block}):
        {lines}
        linalg.yield %v : {elements[-1]}
      }} -> {types[-1]}"""
    return body(text, arrays, types, types[-1])


@pytest.mark.parametrize("chunk", [1, 16, 1 << 22])
def test_reductions_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg, "CHUNK", chunk)
    x = f32(3, 4, 5)
    maps = "(i, j, k) -> (i, j, k); (i, j, k) -> (j)"
    found = generic(
        maps, "rpr", [x], f32(4) * 0, "%e = arith.mulf %x, %x : f32\n%v = arith.addf %e, %y : f32"
    )
    np.testing.assert_allclose(found, (exact(x)[0] ** 2).sum((0, 2)), rtol=1e-6)
    found = generic(maps, "rpr", [x], np.full(4, -np.inf, np.float32), "%v = arith.maximumf %y, %x : f32")
    np.testing.assert_array_equal(found, x.max((0, 2)))
    numbers = rng.integers(-128, 128, (3, 4, 5)).astype(np.int8)
    found = generic(maps, "rpr", [numbers], np.zeros(4, np.int8), "%v = arith.addi %y, %x : i8")
    np.testing.assert_array_equal(found, numbers.sum((0, 2), dtype=np.int8))
    bits = numbers > 0
    found = generic(maps, "rpr", [bits], np.zeros(4, np.bool_), "%v = arith.addi %y, %x : i1")
    np.testing.assert_array_equal(found, bits.sum((0, 2)) % 2 == 1)


def test_a_reduction_that_does_not_combine_runs_in_order() -> None:
    x = f32(5)
    lines = "%h = arith.mulf %y, %y : f32\n%v = arith.addf %h, %x : f32"
    wanted = np.float64(0.5)
    for number in x:
        wanted = wanted * wanted + float(number)
    found = generic("(i) -> (i); (i) -> ()", "r", [x], np.array(0.5, np.float32), lines)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_counters() -> None:
    lines = """%i = linalg.index 0 : index
      %j = linalg.index 1 : index
      %ten = arith.constant 10 : index
      %t = arith.muli %i, %ten : index
      %s = arith.addi %t, %j : index
      %v = arith.index_cast %s : index to i32"""
    found = generic("(i, j) -> (i, j)", "pp", [], np.zeros((2, 3), np.int32), lines)
    assert found.tolist() == [[0, 1, 2], [10, 11, 12]]


def test_argmax_carries_two_outputs() -> None:
    text = """func.func @main(%x: tensor<2x5xf32>, %top: tensor<2xf32>, %at: tensor<2xi64>) -> (tensor<2xf32>, tensor<2xi64>) {
      %r:2 = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<2x5xf32>) outs(%top, %at : tensor<2xf32>, tensor<2xi64>) {
      ^bb0(%e: f32, %best: f32, %where: i64):
        %j = linalg.index 1 : index
        %n = arith.index_cast %j : index to i64
        %more = arith.cmpf ogt, %e, %best : f32
        %v = arith.select %more, %e, %best : f32
        %w = arith.select %more, %n, %where : i64
        linalg.yield %v, %w : f32, i64
      } -> (tensor<2xf32>, tensor<2xi64>)
      func.return %r#0, %r#1 : tensor<2xf32>, tensor<2xi64>
    }"""
    x = f32(2, 5)
    top, at = evaluate(text, x, np.full(2, -np.inf, np.float32), np.zeros(2, np.int64))
    np.testing.assert_array_equal(top, x.max(1))
    np.testing.assert_array_equal(at, x.argmax(1))


def test_gather_reads_a_captured_tensor() -> None:
    table, indices = f32(6, 3), np.array([4, 0, 5, 5], np.int32)
    text = """func.func @main(%t: tensor<6x3xf32>, %i: tensor<4xi32>, %o: tensor<4x3xf32>) -> tensor<4x3xf32> {
      %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%i : tensor<4xi32>) outs(%o : tensor<4x3xf32>) {
      ^bb0(%n: i32, %out: f32):
        %row = arith.index_cast %n : i32 to index
        %j = linalg.index 1 : index
        %v = tensor.extract %t[%row, %j] : tensor<6x3xf32>
        linalg.yield %v : f32
      } -> tensor<4x3xf32>
      func.return %r : tensor<4x3xf32>
    }"""
    np.testing.assert_array_equal(evaluate(text, table, indices, f32(4, 3))[0], table[indices])
    with pytest.raises(MdslError, match="'tensor.extract': index 6 is out of bounds for dimension 0"):
        evaluate(text, table, indices + 1, f32(4, 3))


def test_maps_that_are_not_dimensions() -> None:
    x = f32(10)
    found = generic(
        "(i) -> (-i + 9); (i) -> (i)", "p", [x], np.zeros(10, np.float32), "%v = arith.addf %x, %x : f32"
    )
    np.testing.assert_array_equal(found, 2 * x[::-1])
    found = generic(
        "(i) -> (i floordiv 2); (i) -> (i)",
        "p",
        [x[:5]],
        np.zeros(10, np.float32),
        "%v = arith.addf %x, %x : f32",
    )
    np.testing.assert_array_equal(found, 2 * np.repeat(x[:5], 2))


def test_precision_is_that_of_float64() -> None:
    x = np.full(4096, 0.1, ml_dtypes.bfloat16)
    found = generic(
        "(i) -> (i); (i) -> ()", "r", [x], np.array(0, ml_dtypes.bfloat16), "%v = arith.addf %y, %x : bf16"
    )
    assert float(found) == float(
        ml_dtypes.bfloat16(4096 * float(x[0]))
    )  # rounding every sum would stop at 32


def test_explicit_truncf_rounds() -> None:
    x = f32(8)
    lines = "%n = arith.truncf %x : f32 to bf16\n%v = arith.extf %n : bf16 to f32"
    found = generic("(i) -> (i); (i) -> (i)", "p", [x], f32(8), lines)
    np.testing.assert_array_equal(found, x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_widening_products() -> None:
    a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((4, 300), (300, 5)))
    maps = "(m, n, k) -> (m, k); (m, n, k) -> (k, n); (m, n, k) -> (m, n)"
    lines = """%p = arith.extsi %x : i8 to i32
      %q = arith.extsi %y : i8 to i32
      %t = arith.muli %p, %q : i32
      %v = arith.addi %z, %t : i32"""
    found = generic(maps, "ppr", [a, b], np.zeros((4, 5), np.int32), lines)
    np.testing.assert_array_equal(found, a.astype(np.int32) @ b.astype(np.int32))
    p, q = (m.astype(ml_dtypes.bfloat16) for m in (a, b))
    lines = "%p = arith.extf %x : bf16 to f32\n%q = arith.extf %y : bf16 to f32\n%t = arith.mulf %p, %q : f32\n%v = arith.addf %z, %t : f32"
    found = generic(maps, "ppr", [p, q], np.zeros((4, 5), np.float32), lines)
    np.testing.assert_array_equal(found, p.astype(np.float32) @ q.astype(np.float32))


def test_in_place_on_memory() -> None:
    kernel = parse("""ukernel.func @k(%a: memref<4xf32>) {
      linalg.generic {indexing_maps = [affine_map<(i) -> (-i + 3)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%a : memref<4xf32>) outs(%a : memref<4xf32>) {
      ^bb0(%x: f32, %y: f32):
        %v = arith.addf %x, %x : f32
        linalg.yield %v : f32
      }
      ukernel.return
    }""")
    assert run(kernel, [np.array([1, 2, 3, 4], np.float32)], "k")[0].tolist() == [8, 6, 4, 2]


@pytest.mark.parametrize(
    ("shape", "positions", "tiles", "order"),
    [
        ((8, 6), [0, 1], [4, 3], []),
        ((8, 6), [1, 0], [3, 4], [1, 0]),
        ((7, 5), [0, 1], [4, 2], [1, 0]),
        ((2, 6, 5), [1], [4], [2, 0, 1]),
    ],
)
def test_pack_and_back(
    shape: tuple[int, ...], positions: list[int], tiles: list[int], order: list[int]
) -> None:
    x = f32(*shape)
    sizes = dict(zip(positions, tiles, strict=True))
    outer = [-(-size // sizes.get(d, 1)) for d, size in enumerate(shape)]
    wanted = np.full([*(outer[d] for d in order or range(len(shape))), *tiles], 9, np.float32)
    for at in product(*map(range, shape)):
        place = [at[d] // sizes.get(d, 1) for d in order or range(len(shape))]
        wanted[(*place, *(at[d] % sizes[d] for d in positions))] = x[at]
    layout = (
        f"{f'outer_dims_perm = {order}' if order else ''} inner_dims_pos = {positions} inner_tiles = {tiles}"
    )
    plain, packed = type_of(x), type_of(wanted)
    line = f"%r = linalg.pack %a padding_value(%c : f32) {layout} into %b : {plain} -> {packed}"
    found = body(line, [x, wanted * 0, np.float32(9)], [plain, packed, "f32"], packed)
    np.testing.assert_array_equal(found, wanted)
    line = f"%r = linalg.unpack %a {layout} into %b : {packed} -> {plain}"
    np.testing.assert_array_equal(body(line, [found, x * 0], [packed, plain], plain), x)


def test_empty_loops() -> None:
    x = np.zeros((0, 3), np.float32)
    maps = "(i, j) -> (i, j); (i, j) -> (j)"
    found = generic(maps, "rp", [x], np.ones(3, np.float32), "%v = arith.addf %y, %x : f32")
    assert found.tolist() == [1, 1, 1]


def test_unknown_sizes_that_disagree() -> None:
    text = """func.func @main(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
      %r = linalg.copy ins(%a : tensor<?xf32>) outs(%b : tensor<?xf32>) -> tensor<?xf32>
      func.return %r : tensor<?xf32>
    }"""
    with pytest.raises(MdslError, match="'linalg.copy': d0 is 2 for one operand and 3 for another"):
        evaluate(text, f32(2), f32(3))
