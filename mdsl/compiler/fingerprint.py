"""The compiler's fingerprint: the target, a digest of its own source files, versions of its libraries."""

from __future__ import annotations

import numpy as np

import mdsl
from mdsl.codegen.llvm_target import fingerprint
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target

_ROOMS = (
    *(
        "errors.py",
        "grammar.lark",
        "ir",
        "syntax",
        "dialects",
        "analysis",
        "target",
        "reference",
        "rewriting",
    ),
    *("passes", "arithmetic", "bytecode", "codegen", "compiler"),
)
"""What the bytecode of a program follows from."""


def made_by(target: Target) -> list[str]:
    """What compiled programs and their times follow from, beside the programs."""
    return [
        repr(target),
        fingerprint(target),
        f"mdsl-{mdsl.__version__} numpy-{np.__version__}",
        source_digest(*_ROOMS),
    ]
