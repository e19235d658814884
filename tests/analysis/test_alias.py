"""Alias analysis: what is proved apart, what is the same place, and what may be either."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.analysis.alias import Alias, AliasAnalysis, accesses, memories, writes
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.core import Value
from mdsl.reference import run

HEAD = """
func.func private @opaque(%m: memref<8xf32>) -> memref<8xf32> {
  return %m : memref<8xf32>
}
ukernel.func @copy(%a: memref<4xf32, strided<[1], offset: ?>>, %b: memref<4xf32, strided<[1], offset: ?>>) {
  linalg.copy ins(%a : memref<4xf32, strided<[1], offset: ?>>) outs(%b : memref<4xf32, strided<[1], offset: ?>>)
  ukernel.return
}
memref.global @table : memref<8xf32> = dense<1.0>
func.func @main(%p: i1, %x: memref<8xf32>, %y: memref<8xf32>, %i: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %m = memref.alloc() : memref<8xf32>
  %n = memref.alloc() : memref<8xf32>
  %g = memref.get_global @table : memref<8xf32>
  %h = memref.get_global @table : memref<8xf32>
"""

CHOICES = {
    "select": "%s = arith.select %p, %m, %x : memref<8xf32>",
    "if": """%s = scf.if %p -> (memref<8xf32>) {
    scf.yield %m : memref<8xf32>
  } else {
    scf.yield %x : memref<8xf32>
  }""",
    "for": """%s, %t = scf.for %k = %c0 to %c4 step %c1 iter_args(%u = %m, %v = %x) -> (memref<8xf32>, memref<8xf32>) {
    scf.yield %v, %u : memref<8xf32>, memref<8xf32>
  }""",
    "nested": """%r = arith.select %p, %x, %m : memref<8xf32>
  %s = scf.if %p -> (memref<8xf32>) {
    %q = memref.cast %r : memref<8xf32> to memref<8xf32>
    scf.yield %q : memref<8xf32>
  } else {
    scf.yield %r : memref<8xf32>
  }""",
}


def parsed(body: str) -> tuple[ModuleOp, dict[str, Value]]:
    module = mdsl.parse(f"{HEAD}  {body}\n  return\n}}")
    main = module.lookup("main")
    assert main is not None
    values = [v for op in main.walk() for v in op.results]
    values += [a for op in main.walk() for region in op.regions for a in region.block.args]
    return module, {str(v.name): v for v in values}


def relation(body: str, left: str, right: str) -> Alias:
    module, values = parsed(body)
    found = AliasAnalysis(module).relation(values[left], values[right])
    assert AliasAnalysis(module).relation(values[right], values[left]) is found
    return found


@pytest.mark.parametrize("kind", CHOICES)
def test_a_choice_may_be_each_of_its_memories_and_no_other(kind: str) -> None:
    body = CHOICES[kind]
    _, values = parsed(body)
    assert set(memories(values["s"])) == {values["m"], values["x"]}
    assert [relation(body, "s", other) for other in "mxny"] == [
        Alias.MAY,
        Alias.MAY,
        Alias.APART,
        Alias.APART,
    ]


@pytest.mark.parametrize("kind", CHOICES)
def test_who_touches_a_choice_touches_its_memories(kind: str) -> None:
    body = CHOICES[kind] + "\n  %one = arith.constant 1.0 : f32\n  memref.store %one, %s[%c0] : memref<8xf32>"
    _, values = parsed(body)
    for memory in "mx":
        assert any(writes(op, view) for op, view in accesses(values[memory]))
    assert not list(accesses(values["n"]))


def test_what_comes_from_an_op_that_is_not_known_may_be_anything() -> None:
    body = "%s = func.call @opaque(%m) : (memref<8xf32>) -> memref<8xf32>"
    assert [relation(body, "s", other) for other in "mnxg"] == [Alias.MAY] * 4


def test_memories() -> None:
    assert relation("", "m", "n") is Alias.APART
    assert relation("", "x", "m") is relation("", "x", "y") is relation("", "g", "m") is Alias.APART
    assert relation("", "g", "h") is Alias.SAME  # one global, asked for twice


PARTS = [
    ("[0] [4] [1]", "[4] [4] [1]", Alias.APART),
    ("[0] [5] [1]", "[4] [4] [1]", Alias.MAY),
    ("[0] [4] [2]", "[1] [4] [2]", Alias.APART),  # they alternate
    ("[0] [2] [4]", "[2] [2] [4]", Alias.APART),
    ("[0] [2] [4]", "[3] [2] [2]", Alias.APART),  # multiples of 4, odd ones
    ("[0] [2] [6]", "[3] [2] [3]", Alias.MAY),
    ("[%i] [4] [1]", "[4] [4] [1]", Alias.MAY),
    ("[%i] [4] [1]", "[%i] [4] [1]", Alias.SAME),
    ("[%i] [0] [1]", "[4] [4] [1]", Alias.APART),  # nothing
]


def subview(name: str, part: str, source: str = "%m") -> str:
    offset, size, stride = part[1:-1].split("] [")
    at = f", offset: {'?' if '%' in offset else offset}" if offset != "0" else ""
    type = f"memref<{size}xf32, strided<[{stride}]{at}>>" if at or stride != "1" else f"memref<{size}xf32>"
    return f"  %{name} = memref.subview {source}{part} : memref<8xf32> to {type}\n"


@pytest.mark.parametrize(("left", "right", "wanted"), PARTS)
def test_parts(left: str, right: str, wanted: Alias) -> None:
    assert relation(subview("a", left) + subview("b", right), "a", "b") is wanted
    other = subview("a", left) + subview("b", right, "%n")
    assert relation(other, "a", "b") is Alias.APART


spans = st.tuples(st.integers(0, 7), st.integers(0, 8), st.integers(1, 7)).filter(
    lambda s: s[0] + max(s[1] - 1, 0) * s[2] < 8
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(spans, spans)
def test_parts_that_are_apart_share_no_element(
    left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    texts = [f"[{start}] [{size}] [{step}]" for start, size, step in (left, right)]
    found = relation(subview("a", texts[0]) + subview("b", texts[1]), "a", "b")
    elements = [set(range(start, start + size * step, step)) for start, size, step in (left, right)]
    if found is Alias.APART:
        assert not elements[0] & elements[1]
    if found is Alias.SAME:
        assert elements[0] == elements[1]


def test_views_of_overlapping_rows_are_not_told_apart_by_their_indices() -> None:
    body = """%w = memref.subview %m[0] [4] [1] : memref<8xf32> to memref<4xf32>"""
    text = f"{HEAD}  {body}\n  return\n}}".replace(
        "%y: memref<8xf32>", "%y: memref<4x4xf32, strided<[1, 1]>>"
    )
    text = text.replace("  return\n}\n", "  return\n}\n", 1).replace(
        body,
        "%a = memref.subview %y[0, 0] [1, 4] [1, 1] : memref<4x4xf32, strided<[1, 1]>> to memref<1x4xf32, strided<[1, 1]>>\n"
        "  %b = memref.subview %y[1, 0] [1, 4] [1, 1] : memref<4x4xf32, strided<[1, 1]>> to"
        " memref<1x4xf32, strided<[1, 1], offset: 1>>",
    )
    module = mdsl.parse(text)
    main = module.lookup("main")
    assert main is not None
    values = {str(r.name): r for op in main.walk() for r in op.results}
    assert AliasAnalysis(module).relation(values["a"], values["b"]) is Alias.MAY


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("[4] [4] [1]", Alias.APART), ("[0] [4] [1]", Alias.SAME), ("[2] [4] [1]", Alias.MAY)],
)
def test_arguments_of_a_kernel_are_what_it_is_given(target: str, wanted: Alias) -> None:
    parts = subview("a", "[0] [4] [1]") + subview("b", target)
    types = [line.rpartition(" to ")[2] for line in parts.splitlines()]
    module, _ = parsed(f"{parts}  ukernel.dispatch @copy(%a, %b) : ({', '.join(types)})")
    kernel = module.lookup("copy")
    assert kernel is not None
    left, right = kernel.regions[0].block.args
    found = AliasAnalysis(module).relation(left, right)
    assert found is (Alias.APART if wanted is Alias.APART else Alias.MAY)


ALIASED = """
func.func @main(%x: memref<16xf32>, %y: memref<16xf32> {mdsl.output}) {
  linalg.copy ins(%x : memref<16xf32>) outs(%y : memref<16xf32>)
  ukernel.dispatch @k(%y, %y) : (memref<16xf32>, memref<16xf32>)
  return
}
ukernel.func @k(%a: memref<16xf32>, %b: memref<16xf32>) {
  %nine = arith.constant 9.0 : f32
  %m = memref.alloc() : memref<16xf32>
  linalg.fill ins(%nine : f32) outs(%b : memref<16xf32>)
  linalg.copy ins(%a : memref<16xf32>) outs(%m : memref<16xf32>)
  linalg.fill ins(%nine : f32) outs(%a : memref<16xf32>)
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (15 - i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]} ins(%m, %a : memref<16xf32>, memref<16xf32>) outs(%b : memref<16xf32>) {
  ^bb0(%e: f32, %f: f32, %o: f32):
    %g = arith.addf %e, %f : f32
    linalg.yield %g : f32
  }
  ukernel.return
}
"""


@pytest.mark.parametrize("step", ["vectorize", "plan-memory", "lower-linalg-to-loops"])
def test_arguments_that_are_one_memory_on_purpose(step: str) -> None:
    """The first fill is read through the other argument."""
    x = np.arange(16, dtype=np.float32)
    text = ALIASED.replace("(15 - i)", "(i)")
    (wanted,) = run(mdsl.parse(text), [x])
    assert (wanted == 18).all()
    assert np.array_equal(run(mdsl.opt(text, step), [x])[0], wanted)
    for engine in ("vm", "jit"):
        assert np.array_equal(mdsl.compile(text, engine=engine, pipeline=step)(x), wanted)


@pytest.mark.parametrize("kind", CHOICES)
def test_the_vm_refuses_memory_that_is_chosen_as_it_runs(kind: str) -> None:
    text = f"""func.func @main(%b: memref<1xi1>, %x: memref<8xf32>, %y: memref<8xf32> {{mdsl.output}}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %p = memref.load %b[%c0] : memref<1xi1>
  %m = memref.alloc() : memref<8xf32>
  {CHOICES[kind]}
  memref.copy %s, %y : memref<8xf32> to memref<8xf32>
  return
}}"""
    with pytest.raises(MdslError, match=r"<text>:\d+:\d+: error: .*the VM has no pointers"):
        mdsl.compile(text)


def test_memory_of_an_iteration_that_a_loop_carries_on_is_refused() -> None:
    """One place for all iterations would be overwritten while it is read."""
    text = """func.func @main(%x: memref<8xf32>, %y: memref<8xf32> {mdsl.output}) {
  %c0 = arith.constant 0 : index
  %c4 = arith.constant 4 : index
  %c1 = arith.constant 1 : index
  %last = scf.for %i = %c0 to %c4 step %c1 iter_args(%old = %x) -> (memref<8xf32>) {
    %new = memref.alloc() : memref<8xf32>
    memref.copy %old, %new : memref<8xf32> to memref<8xf32>
    scf.yield %new : memref<8xf32>
  }
  memref.copy %last, %y : memref<8xf32> to memref<8xf32>
  return
}"""
    with pytest.raises(MdslError, match=r"<text>:6:12: error: .*in front of the loop that carries it"):
        mdsl.opt(text, "plan-memory")
