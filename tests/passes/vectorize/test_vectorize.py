"""What vectorize keeps: every kernel computes what it computed. Random kernels, in the reference and natively."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import check, generic, kernel, kernel_of, memref, unrolled, vectorized

from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module

FLOATS = ["f32", "f64", "f16", "bf16"]
EXTENTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 10, 14, 16, 17, 26, 32, 40])
SMALL = st.sampled_from([1, 2, 3, 5, 6])
fast = settings(max_examples=25, deadline=None)

MULTIPLY_ADD = {
    "f": "%p = arith.mulf %x0, %x1 : {t}\n%s = arith.addf %y0, %p : {t}\nlinalg.yield %s : {t}",
    "i": "%p = arith.muli %x0, %x1 : {t}\n%s = arith.addi %y0, %p : {t}\nlinalg.yield %s : {t}",
}


def product(element: str) -> str:
    return MULTIPLY_ADD["f" if "f" in element else "i"].format(t=element)


@fast
@given(
    st.tuples(SMALL, EXTENTS, SMALL, EXTENTS),
    st.permutations("abk"),
    st.permutations("ckb"),
    st.permutations("abc"),
    st.sampled_from([*FLOATS, "i32", "i64", "i8"]),
    st.booleans(),
    st.integers(0, 3),
)
def test_contraction(sizes, left, right, out, element, epilogue, pad):
    extents = dict(zip("abck", [sizes[0], sizes[1], sizes[3], sizes[2] * 3], strict=True))
    shape = lambda dims: [extents[d] for d in dims]  # noqa: E731
    types = [memref(shape(dims), element, pad) for dims in (left, right, out)]
    temp = memref(shape("abc"), element)
    zero = f"%zero = arith.constant {'0.0' if 'f' in element else '0'} : {element}"
    acc, acc_type, acc_dims = ("%acc", temp, "abc") if epilogue else ("%out", types[2], out)
    ops = [zero]
    if epilogue:
        ops.append(f"%acc = memref.alloca() : {temp}")
    ops.append(f"linalg.fill ins(%zero : {element}) outs({acc} : {acc_type})")
    operands = [("%left", types[0], ", ".join(left)), ("%right", types[1], ", ".join(right))]
    ops.append(generic(operands, [(acc, acc_type, ", ".join(acc_dims))], "pppr", product(element), "abck"))
    if epilogue:
        maximum = "maximumf" if "f" in element else "maxsi"
        body = f"%r = arith.{maximum} %x0, %zero : {element}\nlinalg.yield %r : {element}"
        ops.append(
            generic([("%acc", temp, "a, b, c")], [("%out", types[2], ", ".join(out))], "ppp", body, "abc")
        )
    args = dict(zip(("left", "right", "out"), types, strict=True))
    check(kernel(args, *ops))


@fast
@given(
    SMALL,
    SMALL,
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["f32", "bf16", "i32"]),
    EXTENTS,
)
def test_blocked_convolution(height, width, window, stride, dilation, element, channels):
    rows = (height - 1) * stride + (window - 1) * dilation + 1
    columns = (width - 1) * stride + (window - 1) * dilation + 1
    image, weights = (
        memref([2, rows, columns, 3], element),
        memref([2, 2, window, window, 3, channels], element),
    )
    out = memref([2, height, width, channels], element)
    conv = generic(
        [
            ("%image", image, f"c, y * {stride} + h * {dilation}, x * {stride} + w * {dilation}, i"),
            ("%weights", weights, "o, c, h, w, i, n"),
        ],
        [("%out", out, "o, y, x, n")],
        "pppprrrr",
        product(element),
        "oyxnchwi",
    )
    check(kernel({"image": image, "weights": weights, "out": out}, conv))


@fast
@given(
    SMALL, EXTENTS, st.integers(1, 3), st.integers(1, 2), st.sampled_from(["f32", "f16", "i8"]), st.booleans()
)
def test_named_convolutions_and_pools(height, width, window, stride, element, nhwc):
    rows, columns = (height - 1) * stride + window, (width - 1) * stride + window
    attributes = f"{{strides = dense<{stride}> : tensor<2xi64>}}"
    if nhwc:
        image, weights = memref([1, rows, columns, 3], element), memref([window, window, 3, 5], element)
        out, name = memref([1, height, width, 5], element), "conv_2d_nhwc_hwcf"
    else:
        image, weights = memref([1, 3, rows, columns], element), memref([5, 3, window, window], element)
        out, name = memref([1, 5, height, width], element), "conv_2d_nchw_fchw"
    op = f"linalg.{name} {attributes} ins(%image, %weights : {image}, {weights}) outs(%out : {out})"
    check(kernel({"image": image, "weights": weights, "out": out}, op))
    image, shape = memref([1, 2, rows, columns], element), memref([window, window], element)
    out = memref([1, 2, height, width], element)
    for kind in ("max", "sum"):
        op = f"linalg.pooling_nchw_{kind} {attributes} ins(%image, %window : {image}, {shape}) outs(%out : {out})"
        check(kernel({"image": image, "window": shape, "out": out}, op))


@fast
@given(
    st.tuples(SMALL, SMALL, EXTENTS),
    st.permutations("abc"),
    st.lists(st.sampled_from("abc"), unique=True),
    st.integers(0, 2),
)
def test_elementwise_with_broadcasts_and_masks(sizes, order, kept, pad):
    extents = dict(zip("abc", sizes, strict=True))
    left = memref([extents[d] for d in order], "f32", pad)
    right = memref([extents[d] for d in kept], "i32") if kept else "memref<i32>"
    out, mask = memref(sizes, "f32", pad), memref(sizes, "i1")
    body = (
        "%f = arith.sitofp %x1 : i32 to f32\n%m = arith.cmpf olt, %x0, %f : f32\n"
        "%s = arith.select %m, %x0, %f : f32\n%d = arith.subf %s, %y0 : f32\nlinalg.yield %d, %m : f32, i1"
    )
    ops = generic(
        [("%left", left, ", ".join(order)), ("%right", right, ", ".join(kept))],
        [("%out", out, "a, b, c"), ("%mask", mask, "a, b, c")],
        "ppp",
        body,
        "abc",
    )
    check(kernel({"left": left, "right": right, "out": out, "mask": mask}, ops))


REDUCTIONS = {
    "f32": ["addf", "mulf", "maximumf", "minimumf", "maxnumf", "minnumf"],
    "f64": ["addf", "maximumf"],
    "i32": ["addi", "muli", "maxsi", "minsi", "maxui", "minui", "andi", "ori", "xori"],
    "i8": ["addi", "maxsi", "minui"],
    "i1": ["andi", "ori", "xori"],
}


@fast
@given(
    SMALL,
    st.sampled_from([1, 2, 3, 15, 16, 17, 64, 150, 300]),
    st.data(),
    st.sampled_from(list(REDUCTIONS)),
    st.booleans(),
)
def test_reduction_along_the_contiguous_dimension(rows, columns, data, element, outer):
    op = data.draw(st.sampled_from(REDUCTIONS[element]))
    shape = [3, rows, columns] if outer else [rows, columns]
    source, out = memref(shape, element, 1), memref([rows], element)
    body = f"%r = arith.{op} %y0, %x0 : {element}\nlinalg.yield %r : {element}"
    dims, kinds = ("amn", "rpr") if outer else ("mn", "pr")
    reduce = generic([("%in", source, ", ".join(dims))], [("%out", out, "m")], kinds, body, dims)
    check(kernel({"in": source, "out": out}, reduce), tolerance=1e-4 if op == "mulf" else 0.0)


@fast
@given(
    st.tuples(SMALL, EXTENTS, EXTENTS),
    st.permutations(range(3)),
    st.sampled_from(["f32", "f64", "f16", "bf16", "i8", "i1"]),
    st.sampled_from(["avx512", "avx2", "x86-64-v2"]),
)
def test_transpose_and_copy(sizes, permutation, element, machine):
    source = memref(sizes, element, 1)
    out = memref([sizes[p] for p in permutation], element, 2)
    transpose = f"linalg.transpose ins(%in : {source}) outs(%out : {out}) permutation = {list(permutation)}"
    check(kernel({"in": source, "out": out}, transpose), target=machine)
    target = memref(sizes, element, 3)
    check(kernel({"in": source, "out": target}, f"memref.copy %in, %out : {source} to {target}"))


@fast
@given(
    st.tuples(EXTENTS, SMALL, EXTENTS),
    st.permutations("amn"),
    st.permutations("amn"),
    st.sampled_from([("f16", "f32"), ("f32", "f32"), ("f64", "f64")]),
    st.sampled_from(["avx512", "avx2", "x86-64-v2"]),
)
def test_transposed_operands_of_a_body(sizes, left, right, elements, machine):
    """Of two layouts and element types, with one read in place."""
    extents = dict(zip("amn", sizes, strict=True))
    narrow, wide = elements
    types = [
        memref([extents[d] for d in dims], t) for dims, t in ((left, narrow), (right, wide), ("amn", wide))
    ]
    widened = "%w = arith.extf %x0 : f16 to f32\n" if narrow != wide else ""
    value = "%w" if widened else "%x0"
    body = f"{widened}%p = arith.mulf {value}, %x1 : {wide}\n%r = arith.addf %y0, %p : {wide}\nlinalg.yield %r : {wide}"
    ins = [("%left", types[0], ", ".join(left)), ("%right", types[1], ", ".join(right))]
    op = generic(ins, [("%out", types[2], "a, m, n")], "ppp", body, "amn")
    check(kernel(dict(zip(("left", "right", "out"), types, strict=True)), op), target=machine)


@pytest.mark.parametrize(
    ("element", "target"), [("f32", "avx512"), ("f16", "avx2"), ("i8", "x86-64-v2"), ("f64", "neon")]
)
def test_blocks_are_transposed_in_registers(element, target):
    """Also where the extents are no multiples of the lanes: then the last block reads elements of the one before."""
    source, out = memref([19, 33], element), memref([33, 19], element)
    transpose = f"linalg.transpose ins(%in : {source}) outs(%out : {out}) permutation = [1, 0]"
    module = check(kernel({"in": source, "out": out}, transpose), target=target, native=False)
    assert "vector.shuffle" in names(module)
    assert not {"vector.insert", "memref.load", "memref.store"} & set(names(module))


def test_pixels_of_three_channels_are_transposed_by_pairs():
    source, out = memref([40, 3]), memref([3, 40])
    transpose = f"linalg.transpose ins(%in : {source}) outs(%out : {out}) permutation = [1, 0]"
    module = check(kernel({"in": source, "out": out}, transpose), target="avx2", native=False)
    loads = {str(op.result.type) for op in kernel_of(module).walk() if op.name == "vector.load"}
    assert loads == {"vector<2xf32>"} and "vector.insert" not in names(module)


@pytest.mark.parametrize("element", FLOATS)
@pytest.mark.parametrize("columns", [1, 10, 37])
def test_softmax(element, columns):
    """Reductions and elementwise ops that cannot be one sweep: what passes between them lies in memory."""
    tile, row = memref([3, columns], element), memref([3], element)
    zero, low = f"%zero = arith.constant 0.0 : {element}", f"%low = arith.constant -1000.0 : {element}"
    ops = [
        zero, low, f"%max = memref.alloca() : {row}", f"%e = memref.alloca() : {tile}", f"%sum = memref.alloca() : {row}",
        f"linalg.fill ins(%low : {element}) outs(%max : {row})",
        generic([("%in", tile, "m, n")], [("%max", row, "m")], "pr",
                f"%r = arith.maximumf %x0, %y0 : {element}\nlinalg.yield %r : {element}", "mn"),
        generic([("%in", tile, "m, n"), ("%max", row, "m")], [("%e", tile, "m, n")], "pp",
                f"%d = arith.subf %x0, %x1 : {element}\n%r = math.exp %d : {element}\nlinalg.yield %r : {element}", "mn"),
        f"linalg.fill ins(%zero : {element}) outs(%sum : {row})",
        generic([("%e", tile, "m, n")], [("%sum", row, "m")], "pr",
                f"%r = arith.addf %y0, %x0 : {element}\nlinalg.yield %r : {element}", "mn"),
        generic([("%e", tile, "m, n"), ("%sum", row, "m")], [("%out", tile, "m, n")], "pp",
                f"%r = arith.divf %x0, %x1 : {element}\nlinalg.yield %r : {element}", "mn"),
    ]  # fmt: skip
    check(
        kernel({"in": tile, "out": tile}, *ops),
        tolerance={"f64": 1e-12, "f32": 1e-5, "f16": 4e-3, "bf16": 4e-2}[element],
    )


@fast
@given(
    SMALL, EXTENTS, EXTENTS, st.sampled_from(["f16 f32 extf", "bf16 f32 extf", "i8 i32 extsi"]), st.booleans()
)
def test_narrow_inputs_wide_accumulators(m, n, k, types, rows_contiguous):
    narrow, wide, extend = types.split()
    left = memref([m, k], narrow)
    right = memref([n, k] if rows_contiguous else [k, n], narrow)
    out = memref([m, n], wide)
    kind = "f" if "f" in wide else "i"
    body = (
        f"%a = arith.{extend} %x0 : {narrow} to {wide}\n%b = arith.{extend} %x1 : {narrow} to {wide}\n"
        f"%p = arith.mul{kind} %a, %b : {wide}\n%s = arith.add{kind} %y0, %p : {wide}\nlinalg.yield %s : {wide}"
    )
    maps = [("%left", left, "m, k"), ("%right", right, "n, k" if rows_contiguous else "k, n")]
    check(
        kernel(
            {"left": left, "right": right, "out": out},
            generic(maps, [("%out", out, "m, n")], "ppr", body, "mnk"),
        )
    )


@fast
@given(SMALL, EXTENTS, st.booleans())
def test_counters_as_data(m, n, along_columns):
    """argmax: two outputs, and `linalg.index` in the body."""
    source = memref([m, n], "f32")
    kept, reduced = ("m", 1) if along_columns else ("n", 0)
    best, where = memref([m if along_columns else n], "f32"), memref([m if along_columns else n], "i64")
    body = (
        f"%i = linalg.index {reduced} : index\n%w = arith.index_cast %i : index to i64\n"
        "%g = arith.cmpf ogt, %x0, %y0 : f32\n%b = arith.select %g, %x0, %y0 : f32\n"
        "%s = arith.select %g, %w, %y1 : i64\nlinalg.yield %b, %s : f32, i64"
    )
    outs = [("%best", best, kept), ("%where", where, kept)]
    op = generic([("%in", source, "m, n")], outs, "pr" if along_columns else "rp", body, "mn")
    check(kernel({"in": source, "best": best, "where": where}, op))


@pytest.mark.parametrize("target", ["avx2", "avx512", "x86-64", "neon"])
def test_other_targets(target):
    """The code for another machine computes the same (here in the reference)."""
    a, b, out = memref([13, 20]), memref([20, 37]), memref([13, 37])
    op = f"linalg.matmul ins(%a, %b : {a}, {b}) outs(%out : {out})"
    check(kernel({"a": a, "b": b, "out": out}, op), native=False, target=target)


# What the code looks like -----------------------------------------------------------------------------------


def names(module):
    return [op.name for op in kernel_of(module).walk()]


def packed_matmul(rows: int, k: int) -> str:
    """The kernel of a 2-D tile with bias and relu: A in rows, B and C in panels of 16 columns."""
    a, b, bias = memref([rows, k]), memref([2, k, 16]), memref([2, 16])
    out, acc = memref([rows, 2, 16], pad=4), memref([rows, 2, 16])
    epilogue = "%s = arith.addf %x0, %x1 : f32\n%r = arith.maximumf %s, %zero : f32\nlinalg.yield %r : f32"
    return kernel(
        {"a": a, "b": b, "bias": bias, "out": out},
        "%zero = arith.constant 0.0 : f32",
        f"%acc = memref.alloca() : {acc}",
        f"linalg.fill ins(%zero : f32) outs(%acc : {acc})",
        generic(
            [("%a", a, "m, k"), ("%b", b, "n, k, p")],
            [("%acc", acc, "m, n, p")],
            "pppr",
            product("f32"),
            "mnpk",
        ),
        generic(
            [("%acc", acc, "m, n, p"), ("%bias", bias, "n, p")],
            [("%out", out, "m, n, p")],
            "ppp",
            epilogue,
            "mnp",
        ),
    )


def test_accumulators_stay_in_registers_through_reduction_and_epilogue():
    module = check(packed_matmul(14, 7), target="avx512", native=False)
    found = names(module)
    assert "memref.alloca" not in found
    (loop,) = [op for op in kernel_of(module).walk() if op.name == "scf.for"]
    inside = [op.name for op in loop.body.ops]
    assert len(loop.carried) == 28 and inside.count("vector.fma") == 28
    assert inside.count("memref.load") == 14 and inside.count("vector.load") == 2
    assert found.count("vector.store") == 28 and found.count("arith.maximumf") == 28
    assert found.count("vector.load") == 4  # two of B, two of the bias


def test_a_block_is_one_vector():
    (loop,) = [op for op in vectorized(packed_matmul(14, 7), "avx512").walk() if op.name == "scf.for"]
    reads, fma = ["vector.transfer_read"] * 2, "vector.fma"
    assert [op.name for op in loop.body.ops] == [*reads, fma, "scf.yield"]
    assert [str(value.type) for value in loop.carried] == ["vector<14x2x16xf32>"]


def test_tile_larger_than_the_registers_is_blocked_and_its_edge_peeled():
    module = check(packed_matmul(31, 5), target="avx512", native=False)
    loops = [op for op in kernel_of(module).walk() if op.name == "scf.for"]
    assert max(len(loop.carried) for loop in loops) <= 28
    assert names(module).count("vector.store") < 62


def test_tails_are_shorter_vectors():
    t = memref([3, 26])
    text = kernel(
        {"in": t, "out": memref([3, 26], pad=6)},
        f"linalg.copy ins(%in : {t}) outs(%out : {memref([3, 26], pad=6)})",
    )
    module = check(text, target="avx512", native=False)
    types = {str(op.result.type) for op in kernel_of(module).walk() if op.name == "vector.load"}
    assert types == {"vector<16xf32>", "vector<10xf32>"}


def test_row_reductions_have_several_chains():
    source, out = memref([1, 1024]), memref([1])
    body = "%r = arith.addf %y0, %x0 : f32\nlinalg.yield %r : f32"
    text = kernel(
        {"in": source, "out": out}, generic([("%in", source, "m, n")], [("%out", out, "m")], "pr", body, "mn")
    )
    module = check(text, target="avx512", native=False)
    (loop,) = [op for op in kernel_of(module).walk() if op.name == "scf.for"]
    assert [str(a.type) for a in loop.carried] == ["vector<16xf32>"] * 8
    assert names(module).count("vector.reduction") == 1


@pytest.mark.parametrize(("kinds", "out"), [("pp", "m, n"), ("pr", "m")])
def test_functions_are_computed_at_several_points_in_turn(kinds, out):
    """Elementwise and in a reduction along the vectors; the cheap ops around them too."""
    t, result = memref([2, 256]), memref([2, 256][: len(kinds) - kinds.count("r")])
    body = """%h = arith.addf %x0, %x0 : f32
        %e = math.exp %h : f32
        %r = arith.addf %y0, %e : f32
        linalg.yield %r : f32"""
    op = generic([("%in", t, "m, n")], [("%out", result, out)], kinds, body, "mn")
    module = vectorized(kernel({"in": t, "out": result}, op), "avx512")
    found = names(unrolled(module, "avx512"))
    first = found.index("math.exp")
    assert found[first : first + 4] == ["math.exp"] * 4
    assert found[first - 4 : first] == ["arith.addf"] * 4


def test_neighbouring_dimensions_without_gaps_are_one():
    t = memref([2, 3, 7, 7])
    body = "%r = arith.negf %x0 : f32\nlinalg.yield %r : f32"
    op = generic([("%in", t, "a, b, c, d")], [("%out", t, "a, b, c, d")], "pppp", body, "abcd")
    module = check(kernel({"in": t, "out": t}, op), target="avx512", native=False)
    types = [str(op.result.type) for op in kernel_of(module).walk() if op.name == "vector.load"]
    assert set(types) == {"vector<16xf32>", "vector<6xf32>"}


def test_bodies_that_read_memory_become_loops():
    """A gather: its index is data, so it is lowered to scalar loops."""
    table, where, out = memref([10, 4]), memref([3], "i32"), memref([3, 4])
    body = (
        "%n = linalg.index 1 : index\n%c0 = arith.constant 0 : i32\n%i = arith.maxsi %x0, %c0 : i32\n"
        "%w = arith.index_cast %i : i32 to index\n"
        "%v = memref.load %table[%w, %n] : memref<10x4xf32>\nlinalg.yield %v : f32"
    )
    op = generic([("%where", where, "m")], [("%out", out, "m, n")], "pp", body, "mn")
    module = check(kernel({"table": table, "where": where, "out": out}, op), native=False)
    assert "scf.for" in names(module) and "vector.load" not in names(module)


def test_in_place_and_accumulating_kernels():
    """A chain on one memory, and a product added to what is there."""
    t = memref([5, 20])
    scale = "%r = arith.addf %y0, %y0 : f32\nlinalg.yield %r : f32"
    a, b = memref([5, 3]), memref([3, 20])
    ops = [
        generic([], [("%c", t, "m, n")], "pp", scale, "mn"),
        f"linalg.matmul ins(%a, %b : {a}, {b}) outs(%c : {t})",
        generic([], [("%c", t, "m, n")], "pp", scale, "mn"),
    ]
    module = check(kernel({"a": a, "b": b, "c": t}, *ops))
    stores = [op for op in kernel_of(module).walk() if op.name == "vector.store"]
    assert len({tuple(op.operands[1:]) for op in stores}) == len(stores)  # each element is stored once


def test_kernels_by_hand_stay():
    text = kernel(
        {"x": memref([16])},
        "%c0 = arith.constant 0 : index",
        f"%v = vector.load %x[%c0] : {memref([16])}, vector<16xf32>",
    )
    assert print_module(vectorized(text)) == print_module(parse(text, "test.mir"))


def test_shifted_reads_are_not_one_sweep():
    """The second op reads other points than the first wrote: what passes between lies in memory."""
    t, out = memref([20]), memref([18])
    double = "%r = arith.addf %x0, %x0 : f32\nlinalg.yield %r : f32"
    window = memref([3])
    ops = [
        f"%temp = memref.alloca() : {t}",
        generic([("%in", t, "i")], [("%temp", t, "i")], "p", double, "i"),
        generic(
            [("%temp", t, "i + k"), ("%w", window, "k")], [("%out", out, "i")], "pr", product("f32"), "ik"
        ),
    ]
    module = check(kernel({"in": t, "w": window, "out": out}, *ops))
    assert "memref.alloca" in names(module)


@pytest.mark.parametrize("rows, depth, expected", [(2, 512, 2), (2, 16, 0), (64, 512, 0)])
def test_what_a_tile_reads_once_is_prefetched(rows: int, depth: int, expected: int) -> None:
    """Panels of 32 columns: long enough for two rows; too short; read again and again by blocks of 64 rows."""
    args = {"a": memref([rows, depth]), "b": memref([depth, 32]), "c": memref([rows, 32])}
    text = kernel(args, f"linalg.matmul ins(%a, %b : {args['a']}, {args['b']}) outs(%c : {args['c']})")
    found = [op for op in vectorized(text, "avx512").walk() if op.name == "memref.prefetch"]
    assert len(found) == expected
    check(text, 1e-4)


@pytest.mark.parametrize("places, expected", [(16, 1), (1, 0)])
def test_the_rows_of_the_next_tile_are_prefetched(places: int, expected: int) -> None:
    """14 rows of 16 channels, in each block of channels at another place; one block's rows lie end to end."""
    pixels, weights, out = memref([places, 14, 16]), memref([places, 16, 32]), memref([14, 32])
    maps = [("%x", pixels, "c, p, k"), ("%w", weights, "c, k, n")]
    body = generic(maps, [("%y", out, "p, n")], "pprr", product("f32"), "pnck")
    text = kernel({"x": pixels, "w": weights, "y": out}, body)
    module = vectorized(text, "avx512")
    found = [op for op in module.walk() if op.name == "memref.prefetch" and op.operands[0].name == "x"]
    assert len(found) == expected
    check(text, 1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_body_of_many_operands_loads_late_and_stores_early(in_place: bool) -> None:
    """Two sums of half of the operands each: those of the second are loaded when the first is stored, but for one that
    the store of the second changes."""
    many, row, last = memref([64, 16]), memref([16]), "%b" if in_place else "%c"
    ins = [("%x", many, f"{i}, n") for i in range(64)] + [(last, row, "n")]
    sums = [
        f"%s{i} = arith.addf %{'x' if i % 32 == 1 else 's'}{i - 1}, %x{i} : f32" for i in range(64) if i % 32
    ]
    body = "\n".join([*sums, "%t = arith.addf %s63, %x64 : f32", "linalg.yield %s31, %t : f32, f32"])
    op = generic(ins, [("%a", row, "n"), ("%b", row, "n")], "p", body, "n")
    module = check(kernel({"x": many, "a": row, "b": row, "c": row}, op), target="avx512")
    moves = [name for name in names(module) if name in ("vector.load", "vector.store")]
    assert moves.index("vector.store") == 32 + in_place and moves.count("vector.load") == 65
