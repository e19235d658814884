"""A micro-kernel's interface for callers and verifier: each argument's kind, access and extent in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from mdsl.analysis.intervals import Interval, whole

MAX_BYTES = 1 << 46
"""The size of a buffer; offsets within it never overflow."""

MAX_ARGUMENTS = 64
"""Arguments of a dispatch."""


class KernelArgument(NamedTuple):
    """What a micro-kernel does with one argument.

    A pointer ("read" or "write", which also reads) is used for `span` bytes from its address on, which must
    be a multiple of `alignment` from the buffer's start; an "index" must lie in `interval`, bounds included.
    """

    kind: Literal["read", "write", "index"]
    span: int = 0
    interval: Interval | tuple[int, int] = whole("i64")
    alignment: int = 1


KernelSignatures = Mapping[str, Sequence[KernelArgument]]
