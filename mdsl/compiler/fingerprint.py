"""The compiler's fingerprint: the target, a digest of its own source files, versions of its libraries."""

from __future__ import annotations

import numpy as np

import mdsl
from mdsl.codegen.kernels import ROOMS as KERNEL_ROOMS
from mdsl.codegen.llvm_target import machine_key
from mdsl.passes import OWN_FILES
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target

_ROOMS = ("errors.py", "bytecode", *KERNEL_ROOMS, "compiler")
"""What the bytecode of a program follows from: the kernels' own rooms, and all that shapes kernels."""


def made_by(target: Target) -> list[str]:
    """What compiled programs and their times follow from, beside the programs."""
    return [
        repr(target),
        machine_key(target),
        f"mdsl-{mdsl.__version__} numpy-{np.__version__}",
        source_digest(*_ROOMS),
        *OWN_FILES.values(),
    ]
