"""Constants lie one behind the other in large pages once a program runs, and are copied for it at most once."""

from __future__ import annotations

import os

import numpy as np
import pytest

import mdsl
from mdsl.runtime.executable import VmExecutable
from mdsl.vm.memory import together

TEXT = """
func.func @main(%x: tensor<1x512xf32>) -> tensor<1x512xf32> {{
  %w = arith.constant dense_resource<w> : tensor<512x512xf32>
  %y = nn.matmul %x, %w : (tensor<1x512xf32>, tensor<512x512xf32>) -> tensor<1x512xf32>
  return %y : tensor<1x512xf32>
}}
{{-# dialect_resources: {{ builtin: {{ w: "0x04000000{}" }} }} #-}}
"""


@pytest.mark.skipif(os.name != "posix", reason="large pages are asked for on POSIX systems")
def test_what_is_worth_large_pages_is_laid_together() -> None:
    arrays = [np.arange(n, dtype=np.float32) for n in (3, 1 << 19, 5)]
    found = together(arrays)
    assert [a.ctypes.data - found[0].ctypes.data for a in found] == [0, 64, 64 + (2 << 20)]
    for old, new in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(old, new)
        assert not new.flags.writeable
    assert together(found) is found and together([]) == []
    assert together(arrays[::2])[0] is arrays[0]  # too small


def test_constants_are_laid_out_once() -> None:
    """A second program of the module uses what there is."""
    program = mdsl.compile(TEXT.format(np.ones((512, 512), np.float32).tobytes().hex())).bytecode()
    arrays = [c.array for c in program.constants]
    again = VmExecutable(program)
    assert all(c.array is a for c, a in zip(again.bytecode().constants, arrays, strict=True))
    np.testing.assert_array_equal(again(np.ones((1, 512), np.float32)), np.full((1, 512), 512, np.float32))
