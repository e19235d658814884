"""pack: the same results, and one layout from the first convolution to the last."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_networks import Network

import mdsl
from mdsl.dialects import linalg, memref
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of, tensor_of
from mdsl.ir.verifier import verify
from mdsl.passes.base import functions
from mdsl.reference import run

BEFORE = "canonicalize,fold-batchnorm,lower-nn,canonicalize"


def depthwise(channels: int, stride: int = 1) -> Callable[[Network], str]:
    return lambda t: t.conv(t.conv(t.conv("x", channels), channels, 3, stride, channels), 16)


def squeeze_and_excite(channels: int) -> Callable[[Network], str]:
    def build(t: Network) -> str:
        y = t.conv("x", channels)
        scale = t.same("sigmoid", t.conv(t.conv(t.mean(y), 16), channels))
        return t.mean(t.conv(t.same("mul", y, scale), 16))

    return build


def residual(t: Network) -> str:
    return t.mean(t.same("add", t.conv("x", 24), t.conv("x", 24, 3)))


def normalised(t: Network) -> str:
    y = t.concat(t.conv("x", 32), t.conv("x", 16, 3))
    scale, shift = t.constant(1, 48, 1, 1), t.constant(1, 48, 1, 1)
    return t.conv(t.same("relu", t.same("add", t.same("mul", y, scale), shift)), 16)


def pooled(t: Network) -> str:
    y = t.conv("x", 24)
    pools = [
        t.same(kind, y, attributes="kernel = [3, 3], pads = [1, 1, 1, 1]")
        for kind in ("avg_pool2d", "max_pool2d")
    ]
    return t.conv(t.same("add", *pools), 16)


KEPT: dict[str, Callable[[Network], str]] = {
    "depthwise": depthwise(32),
    "depthwise with rest": depthwise(24, 2),
    "squeeze and excite": squeeze_and_excite(48),
    "residual": residual,
    "normalised": normalised,
    "pooled": pooled,
    "joined": lambda t: t.conv(t.concat(t.conv("x", 32), t.conv("x", 16, 3)), 16),
    "joined with rest": lambda t: t.conv(t.concat(t.conv("x", 24), t.conv("x", 20, 3)), 16),
    "joined small": lambda t: t.conv(t.concat(t.conv("x", 6), t.conv("x", 24)), 16),
    "sliced": lambda t: t.conv(t.slice(t.conv("x", 64), 32, 64), 16),
    "sliced within blocks": lambda t: t.conv(t.slice(t.conv("x", 58), 29, 58), 16),
    "sliced short of a block": lambda t: t.conv(t.slice(t.conv("x", 40), 0, 20), 16),
    "groups of blocks": lambda t: t.conv(t.conv(t.conv("x", 48), 96, 3, groups=3), 16),
    "narrow groups": lambda t: t.conv(t.conv(t.conv("x", 32), 32, 3, groups=8), 16),
}
"""Networks that need one pack of the image and, where the result is an image, one unpack."""

OTHERS: dict[str, Callable[[Network], str]] = {
    "ragged groups": lambda t: t.conv(t.conv(t.conv("x", 60), 60, groups=3), 16),
    "shuffled": lambda t: t.conv(t.shuffle(t.conv("x", 48), 2), 16),
    "depthwise alone": lambda t: t.conv("x", 16, 3, groups=16),
    "multiplied channels": lambda t: t.conv(t.conv("x", 16), 32, 3, groups=16),
    "colours": lambda t: t.conv("x", 3, 3),
    "joined with less than a block": lambda t: t.conv(t.concat(t.conv("x", 32), t.slice("x", 0, 3)), 16),
    "joined, then shuffled": lambda t: t.conv(t.shuffle(t.concat(t.conv("x", 20), "x"), 2), 16),
}


def count(module: ModuleOp, *kinds: type[Op]) -> int:
    return sum(isinstance(op, kinds) for op in module.walk())


def program(name: str) -> tuple[str, np.ndarray]:
    net = Network(1, 16, 7, 6)
    text = net.text({**KEPT, **OTHERS}[name](net))
    return text, np.random.default_rng(1).standard_normal(net.input).astype(np.float32)


@pytest.mark.parametrize("name", [*KEPT, *OTHERS])
def test_meaning_is_kept(name: str) -> None:
    text, x = program(name)
    before = mdsl.opt(text, BEFORE, target="avx512")
    (expected,) = run(before, [x])
    for target in ("avx512", "avx2"):
        (found,) = run(mdsl.opt(before, "pack", target=target), [x])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", [*KEPT, *OTHERS])
def test_engine_agrees(name: str) -> None:
    text, x = program(name)
    expected, found = (np.asarray(mdsl.compile(text, engine=e)(x)) for e in ("reference", "vm"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("channels", "target", "computed"),
    [(3, "avx512", 4), (3, "avx2", 4), (3, "neon", 4), (5, "avx512", 8), (11, "avx512", 16), (6, "avx512", 6), (7, "neon", 4)],
)  # fmt: skip
def test_an_odd_number_of_channels_is_computed_as_one_access(
    channels: int, target: str, computed: int
) -> None:
    """For a vector of three, say, is loaded in two pieces."""
    net = Network(1, 16, 7, 6)
    text = net.text(net.conv("x", channels, 3))
    (convolution,) = (
        op
        for op in mdsl.opt(text, "pack", target=target).walk()
        if isinstance(op, linalg.LinalgOp) and op.is_contraction
    )
    assert shaped_of(convolution.result).shape[-1] == computed


@pytest.mark.parametrize("name", KEPT)
def test_layout_is_kept(name: str) -> None:
    text, _ = program(name)
    packed = mdsl.opt(text, "pack", target="avx512")
    assert count(packed, linalg.Pack) <= 1
    assert count(packed, linalg.Unpack) <= 1


@pytest.mark.parametrize("name", KEPT)
def test_packing_again_changes_nothing(name: str) -> None:
    text, _ = program(name)
    once = mdsl.opt(text, "pack", target="avx512")
    assert not mdsl.diff(once, mdsl.opt(once, "pack", target="avx512"))


@pytest.mark.parametrize("name", ["joined", "depthwise", "depthwise with rest", "groups of blocks"])
def test_no_copy_is_left(name: str) -> None:
    """Every convolution writes into its part of a concatenation and into the inside of a border."""
    text, _ = program(name)
    assert count(mdsl.opt(text, "bufferize", target="avx512"), memref.Copy) == 0


def test_only_borders_are_filled() -> None:
    text, _ = program("depthwise")
    buffers = mdsl.opt(text, "bufferize", target="avx512")
    main = buffers.lookup("main")
    assert main is not None
    fills = [op for op in main.walk() if isinstance(op, linalg.Fill)]
    shapes = sorted(op.outputs[0].type.shape for op in fills)  # type: ignore[attr-defined]
    assert shapes == [(1, 1, 1, 8, 16)] * 2 + [(1, 1, 7, 1, 16)] * 2


ADDED = """
func.func @main(%x: tensor<1x16x7x6xf32>, %v: tensor<32x16x1x1xf32>, %w: tensor<16x32x1x1xf32>, %r: tensor<{r}xf32>) -> tensor<{out}xf32> {{
  %c = nn.conv2d %x, %v : (tensor<1x16x7x6xf32>, tensor<32x16x1x1xf32>) -> tensor<1x32x7x6xf32>
  %s = nn.add %c, %r : (tensor<1x32x7x6xf32>, tensor<{r}xf32>) -> tensor<1x32x7x6xf32>
  %t = nn.relu %s : (tensor<1x32x7x6xf32>) -> tensor<1x32x7x6xf32>
  %d = nn.conv2d %t, %w : (tensor<1x32x7x6xf32>, tensor<16x32x1x1xf32>) -> tensor<1x16x7x6xf32>
  return %{result} : tensor<{out}xf32>
}}
"""


@pytest.mark.parametrize(
    ("r", "result", "out", "blocked"),
    [
        ("1x32x7x6", "t", "1x32x7x6", False),  # as large as the result, which is only returned
        ("1x32x7x6", "d", "1x16x7x6", True),  # read in blocks
        ("1x32x1x1", "t", "1x32x7x6", True),  # small
    ],
)
def test_blocks_reach_as_far_as_they_pay(r: str, result: str, out: str, blocked: bool) -> None:
    text = ADDED.format(r=r, result=result, out=out)
    packed = mdsl.opt(text, "canonicalize,pack", target="avx512")
    (unpack,) = [op for op in packed.walk() if isinstance(op, linalg.Unpack)]
    assert (unpack.result.name == result) is blocked
    random = np.random.default_rng(0)
    shapes = [tensor_of(a).shape for a in functions(packed)[0].args]
    arrays = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    for expected, found in zip(run(mdsl.parse(text), arrays), run(packed, arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_in_blocks_as_it_lies_joins_the_product() -> None:
    """Columns in blocks are the same numbers in the same order: the sum is computed where the product is."""
    square = "tensor<64x64xf32>"
    text = f"""func.func @main(%a: {square}, %b: {square}, %w: {square}) -> {square} {{
      %c = nn.matmul %a, %b : ({square}, {square}) -> {square}
      %s = nn.sub %w, %c : ({square}, {square}) -> {square}
      return %s : {square}
    }}"""
    (unpack,) = [op for op in mdsl.opt(text, "pack", target="avx512").walk() if isinstance(op, linalg.Unpack)]
    assert unpack.result.name == "s"


SCALED = """func.func @main(%a: tensor<64x64xf32>, %b: tensor<64x64xf32>, %w: tensor<64x64xf32>, %s: tensor<f32>)
    -> tensor<64x64xf32> {{
  %c = nn.matmul %a, %b : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  %m = nn.mul {scaled} -> tensor<64x64xf32>
  %t = nn.add %c, %m : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  {result}
  return %r : tensor<64x64xf32>
}}"""
MATRICES = "(tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>"


SCALE = "%w, %s : (tensor<64x64xf32>, tensor<f32>)"


@pytest.mark.parametrize(
    ("scaled", "result", "packs"),
    [
        (SCALE, f"%r = nn.add %t, %t : {MATRICES}", ["b", "w"]),
        (SCALE, f"%r = nn.sub %w, %t : {MATRICES}", ["b", "w"]),  # one that the last op reads, too
        (SCALE, f"%r = nn.add %t, %m : {MATRICES}", ["b", "w"]),
        ("%w, %a : (tensor<64x64xf32>, tensor<64x64xf32>)", f"%r = nn.add %t, %t : {MATRICES}", ["b", "m"]),
    ],
)
def test_a_pack_moves_in_front_of_an_elementwise_op(scaled: str, result: str, packs: list[str]) -> None:
    text = SCALED.format(scaled=scaled, result=result)
    module = mdsl.opt(text, "pack", target="avx512")
    verify(module)
    assert sorted(op.operands[0].name or "" for op in module.walk() if isinstance(op, linalg.Pack)) == packs
    random = np.random.default_rng(0)
    given = [random.normal(size=shape).astype(np.float32) for shape in ((64, 64), (64, 64), (64, 64), ())]
    for wanted, found in zip(run(mdsl.parse(text), given), run(module, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


FILTERS = """func.func @main(%dy: tensor<2x{outs}x9x9xf32>, %w: tensor<{outs}x{ins}x4x3xf32>) -> tensor<2x{ins}x{h}x{v}xf32> {{
  %t = nn.transpose %w {{perm = [1, 0, 2, 3]}} : (tensor<{outs}x{ins}x4x3xf32>) -> tensor<{ins}x{outs}x4x3xf32>
  %f = nn.slice %t {{starts = {starts}, ends = [-5, -5], axes = [2, 3], steps = {steps}}} :
      (tensor<{ins}x{outs}x4x3xf32>) -> tensor<{ins}x{outs}x{kernel}xf32>
  %dx = nn.conv2d %dy, %f : (tensor<2x{outs}x9x9xf32>, tensor<{ins}x{outs}x{kernel}xf32>) -> tensor<2x{ins}x{h}x{v}xf32>
  return %dx : tensor<2x{ins}x{h}x{v}xf32>
}}"""


@pytest.mark.parametrize(
    ("outs", "ins", "kernel", "starts", "steps", "moved"),
    [
        (32, 48, (4, 3), [3, 2], [-1, -1], False),
        (32, 48, (4, 2), [3, 1], [-1, -1], False),  # a part of the filters, which is cut out first
        (32, 48, (2, 3), [3, 2], [-2, -1], False),  # every other row, which are taken first
        (24, 40, (4, 3), [3, 2], [-1, -1], True),  # blocks with a rest of zeros
    ],
)
def test_a_product_reads_filters_from_last_to_first_where_they_lie(
    outs: int, ins: int, kernel: tuple[int, int], starts: list[int], steps: list[int], moved: bool
) -> None:
    h, v = (10 - size for size in kernel)
    size = "x".join(map(str, kernel))
    text = FILTERS.format(outs=outs, ins=ins, kernel=size, starts=starts, steps=steps, h=h, v=v)
    module = mdsl.opt(text, "pack", target="avx512")
    verify(module)
    moves = [op for op in module.walk() if isinstance(op, linalg.Generic) and not op.is_contraction]
    assert bool(moves) == moved
    random = np.random.default_rng(0)
    given = [random.normal(size=shape).astype(np.float32) for shape in ((2, outs, 9, 9), (outs, ins, 4, 3))]
    (wanted,) = run(mdsl.parse(text), given)
    np.testing.assert_allclose(run(module, given)[0], wanted, rtol=1e-4, atol=1e-4)
    for engine in ("vm", "jit"):
        found = mdsl.compile(text, engine=engine)(*given)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


PLACES = """func.func @main(%x: tensor<2x16x8x6xf32>, %v: tensor<24x16x1x1xf32>) -> (tensor<2x24x4x3xi32>, tensor<2x24x8x6xf32>) {
  %c = nn.conv2d %x, %v : (tensor<2x16x8x6xf32>, tensor<24x16x1x1xf32>) -> tensor<2x24x8x6xf32>
  %p = nn.argmax_pool2d %c {kernel = [2, 2], strides = [2, 2]} : (tensor<2x24x8x6xf32>) -> tensor<2x24x4x3xi32>
  return %p, %c : tensor<2x24x4x3xi32>, tensor<2x24x8x6xf32>
}"""


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_an_op_of_two_results_works_on_blocks(target: str) -> None:
    """The largest element of a window and its place, of which one is read; 24 channels leave half a block."""
    packed = mdsl.opt(PLACES, "pack", target=target)
    verify(packed)
    (pool,) = [op for op in packed.walk() if isinstance(op, linalg.LinalgOp) and len(op.results) == 2]
    lanes = 16 if target == "avx512" else 8
    assert [shaped_of(r).shape for r in pool.results] == [(2, -(-24 // lanes), 4, 3, lanes)] * 2
    random = np.random.default_rng(0)
    given = [random.normal(size=shape).astype(np.float32) for shape in ((2, 16, 8, 6), (24, 16, 1, 1))]
    wanted, _ = run(mdsl.parse(PLACES), given)
    for found in (run(packed, given), mdsl.compile(PLACES)(*given)):
        np.testing.assert_array_equal(found[0], wanted)


OTHER_LAYOUT = """func.func @main(%x: tensor<{have}xf32>) -> tensor<{want}xf32> {{
  %zero = arith.constant 0.0 : f32
  %d = tensor.empty() : tensor<{plain}xf32>
  %u = linalg.unpack %x {unpack} into %d : tensor<{have}xf32> -> tensor<{plain}xf32>
  %e = tensor.empty() : tensor<{want}xf32>
  %y = linalg.pack %u padding_value(%zero : f32) {pack} into %e : tensor<{plain}xf32> -> tensor<{want}xf32>
  return %y : tensor<{want}xf32>
}}"""
CHANNELS = "inner_dims_pos = [1] inner_tiles = [4]"


@pytest.mark.parametrize(
    ("plain", "have", "unpack", "want", "pack", "at_once"),
    [
        (  # samples as well
            "6x8x5", "6x2x5x4", CHANNELS,
            "2x3x5x2x4", "outer_dims_perm = [1, 0, 2] inner_dims_pos = [0, 1] inner_tiles = [2, 4]", True,
        ),
        ("6x8x5", "6x2x5x4", CHANNELS, "3x8x5x2", "inner_dims_pos = [0] inner_tiles = [2]", True),  # in their place
        ("6x8x5", "6x2x5x4", CHANNELS, "2x6x5x4", f"outer_dims_perm = [1, 0, 2] {CHANNELS}", True),
        (  # from one order into another, of blocks and in them
            "6x8x5", "2x5x3x4x2", "outer_dims_perm = [1, 2, 0] inner_dims_pos = [1, 0] inner_tiles = [4, 2]",
            "3x2x5x2x4", "inner_dims_pos = [0, 1] inner_tiles = [2, 4]", True,
        ),
        ("6x7x5", "6x2x5x4", CHANNELS, "2x6x5x4", f"outer_dims_perm = [1, 0, 2] {CHANNELS}", False),  # a rest
        ("6x8x5", "6x2x5x4", CHANNELS, "6x4x5x2", "inner_dims_pos = [1] inner_tiles = [2]", False),  # other blocks
    ],
)  # fmt: skip
def test_blocks_change_their_layout_at_once(
    plain: str, have: str, unpack: str, want: str, pack: str, at_once: bool
) -> None:
    text = OTHER_LAYOUT.format(plain=plain, have=have, unpack=unpack, want=want, pack=pack)
    packed = mdsl.opt(text, "pack")
    verify(packed)
    assert count(packed, linalg.Transpose) == at_once
    assert count(packed, linalg.Pack) == count(packed, linalg.Unpack) == (not at_once)
    shape = [int(n) for n in have.split("x")]
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (wanted,) = run(mdsl.parse(text), [x])
    for found in (run(packed, [x])[0], mdsl.compile(text)(x)):
        np.testing.assert_array_equal(found, wanted)


BY_COLUMNS = """func.func @main(%x: tensor<{k}x{m}xf32>, %dy: tensor<{k}x{n}xf32>) -> tensor<{m}x{n}xf32> {{
  %t = nn.transpose %x {{perm = [1, 0]}} : (tensor<{k}x{m}xf32>) -> tensor<{m}x{k}xf32>
  %dw = nn.matmul %t, %dy : (tensor<{m}x{k}xf32>, tensor<{k}x{n}xf32>) -> tensor<{m}x{n}xf32>
  return %dw : tensor<{m}x{n}xf32>
}}"""


@pytest.mark.parametrize(
    ("steps", "rows", "columns", "transposed"),
    [
        (128, 512, 256, True),  # a line of each step: 2 of 64 sets have to keep 128
        (12, 512, 256, False),  # they keep as many
        (128, 508, 256, False),  # all sets have some: lines are not whole numbers of sets apart
        (400, 508, 256, True),
        (128, 512, 64, False),  # few panels of columns read them again
    ],
)
def test_rows_whose_steps_lie_far_apart_are_transposed(
    steps: int, rows: int, columns: int, transposed: bool
) -> None:
    text = BY_COLUMNS.format(k=steps, m=rows, n=columns)
    packed = mdsl.opt(text, "pack", target="avx2")
    found = [op for op in packed.walk() if isinstance(op, linalg.Transpose)]
    assert [op.result.name for op in found] == ["x_transposed"] * transposed
    told = [r.message for r in mdsl.trace(text, "pack", target="avx2")["pack"].remarks]
    assert any(message.startswith("reads %x transposed") for message in told) == transposed
    random = np.random.default_rng(0)
    given = [random.normal(size=(steps, size)).astype(np.float32) for size in (rows, columns)]
    (wanted,), (run_packed,) = run(mdsl.parse(text), given), run(packed, given)
    for result in (run_packed, mdsl.compile(text)(*given)):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-3)


PADDED = """
func.func @main(%x: tensor<2x4xf32>, %given: f32) -> tensor<2x4xf32> {{
  %five = arith.constant 5.0 : f32
  %w = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> : tensor<6xf32>
  %d = tensor.empty() : tensor<2x4xf32>
  %p = linalg.pack %w padding_value({padding} : f32) inner_dims_pos = [0] inner_tiles = [4] into %d : tensor<6xf32> -> tensor<2x4xf32>
  %y = nn.add %x, %p : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  return %y : tensor<2x4xf32>
}}
"""


def test_a_pack_with_other_padding_is_no_inverse() -> None:
    """The blocks that the unpack reads, and that the first pack made, end in zeros."""
    layout = "inner_dims_pos = [0] inner_tiles = [4] into"
    text = f"""
    func.func @main(%x: tensor<6xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>) {{
      %five = arith.constant 5.0 : f32
      %zero = arith.constant 0.0 : f32
      %d = tensor.empty() : tensor<2x4xf32>
      %e = tensor.empty() : tensor<6xf32>
      %p = linalg.pack %x padding_value(%zero : f32) {layout} %d : tensor<6xf32> -> tensor<2x4xf32>
      %u = linalg.unpack %p {layout} %e : tensor<2x4xf32> -> tensor<6xf32>
      %y = linalg.pack %u padding_value(%five : f32) {layout} %d : tensor<6xf32> -> tensor<2x4xf32>
      %z = linalg.pack %u padding_value(%zero : f32) {layout} %d : tensor<6xf32> -> tensor<2x4xf32>
      return %y, %z : tensor<2x4xf32>, tensor<2x4xf32>
    }}
    """
    packed = mdsl.opt(text, "pack")
    assert count(packed, linalg.Pack) == 2
    fives, zeros = run(packed, [np.arange(6, dtype=np.float32)])
    assert np.array_equal(fives, [[0, 1, 2, 3], [4, 5, 5, 5]])
    assert np.array_equal(zeros, [[0, 1, 2, 3], [4, 5, 0, 0]])


@pytest.mark.parametrize(("padding", "value"), [("%five", 5), ("%given", 7)])
def test_a_packed_constant_is_padded_with_the_value_that_the_op_names(padding: str, value: float) -> None:
    module = mdsl.opt(PADDED.format(padding=padding), "pack")
    assert count(module, linalg.Pack) == (padding == "%given")
    (found,) = run(module, [np.zeros((2, 4), np.float32), np.float32(7)])
    assert np.array_equal(found, [[1, 2, 3, 4], [5, 6, value, value]])


def test_a_pack_that_serves_a_border_in_front_of_it_comes_in_front_of_that() -> None:
    """Two convolutions read one image with borders of their own. Their weights' gradients read it in blocks."""
    image, small, large, made = (f"tensor<{s}xf32>" for s in ("4x8x6x4", "6x8x1x2", "6x8x2x2", "4x6x6x4"))
    gradient = mdsl.grad(
        f"""
func.func @main(%x: {image}, %v: {small}, %w: {large}) -> {made} {{
  %near = nn.conv2d %x, %v {{pads = [0, 0, 0, 1]}} : ({image}, {small}) -> {made}
  %far = nn.conv2d %x, %w {{pads = [0, 0, 1, 1]}} : ({image}, {large}) -> {made}
  %all = nn.add %near, %far : ({made}, {made}) -> {made}
  return %all : {made}
}}""",
        seed="ones",
    )
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(a.type.shape).astype(np.float32) for a in functions(gradient)[0].args]  # type: ignore[attr-defined]
    packed = mdsl.opt(gradient, "pack", target="avx512")
    verify(packed)
    for got, wanted in zip(run(packed, inputs), run(gradient, inputs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_returned_in_many_ways_is_looked_at_once() -> None:
    """A chain of `x * tanh(x)` behind a convolution leads to its end in 2^40 ways."""
    t = Network(1, 16, 6, 6)
    y = t.conv("x", 16, 3)
    for _ in range(40):
        y = t.same("mul", t.same("tanh", y), y)
    module = mdsl.opt(t.text(y), BEFORE)
    assert mdsl.opt(module, "pack", target="avx512")


def test_a_pack_that_stands_behind_serves_what_is_in_front_of_it_too() -> None:
    """The weight is packed for its contraction, and what packs it further down in the same way reads that."""
    module = mdsl.parse(
        """func.func @main(%x: tensor<33x64xf32>, %w: tensor<64x48xf32>) -> (tensor<33x48xf32>, tensor<3x64x16xf32>) {
      %zero = arith.constant 0.0 : f32
      %e = tensor.empty() : tensor<33x48xf32>
      %z = linalg.fill ins(%zero : f32) outs(%e : tensor<33x48xf32>) -> tensor<33x48xf32>
      %y = linalg.matmul ins(%x, %w : tensor<33x64xf32>, tensor<64x48xf32>) outs(%z : tensor<33x48xf32>) -> tensor<33x48xf32>
      %d = tensor.empty() : tensor<3x64x16xf32>
      %p = linalg.pack %w outer_dims_perm = [1, 0] inner_dims_pos = [1] inner_tiles = [16] into %d : tensor<64x48xf32> -> tensor<3x64x16xf32>
      return %y, %p : tensor<33x48xf32>, tensor<3x64x16xf32>
    }"""
    )
    arrays = [np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((33, 64), (64, 48))]
    packed = mdsl.opt(module, "pack", target="avx512")
    assert [op.operands[0].name for op in packed.walk() if isinstance(op, linalg.Pack)].count("w") == 1
    for wanted, found in zip(run(module, arrays), run(packed, arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
