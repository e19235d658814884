"""donate, and what follows from it down to a call: results that lie in the memory of arguments."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.decode import decode
from mdsl.bytecode.encode import encode
from mdsl.bytecode.module import DTYPES, BytecodeError
from mdsl.bytecode.verify import verify
from mdsl.compiler.entry import closed
from mdsl.dialects import memref, ukernel
from mdsl.errors import MdslError
from mdsl.ir.core import Op, Value
from mdsl.reference import run

HERE = Path(__file__).parent
STEP = """func.func @main(%x: tensor<4xf32>, %w: tensor<4xf32> {tf.aliasing_output = 1 : i32}) -> (tensor<4xf32>, tensor<4xf32>) {
  %new = nn.add %w, %x : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %seen = nn.mul %w, %x : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %seen, %new : tensor<4xf32>, tensor<4xf32>
}"""
SWAP = """func.func @main(%a: tensor<4xf32> {tf.aliasing_output = 1 : i32}, %b: tensor<4xf32> {tf.aliasing_output = 0 : i32})
    -> (tensor<4xf32>, tensor<4xf32>) {
  return %a, %b : tensor<4xf32>, tensor<4xf32>
}"""
REVERSED = """func.func @main(%a: tensor<4xf32> {tf.aliasing_output = 0 : i32}) -> tensor<4xf32> {
  %y = nn.slice %a {starts = [-1], ends = [-9], axes = [0], steps = [-1]} : (tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}"""
SHIFTED = """func.func @main(%a: tensor<6xf32> {tf.aliasing_output = 0 : i32}) -> tensor<6xf32> {
  %tail = nn.slice %a {starts = [1], ends = [6], axes = [0]} : (tensor<6xf32>) -> tensor<5xf32>
  %moved = nn.pad %tail {pads = [0, 1]} : (tensor<5xf32>) -> tensor<6xf32>
  %y = nn.add %moved, %a : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
  return %y : tensor<6xf32>
}"""
PRODUCT = """func.func @main(%a: tensor<33x33xf32> {tf.aliasing_output = 0 : i32}) -> tensor<33x33xf32> {
  %y = nn.matmul %a, %a : (tensor<33x33xf32>, tensor<33x33xf32>) -> tensor<33x33xf32>
  return %y : tensor<33x33xf32>
}"""
EXAMPLES = [(HERE / f"{name}.mir").read_text() for name in ("gradient", "read-later")]


def arrays(program: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        np.asarray(random.standard_normal(spec.shape), np.float32)  # type: ignore[arg-type]
        for spec in mdsl.compile(program, engine="reference").inputs
    ]


@pytest.mark.parametrize("program", [STEP, SWAP, REVERSED, SHIFTED, PRODUCT, *EXAMPLES])
@pytest.mark.parametrize("engine", ["vm", "jit"])
@pytest.mark.parametrize("ukernels", [True, False])
def test_the_old_value_is_read_before_it_is_gone(program: str, engine: str, ukernels: bool) -> None:
    wanted = mdsl.compile(program, engine="reference")(*arrays(program))
    found = mdsl.compile(program, engine=engine, threads=2, ukernels=ukernels)(*arrays(program))
    for a, b in zip(
        found if isinstance(found, tuple) else [found],
        wanted if isinstance(wanted, tuple) else [wanted],
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_every_level_computes_the_same() -> None:
    wanted = run(mdsl.parse(STEP), arrays(STEP))
    for step in (
        "lower-nn",
        "donate",
        "tile",
        "outline-ukernels",
        "bufferize",
        "plan-memory",
        "vectorize",
        "lower-vm",
    ):
        module = mdsl.opt(STEP, step)
        for found, expected in zip(run(module, arrays(STEP)), wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=step)


def test_a_call_returns_the_array_that_it_was_given() -> None:
    step = mdsl.compile(STEP)
    assert [spec.name for spec in step.inputs] == ["x", "w"]
    assert [spec.name for spec in step.outputs] == ["seen", "new"]
    x, w = arrays(STEP)
    seen, new = step(x, w)
    assert new is w and seen is not x
    np.testing.assert_allclose(w, x + arrays(STEP)[1], rtol=1e-6)
    _, again = pickle.loads(pickle.dumps(step))(x, w)
    assert again is w


def test_no_other_array_is_altered() -> None:
    step, (x, w) = mdsl.compile(STEP), arrays(STEP)
    w.flags.writeable = False
    _, new = step(x, w)
    np.testing.assert_array_equal(w, arrays(STEP)[1])
    np.testing.assert_allclose(new, x + w, rtol=1e-6)
    seen, new = step(x, x[:])
    np.testing.assert_array_equal(x, arrays(STEP)[0])
    np.testing.assert_allclose((seen, new), (x * x, x + x), rtol=1e-6)


def test_a_step_over_a_weight_gradient_needs_no_copy() -> None:
    """The kernel that sums the gradient has the update behind it, and writes into the weight."""
    text = str(mdsl.opt(EXAMPLES[0], "bufferize"))
    main = text.partition("ukernel.func")[0]
    assert "memref.copy" not in main and "matmul_sub" in main


LAYERS = """func.func @main(%x: tensor<32x48xf32>, %w: tensor<64x48xf32> {mdsl.parameter}, %v: tensor<40x64xf32> {mdsl.parameter})
    -> tensor<f32> {
  %h = nn.linear %x, %w : (tensor<32x48xf32>, tensor<64x48xf32>) -> tensor<32x64xf32>
  %a = nn.relu %h : (tensor<32x64xf32>) -> tensor<32x64xf32>
  %y = nn.linear %a, %v : (tensor<32x64xf32>, tensor<40x64xf32>) -> tensor<32x40xf32>
  %q = nn.mul %y, %y : (tensor<32x40xf32>, tensor<32x40xf32>) -> tensor<32x40xf32>
  %loss = nn.reduce %q {kind = "mean", keepdims = false} : (tensor<32x40xf32>) -> tensor<f32>
  return %loss : tensor<f32>
}"""


def users(value: Value) -> list[Op]:
    """Those of the value and of its views."""
    return [u for op in value.users for u in (op, *(u for r in op.results for u in users(r)))]


@pytest.mark.parametrize(
    ("optimizer", "written"),
    [
        ("sgd", 1),
        ("sgd{momentum=0.9}", 2),
        ("sgd{momentum=0.9,nesterov=true}", 2),
        ("sgd{momentum=0.9,weight_decay=0.01}", 2),
        ("adam", 3),
        ("adamw{weight_decay=0.1}", 3),
    ],
)
def test_an_optimizer_is_the_end_of_the_kernel_that_sums_a_gradient(optimizer: str, written: int) -> None:
    """Weight and states are read and written once, by it, where they lie."""
    step = mdsl.opt(LAYERS, f"autodiff,{optimizer}")
    kernels = mdsl.opt(step, "bufferize", target="avx2")
    main = kernels.lookup("main")
    assert main is not None and not [op for op in main.walk() if isinstance(op, memref.Copy)]
    weights = [arg for arg in main.body.args if arg.name in ("w", "v")]
    updates = {
        op
        for weight in weights
        for op in users(weight)
        if isinstance(op, ukernel.Dispatch) and "sub" in op.symbol
    }
    assert len(updates) >= len(weights) == 2
    assert {op.attr("outs") for op in updates} == {written} and all("matmul_" in op.symbol for op in updates)
    random = np.random.default_rng(0)
    given = [
        np.abs(random.standard_normal(s.shape)).astype(DTYPES[s.dtype])
        for s in closed(mdsl.compile(step).inputs)
    ]
    wanted = run(step, [a.copy() for a in given])
    for found, expected in zip(mdsl.compile(step)(*given), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_file_says_which_outputs_lie_in_inputs(tmp_path: Path) -> None:
    mdsl.compile(STEP).save(tmp_path / "step.mbc")
    step = mdsl.load(tmp_path / "step.mbc")
    x, w = arrays(STEP)
    assert step(x, w)[1] is w
    module = decode(encode(step.bytecode()))
    assert module.function().donations == ((1, 1),)


@pytest.mark.parametrize("donations", [((0, 2),), ((2, 0),), ((0, 0), (0, 1)), ((0, 1), (1, 1))])
def test_bytecode_with_wrong_donations_is_refused(donations: tuple[tuple[int, int], ...]) -> None:
    module = mdsl.compile(STEP).bytecode()
    module.function().donations = donations
    with pytest.raises(
        BytecodeError, match="its donations name an input or output twice, or one that is not there"
    ):
        verify(module)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("2 : i32", "tf.aliasing_output of %a must be the number of one of the 2 results"),
        ('"x"', "tf.aliasing_output of %a must be the number of one of the 2 results"),
        ("1 : i32", "%a of type tensor<4xf32> cannot be donated to a result of type tensor<3xf32>"),
        (
            "0 : i32}, %c: tensor<4xf32> {tf.aliasing_output = 0 : i32",
            "two arguments are donated to result 0",
        ),
    ],
)
def test_wrong_attributes(attribute: str, message: str) -> None:
    text = f"""func.func @main(%b: tensor<3xf32>, %a: tensor<4xf32> {{tf.aliasing_output = {attribute}}}) -> (tensor<4xf32>, tensor<3xf32>) {{
  return %a, %b : tensor<4xf32>, tensor<3xf32>
}}"""
    with pytest.raises(MdslError) as error:
        mdsl.compile(text)
    assert message in str(error.value)
