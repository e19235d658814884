"""vector: transfers of several dimensions, what they mean and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from mdsl.errors import MdslError
from mdsl.ir.verifier import verify
from mdsl.reference import run
from mdsl.syntax.parser import parse


def _run(memory: np.ndarray, lines: str) -> np.ndarray:
    """What is in a memref<3x4xf32> after the ops."""
    text = f"ukernel.func @k(%a: memref<3x4xf32>) {{\n{lines}\nukernel.return\n}}"
    (found,) = run(parse(text, "test.mir"), [memory], "k")
    return found


def test_transfers() -> None:
    lines = """%c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %pad = arith.constant 0.0 : f32
      %x = vector.transfer_read %a[%c1, %c1], %pad {permutation_map = affine_map<(d0, d1) -> (d1, 0)>,
          in_bounds = [true, true]} : memref<3x4xf32>, vector<3x2xf32>
      vector.transfer_write %x, %a[%c0, %c0] {permutation_map = affine_map<(d0, d1) -> (d0, d1)>,
          in_bounds = [true, true]} : vector<3x2xf32>, memref<3x4xf32>
      vector.transfer_write %x, %a[%c1, %c1] {permutation_map = affine_map<(d0, d1) -> (d1, d0)>,
          in_bounds = [true, true]} : vector<3x2xf32>, memref<3x4xf32>"""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = _run(x, lines)
    assert found.tolist() == [[5, 5, 2, 3], [6, 5, 6, 7], [7, 5, 6, 7]]


def test_a_transfer_beyond_the_memory_is_an_error() -> None:
    lines = """%c2 = arith.constant 2 : index
      %x = arith.constant dense<0.0> : vector<2x1xf32>
      vector.transfer_write %x, %a[%c2, %c2] {permutation_map = affine_map<(d0, d1) -> (d0, d1)>,
          in_bounds = [true, true]} : vector<2x1xf32>, memref<3x4xf32>"""
    with pytest.raises(MdslError, match="elements 2 to 4 of 3 along dimension 0"):
        _run(np.zeros((3, 4), np.float32), lines)


READ = "%r = vector.transfer_read %m[{at}], %x {{permutation_map = affine_map<{map}>, in_bounds = [{inside}]}} : memref<4xf32>, {v}"


@pytest.mark.parametrize(
    ("at", "map", "inside", "v", "message"),
    [
        ("%n, %n", "(d0) -> (d0)", "true", "vector<2xf32>", "2 indices for memref<4xf32>"),
        ("%n", "(d0) -> (d0)", "true", "vector<2xf64>", "a vector<2xf64> of memref<4xf32>"),
        ("%n", "(d0) -> (d0)", "true", "vector<2x2xf32>", "does not place the dimensions of vector<2x2xf32>"),
        ("%n", "(d0, d1) -> (d0)", "true", "vector<2xf32>", "does not place the dimensions of vector<2xf32>"),
        ("%n", "(d0) -> (d0, d0)", "true, true", "vector<2x2xf32>", "a dimension of its own, or 0"),
        ("%n", "(d0) -> (d0 + 1)", "true", "vector<2xf32>", "a dimension of its own, or 0"),
        ("%n", "(d0) -> (1)", "true", "vector<2xf32>", "a dimension of its own, or 0"),
        ("%n", "(d0) -> (d0)", "false", "vector<2xf32>", "'in_bounds' must be true for each dimension"),
        ("%n", "(d0) -> (d0, 0)", "true", "vector<2x2xf32>", "'in_bounds' must be true for each dimension"),
    ],
)
def test_refused_reads(at: str, map: str, inside: str, v: str, message: str) -> None:
    read = READ.format(at=at, map=map, inside=inside, v=v)
    _refused(read, message)


def test_a_write_repeats_nothing() -> None:
    _refused(
        "%v = vector.broadcast %x : f32 to vector<2x4xf32>\n"
        "vector.transfer_write %v, %m[%n] {permutation_map = affine_map<(d0) -> (0, d0)>, in_bounds = [true, true]}"
        " : vector<2x4xf32>, memref<4xf32>",
        "must lie along one of the memory",
    )


def _refused(lines: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        verify(
            parse(
                f"func.func @main(%x: f32, %n: index, %m: memref<4xf32>) {{\n{lines}\nreturn\n}}", "test.mir"
            )
        )
    assert message in str(error.value)
