"""IR -> IR, one file a pass. `PASSES` is the registry.

Class and file bear the pass's name: `fuse-rows` is the class `FuseRows` in `linalg/fuse_rows.py`. A pass is imported
when it is first asked for: a command needs a few of them.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.passes.base import Pass

PASSES = {
    "inline": "any",
    "bind": "nn",
    "box-scalars": "any",
    "canonicalize": "any",
    "rebatch": "nn",
    "parameters": "nn",
    "loss": "nn",
    "train-mode": "nn",
    "trim-filters": "nn",
    "autodiff": "nn",
    "recompute": "nn",
    "loss-scale": "nn",
    "clip-gradients": "nn",
    "sgd": "nn",
    "adam": "nn",
    "adamw": "nn",
    "decompose": "nn",
    "fold-batchnorm": "nn",
    "fuse-gelu": "nn",
    "widen": "nn",
    "lower-nn": "nn",
    "fold-shapes": "linalg",
    "fuse-attention": "linalg",
    "fuse-rows": "linalg",
    "keep-layouts": "linalg",
    "pack": "linalg",
    "flatten-conv": "linalg",
    "fuse": "linalg",
    "donate": "linalg",
    "winograd": "linalg",
    "tune": "linalg",
    "tile": "linalg",
    "prepack": "tiled",
    "outline-ukernels": "tiled",
    "bufferize": "dispatch",
    "plan-memory": "buffers",
    "block-sums": "buffers",
    "vectorize": "buffers",
    "lower-linalg-to-loops": "buffers",
    "unroll": "kernels",
    "unroll-dispatch": "kernels",
    "unroll-vectors": "kernels",
    "lower-vm": "kernels",
}
"""Every pass in pipeline order, and the folder of the level that it works on."""


OWN: dict[str, type[Pass]] = {}
"""Passes from files that the user named (`compiler/own_passes.py`)."""

OWN_FILES: dict[str, str] = {}
"""Digests of these files: what their passes make is not what others make. A part of the cache's keys."""


def pass_names() -> list[str]:
    """Every pass, the user's own last."""
    return [*PASSES, *OWN]


def pass_named(name: str) -> type[Pass] | None:
    """The registered pass of that name."""
    return _load(name) if name in PASSES else OWN.get(name)


def all_passes() -> list[type[Pass]]:
    """Every pass, in pipeline order."""
    return list(map(_load, PASSES))


@cache
def _load(name: str) -> type[Pass]:
    module = import_module(f"mdsl.passes.{PASSES[name]}.{name.replace('-', '_')}")
    return getattr(module, "".join(word.capitalize() for word in name.split("-")))
