"""mdsl: programs in .mir text, the passes that rewrite them, and a VM whose micro-kernels run at full speed.

import mdsl
recognise = mdsl.compile("cnn.mir")
probabilities = recognise(image)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdsl.api import compile, grad, opt, parse
    from mdsl.compiler.own_passes import load_passes
    from mdsl.errors import MdslError
    from mdsl.report.diff.programs import diff
    from mdsl.report.trace import trace
    from mdsl.runtime.executable import Executable
    from mdsl.runtime.loading import load
    from mdsl.training.trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "Executable",
    "MdslError",
    "Trainer",
    "__version__",
    "compile",
    "diff",
    "grad",
    "load",
    "load_passes",
    "opt",
    "parse",
    "trace",
]

_HOMES = {
    "compile": "mdsl.api",
    "diff": "mdsl.report.diff.programs",
    "grad": "mdsl.api",
    "load": "mdsl.runtime.loading",
    "load_passes": "mdsl.compiler.own_passes",
    "opt": "mdsl.api",
    "parse": "mdsl.api",
    "trace": "mdsl.report.trace",
    "Executable": "mdsl.runtime.executable",
    "MdslError": "mdsl.errors",
    "Trainer": "mdsl.training.trainer",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Imports what is asked for: `import mdsl` alone loads nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mdsl' has no attribute '{name}'")
    from mdsl.support.collector import collector_paused

    with collector_paused():  # modules stay
        return getattr(import_module(_HOMES[name]), name)
