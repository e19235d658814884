"""What the code that vectorize makes looks like: what stays in registers, what is one vector, what is loaded when."""

from __future__ import annotations

import pytest
from kernels import check, generic, kernel, kernel_of, memref, names, product, unrolled, vectorized

import mdsl
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module


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


def test_they_are_where_other_dimensions_have_gaps():
    """Some rows of each of 5 images: the rows follow upon each other, the images do not."""
    t = "memref<5x2x7xf32, strided<[70, 7, 1]>>"
    body = "%r = arith.negf %x0 : f32\nlinalg.yield %r : f32"
    op = generic([("%in", t, "a, b, c")], [("%out", t, "a, b, c")], "ppp", body, "abc")
    module = check(kernel({"in": t, "out": t}, op), target="avx512", native=False)
    types = {str(op.result.type) for op in kernel_of(module).walk() if op.name == "vector.load"}
    assert types == {"vector<14xf32>"}


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


@pytest.mark.parametrize(
    ("samples", "dilation", "loops"),
    [
        (4, 1, 2),  # over rows, and over 14 pixels of 4 samples
        (8, 1, 3),  # eight steps are enough for a loop of their own
        (4, 2, 3),  # the window moves by two pixels
    ],
)
def test_a_short_sum_in_a_window_is_one_loop_with_the_windows(samples: int, dilation: int, loops: int):
    """As in the gradient of a convolution's weight, which sums over samples, rows and pixels."""
    image, grad, out = memref([3, 13 * dilation + 3, samples]), memref([3, 14, samples, 8]), memref([3, 8])
    conv = generic(
        [("%image", image, f"y, x + w * {dilation}, n"), ("%grad", grad, "y, w, n, o")],
        [("%out", out, "x, o")],
        "pprrr",
        product("f32"),
        "xoywn",
    )
    module = check(kernel({"image": image, "grad": grad, "out": out}, conv), target="avx2", native=False)
    assert sum(op.name == "scf.for" for op in kernel_of(module).walk()) == loops


@pytest.mark.parametrize(("samples", "together"), [(4, 4), (6, 6), (8, 2)])
def test_few_steps_inside_of_loops_are_written_out(samples: int, together: int):
    """As where a stride keeps samples and pixels apart, in the gradient of a convolution's weight."""
    image, grad, out = memref([3, 29, samples]), memref([4, 3, 14, samples, 8]), memref([4, 3, 8])
    conv = generic(
        [("%image", image, "y, x + w * 2, n"), ("%grad", grad, "m, y, w, n, o")],
        [("%out", out, "m, x, o")],
        "ppprrr",
        product("f32"),
        "mxoywn",
    )
    text = kernel({"image": image, "grad": grad, "out": out}, conv)
    check(text, target="avx2", native=False)
    assert [op.name for op in vectorized(text, "avx2").walk()].count("vector.fma") == together


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_few_channels_stay_vectors(target: str) -> None:
    """Filters of three channels are loaded as vectors: across the channels that are summed, each pixel would gather them anew."""
    text = """func.func @main(%x: tensor<1x16x36x36xf32>, %w: tensor<3x16x9x9xf32>) -> tensor<1x3x28x28xf32> {
      %y = nn.conv2d %x, %w : (tensor<1x16x36x36xf32>, tensor<3x16x9x9xf32>) -> tensor<1x3x28x28xf32>
      func.return %y : tensor<1x3x28x28xf32>
    }"""
    kernels = mdsl.opt(text, "vectorize", target=target)
    assert not any(op.name == "vector.reduction" for op in kernels.walk())


@pytest.mark.parametrize("along_columns", [False, True])
def test_a_counter_of_64_bits_that_all_lanes_share_narrows_no_vector(along_columns):
    """Where a maximum stands, as i32: rows are reduced, so that a vector's columns have one counter; or the columns, whose counters differ."""
    source, kept = memref([8, 32]), "mn"[not along_columns]
    size = 8 if along_columns else 32
    body = (
        f"%i = linalg.index {int(along_columns)} : index\n%w = arith.index_cast %i : index to i32\n"
        "%g = arith.cmpf ogt, %x0, %y0 : f32\n%b = arith.select %g, %x0, %y0 : f32\n"
        "%s = arith.select %g, %w, %y1 : i32\nlinalg.yield %b, %s : f32, i32"
    )
    best, where = memref([size]), memref([size], "i32")
    outs = [("%best", best, kept), ("%where", where, kept)]
    op = generic([("%in", source, "m, n")], outs, "pr" if along_columns else "rp", body, "mn")
    text = kernel({"in": source, "best": best, "where": where}, op)
    module = check(text, target="avx512", native=False)
    if not along_columns:
        types = {str(op.results[0].type) for op in kernel_of(module).walk() if op.name == "arith.cmpf"}
        assert types == {"vector<16xi1>"}
