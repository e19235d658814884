"""The estimate of a kernel's machine code."""

from __future__ import annotations

import pytest

from mdsl.analysis.code_size import code_size
from mdsl.dialects import vector
from mdsl.ir.core import Value
from mdsl.ir.types import Type, VectorType, f16, f32


@pytest.mark.parametrize("element", [f16, f32])
def test_a_lane_in_or_out_of_a_vector_is_one_access(element: Type) -> None:
    def sizes(lanes: int) -> list[int]:
        value, lane = Value(VectorType((lanes,), element)), Value(element)
        return [code_size(vector.Extract.of(value, 1)), code_size(vector.Insert.of(lane, value, 1))]

    assert sizes(32) == sizes(2)
