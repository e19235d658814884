"""Programs that once came out wrong: every engine must agree with the reference."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl

SQUARE_PLUS_SELF = """
func.func @main(%x: tensor<8xf32>, %y: tensor<8xf32>) -> tensor<8xf32> {
  %empty = tensor.empty() : tensor<8xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]} ins(%x, %y : tensor<8xf32>, tensor<8xf32>) outs(%empty : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = math.fma %a, %b, %a : f32
    linalg.yield %s : f32
  } -> tensor<8xf32>
  return %r : tensor<8xf32>
}
"""

MINUS_NEGATIVE_ZERO = """
func.func @main(%x: tensor<8xf32>, %y: tensor<8xf32>) -> tensor<8xf32> {
  %zero = arith.constant dense<-0.0> : tensor<8xf32>
  %d = nn.sub %x, %zero : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %r = nn.mul %d, %y : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  return %r : tensor<8xf32>
}
"""


@pytest.mark.parametrize("ukernels", [True, False])
@pytest.mark.parametrize("program", [SQUARE_PLUS_SELF, MINUS_NEGATIVE_ZERO])
def test_agrees_with_the_reference(program: str, ukernels: bool) -> None:
    x = np.array([-0.0, 0.0, 1, 2, -3, 4, 5, 6], np.float32)
    y = np.ones(8, np.float32)
    wanted = mdsl.compile(program, engine="reference")(x, y)
    found = mdsl.compile(program, ukernels=ukernels)(x, y)
    assert np.array_equal(found, wanted) and np.array_equal(np.signbit(found), np.signbit(wanted))


@pytest.mark.parametrize("engine", ["vm", "reference"])
def test_a_constant_keeps_the_signs_of_its_zeros_in_another_shape(engine: str) -> None:
    program = """
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %w = arith.constant dense<[[0.0, -0.0], [0.0, -0.0]]> : tensor<2x2xf32>
      %flat = tensor.collapse_shape %w [[0, 1]] : tensor<2x2xf32> into tensor<4xf32>
      %y = nn.div %x, %flat : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
      return %y : tensor<4xf32>
    }"""
    found = mdsl.compile(program, engine=engine)(np.ones(4, np.float32))
    assert np.array_equal(found, [np.inf, -np.inf, np.inf, -np.inf])


@pytest.mark.parametrize("shape, axis", [((64, 80, 80), 1), ((1, 25, 28, 28), 0), ((1, 64, 64, 50), 3)])
def test_kernels_know_the_range_of_the_counters_they_compute_places_with(
    shape: tuple[int, ...], axis: int
) -> None:
    """A gather behind a tiled dimension reads `x[%j, ...]` in the kernel, where %j is an argument; it counts in
    steps of the tile, so that its last value is not the end less one."""
    size = shape[axis]
    result = (*shape[:axis], size + 17, *shape[axis + 1 :])
    x, y = (f"tensor<{'x'.join(map(str, s))}xf32>" for s in (shape, result))
    program = f"""
    func.func @main(%x: {x}, %p: tensor<{size + 17}xi64>) -> {y} {{
      %y = nn.gather %x, %p {{axis = {axis}}} : ({x}, tensor<{size + 17}xi64>) -> {y}
      return %y : {y}
    }}"""
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    places = np.arange(size + 17) % size
    for threads in (1, 2):
        assert np.array_equal(
            mdsl.compile(program, threads=threads)(data, places), np.take(data, places, axis)
        )


@pytest.mark.parametrize("ukernels", [True, False])
def test_a_number_given_at_the_call_fills_a_tensor(ukernels: bool) -> None:
    program = """
    func.func @main(%x: tensor<4x8xf32>, %v: f32) -> tensor<4x8xf32> {
      %e = tensor.empty() : tensor<4x8xf32>
      %f = linalg.fill ins(%v : f32) outs(%e : tensor<4x8xf32>) -> tensor<4x8xf32>
      %y = nn.add %x, %f : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
      return %y : tensor<4x8xf32>
    }"""
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    assert np.array_equal(mdsl.compile(program, ukernels=ukernels)(x, np.float32(2.5)), x + 2.5)


def test_a_value_added_to_itself_again_and_again_compiles() -> None:
    """Each sum reads its operand twice: a search backwards that visits both ways would take 2^40 steps."""
    lines = [
        f"%x{i + 1} = nn.add %x{i}, %x{i} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>"
        for i in range(40)
    ]
    body = "\n  ".join([*lines, "return %x40 : tensor<4xf32>"])
    x = np.array([1, 2, -3, 0.5], np.float32)
    compiled = mdsl.compile(f"func.func @main(%x0: tensor<4xf32>) -> tensor<4xf32> {{\n  {body}\n}}")
    assert np.array_equal(compiled(x), x * np.float32(2**40))


@pytest.mark.parametrize("batch, pixels, channels", [(2, 64, 32), (1, 20, 7)])
def test_attention_among_pixels(batch: int, pixels: int, channels: int) -> None:
    """A non-local block: channels come first in what it reads and writes, so all but the scores are transposed."""
    scores = f"tensor<{batch}x{pixels}x{pixels}xf32>"
    first, last = f"tensor<{batch}x{channels}x{pixels}xf32>", f"tensor<{batch}x{pixels}x{channels}xf32>"
    program = f"""
    func.func @main(%q: {first}, %k: {first}, %v: {first}) -> {first} {{
      %qt = nn.transpose %q {{perm = [0, 2, 1]}} : ({first}) -> {last}
      %s = nn.matmul %qt, %k : ({last}, {first}) -> {scores}
      %p = nn.softmax %s {{axis = -1}} : ({scores}) -> {scores}
      %vt = nn.transpose %v {{perm = [0, 2, 1]}} : ({first}) -> {last}
      %o = nn.matmul %p, %vt : ({scores}, {last}) -> {last}
      %y = nn.transpose %o {{perm = [0, 2, 1]}} : ({last}) -> {first}
      return %y : {first}
    }}"""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((batch, channels, pixels)).astype(np.float32) for _ in range(3)]
    wanted = mdsl.compile(program, engine="reference")(*arrays)
    for threads in (1, 2):
        found = mdsl.compile(program, threads=threads)(*arrays)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


LOOP = """
func.func @main(%x: tensor<20x64xf32>, %h: tensor<1x64xf32>, %w: tensor<64x64xf32>) -> tensor<1x64xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c20 = arith.constant 20 : index
  %last = scf.for %t = %c0 to %c20 step %c1 iter_args(%state = %h) -> (tensor<1x64xf32>) {
    %row = tensor.extract_slice %x[%t, 0] [1, 64] [1, 1] : tensor<20x64xf32> to tensor<1x64xf32>
    %product = nn.matmul %state, %w : (tensor<1x64xf32>, tensor<64x64xf32>) -> tensor<1x64xf32>
    %sum = nn.add %product, %row : (tensor<1x64xf32>, tensor<1x64xf32>) -> tensor<1x64xf32>
    %new = nn.tanh %sum : (tensor<1x64xf32>) -> tensor<1x64xf32>
    scf.yield %new : tensor<1x64xf32>
  }
  return %last : tensor<1x64xf32>
}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_body_of_a_loop_becomes_kernels(threads: int) -> None:
    random = np.random.default_rng(3)
    x, h, w = (random.uniform(-0.2, 0.2, s).astype(np.float32) for s in ((20, 64), (1, 64), (64, 64)))
    for _ in range(2):
        found = mdsl.compile(LOOP, threads=threads)(x, h, w)
        np.testing.assert_allclose(
            found, mdsl.compile(LOOP, engine="reference")(x, h, w), rtol=1e-5, atol=1e-6
        )
    names = [op.name for op in mdsl.opt(LOOP, "outline-ukernels").body.ops[0].walk()]
    assert "ukernel.dispatch" in names and not any(name.startswith("linalg.") for name in names)


@pytest.mark.parametrize("ukernels", [True, False])
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("linalg.transpose ins(%y : memref<4x4xf32>) outs(%y : memref<4x4xf32>) permutation = [1, 0]", "x.T"),
        (
            """%a = memref.subview %y[0, 0] [3, 3] [1, 1] : memref<4x4xf32> to memref<3x3xf32, strided<[4, 1]>>
  %b = memref.subview %y[1, 0] [3, 3] [1, 1] : memref<4x4xf32> to memref<3x3xf32, strided<[4, 1], offset: 4>>
  memref.copy %a, %b : memref<3x3xf32, strided<[4, 1]>> to memref<3x3xf32, strided<[4, 1], offset: 4>>""",
            "rows",
        ),
        (
            "linalg.matmul ins(%y, %x : memref<4x4xf32>, memref<4x4xf32>) outs(%y : memref<4x4xf32>)",
            "x @ x + x",
        ),
    ],
)
def test_an_op_that_overwrites_what_it_reads(body: str, wanted: str, ukernels: bool) -> None:
    """It computes of the old content, as the reference does, whatever the order of its loops."""
    text = f"""
func.func @main(%x: memref<4x4xf32>, %y: memref<4x4xf32> {{mdsl.output}}) {{
  memref.copy %x, %y : memref<4x4xf32> to memref<4x4xf32>
  {body}
  return
}}"""
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    rows = x.copy()
    rows[1:, :3] = x[:3, :3]
    expected = {"x.T": x.T, "rows": rows, "x @ x + x": x @ x + x}[wanted]
    assert np.array_equal(mdsl.compile(text, engine="reference")(x), expected)
    assert np.array_equal(mdsl.compile(text, ukernels=ukernels)(x), expected)


@pytest.mark.parametrize(
    "body",
    [
        "%c = affine.apply affine_map<(d0) -> (d0 * 9223372036854775807 + 5)>(%x)",
        "%a = arith.constant 4611686018427387904 : index\n  %d = arith.muli %x, %a : index\n"
        "  %c = arith.muli %d, %a : index",
        "%a = arith.constant 9223372036854775807 : index\n  %d = arith.addi %x, %a : index\n"
        "  %c = arith.addi %d, %d : index",
    ],
)
@pytest.mark.parametrize("x", [3, -7, 1 << 62])
def test_index_arithmetic_beyond_64_bits_wraps(body: str, x: int) -> None:
    """As a factor and as a number: what lower-vm sums up is what a register would hold."""
    open_ = f"func.func @main(%x: index) -> index {{\n  {body}\n  return %c : index\n}}"
    known = open_.replace("(%x: index)", "()").replace("{\n", f"{{\n  %x = arith.constant {x} : index\n", 1)
    for program, arguments in ((open_, [np.int64(x)]), (known, [])):
        wanted = mdsl.compile(program, engine="reference")(*arguments)
        assert mdsl.compile(program)(*arguments) == wanted
