"""What vectorize keeps: every kernel computes what it computed. Random kernels, in the reference and natively."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import check, generic, kernel, kernel_of, memref, names, product

FLOATS = ["f32", "f64", "f16", "bf16"]
EXTENTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 10, 14, 16, 17, 26, 32, 40])
SMALL = st.sampled_from([1, 2, 3, 5, 6])
fast = settings(max_examples=10, deadline=None)


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
