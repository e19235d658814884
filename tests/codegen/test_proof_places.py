"""A kernel that is refused is named, with the file and the line of the op that is not proved."""

from __future__ import annotations

from pathlib import Path

import pytest

import mdsl
from mdsl.errors import MdslError

KERNEL = """ukernel.func @copy(%a: memref<4xf32>, %o: memref<4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c5 = arith.constant 5 : index
  scf.for %j = %c0 to %c5 step %c1 {
    %v = memref.load %a[%j] : memref<4xf32>
    memref.store %v, %o[%j] : memref<4xf32>
  }
  ukernel.return
}
func.func @main(%a: memref<4xf32>, %o: memref<4xf32> {mdsl.output}) {
  ukernel.dispatch @copy(%a, %o) : (memref<4xf32>, memref<4xf32>)
  func.return
}
"""


def test_the_op_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "kernel.mir"
    path.write_text(KERNEL)
    with pytest.raises(MdslError) as error:
        mdsl.compile(path)
    why = "error: micro-kernel @copy: 'memref.load': index 0 (%j) is not provably within its dimension of 4: it reaches [0, 4]"
    assert str(error.value) == f"{path}:6:10: {why}\n  %v = memref.load %a[%j] : memref<4xf32>"


def test_bytecode_has_the_place_in_the_kernel(tmp_path: Path) -> None:
    from mdsl.bytecode.encode import encode
    from mdsl.compiler.driver import to_bytecode

    path = tmp_path / "kernel.mbc"
    path.write_bytes(encode(to_bytecode(mdsl.parse(KERNEL))))
    with pytest.raises(MdslError) as error:
        mdsl.load(path)
    first, op = str(error.value).split("\n")
    assert (
        first.startswith(f"{path}: micro-kernel copy:")
        and ": error: 'memref.load': index 0 (%j) is not provably" in first
    )
    assert op == "  %v = memref.load %a[%j] : memref<4xf32>"
