"""The kinds of native code that the engines make of bytecode."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """What native code does beside its work: count instructions and kernels, or keep to a limit of steps."""

    profiled: bool = False
    fuelled: bool = False


PLAIN = Variant()
