"""What processes add up in the midst of a program: on every level and engine, what goes wrong there, and which kernels may ask for it."""

from __future__ import annotations

import time

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.module import (
    BufferArgument,
    BytecodeError,
    Function,
    Instruction,
    Kernel,
    Module,
    TensorSpec,
)
from mdsl.bytecode.structure import resolve
from mdsl.compiler.driver import lower_to
from mdsl.passes.base import LEVELS
from mdsl.reference import run
from mdsl.support import across
from mdsl.syntax.parser import parse
from mdsl.vm.exchanges import _blocks_of_data
from mdsl.vm.program import with_kernels

PROGRAM = """
func.func @main(%x: tensor<6x4xf32>) -> (tensor<6x4xf32>, tensor<4xf32>) {
  %mean = nn.reduce %x {kind = "mean", axes = [0]} : (tensor<6x4xf32>) -> tensor<1x4xf32>
  %of_all = nn.all_reduce %mean {kind = "mean"} : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %centred = nn.sub %x, %of_all : (tensor<6x4xf32>, tensor<1x4xf32>) -> tensor<6x4xf32>
  %squares = nn.mul %centred, %centred : (tensor<6x4xf32>, tensor<6x4xf32>) -> tensor<6x4xf32>
  %sum = nn.reduce %squares {kind = "sum", axes = [0], keepdims = false} : (tensor<6x4xf32>) -> tensor<4xf32>
  %total = nn.all_reduce %sum : (tensor<4xf32>) -> tensor<4xf32>
  return %centred, %total : tensor<6x4xf32>, tensor<4xf32>
}"""

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def with_a_twin(array: np.ndarray) -> None:
    """There is one other process, whose numbers are all 1."""
    array += 1


def wanted() -> tuple[np.ndarray, np.ndarray]:
    centred = X - (X.mean(axis=0) + 1) / 2
    return centred, np.square(centred).sum(axis=0) + 1


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_means_the_same(level: str) -> None:
    module = parse(PROGRAM)
    lower_to(module, stop=level)
    with across.among(2, with_a_twin):
        found = run(module, [X])
    for one, other in zip(found, wanted(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"engine": "vm"}, {"engine": "vm", "threads": 2}, {"engine": "jit"}, {"ukernels": False}]
)
def test_engines(settings: dict[str, object]) -> None:
    program = mdsl.compile(PROGRAM, **settings)  # type: ignore[arg-type]
    alone = program(X)
    with across.among(2, with_a_twin):
        found = program(X)
    for one, other in zip(found, wanted(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(program(X), alone, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(alone[0], X - X.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
def test_what_is_raised_there_arrives(engine: str) -> None:
    calls: list[int] = []

    def fail(array: np.ndarray) -> None:
        calls.append(array.size)
        raise KeyboardInterrupt("in the midst of it")

    program = mdsl.compile(PROGRAM, engine=engine)
    with pytest.raises(KeyboardInterrupt, match="midst"), across.among(2, fail):
        program(X)
    assert calls == ([4] if engine == "reference" else [4, 4])  # native code goes on: others wait
    assert np.isfinite(program(X)[1]).all()


STRIDED = """
func.func @main(%x: memref<8x2xf32>, %y: memref<8xf32> {mdsl.output}) {
  %column = memref.subview %x[0, 1] [8, 1] [1, 1] : memref<8x2xf32> to memref<8xf32, strided<[2], offset: 1>>
  ukernel.dispatch @k(%column, %y) : (memref<8xf32, strided<[2], offset: 1>>, memref<8xf32>)
  return
}
ukernel.func @k(%x: memref<8xf32, strided<[2], offset: ?>>, %y: memref<8xf32>) attributes {mdsl.across = "sum"} {
  linalg.copy ins(%x : memref<8xf32, strided<[2], offset: ?>>) outs(%y : memref<8xf32>)
  ukernel.return
}"""


@pytest.mark.parametrize(
    "program",
    [
        STRIDED,
        STRIDED.replace("strided<[2]", "strided<[1]").replace("8x2xf32", "1x9xf32").replace("[8, 1] [1, 1]", "[1, 8] [1, 1]")
        .replace('"sum"', '"most"'),
    ],
    ids=["gaps", "kind"],
)  # fmt: skip
def test_only_copies_of_neighbours_are_exchanged(program: str) -> None:
    with pytest.raises(mdsl.MdslError, match=r"error: kernel 'k' has mdsl\.across, and does not copy"):
        mdsl.compile(program)


ROW = "memref<8xf32, strided<[1], offset: ?>>"
MANY = f"""
func.func @main(%x: memref<64x8xf32>, %y: memref<64x8xf32> {{mdsl.output}}) {{
  scf.forall (%i) in (64) {{
    %a = memref.subview %x[%i, 0] [1, 8] [1, 1] : memref<64x8xf32> to {ROW}
    %b = memref.subview %y[%i, 0] [1, 8] [1, 1] : memref<64x8xf32> to {ROW}
    ukernel.dispatch @k(%a, %b) : ({ROW}, {ROW})
  }}
  return
}}
ukernel.func @k(%x: {ROW}, %y: {ROW}) attributes {{mdsl.across = "sum"}} {{
  linalg.copy ins(%x : {ROW}) outs(%y : {ROW})
  ukernel.return
}}"""


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_workers_do_not_share_a_loop_of_exchanges(engine: str) -> None:
    """Processes meet in the order of the program, and only the caller's thread knows of them."""
    rows: list[float] = []

    def total(array: np.ndarray) -> None:
        rows.append(float(array[0]))
        array += 1

    x = np.repeat(np.arange(64, dtype=np.float32)[:, None], 8, axis=1)
    with across.among(2, total):
        np.testing.assert_array_equal(mdsl.compile(MANY, engine=engine, threads=2)(x), x + 1)
    assert rows == [*range(64)]


def test_a_shared_loop_of_exchanges_is_refused() -> None:
    lowered = parse(MANY)
    lower_to(lowered, stop="vm")
    text = str(lowered)
    assert text.count("mvm.loop") == 1
    with pytest.raises(
        mdsl.MdslError, match=r"a loop that workers share calls kernel 'k', in which processes meet"
    ):
        mdsl.compile(text.replace("mvm.loop", "mvm.parallel"))


def test_memory_with_gaps_is_copied_first() -> None:
    text = """
func.func @main(%x: tensor<8x2xf32>) -> tensor<8xf32> {
  %column = tensor.extract_slice %x[0, 1] [8, 1] [1, 1] : tensor<8x2xf32> to tensor<8xf32>
  %y = nn.all_reduce %column : (tensor<8xf32>) -> tensor<8xf32>
  return %y : tensor<8xf32>
}"""
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    with across.among(2, with_a_twin):
        np.testing.assert_array_equal(mdsl.compile(text)(x), x[:, 1] + 1)


def test_what_is_raised_there_is_not_hidden_by_what_comes_of_it() -> None:
    program = mdsl.compile(PROGRAM)

    def fail(array: np.ndarray) -> None:
        array[...] = np.nan
        raise OSError("the other process is gone")

    with pytest.raises(OSError, match="is gone") as caught, across.among(2, fail):
        program(X)
        raise ValueError("the loss is not finite")
    assert isinstance(caught.value.__cause__, ValueError)


BRANCH = f"""
func.func @main(%x: memref<64x8xf32>, %n: memref<1xi64>, %y: memref<64x8xf32> {{mdsl.output}}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c8 = arith.constant 8 : index
  %given = memref.load %n[%c0] : memref<1xi64>
  %wide = arith.index_cast %given : i64 to index
  %count = arith.minsi %wide, %c8 : index
  %is = arith.cmpi sgt, %count, %c1 : index
  OPEN {{
    %a = memref.subview %x[0, 0] [1, 8] [1, 1] : memref<64x8xf32> to memref<8xf32, strided<[1]>>
    %b = memref.subview %y[0, 0] [1, 8] [1, 1] : memref<64x8xf32> to memref<8xf32, strided<[1]>>
    ukernel.dispatch @k(%a, %b) : (memref<8xf32, strided<[1]>>, memref<8xf32, strided<[1]>>)
  }}
  return
}}
ukernel.func @k(%x: {ROW}, %y: {ROW}) attributes {{mdsl.across = "sum"}} {{
  linalg.copy ins(%x : {ROW}) outs(%y : {ROW})
  ukernel.return
}}"""


@pytest.mark.parametrize(
    "opening, refused",
    [
        ("scf.for %i = %c0 to %c8 step %c2", ""),
        ("scf.for %i = %c0 to %count step %c1", "a loop whose run depends on data"),
        ("scf.if %is", "a branch whose run depends on data"),
        ("scf.for %i = %c0 to %c2 step %c1 { scf.if %is", "a branch whose run depends on data"),
    ],
)
def test_processes_meet_equally_often(opening: str, refused: str) -> None:
    text = BRANCH.replace("OPEN", opening)
    if opening.count("{"):
        text = text.replace("  }\n  return", "  } }\n  return")
    if not refused:
        mdsl.compile(text)
        return
    with pytest.raises(mdsl.MdslError, match=f"{refused} calls kernel 'k', in which processes meet"):
        mdsl.compile(text)


def test_what_is_set_where_data_says_depends_on_data() -> None:
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("const.i64", (1, 4)),
        Instruction("load.i1", (2, 0, 0)),
        Instruction("if_begin", (2,)),
        Instruction("const.i64", (1, 5)),
        Instruction("if_end"),
        Instruction("loop_begin", (3, 0, 1, 1)),
        Instruction("loop_begin", (4, 0, 3, 1)),
        Instruction("loop_end"),
        Instruction("loop_end"),
        Instruction("loop_begin", (3, 0, 0, 1)),
        Instruction("loop_end"),
        Instruction("ret"),
    ]
    x = TensorSpec("x", "i1", (1,))
    function = Function("main", (x,), (), ("i64", "i64", "i1", "i64", "i64"), 0, code)
    assert _blocks_of_data(resolve(function)) == {3, 6, 7}


def test_time_grows_with_the_code() -> None:
    """Where each register of a loop follows from one that is set further down."""
    count = 20_000
    kernel = Kernel("k", KERNEL[KERNEL.index("ukernel.func") :].replace("BODY", HALVES))
    zero, one, counter = count, count + 1, count + 2
    code = [Instruction("const.i64", (register, 0)) for register in range(count + 2)]
    code += [Instruction("loop_begin", (counter, zero, one, 1))]
    code += [Instruction("addi.i64", (r, r - 1, zero)) for r in range(count - 1, 0, -1)]
    code += [Instruction("load.i64", (0, 0, zero)), Instruction("loop_end")]
    code += [Instruction("loop_begin", (counter, zero, count - 1, 1))]
    code += [Instruction("dispatch", (0, ((BufferArgument(0, None, 0, 0), BufferArgument(1, None, 0, 0)),)))]
    code += [Instruction("loop_end"), Instruction("ret")]
    x, y = (TensorSpec(name, "i64", (4,)) for name in "xy")
    module = Module([Function("main", (x,), (y,), ("i64",) * (count + 3), 0, code)], [kernel])
    start = time.process_time()
    with pytest.raises(BytecodeError, match="a loop whose run depends on data calls kernel 'k'"):
        with_kernels(module)
    assert time.process_time() - start < 10


KERNEL = """
func.func @main(%x: memref<8xf32>, %y: memref<8xf32> {mdsl.output}) {
  ukernel.dispatch @k(%x, %y) : (memref<8xf32>, memref<8xf32>)
  return
}
ukernel.func @k(%x: memref<8xf32>, %y: memref<8xf32>) attributes {mdsl.across = "sum"} {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %c4 = arith.constant 4 : index
  BODY
  ukernel.return
}"""
HALVES = """scf.for %i = %c0 to %c4 step %c2 {
    %a = vector.load %x[%i] : memref<8xf32>, vector<2xf32>
    vector.store %a, %y[%i] : memref<8xf32>, vector<2xf32>
  }
  %b = vector.load %x[%c4] : memref<8xf32>, vector<4xf32>
  vector.store %b, %y[%c4] : memref<8xf32>, vector<4xf32>"""


@pytest.mark.parametrize(
    "change",
    [
        ("%x[%i]", "%x[%c0]"),
        ("vector.store %b", "%d = arith.addf %b, %b : vector<4xf32>\n  vector.store %d"),
        ("to %c4 step", "to %c2 step"),
        ("scf.for %i = %c0 to %c4 step %c2", "%c8 = arith.constant 8 : index\n  %c3 = arith.constant 3 : index\n  scf.for %i = %c0 to %c8 step %c3"),
        ("vector.store %b, %y[%c4] : memref<8xf32>, vector<4xf32>", "vector.store %b, %y[%c0] : memref<8xf32>, vector<4xf32>"),
        ("%x[%i] :", "%y[%i] :"),
    ],
)  # fmt: skip
def test_a_kernel_that_is_no_copy_is_refused(change: tuple[str, str]) -> None:
    copies = KERNEL.replace("BODY", HALVES)
    x = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(mdsl.compile(copies)(x), x)
    with pytest.raises(mdsl.MdslError, match=r"kernel 'k' has mdsl\.across, and does not copy"):
        mdsl.compile(copies.replace(*change))


NESTED = MANY.replace(
    "    ukernel.dispatch @k",
    """    scf.forall (%j) in (8) {
      %c = memref.load %x[%i, %j] : memref<64x8xf32>
      %d = arith.addf %c, %c : f32
      memref.store %d, %z[%i, %j] : memref<64x8xf32>
    }
    ukernel.dispatch @k""",
).replace(
    "%y: memref<64x8xf32> {mdsl.output})",
    "%y: memref<64x8xf32> {mdsl.output}, %z: memref<64x8xf32> {mdsl.output})",
)


def test_workers_share_loops_without_exchanges_inside_of_one_with_them() -> None:
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    lowered = parse(NESTED)
    lower_to(lowered, stop="vm")
    assert [str(lowered).count(f"mvm.{kind} ") for kind in ("loop", "parallel")] == [1, 1]
    with across.among(2, with_a_twin):
        same, twice = mdsl.compile(NESTED, threads=2)(x)
    np.testing.assert_array_equal(same, x + 1)
    np.testing.assert_array_equal(twice, x + x)
