"""Changes of layout against NumPy: tiles and blocks at their edges, in registers and between cache lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects import linalg
from mdsl.target import cost

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "i8": np.int8}


def transpose(shape: list[int], permutation: list[int], element: str) -> str:
    before = "x".join(map(str, shape))
    after = "x".join(str(shape[p]) for p in permutation)
    return f"""func.func @main(%x: tensor<{before}x{element}>) -> tensor<{after}x{element}> {{
      %y = nn.transpose %x {{perm = {permutation}}} : (tensor<{before}x{element}>) -> tensor<{after}x{element}>
      func.return %y : tensor<{after}x{element}>
    }}"""


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 7, 16, 20, 33, 65]), min_size=2, max_size=4).filter(
        lambda shape: np.prod(shape) < 100_000
    ),
    st.permutations(range(4)),
    st.sampled_from([*DTYPES]),
)
def test_transposes(shape: list[int], order: list[int], element: str) -> None:
    permutation = [d for d in order if d < len(shape)]
    x = np.random.default_rng(0).integers(-100, 100, shape).astype(DTYPES[element])
    y = mdsl.compile(transpose(shape, permutation, element))(x)
    np.testing.assert_array_equal(y, x.transpose(permutation))


@pytest.mark.parametrize("element", DTYPES)
def test_tiles_of_a_transpose_are_whole_cache_lines(element: str) -> None:
    """Where the extents are: of what is written and of what is read."""
    module = mdsl.opt(transpose([512, 768], [1, 0], element), "tile")
    tiles = [op.outputs[0].type for op in module.walk() if isinstance(op, linalg.LinalgOp)]
    line = cost.LINE // np.dtype(DTYPES[element]).itemsize
    assert tiles and all(extent % line == 0 for type in tiles for extent in type.shape)
