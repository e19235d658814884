"""All of the project's fuzzers: `python -m tests.fuzz --minutes 10`, or `make fuzz MINUTES=10`.

A fuzzer is a module here with `make(seed)`, the bytes of a case, and `check(data)`, which raises where the case shows
a fault; `SUFFIX` is that of a file of such bytes. So a case that found one is a file in `findings/`, which the suite
checks from then on, whatever becomes of the generator.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

FINDINGS = Path(__file__).parent / "findings"
FUZZERS = ("bytecode", "kernels", "files", "text", "ops", "programs", "properties")


def fuzzer(name: str) -> ModuleType:
    return import_module(f"tests.fuzz.{name}")
