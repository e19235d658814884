"""outline-ukernels: what a kernel takes, is called and shares; what a region takes and yields may be numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import mdsl
from mdsl.dialects import ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Value
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.tiled.outline_ukernels import OutlineUkernels
from mdsl.reference import run
from mdsl.target.target import Target

TEXT = """func.func @main(%x: tensor<4xf32>, %s: TYPE) -> (tensor<4xf32>, TYPE) {
  %u = OP %s, %s : TYPE
  %a, %b = ukernel.region -> (tensor<4xf32>, TYPE) {
    %n = arith.negf %x : tensor<4xf32>
    %t = OP %u, %s : TYPE
    ukernel.yield %n, %t : tensor<4xf32>, TYPE
  }
  %c = OP %b, %s : TYPE
  return %a, %c : tensor<4xf32>, TYPE
}"""


@pytest.mark.parametrize(
    ("type", "number"),
    [("f32", np.float32(3)), ("f64", np.float64(0.5)), ("i32", np.int32(7)), ("index", np.int64(5))],
)
def test_numbers(type: str, number: np.generic) -> None:
    text = TEXT.replace("TYPE", type).replace("OP", "arith.addf" if type[0] == "f" else "arith.addi")
    x = np.arange(4, dtype=np.float32)
    for engine in ("reference", "vm", "jit"):
        negated, total = mdsl.compile(text, engine=engine)(x, number)
        np.testing.assert_array_equal(negated, -x)
        assert total == number * 4


NEGATED = """
  %{0} = ukernel.region -> tensor<4xf32> {{
    %{0}_n = linalg.generic {{indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
        iterator_types = ["parallel"]}} ins(%{1} : tensor<4xf32>) outs(%{2} : tensor<4xf32>) {{
      ^bb0(%in: f32, %out: f32):
        %v = {3} : f32
        linalg.yield %v : f32
    }} -> tensor<4xf32>
    ukernel.yield %{0}_n : tensor<4xf32>
  }}"""
NEG, ADD, SCALED = "arith.negf %in", "arith.addf %in, %out", "arith.mulf %in, %s"
X, Y = np.arange(4, dtype=np.float32), np.full(4, 2, np.float32)


def program(*parts: str, returns: str = "%r", results: int = 1) -> str:
    types = ", ".join(["tensor<4xf32>"] * results)
    return (
        f"func.func @main(%x: tensor<4xf32>, %y: tensor<4xf32>) -> ({types}) {{\n%s = arith.constant 3.0 : f32\n"
        f"%e = tensor.empty() : tensor<4xf32>\n{''.join(parts)}\nreturn {returns} : {types}\n}}"
    )


def outlined(text: str) -> ModuleOp:
    module = mdsl.parse(text)
    OutlineUkernels().run(module, Context(Target.parse("avx512")))
    verify(module)
    assert not any(op.name == "ukernel.region" for op in module.walk())
    for wanted, found in zip(run(mdsl.parse(text), [X, Y]), run(module, [X, Y]), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return module


def parts(module: ModuleOp) -> tuple[list[ukernel.UkernelFunc], list[ukernel.Dispatch]]:
    found = list(module.walk())
    kernels = [op for op in found if isinstance(op, ukernel.UkernelFunc)]
    return kernels, [op for op in found if isinstance(op, ukernel.Dispatch)]


def names(values: Sequence[Value]) -> list[str]:
    return [value.name or "" for value in values]


def test_a_region_is_a_kernel_and_its_dispatch() -> None:
    text = program(NEGATED.format("r", "x", "e", NEG))
    ((kernel,), (dispatch,)) = parts(outlined(text))
    assert kernel.symbol == dispatch.symbol == "neg_4"
    assert names(dispatch.operands) == names(kernel.args) == ["x", "e"], "the destination is last"
    assert names(dispatch.results) == ["r"]
    line = 1 + next(n for n, s in enumerate(text.splitlines()) if "ukernel.region" in s)
    inside = next(op for op in kernel.walk() if op.name == "linalg.generic")
    assert f":{line + 1}:" in str(inside.location)


def test_equal_kernels_are_one_whatever_their_values_are_called() -> None:
    text = program(NEGATED.format("a", "x", "e", NEG), NEGATED.format("r", "a", "y", NEG))
    (kernel,), dispatches = parts(outlined(text))
    assert [names(dispatch.operands) for dispatch in dispatches] == [["x", "e"], ["a", "y"]]
    assert {dispatch.symbol for dispatch in dispatches} == {kernel.symbol}


def test_kernels_that_do_something_else_have_names_of_their_own() -> None:
    other = NEG.replace("%in", "%out")
    text = program(NEGATED.format("a", "x", "y", NEG), NEGATED.format("r", "a", "y", other))
    kernels, dispatches = parts(outlined(text))
    assert len({kernel.symbol for kernel in kernels}) == 2
    assert [d.symbol for d in dispatches] == [k.symbol for k in kernels]
    assert all(kernel.symbol.startswith("neg_4") for kernel in kernels)


def test_a_symbol_that_is_taken_stays() -> None:
    text = program(NEGATED.format("r", "x", "e", NEG)) + "\nukernel.func @neg_4() {\nukernel.return\n}"
    kernels, (dispatch,) = parts(outlined(text))
    assert "neg_4" in [kernel.symbol for kernel in kernels] and dispatch.symbol != "neg_4"


def test_constants_move_inside_and_are_gone_outside() -> None:
    module = outlined(program(NEGATED.format("r", "x", "e", SCALED)))
    ((kernel,), (dispatch,)) = parts(module)
    assert names(dispatch.operands) == ["x", "e"]
    constants = [op for op in module.walk() if op.name == "arith.constant"]
    assert len(constants) == 1 and kernel in constants[0].ancestors()


def test_what_the_destination_held_is_an_argument_that_is_read() -> None:
    ((_,), (dispatch,)) = parts(outlined(program(NEGATED.format("r", "x", "y", ADD))))
    assert names(dispatch.operands) == ["x", "y"]


def test_several_results_have_a_destination_each() -> None:
    two = """
    %f = tensor.empty() : tensor<4xf32>
    %p, %q = ukernel.region -> (tensor<4xf32>, tensor<4xf32>) {
      %a = linalg.copy ins(%x : tensor<4xf32>) outs(%e : tensor<4xf32>) -> tensor<4xf32>
      %b = linalg.copy ins(%y : tensor<4xf32>) outs(%f : tensor<4xf32>) -> tensor<4xf32>
      ukernel.yield %a, %b : tensor<4xf32>, tensor<4xf32>
    }"""
    (_, (dispatch,)) = parts(outlined(program(two, returns="%q, %p", results=2)))
    assert names(dispatch.operands) == ["x", "y", "e", "f"]
    assert names(dispatch.results) == ["p", "q"]


def test_memory_that_starts_inside_is_given_from_outside() -> None:
    inside = NEGATED.format("r", "x", "mine", NEG).replace(
        "%r_n =", "%mine = tensor.empty() : tensor<4xf32>\n    %r_n =", 1
    )
    ((kernel,), (dispatch,)) = parts(outlined(program(inside)))
    assert names(dispatch.operands) == ["x", "mine"]
    assert not any(op.name == "tensor.empty" for op in kernel.walk())


LOOP = """func.func @main(%x: tensor<10xf32>) -> tensor<10xf32> {
  %e = tensor.empty() : tensor<10xf32>
  %r = scf.forall (%i) = (1) to (8) step (3) shared_outs(%o = %e) -> (tensor<10xf32>) {
    %in = tensor.extract_slice %x[%i] [2] [1] : tensor<10xf32> to tensor<2xf32>
    %to = tensor.extract_slice %o[%i] [2] [1] : tensor<10xf32> to tensor<2xf32>
    %t = ukernel.region -> tensor<2xf32> {
      %n = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
          iterator_types = ["parallel"]} ins(%in : tensor<2xf32>) outs(%to : tensor<2xf32>) {
        ^bb0(%a: f32, %b: f32):
          %k = arith.index_cast %i : index to i64
          %f = arith.sitofp %k : i64 to f32
          %v = arith.addf %a, %f : f32
          linalg.yield %v : f32
      } -> tensor<2xf32>
      ukernel.yield %n : tensor<2xf32>
    }
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %t into %o[%i] [2] [1] : tensor<2xf32> into tensor<10xf32>
    }
  }
  return %r : tensor<10xf32>
}"""


def test_a_counter_is_an_argument_of_which_the_range_is_known() -> None:
    """From its first value to its last, which lies on the grid of the step."""
    module = mdsl.opt(LOOP, "outline-ukernels")
    verify(module)
    ((kernel,), (dispatch,)) = parts(module)
    assert names(dispatch.operands) == ["in", "i", "to"]
    ranges = [attributes.get("mdsl.range") for attributes in kernel.arg_attributes()]
    assert [str(r) for r in ranges] == ["None", "array<i64: 1, 7>", "None"]
    x = np.arange(10, dtype=np.float32)
    wanted = x + np.asarray([0, 1, 1, 0, 4, 4, 0, 7, 7, 0])
    for engine in ("reference", "vm"):
        found = np.asarray(mdsl.compile(LOOP, engine=engine)(x))
        for start in (1, 4, 7):
            np.testing.assert_array_equal(found[start : start + 2], wanted[start : start + 2])


NAMES = {
    "linalg.matmul ins(%a, %b : tensor<4x5xf32>, tensor<5x6xf32>) outs(%c : tensor<4x6xf32>) -> tensor<4x6xf32>":
        "matmul_4x6",
    "linalg.fill ins(%f : f32) outs(%c : tensor<4x6xf32>) -> tensor<4x6xf32>": "fill_4x6",
    "linalg.copy ins(%d : tensor<4x6xf32>) outs(%c : tensor<4x6xf32>) -> tensor<4x6xf32>": "copy_4x6",
}  # fmt: skip


@pytest.mark.parametrize("op", NAMES)
def test_kernels_are_called_by_what_they_do(op: str) -> None:
    text = f"""func.func @main(%a: tensor<4x5xf32>, %b: tensor<5x6xf32>, %c: tensor<4x6xf32>, %d: tensor<4x6xf32>)
        -> tensor<4x6xf32> {{
      %f = arith.constant 1.0 : f32
      %r = ukernel.region -> tensor<4x6xf32> {{
        %n = {op}
        ukernel.yield %n : tensor<4x6xf32>
      }}
      return %r : tensor<4x6xf32>
    }}"""
    ((kernel,), _) = parts(mdsl.opt(text, "outline-ukernels"))
    assert kernel.symbol == NAMES[op]
