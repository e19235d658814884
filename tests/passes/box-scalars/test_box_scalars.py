"""box-scalars: programs that take and give numbers compute the same on every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.cli import command

COUNTED = Path(__file__).parent / "counted.mir"
IN_MEMORY = """
func.func @main(%x: memref<4xf32>, %scale: f32, %y: memref<4xf32> {mdsl.output}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {
    %value = memref.load %x[%i] : memref<4xf32>
    %scaled = arith.mulf %value, %scale : f32
    memref.store %scaled, %y[%i] : memref<4xf32>
  }
  return
}
"""
X = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize(
    "settings", [{}, {"engine": "jit"}, {"engine": "reference"}, {"ukernels": False}], ids=str
)
def test_numbers_in_and_out(settings: dict[str, object]) -> None:
    program = mdsl.compile(COUNTED, **settings)  # type: ignore[arg-type]
    assert [s.name for s in program.inputs] == ["n", "x"]
    assert [s.name for s in program.outputs] == ["n_1", "doubled", "next"]
    for count in (3, np.int64(3), np.array(3)):
        n, doubled, following = program(count, X)
        assert (n, following) == (3, 4)
        np.testing.assert_array_equal(doubled, 8 * X)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
def test_where_arguments_are_memrefs(engine: str) -> None:
    np.testing.assert_array_equal(mdsl.compile(IN_MEMORY, engine=engine)(X, 2.5), 2.5 * X)


@pytest.mark.parametrize("engine", ["vm", "reference"])
@pytest.mark.parametrize(
    ("number", "got"),
    [(2.5, "an array of dtype float64"), (np.float32(2), "an array of dtype float32"), ("2", "a str")],
)
def test_numbers_are_not_converted_silently(engine: str, number: object, got: str) -> None:
    with pytest.raises(mdsl.MdslError, match=f"got {got}; "):
        mdsl.compile(COUNTED, engine=engine)(number, X)


def test_a_vector_is_still_refused() -> None:
    text = "func.func @main(%v: vector<4xf32>) {\n  return\n}\n"
    with pytest.raises(mdsl.MdslError, match="a compiled program takes and gives tensors"):
        mdsl.compile(text)


@pytest.mark.parametrize("kind", ["index", "i64"])
def test_run(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", str(COUNTED), "--input", f"n={kind}=2", "--input", "x=4xf32=1"]) == 0
    assert "[4. 4. 4. 4.]\nnext: i64\n3\n" in capsys.readouterr().out
