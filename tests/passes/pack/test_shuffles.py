"""pack and fold-shapes: groups that fill no blocks, and shuffles of channels between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Network

import mdsl
from mdsl.dialects import linalg
from mdsl.ir.core import Op
from mdsl.reference import run

BEFORE = "canonicalize,fold-batchnorm,lower-nn,canonicalize"


def unit(t: Network, channels: int, groups: int, stride: int, residual: bool) -> str:
    """A grouped convolution, a shuffle, a depthwise and another grouped convolution; the first one's result may be
    added."""
    y = t.same("relu", t.conv("x", channels, groups=groups))
    z = t.conv(t.shuffle(y, groups), channels, 3, stride, channels)
    z = t.conv(z, channels, groups=groups)
    return t.same("relu", t.same("add", y, z)) if residual and stride == 1 else z


@st.composite
def networks(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    groups = draw(st.integers(2, 5))
    width = draw(st.sampled_from([1, 2, 3, groups, 2 * groups, 5 * groups, 16, 17, 20]))
    net = Network(draw(st.integers(1, 2)), groups * draw(st.integers(1, 4)), 5, 4)
    result = unit(net, groups * width, groups, draw(st.integers(1, 2)), draw(st.booleans()))
    return net.text(result), net.input


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from(["avx512", "avx2", "neon"]), st.sampled_from([0.0, np.nan, np.inf]))
def test_meaning_is_kept(net: tuple[str, tuple[int, ...]], target: str, odd: float) -> None:
    """That of an infinity, too: it reaches the channels of its own group, and through the shuffle one of others."""
    text, shape = net
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[0, 0, 2, 2] = odd
    before = mdsl.opt(text, BEFORE, target=target)
    (expected,) = run(before, [x])
    (found,) = run(mdsl.opt(before, "fold-shapes,pack", target=target), [x])
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("channels", [68, 30, 24])
def test_engine_agrees(channels: int) -> None:
    net = Network(1, 8, 7, 6)
    text = net.text(unit(net, channels, 2, 1, residual=True))
    x = np.random.default_rng(1).standard_normal(net.input).astype(np.float32)
    expected, found = (np.asarray(mdsl.compile(text, engine=e)(x)) for e in ("reference", "vm"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
@pytest.mark.parametrize(("channels", "shuffles"), [(60, []), (30, [linalg.Transpose])])
def test_layout_is_kept(channels: int, shuffles: list[type[Op]], target: str) -> None:
    """Each group reads its channels where they are; where a channel of 15 is in the midst of its turn as a group ends, lanes
    are moved once. The image is packed once, and the result unpacked."""
    net = Network(1, 8, 7, 6)
    packed = mdsl.opt(net.text(unit(net, channels, 2, 1, residual=True)), "pack", target=target)
    moved = (linalg.Pack, linalg.Unpack, linalg.Transpose)
    found = [type(op) for op in packed.walk() if isinstance(op, moved)]
    assert found == [linalg.Pack, *shuffles, linalg.Unpack]


def test_no_lane_is_left_empty() -> None:
    """Groups of 34 channels are all of a pixel's channels, side by side."""
    net = Network(1, 136, 7, 6)
    packed = mdsl.opt(net.text(net.conv("x", 136, groups=4)), "pack", target="avx512")
    (product,) = (op for op in packed.walk() if isinstance(op, linalg.LinalgOp) and op.is_contraction)
    assert [str(v.type) for v in product.results] == ["tensor<1x1x1x1x7x6x4x34xf32>"]


def test_a_sum_over_shuffled_channels_needs_no_shuffle() -> None:
    net = Network(1, 16, 7, 6)
    text = net.text(net.conv(net.shuffle(net.conv("x", 48), 2), 16))
    folded = mdsl.opt(mdsl.opt(text, BEFORE, target="avx512"), "fold-shapes", target="avx512")
    assert not any(isinstance(op, linalg.Transpose) for op in folded.walk())


@pytest.mark.parametrize("parts", [(60, 60), (60, 24), (24, 60)])
def test_joined(parts: tuple[int, int]) -> None:
    """Channels of a pixel are joined side by side, be they in one block or in several."""
    net = Network(1, 12, 5, 4)
    y = net.concat(*(net.conv("x", n, groups=3 if n == 60 else 1) for n in parts))
    text = net.text(net.conv(net.same("relu", y), sum(parts), groups=2))
    x = np.random.default_rng(1).standard_normal(net.input).astype(np.float32)
    before = mdsl.opt(text, BEFORE, target="avx512")
    (expected,) = run(before, [x])
    (found,) = run(mdsl.opt(before, "fold-shapes,pack", target="avx512"), [x])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
