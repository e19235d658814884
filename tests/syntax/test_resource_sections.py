"""The section with the data of resources: the bytes in hexadecimal, as MLIR writes them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mdsl.ir.attributes import Resource
from mdsl.syntax.resources import print_section

ARRAYS = {
    "odd number of bytes": np.arange(7, dtype=np.int8) - 3,
    "no bytes": np.zeros(0, np.float32),
    "no dimensions": np.array(2.5),
    "splat": np.broadcast_to(np.float32(1.5), (3, 3)),
    "transposed": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T,
    "unaligned": np.frombuffer(bytes(range(248, 256)), np.uint8)[1:].view(np.int8),
    "longer than a piece": np.arange(1 << 15, dtype=np.int32) * 99991,
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_all_bytes_are_written(array: np.ndarray) -> None:
    text = print_section({"w": Resource(array)})
    assert f'w: "0x40000000{array.tobytes().hex().upper()}"\n' in text
