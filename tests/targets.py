"""The targets that tests of all of them look at in `make test`: the first of each instruction set. Others are slow."""

from __future__ import annotations

import pytest

from mdsl.target.target import TARGETS

FIRST = [*{target.isa.name: name for name, target in reversed(TARGETS.items())}.values()]

EVERY = [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in TARGETS]
