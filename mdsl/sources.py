"""What made the things that the cache keeps. It is part of their keys, so that a changed compiler never meets the
output of the old one."""

from __future__ import annotations

from functools import cache as memoize
from pathlib import Path
from typing import TYPE_CHECKING

from mdsl.cache import key

if TYPE_CHECKING:
    from mdsl.codegen.target import Target

HANDLERS = ("bytecode", "codegen", "vm")
"""What the machine code of the interpreter's opcodes follows from: packages and files of mdsl."""

KERNELS = ("bytecode", "codegen", "dialects", "grammar.lark", "ir", "syntax")
"""What the machine code of a micro-kernel follows from, and the proof that it is safe."""

COMPILER = (*KERNELS, "api.py", "passes", "reference", "settings.py", "signature.py")
"""What the bytecode of a program follows from."""


def source_digest(*names: str) -> str:
    """A digest of the sources of mdsl's packages ("codegen", "ir", ...) and files."""
    return key(*map(_digest, names))


def made_by(target: Target) -> list[str]:
    """What compiled programs and their times follow from, beside the programs: the machine, the compiler's sources
    and the versions of what it uses."""
    import numpy as np

    from mdsl import __version__

    return [
        repr(target),
        target.fingerprint(),
        f"mdsl-{__version__} numpy-{np.__version__}",
        source_digest(*COMPILER),
    ]


@memoize
def _digest(name: str) -> str:
    place = Path(__file__).parent / name
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return key(*(part for file in files for part in (str(file.relative_to(place)), file.read_bytes())))
