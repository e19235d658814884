"""fuse: which ops merge and which form a region, which stay by themselves, and that the results are the same."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects import linalg, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.verifier import verify
from mdsl.passes.linalg import fuse
from mdsl.reference import run

ID, ROW, COLUMN, TRANSPOSED = "d0, d1", "d1", "d0", "d1, d0"


def generic(
    name: str,
    inputs: dict[str, str],
    op: str,
    maps: list[str],
    shape: str = "4x6",
    out: str = ID,
    to: str = "",
) -> str:
    """An elementwise op or, where `out` lacks d1, a reduction over d1, on loops of 4 and 6 trips."""
    kinds = "parallel", "parallel" if out in (ID, TRANSPOSED) else "reduction"
    affine = ", ".join(f"affine_map<(d0, d1) -> ({m})>" for m in [*maps, out])
    arguments = [f"%{name}_{n}" for n in range(len(inputs))]
    if kinds[1] == "reduction":
        arguments.append(f"%{name}_out")
    op = op.format(*arguments)
    return f"""
    {"" if to else f"%{name}_init = tensor.empty() : tensor<{shape}xf32>"}
    %{name} = linalg.generic {{indexing_maps = [{affine}], iterator_types = ["parallel", "{kinds[1]}"]}}
        ins({", ".join(v for v, _ in inputs)} : {", ".join(t for _, t in inputs)}) outs({to or f"%{name}_init"} : tensor<{shape}xf32>) {{
      ^bb0({", ".join(f"%{name}_{n}: f32" for n in range(len(inputs)))}, %{name}_out: f32):
        %{name}_r = {op} : f32
        linalg.yield %{name}_r : f32
    }} -> tensor<{shape}xf32>"""


MATRIX = "tensor<4x6xf32>"


def exp(name: str, of: str, map: str = ID, type: str = MATRIX) -> str:
    return generic(name, [(of, type)], "math.exp {}", [map])


def add(name: str, a: str, b: str, map: str = ID, type: str = MATRIX) -> str:
    return generic(name, [(a, MATRIX), (b, type)], "arith.addf {}, {}", [ID, map])


def total(name: str, of: str) -> str:
    """The sums of rows."""
    return f"""
    %{name}_zeros = tensor.empty() : tensor<4xf32>
    %{name}_start = linalg.fill ins(%zero : f32) outs(%{name}_zeros : tensor<4xf32>) -> tensor<4xf32>""" + generic(
        name, [(of, MATRIX)], "arith.addf {1}, {0}", [ID], "4", COLUMN, f"%{name}_start"
    )


def product(name: str = "m") -> str:
    return f"""
    %{name}_empty = tensor.empty() : {MATRIX}
    %{name}_start = linalg.fill ins(%zero : f32) outs(%{name}_empty : {MATRIX}) -> {MATRIX}
    %{name} = linalg.matmul ins(%a, %w : tensor<4x5xf32>, tensor<5x6xf32>)
        outs(%{name}_start : {MATRIX}) -> {MATRIX}"""


def program(*parts: str, returns: str = "%r", types: str = MATRIX) -> str:
    return (
        f"func.func @main(%x: {MATRIX}, %y: {MATRIX}, %row: tensor<6xf32>, %a: tensor<4x5xf32>, %w: tensor<5x6xf32>)"
        f" -> ({types}) {{\n%zero = arith.constant 0.0 : f32\n{''.join(parts)}\nreturn {returns} : {types}\n}}"
    )


def arguments() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(s).astype(np.float32) for s in ((4, 6), (4, 6), (6,), (4, 5), (5, 6))]


def fused(text: str, pipeline: str = "fuse") -> ModuleOp:
    module = mdsl.opt(text, pipeline)
    verify(module)
    for wanted, found in zip(run(mdsl.parse(text), arguments()), run(module, arguments()), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)  # NumPy takes another exp where strides differ
    return module


def structured(module: ModuleOp) -> list[Op]:
    return [op for op in module.walk() if isinstance(op, linalg.LinalgOp) and not isinstance(op, linalg.Fill)]


def regions(module: ModuleOp) -> list[list[str]]:
    """The ops of each region."""
    found = [op for op in module.walk() if isinstance(op, ukernel.RegionOp)]
    return [[op.name for op in region.body.ops if isinstance(op, linalg.LinalgOp)] for region in found]


SCALE = "%two = arith.constant dense<2.0> : tensor<4x6xf32>"
MERGED = {
    "a chain": ([exp("e", "%x"), exp("f", "%e"), add("r", "%f", "%y")], 1),
    "both operands": ([exp("e", "%x"), exp("f", "%y"), add("r", "%e", "%f")], 1),
    "a producer that reads a row": ([add("s", "%x", "%row", ROW, "tensor<6xf32>"), exp("r", "%s")], 1),
    "a splat": ([SCALE, add("r", "%x", "%two")], 1),
    "a producer of two that merge": ([exp("e", "%x"), exp("f", "%e"), add("r", "%e", "%f")], 1),
    "twice the same operand": ([exp("e", "%x"), add("r", "%e", "%e")], 2),
    "a broadcast, which would compute it again": (
        ["""%e_init = tensor.empty() : tensor<6xf32>
         %e = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
             iterator_types = ["parallel"]} ins(%row : tensor<6xf32>) outs(%e_init : tensor<6xf32>) {
           ^bb0(%in: f32, %out: f32):
             %v = math.exp %in : f32
             linalg.yield %v : f32
         } -> tensor<6xf32>""", add("r", "%x", "%e", ROW, "tensor<6xf32>")], 2),
    "an op that reads what its destination held": (
        [generic("e", [("%x", MATRIX)], "arith.addf {0}, %e_out", [ID], to="%y"), exp("r", "%e")], 2),
    "a contraction, which would compute it again": (
        [exp("e", "%x"), """%t_init = tensor.empty() : tensor<4x4xf32>
         %t_start = linalg.fill ins(%zero : f32) outs(%t_init : tensor<4x4xf32>) -> tensor<4x4xf32>
         %yt_init = tensor.empty() : tensor<6x4xf32>
         %yt = linalg.transpose ins(%y : tensor<4x6xf32>) outs(%yt_init : tensor<6x4xf32>) permutation = [1, 0]
         %t = linalg.matmul ins(%e, %yt : tensor<4x6xf32>, tensor<6x4xf32>) outs(%t_start : tensor<4x4xf32>)
             -> tensor<4x4xf32>"""], 3),
}  # fmt: skip
"""Ops of a program, and how many structured ops are left."""


@pytest.mark.parametrize("case", MERGED)
def test_what_merges(case: str) -> None:
    parts, left = MERGED[case]
    last = "%t" if "%t =" in parts[-1] else "%r"
    text = program(*parts, returns=last, types="tensor<4x4xf32>" if last == "%t" else MATRIX)
    assert len(structured(fused(text))) == left


TWO = {"returns": "%e, %r", "types": f"{MATRIX}, {MATRIX}"}
FLAT = """%flat = tensor.collapse_shape %e [[0, 1]] : tensor<4x6xf32> into tensor<24xf32>"""
SHARED = {
    "its element is read by two": ([exp("e", "%x"), exp("r", "%e")], TWO, 1),
    "three in a row": ([exp("e", "%x"), exp("f", "%e"), add("r", "%f", "%y")],
                       {"returns": "%e, %f, %r", "types": f"{MATRIX}, {MATRIX}, {MATRIX}"}, 1),
    "a change of shape that can wait": (
        [exp("e", "%x"), FLAT, exp("r", "%e")], {"returns": "%flat, %r", "types": f"tensor<24xf32>, {MATRIX}"}, 1),
    "a change of shape that it reads as well": (
        [exp("e", "%x"), FLAT, "%back = tensor.expand_shape %flat [[0, 1]] output_shape [4, 6] : tensor<24xf32> into tensor<4x6xf32>",
         add("r", "%e", "%back")], TWO, 2),
    "another reader in front": (
        [exp("e", "%x"), total("t", "%e"), exp("r", "%e")],
        {"returns": "%t, %r", "types": f"tensor<4xf32>, {MATRIX}"}, 3),
    "epilogues of two sums": ([product(), add("e", "%m", "%y"), product("n"), add("r", "%e", "%n")], TWO, 4),
    "two epilogues of one sum": ([product(), exp("e", "%m"), add("r", "%e", "%m")], TWO, 2),
    "elements in another order": ([exp("e", "%x"), generic("r", [("%e", MATRIX)], "arith.negf {}", [TRANSPOSED], "6x4")],
                                  {"returns": "%e, %r", "types": f"{MATRIX}, tensor<6x4xf32>"}, 2),
}  # fmt: skip
"""Ops of a program, what it returns, and how many structured ops are left."""


@pytest.mark.parametrize("case", SHARED)
def test_what_is_read_elsewhere_becomes_a_result_more(case: str) -> None:
    """Checks results too: `fused` runs both."""
    parts, returned, left = SHARED[case]
    text = program(*parts, **returned)
    assert len(structured(fused(text))) == left
    for wanted, found in zip(
        run(mdsl.parse(text), arguments()), mdsl.compile(text)(*arguments()), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_maps_are_composed() -> None:
    """A producer that is read transposed reads its own operands transposed."""
    transposed = generic("r", [("%s", MATRIX)], "arith.negf {}", [TRANSPOSED], "6x4")
    text = program(
        add("s", "%x", "%row", ROW, "tensor<6xf32>"), transposed, returns="%r", types="tensor<6x4xf32>"
    )
    module = fused(text)
    (op,) = structured(module)
    assert [str(m) for m in op.maps] == [  # type: ignore[attr-defined]
        "(d0, d1) -> (d1, d0)",
        "(d0, d1) -> (d0)",
        "(d0, d1) -> (d0, d1)",
    ]


def test_what_two_bodies_read_alike_is_read_once() -> None:
    (op,) = structured(fused(program(add("s", "%x", "%y"), add("r", "%s", "%x"))))
    assert [v.name for v in op.inputs] == ["x", "y"]  # type: ignore[attr-defined]


def test_names_of_results_and_elements_are_kept() -> None:
    (op,) = structured(fused(program(add("s", "%x", "%row", ROW, "tensor<6xf32>"), exp("r", "%s"))))
    assert op.results[0].name == "r"
    assert [v.name for v in op.body.args[:2]] == ["s_0", "s_1"]  # type: ignore[attr-defined]
    assert [o.result.name for o in op.body.ops if o.results] == ["s_r", "r_r"]  # type: ignore[attr-defined]


def test_a_reduction_takes_in_what_it_reads_and_has_its_start_in_its_region() -> None:
    module = fused(program(exp("e", "%x"), total("r", "%e"), types="tensor<4xf32>"))
    assert regions(module) == [["linalg.fill", "linalg.generic"]]
    assert len(structured(module)) == 1


GROUPED = {
    "alone": ([product("r")], [["linalg.fill", "linalg.matmul"]]),
    "with an epilogue": ([product(), exp("r", "%m")], [["linalg.fill", "linalg.matmul", "linalg.generic"]]),
    "with a merged epilogue": ([product(), add("s", "%m", "%y"), exp("r", "%s")],
                               [["linalg.fill", "linalg.matmul", "linalg.generic"]]),
    "two, and an epilogue of one": (
        [product(), product("n"), add("r", "%m", "%n")],
        [["linalg.fill", "linalg.matmul"], ["linalg.fill", "linalg.matmul", "linalg.generic"]]),
    "read twice by its epilogue": ([product(), add("r", "%m", "%m")], [["linalg.fill", "linalg.matmul"]]),
    "no contraction": ([exp("r", "%x")], []),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPED)
def test_what_is_grouped(case: str) -> None:
    parts, wanted = GROUPED[case]
    assert sorted(regions(fused(program(*parts)))) == sorted(wanted)


def test_a_product_that_is_read_elsewhere_has_no_epilogue_in_its_region() -> None:
    text = program(product(), exp("r", "%m"), returns="%m, %r", types=f"{MATRIX}, {MATRIX}")
    assert regions(fused(text)) == [["linalg.fill", "linalg.matmul"]]


def test_a_region_lies_where_its_contraction_does() -> None:
    text = program(product(), exp("r", "%m"))
    line = 1 + next(n for n, s in enumerate(text.splitlines()) if "linalg.matmul" in s)
    (region,) = (op for op in fused(text).walk() if isinstance(op, ukernel.RegionOp))
    assert f":{line}:" in str(region.location)
    assert region.results[0].name == "r"


def test_without_groups() -> None:
    module = fused(program(product(), add("s", "%m", "%y"), exp("r", "%s")), "fuse{group=false}")
    assert regions(module) == [] and len(structured(module)) == 2


def test_bodies_and_inputs_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = program(
        exp("e", "%x"), exp("f", "%e"), add("s", "%f", "%y"), add("r", "%s", "%row", ROW, "tensor<6xf32>")
    )
    assert len(structured(fused(text))) == 1
    monkeypatch.setattr(fuse, "MOST_SCALARS", 12)
    assert len(structured(fused(text))) == 2
    monkeypatch.setattr(fuse, "MOST_SCALARS", 256)
    monkeypatch.setattr(fuse, "MOST_INPUTS", 2)
    assert len(structured(fused(text))) == 2
