"""keep-layouts, and what follows from it down to a call: arguments that lie in blocks from one call to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.decode import decode
from mdsl.bytecode.encode import encode
from mdsl.bytecode.module import DTYPES, BytecodeError, Layout, TensorSpec
from mdsl.bytecode.verify import verify
from mdsl.compiler.entry import closed, signature
from mdsl.dialects import linalg, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError
from mdsl.reference import run


def network(*layers: str, image: str = "16x32x6x6", result: str, **weights: str) -> str:
    """The text of a network whose loss is the mean square of `%y`."""
    arguments = "".join(
        f", %{name}: tensor<{shape}xf32> {{mdsl.parameter}}" for name, shape in weights.items()
    )
    body = "\n".join(f"  {layer}" for layer in layers)
    return f"""func.func @main(%x: tensor<{image}xf32>{arguments}) -> tensor<f32> {{
{body}
  %squares = nn.mul %y, %y : (tensor<{result}xf32>, tensor<{result}xf32>) -> tensor<{result}xf32>
  %loss = nn.reduce %squares {{kind = "mean", keepdims = false}} : (tensor<{result}xf32>) -> tensor<f32>
  return %loss : tensor<f32>
}}"""


def conv(result: str, given: str, shapes: tuple[str, str, str], options: str = "") -> str:
    x, w, y = (f"tensor<{shape}xf32>" for shape in shapes)
    name, weight = given.split()
    return f"%{result} = nn.conv2d %{name}, %{weight} {{{options}}} : ({x}, {w}) -> {y}"


CONVOLUTIONS = network(
    conv("a", "x v", ("16x32x6x6", "64x32x3x3", "16x64x6x6"), "pads = [1, 1, 1, 1]"),
    "%b = nn.relu %a : (tensor<16x64x6x6xf32>) -> tensor<16x64x6x6xf32>",
    conv("c", "b w", ("16x64x6x6", "32x64x1x1", "16x32x6x6")),
    "%d = nn.relu %c : (tensor<16x32x6x6xf32>) -> tensor<16x32x6x6xf32>",
    conv("y", "d u", ("16x32x6x6", "48x32x3x3", "16x48x3x3"), "pads = [1, 1, 0, 0], strides = [2, 2]"),
    v="64x32x3x3",
    w="32x64x1x1",
    u="48x32x3x3",
    result="16x48x3x3",
)
PRODUCTS = network(
    "%h = nn.linear %x, %w : (tensor<24x40xf32>, tensor<64x40xf32>) -> tensor<24x64xf32>",
    "%a = nn.relu %h : (tensor<24x64xf32>) -> tensor<24x64xf32>",
    "%y = nn.linear %a, %v : (tensor<24x64xf32>, tensor<48x64xf32>) -> tensor<24x48xf32>",
    w="64x40",
    v="48x64",
    image="24x40",
    result="24x48",
)
CHANNELS = network(
    conv("a", "x w", ("16x32x6x6", "32x1x3x3", "16x32x6x6"), "pads = [1, 1, 1, 1], groups = 32"),
    "%b = nn.relu %a : (tensor<16x32x6x6xf32>) -> tensor<16x32x6x6xf32>",
    conv("y", "b v", ("16x32x6x6", "64x8x1x1", "16x64x6x6"), "groups = 4"),
    w="32x1x3x3",
    v="64x8x1x1",
    result="16x64x6x6",
)
RAGGED = network(
    "%y = nn.linear %x, %w : (tensor<24x40xf32>, tensor<50x40xf32>) -> tensor<24x50xf32>",
    w="50x40",
    image="24x40",
    result="24x50",
)
MATRICES = network(
    "%y = nn.matmul %x, %w : (tensor<24x40xf32>, tensor<40x64xf32>) -> tensor<24x64xf32>",
    w="40x64",
    image="24x40",
    result="24x64",
)
NETWORKS = {
    "convolutions": CONVOLUTIONS,
    "products": PRODUCTS,
    "channels": CHANNELS,
    "ragged": RAGGED,
    "matrices": MATRICES,
}
DOWN = "keep-layouts,pack,fuse,donate"


def main_of(module: ModuleOp) -> FuncOp:
    found = module.lookup("main")
    assert isinstance(found, FuncOp)
    return found


def layouts_of(module: ModuleOp) -> dict[str, Layout]:
    return {
        str(v.name): Layout(0, tuple(map(tuple, groups))) for v, groups in main_of(module).layouts().items()
    }


def arrays_for(specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.abs(random.standard_normal(s.shape) / 4).astype(DTYPES[s.dtype]) for s in specs]


def brought(
    given: Sequence[np.ndarray], specs: Sequence[TensorSpec], layouts: Mapping[str, Layout]
) -> list[np.ndarray]:
    """The arrays as a program takes them that has these specs."""
    return [
        layouts[s.name].blocked(a, s.shape) if s.name in layouts else a.copy()
        for a, s in zip(given, specs, strict=True)
    ]


def check_same(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], step: ModuleOp) -> None:
    """`found` lies as the arguments that results are donated to."""
    layouts, function = layouts_of(step), main_of(step)
    lying = {result: str(function.args[argument].name) for argument, result in function.donations().items()}
    for number, (a, b) in enumerate(zip(wanted, found, strict=True)):
        layout = layouts.get(lying.get(number, ""))
        np.testing.assert_allclose(layout.plain(b) if layout else b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimizer", ["sgd", "sgd{momentum=0.9,weight_decay=0.1,nesterov=true}", "adam"])
@pytest.mark.parametrize("target", ["avx2", "avx512", "neon"])
def test_a_step_computes_the_same(name: str, optimizer: str, target: str) -> None:
    step = mdsl.opt(NETWORKS[name], f"autodiff,{optimizer}")
    kept = mdsl.opt(step, DOWN, target=target)
    given = arrays_for(signature(step)[0])
    wanted = run(step, [a.copy() for a in given])
    inputs, outputs = signature(kept)
    assert [s.name for s in inputs] == [s.name for s in signature(step)[0]]
    assert [s.name for s in outputs] == [s.name for s in signature(step)[1]]
    check_same(wanted, run(kept, brought(given, inputs, layouts_of(kept))), kept)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_it_does_so_on_the_machine(name: str, engine: str) -> None:
    step = mdsl.opt(NETWORKS[name], "autodiff,sgd{momentum=0.9}")
    wanted, given = mdsl.compile(step), arrays_for(signature(step)[0])
    kept = mdsl.compile(step, engine=engine, threads=2, pipeline="keep-layouts")
    first = brought(given, closed(kept.inputs), kept.layouts)
    names = [spec.name.removesuffix("_new") for spec in closed(kept.outputs)]
    for name_of, a, b in zip(names, wanted(*[a.copy() for a in given]), kept(*first), strict=True):
        layout = kept.layouts.get(name_of)
        np.testing.assert_allclose(layout.plain(b) if layout else b, a, rtol=1e-4, atol=1e-5)


def test_nothing_of_a_parameter_is_packed_for_the_forward_part_or_the_update() -> None:
    """Each weight is read where it lies; only the gradients of images, if any, read it in other blocks."""
    for text, again in ((CONVOLUTIONS, {"w", "u"}), (PRODUCTS, {"v"})):
        step = mdsl.opt(mdsl.opt(text, "autodiff,sgd{momentum=0.9}"), DOWN, target="avx512")
        main = main_of(step)
        moved = {
            str(value.name).split("_")[0]
            for op in main.body.ops
            if isinstance(op, linalg.Pack | linalg.Unpack | linalg.Transpose)
            for value in op.operands[:1]
        }
        weights = set(layouts_of(step)) - {f"{name}_momentum" for name in "uvw"}
        assert weights == ({"u", "v", "w"} if text is CONVOLUTIONS else {"v", "w"})
        assert moved & weights <= again
        kernels = [op for op in main.body.ops if isinstance(op, ukernel.RegionOp) and len(op.results) == 2]
        assert len(kernels) == len(weights)  # a gradient, and the new weight and momentum behind it


def test_the_plain_program_is_left_as_it_was() -> None:
    step = mdsl.opt(PRODUCTS, "autodiff,sgd")
    assert not mdsl.compile(step).layouts
    assert mdsl.compile(step).inputs == mdsl.compile(step, engine="reference").inputs


@pytest.mark.parametrize(
    "text",
    [
        RAGGED,
        """func.func @main(%x: tensor<24x40xf32>, %w: tensor<64x40xf32>) -> (tensor<24x64xf32>, tensor<64x40xf32>) {
  %y = nn.linear %x, %w : (tensor<24x40xf32>, tensor<64x40xf32>) -> tensor<24x64xf32>
  %z = nn.neg %w : (tensor<64x40xf32>) -> tensor<64x40xf32>
  return %y, %z : tensor<24x64xf32>, tensor<64x40xf32>
}""",  # not donated
        """func.func @main(%x: tensor<24x64xf32>, %w: tensor<64x64xf32> {tf.aliasing_output = 1 : i32})
    -> (tensor<24x64xf32>, tensor<64x64xf32>) {
  %y = nn.linear %x, %w : (tensor<24x64xf32>, tensor<64x64xf32>) -> tensor<24x64xf32>
  %z = nn.transpose %w {perm = [1, 0]} : (tensor<64x64xf32>) -> tensor<64x64xf32>
  return %y, %z : tensor<24x64xf32>, tensor<64x64xf32>
}""",  # another tensor takes its place
    ],
)
def test_what_has_no_layout_of_its_own(text: str) -> None:
    module = mdsl.opt(text, "autodiff,sgd") if "parameter" in text else mdsl.parse(text)
    assert not layouts_of(mdsl.opt(module, "keep-layouts", target="avx512"))


def test_master_weights_are_rounded_in_blocks() -> None:
    text = PRODUCTS.replace("f32", "f16").replace(" {mdsl.parameter}", "")
    text = text.replace(
        "%w: tensor<64x40xf16>, %v: tensor<48x64xf16>", "%w: tensor<64x40xf32>, %v: tensor<48x64xf32>"
    )
    casts = "".join(
        f"  %{n}_16 = nn.cast %{n} : (tensor<{s}xf32>) -> tensor<{s}xf16>\n"
        for n, s in (("w", "64x40"), ("v", "48x64"))
    )
    head, _, rest = text.partition("{\n")
    rest = rest.replace("%w ", "%w_16 ").replace("%v ", "%v_16 ")
    step = mdsl.opt(f"{head}{{\n{casts}{rest}", "autodiff{wrt=[w,v]},sgd")
    kept = mdsl.opt(step, DOWN, target="avx2")
    assert set(layouts_of(kept)) == {"v", "w"}


def test_a_layout_there_and_back() -> None:
    layout = Layout(0, ((0, 5), (1, 4), (2,), (3,)))
    plain = np.arange(6 * 4 * 3 * 2).reshape(6, 4, 3, 2)
    blocked = layout.blocked(plain, (3, 2, 3, 2, 2, 2))
    assert layout.plain_shape(blocked.shape) == plain.shape
    assert blocked[1, 0, 2, 1, 1, 0] == plain[2, 1, 2, 1] and blocked.flags.c_contiguous
    np.testing.assert_array_equal(layout.plain(blocked), plain)


def test_what_lies_in_blocks_is_written_to_without_the_plain_array() -> None:
    """Also where both are in one order: arrays in blocks are donated."""
    layout, plain = Layout(0, ((0, 1), (2,))), np.zeros((4, 3))
    blocked = layout.blocked(plain, (1, 4, 3))
    assert not np.shares_memory(blocked, plain)
    assert not np.shares_memory(layout.plain(blocked), blocked)


def test_a_file_says_how_inputs_lie(tmp_path: Path) -> None:
    step = mdsl.opt(PRODUCTS, "autodiff,sgd")
    kept = mdsl.compile(step, pipeline="keep-layouts{block=8}")
    kept.save(tmp_path / "step.mbc")
    again = mdsl.load(tmp_path / "step.mbc")
    assert again.layouts == kept.layouts and again.layouts["w"].dims == ((0, 2), (1,))
    assert decode(encode(again.bytecode())).function().layouts == again.bytecode().function().layouts


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((Layout(9, ((0,),)),), "its layouts name an input twice, or one that is not there"),
        ((Layout(0, ((0,), (1,))),) * 2, "its layouts name an input twice, or one that is not there"),
        ((Layout(0, ((0,),)),), "the layout of 'x' does not name each dimension once"),
        ((Layout(0, ((0,), (0,))),), "the layout of 'x' does not name each dimension once"),
        ((Layout(0, ((0, 1), ())),), "the layout of 'x' does not name each dimension once"),
        ((Layout(0, ((0,), (2,))),), "the layout of 'x' does not name each dimension once"),
    ],
)
def test_bytecode_with_wrong_layouts_is_refused(layout: tuple[Layout, ...], message: str) -> None:
    module = mdsl.compile(PRODUCTS).bytecode()
    module.function().layouts = layout
    with pytest.raises(BytecodeError, match=message):
        verify(module)
    if layout[0].input == 0 and all(d < 2 for group in layout[0].dims for d in group):
        with pytest.raises(BytecodeError):
            verify(decode(encode(module)))


@pytest.mark.parametrize("attribute", ["[[0]]", "[[0, 1, 1]]", "[[0, 1], []]", "1 : i32", "[[1, 2]]"])
def test_wrong_attributes(attribute: str) -> None:
    text = f"""func.func @main(%a: tensor<3x4xf32> {{mdsl.layout = {attribute}}}) -> tensor<3x4xf32> {{
  return %a : tensor<3x4xf32>
}}"""
    with pytest.raises(MdslError, match="mdsl.layout of %a must name each of its 2 dimensions once"):
        mdsl.compile(text)


def test_what_is_made_of_an_argument_in_many_ways_is_looked_at_once() -> None:
    """A chain of `x * tanh(x)` leads from the argument to its end in 2^40 ways."""
    type, count = "tensor<16x64xf32>", 40
    lines = [
        f"  %t{k} = nn.tanh %v{k} : ({type}) -> {type}\n  %v{k + 1} = nn.mul %t{k}, %v{k} : ({type}, {type}) -> {type}"
        for k in range(count)
    ]
    text = "\n".join(
        (
            f"func.func @main(%v0: {type} {{tf.aliasing_output = 0 : i32}}) -> {type} {{",
            *lines,
            f"  return %v{count} : {type}\n}}",
        )
    )
    assert not layouts_of(mdsl.opt(text, "keep-layouts", target="avx512"))
