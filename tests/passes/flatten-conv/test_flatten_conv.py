"""flatten-conv: the same results; which convolutions it takes, and which it leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_networks import Network

import mdsl
from mdsl.dialects import linalg
from mdsl.ir.core import Op
from mdsl.reference import run

NETWORKS: dict[str, tuple[Callable[[Network], str], int]] = {
    "two in a row": (lambda t: t.conv(t.conv("x", 24), 16), 2),
    "residual": (lambda t: t.same("add", t.conv("x", 16), "x"), 1),
    "in front of a border": (lambda t: t.conv(t.conv("x", 24), 16, 3), 0),
    "behind a border": (lambda t: t.conv(t.conv("x", 24, 3), 16), 1),
    "stride 2": (lambda t: t.conv("x", 24, 1, 2), 0),
    "joined": (lambda t: t.conv(t.concat(t.conv("x", 16), t.conv("x", 16)), 16), 3),
    "part of an image": (lambda t: t.conv(_left_half(t), 16), 1),
    "two readers": (lambda t: t.same("add", *[t.same(k, y) for y in [t.conv("x", 16)] for k in ("relu", "neg")]), 1),
}  # fmt: skip
"""A network, and how many of its convolutions are flattened."""


def _left_half(t: Network) -> str:
    return t.op("slice", ["x"], (1, 16, 7, 3), "starts = [0], ends = [3], axes = [3]")


def is_flat_conv(op: Op) -> bool:
    """A contraction over an image of (N, C / block, pixels, block)."""
    return isinstance(op, linalg.Generic) and op.is_contraction and len(op.maps[0].results) == 4


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    build, flattened = NETWORKS[name]
    net = Network(1, 16, 7, 6)
    text = net.text(build(net))
    x = np.random.default_rng(1).standard_normal(net.input).astype(np.float32)
    module = mdsl.opt(text, "flatten-conv", target="avx512")
    assert sum(map(is_flat_conv, module.walk())) == flattened
    expected = np.asarray(mdsl.compile(text, engine="reference")(x))
    tolerance = 1e-4 * float(np.abs(expected).max())
    np.testing.assert_allclose(run(module, [x])[0], expected, rtol=1e-4, atol=tolerance)
    found = mdsl.compile(text, pipeline="flatten-conv")(x)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=tolerance)
